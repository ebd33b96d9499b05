#include "runtime/formats/gguf_type.h"

#include "runtime/base/bytes.h"
#include "runtime/base/checked.h"

/// Tensor types that have a dtype, by the numbers of ggml.h (enum ggml_type).
static const struct {
    uint32_t type;
    enum nib_dtype dtype;
} own_types[] = {
    {0, NIB_DTYPE_F32},     {1, NIB_DTYPE_F16},     {2, NIB_DTYPE_Q4_0},  {3, NIB_DTYPE_Q4_1},
    {6, NIB_DTYPE_Q5_0},    {7, NIB_DTYPE_Q5_1},    {8, NIB_DTYPE_Q8_0},  {10, NIB_DTYPE_Q2_K},
    {11, NIB_DTYPE_Q3_K},   {12, NIB_DTYPE_Q4_K},   {13, NIB_DTYPE_Q5_K}, {14, NIB_DTYPE_Q6_K},
    {20, NIB_DTYPE_IQ4_NL}, {23, NIB_DTYPE_IQ4_XS}, {24, NIB_DTYPE_I8},   {25, NIB_DTYPE_I16},
    {26, NIB_DTYPE_I32},    {27, NIB_DTYPE_I64},    {28, NIB_DTYPE_F64},  {30, NIB_DTYPE_BF16},
    {39, NIB_DTYPE_MXFP4},
};

/// The others, some of which ggml itself has given up.
static const struct {
    uint32_t type;
    const char *name;
} foreign_types[] = {
    {4, "q4_2"},    {5, "q4_3"},        {9, "q8_1"},        {15, "q8_k"},       {16, "iq2_xxs"},
    {17, "iq2_xs"}, {18, "iq3_xxs"},    {19, "iq1_s"},      {21, "iq3_s"},      {22, "iq2_s"},
    {29, "iq1_m"},  {31, "q4_0_4_4"},   {32, "q4_0_4_8"},   {33, "q4_0_8_8"},   {34, "tq1_0"},
    {35, "tq2_0"},  {36, "iq4_nl_4_4"}, {37, "iq4_nl_4_8"}, {38, "iq4_nl_8_8"}, {40, "nvfp4"},
    {41, "q1_0"},
};

uint32_t nib_gguf_type_size(uint32_t type)
{
    switch (type) {
    case NIB_GGUF_U8:
    case NIB_GGUF_I8:
    case NIB_GGUF_BOOL:
        return 1;
    case NIB_GGUF_U16:
    case NIB_GGUF_I16:
        return 2;
    case NIB_GGUF_U32:
    case NIB_GGUF_I32:
    case NIB_GGUF_F32:
        return 4;
    case NIB_GGUF_U64:
    case NIB_GGUF_I64:
    case NIB_GGUF_F64:
        return 8;
    default:
        return 0;
    }
}

static bool strings_size(uint64_t count, const uint8_t *data, uint64_t available,
                         uint64_t *out_size)
{
    uint64_t size = 0;
    for (uint64_t i = 0; i < count; i++) {
        if (available - size < 8)
            return false;
        const uint64_t length = nib_load_u64(data + size);
        size += 8;
        if (length > available - size)
            return false;
        size += length;
    }
    *out_size = size;
    return true;
}

bool nib_gguf_elements_size(uint32_t type, uint64_t count, const uint8_t *data, uint64_t available,
                            uint64_t *out_size)
{
    *out_size = 0;
    if (type == NIB_GGUF_STRING)
        return strings_size(count, data, available, out_size);
    uint64_t size;
    const uint32_t element_size = nib_gguf_type_size(type);
    if (element_size == 0 || !nib_mul_u64(count, element_size, &size) || size > available)
        return false;
    *out_size = size;
    return true;
}

bool nib_gguf_alignment_valid(uint64_t alignment)
{
    return alignment >= 8 && alignment <= 65536 && (alignment & (alignment - 1)) == 0;
}

bool nib_gguf_dtype_from_type(uint32_t type, enum nib_dtype *out_dtype)
{
    for (size_t i = 0; i < sizeof(own_types) / sizeof(own_types[0]); i++) {
        if (own_types[i].type == type) {
            *out_dtype = own_types[i].dtype;
            return true;
        }
    }
    return false;
}

bool nib_gguf_type_from_dtype(enum nib_dtype dtype, uint32_t *out_type)
{
    for (size_t i = 0; i < sizeof(own_types) / sizeof(own_types[0]); i++) {
        if (own_types[i].dtype == dtype) {
            *out_type = own_types[i].type;
            return true;
        }
    }
    return false;
}

const char *nib_gguf_foreign_type_name(uint32_t type)
{
    for (size_t i = 0; i < sizeof(foreign_types) / sizeof(foreign_types[0]); i++) {
        if (foreign_types[i].type == type)
            return foreign_types[i].name;
    }
    return NULL;
}
