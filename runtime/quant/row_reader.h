/// Rows of a quantized matrix, taken apart without losing a bit: what every packer reads.
#ifndef RUNTIME_QUANT_ROW_READER_H
#define RUNTIME_QUANT_ROW_READER_H

#include "runtime/quant/format.h"

/// Some rows in canonical form. The arrays belong to whoever made the block; those that the format
/// has no use for are NULL. G = nib_format_groups, S = nib_format_supers where the format has
/// super-blocks, else G.
struct nib_row_block {
    uint64_t rows;
    uint64_t cols;
    float *values;     ///< [rows][cols], float formats only
    uint8_t *codes;    ///< [rows][cols], one code a byte, unsigned
    float *scale;      ///< [rows][S]: d
    float *min;        ///< [rows][S]: m (ZERO_MINIMUM); with super-blocks −dmin
    int8_t *sub_scale; ///< [rows][G], formats with super-blocks
    uint8_t *sub_min;  ///< [rows][G], formats with super-blocks and minima
    int16_t *zero;     ///< [rows][G], ZERO_INTEGER: 0 to 256
};

/// Returns the bytes that a block of `rows` × `cols` takes, or 0 where that overflows.
size_t nib_row_block_size(const struct nib_format *format, uint64_t rows, uint64_t cols);
/// Lays a block out in `memory`, nib_row_block_size bytes aligned to 8.
void nib_row_block_init(struct nib_row_block *block, const struct nib_format *format, uint64_t rows,
                        uint64_t cols, void *memory);
/// Copies rows [first, first + to->rows) of `from` to `to`, both of `format` and as wide.
void nib_row_block_copy(const struct nib_format *format, const struct nib_row_block *from,
                        uint64_t first, struct nib_row_block *to);

/// Takes one row in the container's own blocks apart into row `row` of `block`. `raw` holds
/// nib_format_row_bytes bytes, any alignment; safe for untrusted input (scales may come out as
/// NaN).
void nib_row_unpack(const struct nib_format *format, const uint8_t *raw, uint64_t row,
                    struct nib_row_block *block);
/// Writes the weights of row `row` of `block` to `out[0 .. cols)`.
void nib_row_dequantize(const struct nib_format *format, const struct nib_row_block *block,
                        uint64_t row, float *out);
/// Returns a bound of a row's Euclidean norm, √ Σ (|scale · (code − zero)| + |min|)², so that it
/// holds for sums of codes and of minima apart; INFINITY for books, floats, and scales that are
/// none.
float nib_row_norm(const struct nib_format *format, const struct nib_row_block *block,
                   uint64_t row);
/// Writes the effective fp32 scale and minimum of each group of row `row`, G each: the two levels
/// of a super-block multiplied. `out_min` is set to 0 where the format has no minimum.
void nib_row_group_scales(const struct nib_format *format, const struct nib_row_block *block,
                          uint64_t row, float *out_scale, float *out_min);

struct nib_row_reader;
/// Reads rows [first, first + block->rows) into `block`, laid out for the reader's format and cols.
/// Several threads may read at a time, each into a block of its own.
typedef enum nib_status nib_read_rows_fn(const struct nib_row_reader *reader, uint64_t first,
                                         struct nib_row_block *block, struct nib_error *err);

/// A matrix [rows, cols] of a checkpoint, one row an output feature.
/// Borrowed from its source, alive as long as that. Thread-safety: safe.
struct nib_row_reader {
    const char *name;         ///< of the tensor, for messages
    struct nib_format format; ///< with the checkpoint's own group and scale type
    uint64_t rows;
    uint64_t cols;
    /// [cols], or NULL: code j of a row belongs to input feature permutation[j] (act-order).
    const uint32_t *permutation;
    enum nib_activation activation; ///< what the checkpoint asks for; F32: it asks for nothing
    float activation_scale;         ///< INT8_STATIC
    float outlier_threshold;        ///< LLM_INT8
    /// Where the rows lie in a mapped file in the container's own blocks, nib_format_row_bytes
    /// apart, so that a backend can use them in place; else NULL.
    const uint8_t *raw;
    nib_read_rows_fn *read; ///< never NULL
    /// Tells that rows [first, first + count) will not be read again, so their pages may go; or
    /// NULL. Several threads may call it, in any order and while others read other rows; pages at
    /// the ends of a range stay until a range covers them.
    void (*drop)(const struct nib_row_reader *reader, uint64_t first, uint64_t count);
    const void *source;    ///< the reader's own
    const void *detail[4]; ///< the reader's own: planes of scales, zeros, permutation, ...
};

/// A nib_read_rows_fn for matrices with `raw`: unpacks row after row.
enum nib_status nib_row_reader_read_raw(const struct nib_row_reader *reader, uint64_t first,
                                        struct nib_row_block *block, struct nib_error *err);

#endif
