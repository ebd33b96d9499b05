// Safetensors files from any bytes: what parses has all tensors in bounds.
#include "tests/unit/formats/visit.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct nib_error error;
    struct nib_safetensors *file;
    if (nib_safetensors_parse(data, size, "fuzz", &file, &error) == NIB_OK &&
        !visit_safetensors(file, data, size))
        abort();
    nib_safetensors_destroy(&file);
    return 0;
}
