#include "runtime/base/params.h"

#include "runtime/base/status.h"
#include <string.h>

/// No params struct will ever be as large, so a larger size is memory that was not set.
#define MAX_SIZE 65536

enum nib_status nib_params_read(void *out, uint32_t size, const void *params, struct nib_error *err)
{
    memset(out, 0, size);
    uint32_t given = 0;
    if (params) {
        memcpy(&given, params, sizeof given);
        if (given < sizeof given || given > MAX_SIZE)
            return nib_fail(err, NIB_ERROR_ARGUMENT,
                            "struct_size of the params is %u; set it to sizeof", given);
        memcpy(out, params, given < size ? given : size);
    }
    for (uint32_t i = size; i < given; i++) {
        if (((const uint8_t *)params)[i] != 0)
            return nib_fail(err, NIB_ERROR_ARGUMENT,
                            "the params ask for something that nibble %s does not know",
                            nib_version());
    }
    memcpy(out, &size, sizeof size);
    return NIB_OK;
}
