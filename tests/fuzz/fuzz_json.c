// JSON from any bytes, and the getters on all that it holds.
#include "tests/unit/formats/visit.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct nib_error error;
    json_t *json;
    if (nib_json_parse((const char *)data, size, "fuzz", &json, &error) == NIB_OK)
        visit_json(json);
    json_decref(json);
    return 0;
}
