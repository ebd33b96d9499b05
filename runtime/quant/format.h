/// The one table of formats: how a matrix's numbers are stored.
///
/// A weight is w = scale · (value(code) − zero) + min, where
/// - value(code) = code − center for uniform codes, book[code] for code books;
/// - scale = d[super-block] · sub_scale[group] in formats with super-blocks, else d[group];
/// - zero is an integer per group (ZERO_INTEGER), else 0;
/// - min = m[super-block] · sub_min[group], or m[group] (ZERO_MINIMUM), else 0.
/// Evaluated in fp32 in the order written, this equals the reference dequantization of each format
/// bit for bit. Float formats store w itself.
#ifndef RUNTIME_QUANT_FORMAT_H
#define RUNTIME_QUANT_FORMAT_H

#include <nibble/base.h>

enum nib_code_kind {
    NIB_CODE_FLOAT,   ///< no codes: the numbers are floats of `bits` bits
    NIB_CODE_UNIFORM, ///< an unsigned integer of `bits` bits, `center` subtracted
    NIB_CODE_BOOK     ///< an index into `book`
};

enum nib_zero_kind {
    NIB_ZERO_NONE,
    NIB_ZERO_INTEGER, ///< a zero point among the codes, per group
    NIB_ZERO_MINIMUM  ///< a float added after scaling, per group (or two-level)
};

enum nib_scale_type {
    NIB_SCALE_NONE,
    NIB_SCALE_F32,
    NIB_SCALE_F16,
    NIB_SCALE_BF16,
    NIB_SCALE_E8M0
};

/// The formats. Columns: identifier, name, kind of code, bits of a code, center, group, weights in
/// a super-block (0: no super-blocks), scale type, zero kind, then weights and bytes of the
/// container's own block (0: the format is not stored as interleaved blocks; its parts lie in
/// planes of their own and `group` is a default that a checkpoint may replace; group 0 means the
/// whole row). Sources: GGUF types after the `gguf` package's reference code; mxfp4 after the OCP
/// Microscaling Formats specification 1.0; nf4 after Dettmers et al. 2023 (QLoRA), appendix E.
#define NIB_FORMATS(X)                                                  \
    X(F32, "f32", FLOAT, 32, 0, 0, 0, NONE, NONE, 1, 4)                 \
    X(F16, "f16", FLOAT, 16, 0, 0, 0, NONE, NONE, 1, 2)                 \
    X(BF16, "bf16", FLOAT, 16, 0, 0, 0, NONE, NONE, 1, 2)               \
    X(Q4_0, "q4_0", UNIFORM, 4, 8, 32, 0, F16, NONE, 32, 18)            \
    X(Q4_1, "q4_1", UNIFORM, 4, 0, 32, 0, F16, MINIMUM, 32, 20)         \
    X(Q5_0, "q5_0", UNIFORM, 5, 16, 32, 0, F16, NONE, 32, 22)           \
    X(Q5_1, "q5_1", UNIFORM, 5, 0, 32, 0, F16, MINIMUM, 32, 24)         \
    X(Q8_0, "q8_0", UNIFORM, 8, 128, 32, 0, F16, NONE, 32, 34)          \
    X(Q2_K, "q2_k", UNIFORM, 2, 0, 16, 256, F16, MINIMUM, 256, 84)      \
    X(Q3_K, "q3_k", UNIFORM, 3, 4, 16, 256, F16, NONE, 256, 110)        \
    X(Q4_K, "q4_k", UNIFORM, 4, 0, 32, 256, F16, MINIMUM, 256, 144)     \
    X(Q5_K, "q5_k", UNIFORM, 5, 0, 32, 256, F16, MINIMUM, 256, 176)     \
    X(Q6_K, "q6_k", UNIFORM, 6, 32, 16, 256, F16, NONE, 256, 210)       \
    X(IQ4_NL, "iq4_nl", BOOK, 4, 0, 32, 0, F16, NONE, 32, 18)           \
    X(IQ4_XS, "iq4_xs", BOOK, 4, 0, 32, 256, F16, NONE, 256, 136)       \
    X(MXFP4, "mxfp4", BOOK, 4, 0, 32, 0, E8M0, NONE, 32, 17)            \
    X(INT4, "int4", UNIFORM, 4, 8, 32, 0, F16, NONE, 0, 0)              \
    X(INT4_ZERO, "int4-zero", UNIFORM, 4, 0, 32, 0, F16, INTEGER, 0, 0) \
    X(INT8, "int8", UNIFORM, 8, 128, 32, 0, F16, NONE, 0, 0)            \
    X(INT8_ZERO, "int8-zero", UNIFORM, 8, 0, 32, 0, F16, INTEGER, 0, 0) \
    X(NF4, "nf4", BOOK, 4, 0, 64, 0, F32, NONE, 0, 0)                   \
    X(FP4, "fp4", BOOK, 4, 0, 64, 0, F32, NONE, 0, 0)

enum nib_format_id {
#define X(id, ...) NIB_FORMAT_##id,
    NIB_FORMATS(X)
#undef X
        NIB_FORMAT_COUNT
};

/// One format. Copied by value where a checkpoint has a group or scale type of its own.
struct nib_format {
    enum nib_format_id id;
    const char *name;
    enum nib_code_kind code;
    uint32_t bits;
    int32_t center;
    uint32_t
        group; ///< weights along a row that share a scale, the last one may be short; 0: the row
    uint32_t super; ///< weights in a super-block, a multiple of `group`; 0: none
    enum nib_scale_type scale;
    enum nib_zero_kind zero;
    uint32_t block_weights;
    uint32_t block_bytes;
    const float *book;      ///< 2^bits values, or NULL
    const int8_t *book_int; ///< the same as integers where all of them are, else NULL
};

/// Returns the table's row for `id` < NIB_FORMAT_COUNT; static.
const struct nib_format *nib_format_get(enum nib_format_id id);
/// Returns the format called `name`, or NULL.
const struct nib_format *nib_format_find(const char *name);

/// Returns the number of groups, or of super-blocks (0 for formats without), in a row of `cols`.
uint64_t nib_format_groups(const struct nib_format *format, uint64_t cols);
uint64_t nib_format_supers(const struct nib_format *format, uint64_t cols);

/// Sets `*out_bytes` to the size of a row in the container's own blocks. Returns false where the
/// format has none, `cols` is not a multiple of the block, or the size overflows.
bool nib_format_row_bytes(const struct nib_format *format, uint64_t cols, uint64_t *out_bytes);
/// Returns the bytes that `rows` × `cols` weights take packed tightly, codes and scales, without
/// padding; for predictions of memory. Saturates at UINT64_MAX.
uint64_t nib_format_packed_bytes(const struct nib_format *format, uint64_t rows, uint64_t cols);

/// What a matmul does with its input.
#define NIB_ACTIVATIONS(X)                                                               \
    X(F32, "f32")                 /* as it is */                                         \
    X(INT8_GROUP, "int8-group")   /* a scale for every 32 values, max|x| / 127 */        \
    X(INT16_GROUP, "int16-group") /* the same with codes of 16 bits: max|x| / 32639 */   \
    X(INT8_TOKEN, "int8-token")   /* a scale a row: max|x| / 127.5, codes −128..127 */ \
    X(INT8_STATIC, "int8-static") /* one scale for all rows, from the checkpoint */      \
    X(LLM_INT8, "llm-int8") /* columns with |x| >= threshold in floating point, the rest int8 */

enum nib_activation {
#define X(id, name) NIB_ACTIVATION_##id,
    NIB_ACTIVATIONS(X)
#undef X
        NIB_ACTIVATION_COUNT
};
/// Group of NIB_ACTIVATION_INT8_GROUP and NIB_ACTIVATION_INT16_GROUP.
#define NIB_ACTIVATION_GROUP 32

/// Returns whether each NIB_ACTIVATION_GROUP values of a row have a scale of their own.
static inline bool nib_activation_has_groups(enum nib_activation activation)
{
    return activation == NIB_ACTIVATION_INT8_GROUP || activation == NIB_ACTIVATION_INT16_GROUP;
}

/// Returns the mode's name; static.
const char *nib_activation_name(enum nib_activation activation);

#endif
