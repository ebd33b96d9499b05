// Safetensors files from any bytes: what parses has all tensors in bounds. Since few lengths are
// right by chance, the bytes are also tried as a header up to their last '}', and data behind it.
#include "runtime/base/bytes.h"
#include "tests/unit/formats/visit.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void parse(const uint8_t *data, size_t size)
{
    struct nib_error error;
    struct nib_safetensors *file;
    if (nib_safetensors_parse(data, size, "fuzz", &file, &error) == NIB_OK &&
        !visit_safetensors(file, data, size))
        abort();
    nib_safetensors_destroy(&file);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    parse(data, size);
    size_t header_size = size;
    while (header_size > 0 && data[header_size - 1] != '}')
        header_size--;
    uint8_t *framed = malloc(size + 8);
    if (framed) {
        nib_store_u64(framed, header_size);
        if (size)
            memcpy(framed + 8, data, size);
        parse(framed, size + 8);
    }
    free(framed);
    return 0;
}
