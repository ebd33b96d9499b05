// GGUF files from any bytes: what parses has all tensors in bounds, and every getter is safe on it.
#include "tests/unit/formats/visit.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct nib_error error;
    struct nib_gguf *gguf;
    if (nib_gguf_parse(data, size, "fuzz", &gguf, &error) == NIB_OK &&
        !visit_gguf(gguf, data, size))
        abort();
    nib_gguf_destroy(&gguf);
    return 0;
}
