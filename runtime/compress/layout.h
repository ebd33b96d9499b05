/// How other tools store a quantized matrix: as a set of tensors. The reverse of the readers of
/// runtime/import, whose files describe the sets.
#ifndef RUNTIME_COMPRESS_LAYOUT_H
#define RUNTIME_COMPRESS_LAYOUT_H

#include "runtime/formats/tensor.h"
#include "runtime/quant/row_reader.h"

struct nib_scale_codes;

enum nib_layout_kind {
    NIB_LAYOUT_GPTQ,              ///< integers with or without zero points
    NIB_LAYOUT_AWQ,               ///< int4, with or without zero points
    NIB_LAYOUT_BNB_4BIT,          ///< nf4, fp4
    NIB_LAYOUT_BNB_INT8,          ///< int8 with a scale a row
    NIB_LAYOUT_COMPRESSED_PACKED, ///< compressed-tensors' pack-quantized: as GPTQ
    NIB_LAYOUT_COMPRESSED_INT     ///< compressed-tensors' int-quantized: int8 with a scale a row
};

/// A layout, and what varies in it.
struct nib_layout {
    enum nib_layout_kind kind;
    bool zero_minus_one; ///< GPTQ: zero points are stored minus one
    bool gemv;           ///< AWQ: the order of GEMV, else of GEMM
    bool group_index;    ///< COMPRESSED_PACKED: the group of each input is stored
    bool nested;         ///< BNB_4BIT: scales are quantized, too
    const struct nib_scale_codes *scale_codes; ///< BNB_4BIT, nested: for packing
    const float *row_absmax; ///< BNB_INT8, for packing: 127 times the scales; or NULL
    const char *dtype;       ///< BNB_4BIT: torch's name of the model's element type, "float16"
};

/// One tensor of a set; its name is that of the module, ".", and `part`.
struct nib_layout_tensor {
    const char *part; ///< static
    enum nib_dtype dtype;
    uint32_t n_dims;
    uint64_t dims[2];
    uint64_t size;
    uint8_t *data; ///< NULL until nib_layout_pack
};

/// The most that a layout has.
enum { NIB_LAYOUT_MAX_TENSORS = 6 };
struct nib_layout_set {
    struct nib_layout_tensor tensors[NIB_LAYOUT_MAX_TENSORS];
    uint32_t n_tensors;
    uint8_t *memory; ///< what `data` points into
};

/// Describes the tensors in which `layout` stores `matrix`: of the reader, name, shape, format and
/// activation are looked at. Sizes depend on nothing else.
/// Errors: unsupported (the layout has no place for such a matrix; the message says why), format
/// (a size beyond 64 bits).
enum nib_status nib_layout_describe(const struct nib_layout *layout,
                                    const struct nib_row_reader *matrix,
                                    struct nib_layout_set *out_set, struct nib_error *err);

/// Reads all rows of `matrix` and writes them into newly allocated data of the set that
/// nib_layout_describe has made for it. Scales must be numbers of the format's scale type. What is
/// stored is what the readers of runtime/import give back, bit for bit, but for the scales of
/// BNB_INT8, which are divided by 127 in reading and may differ in the last bit.
/// Errors: those of the reader, argument (a zero point or a permutation that the layout cannot
/// hold), memory.
enum nib_status nib_layout_pack(const struct nib_layout *layout,
                                const struct nib_row_reader *matrix, struct nib_layout_set *set,
                                struct nib_error *err);
/// Frees the data; the description stays.
void nib_layout_free(struct nib_layout_set *set);

#endif
