// The tokenizer of a GGUF file of any bytes; then encodes and decodes some text.
#include "runtime/import/tokenizer_gguf.h"
#include "tests/fuzz/tokenizer_use.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct nib_error error;
    struct nib_gguf *gguf;
    if (nib_gguf_parse(data, size, "fuzz", &gguf, &error) != NIB_OK)
        return 0;
    struct nib_tokenizer *tokenizer;
    if (nib_tokenizer_from_gguf(gguf, &tokenizer, &error) == NIB_OK && tokenizer)
        use_tokenizer(tokenizer);
    nib_tokenizer_destroy(&tokenizer);
    nib_gguf_destroy(&gguf);
    return 0;
}
