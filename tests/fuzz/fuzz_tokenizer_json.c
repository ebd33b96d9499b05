// tokenizer.json and its companions from any JSON: an object with the members tokenizer,
// tokenizer_config, special_tokens_map and generation_config, or tokenizer.json alone; then encodes
// and decodes some text.
#include "runtime/formats/json.h"
#include "runtime/import/tokenizer_hf.h"
#include "tests/fuzz/tokenizer_use.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct nib_error error;
    json_t *json;
    if (nib_json_parse((const char *)data, size, "fuzz", &json, &error) != NIB_OK)
        return 0;
    json_t *tokenizer_json = json_object_get(json, "tokenizer");
    struct nib_tokenizer_files files = {
        .tokenizer = tokenizer_json ? tokenizer_json : json,
        .tokenizer_config = json_object_get(json, "tokenizer_config"),
        .special_tokens_map = json_object_get(json, "special_tokens_map"),
        .generation_config = json_object_get(json, "generation_config"),
    };
    struct nib_tokenizer *tokenizer;
    if (nib_tokenizer_from_files(&files, &tokenizer, &error) == NIB_OK)
        use_tokenizer(tokenizer);
    nib_tokenizer_destroy(&tokenizer);
    json_decref(json);
    return 0;
}
