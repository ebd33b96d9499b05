#include "runtime/quant/format.h"

#include <string.h>

#include "runtime/base/checked.h"

// The books, named after their formats; an integer book is NULL where values are no integers.

#define IQ4_VALUES -127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113
static const float book_IQ4_NL[16] = {IQ4_VALUES};
static const int8_t int_book_IQ4_NL[16] = {IQ4_VALUES};
#define book_IQ4_XS book_IQ4_NL
#define int_book_IQ4_XS int_book_IQ4_NL

/// E2M1 times two, so that the values are integers; the scale is halved instead (see unpack.c).
/// Code 8 is +0, as in the gguf package, where the specification has -0.
#define MXFP4_VALUES 0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12
static const float book_MXFP4[16] = {MXFP4_VALUES};
static const int8_t int_book_MXFP4[16] = {MXFP4_VALUES};

static const float book_NF4[16] = {
    -1.0f,
    -0.6961928009986877f,
    -0.5250730514526367f,
    -0.39491748809814453f,
    -0.28444138169288635f,
    -0.18477343022823334f,
    -0.09105003625154495f,
    0.0f,
    0.07958029955625534f,
    0.16093020141124725f,
    0.24611230194568634f,
    0.33791524171829224f,
    0.44070982933044434f,
    0.5626170039176941f,
    0.7229568362236023f,
    1.0f,
};
#define int_book_NF4 NULL

/// bitsandbytes' "fp4": a sign and 0, 1/16, 8, 12, 4, 6, 2, 3, divided by 12.
static const float book_FP4[16] = {
    0.0f, 1.0f / 192,  2.0f / 3,  1.0f,  1.0f / 3,  0.5f,  1.0f / 6,  0.25f,
    0.0f, -1.0f / 192, -2.0f / 3, -1.0f, -1.0f / 3, -0.5f, -1.0f / 6, -0.25f,
};
#define int_book_FP4 NULL

#define BOOK_OF_FLOAT(book) NULL
#define BOOK_OF_UNIFORM(book) NULL
#define BOOK_OF_BOOK(book) book

static const struct nib_format formats[NIB_FORMAT_COUNT] = {
#define X(id_, name_, code_, bits_, center_, group_, super_, scale_, zero_, weights_, bytes_) \
    [NIB_FORMAT_##id_] = {                                                                    \
        .id = NIB_FORMAT_##id_,                                                               \
        .name = name_,                                                                        \
        .code = NIB_CODE_##code_,                                                             \
        .bits = bits_,                                                                        \
        .center = center_,                                                                    \
        .group = group_,                                                                      \
        .super = super_,                                                                      \
        .scale = NIB_SCALE_##scale_,                                                          \
        .zero = NIB_ZERO_##zero_,                                                             \
        .block_weights = weights_,                                                            \
        .block_bytes = bytes_,                                                                \
        .book = BOOK_OF_##code_(book_##id_),                                                  \
        .book_int = BOOK_OF_##code_(int_book_##id_),                                          \
    },
    NIB_FORMATS(X)
#undef X
};

const struct nib_format *nib_format_get(enum nib_format_id id)
{
    return &formats[id];
}

const struct nib_format *nib_format_find(const char *name)
{
    for (size_t i = 0; i < NIB_FORMAT_COUNT; i++) {
        if (strcmp(formats[i].name, name) == 0)
            return &formats[i];
    }
    return NULL;
}

uint64_t nib_format_groups(const struct nib_format *format, uint64_t cols)
{
    if (format->code == NIB_CODE_FLOAT)
        return 0;
    return format->group ? nib_ceil_div_u64(cols, format->group) : cols != 0;
}

uint64_t nib_format_supers(const struct nib_format *format, uint64_t cols)
{
    return format->super ? nib_ceil_div_u64(cols, format->super) : 0;
}

bool nib_format_row_bytes(const struct nib_format *format, uint64_t cols, uint64_t *out_bytes)
{
    *out_bytes = 0;
    if (format->block_bytes == 0 || cols % format->block_weights != 0)
        return false;
    uint64_t bytes;
    if (!nib_mul_u64(cols / format->block_weights, format->block_bytes, &bytes))
        return false;
    *out_bytes = bytes;
    return true;
}

static uint32_t scale_bits(enum nib_scale_type scale)
{
    switch (scale) {
    case NIB_SCALE_NONE:
        return 0;
    case NIB_SCALE_F32:
        return 32;
    case NIB_SCALE_F16:
    case NIB_SCALE_BF16:
        return 16;
    case NIB_SCALE_E8M0:
        return 8;
    }
    return 0;
}

/// Returns ceil(count · bits / 8) in `*out_bytes`, or false where that overflows.
static bool bytes_of_bits(uint64_t count, uint32_t bits, uint64_t *out_bytes)
{
    uint64_t total;
    if (!nib_mul_u64(count, bits, &total))
        return false;
    *out_bytes = nib_ceil_div_u64(total, 8);
    return true;
}

uint64_t nib_format_packed_bytes(const struct nib_format *format, uint64_t rows, uint64_t cols)
{
    uint64_t row = 0;
    bool fits;
    if (format->block_bytes) {
        fits =
            nib_mul_u64(nib_ceil_div_u64(cols, format->block_weights), format->block_bytes, &row);
    } else {
        uint32_t group_bits = scale_bits(format->scale);
        if (format->zero == NIB_ZERO_INTEGER)
            group_bits += format->bits;
        else if (format->zero == NIB_ZERO_MINIMUM)
            group_bits += scale_bits(format->scale);
        uint64_t codes = 0, groups = 0;
        fits = bytes_of_bits(cols, format->bits, &codes) &&
               bytes_of_bits(nib_format_groups(format, cols), group_bits, &groups) &&
               nib_add_u64(codes, groups, &row);
    }
    uint64_t total = 0;
    return fits && nib_mul_u64(rows, row, &total) ? total : UINT64_MAX;
}

const char *nib_activation_name(enum nib_activation activation)
{
    static const char *const names[NIB_ACTIVATION_COUNT] = {
#define X(id, name) [NIB_ACTIVATION_##id] = name,
        NIB_ACTIVATIONS(X)
#undef X
    };
    return names[activation];
}
