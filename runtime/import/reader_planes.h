/// Readers of matrices whose codes, scales and zero points lie in tensors of their own, and what
/// the methods' readers share.
#ifndef RUNTIME_IMPORT_READER_PLANES_H
#define RUNTIME_IMPORT_READER_PLANES_H

#include "runtime/import/quantization.h"

/// A matrix that is looked for.
struct nib_matrix_query {
    struct nib_quantization *quantization;
    const struct nib_tensor_directory *directory;
    const char *module;
    struct nib_shape shape;
};
/// The functions of the methods: as nib_quantization_reader.
typedef enum nib_status nib_matrix_reader_fn(const struct nib_matrix_query *query,
                                             const struct nib_row_reader **out_reader,
                                             struct nib_error *err);
nib_matrix_reader_fn nib_reader_gptq;
nib_matrix_reader_fn nib_reader_awq;
nib_matrix_reader_fn nib_reader_bnb_4bit;
nib_matrix_reader_fn nib_reader_bnb_int8;
nib_matrix_reader_fn nib_reader_compressed;

/// Returns the tensor `module`.`part`, or NULL.
const struct nib_tensor *nib_part_find(const struct nib_matrix_query *query, const char *part);
/// What a part must be: one or two dimensions (a second one of 0: one).
struct nib_part_type {
    enum nib_dtype dtype; ///< NIB_DTYPE_COUNT: any 16-bit or 32-bit float
    uint64_t dims[2];
};
/// Finds `module`.`part`, checks it and counts it as used. Errors: not found, format, unsupported
/// (element type).
enum nib_status nib_part_need(const struct nib_matrix_query *query, const char *part,
                              struct nib_part_type type, const struct nib_tensor **out_part,
                              struct nib_error *err);

/// Unsigned integers of 2, 3, 4 or 8 bits, a line of which is a stream of bits in words, lowest
/// first: word w of line l is number w · pack_stride + l · line_stride. Integers of 3 bits may lie
/// in two words.
struct nib_code_plane {
    const uint8_t *data; ///< NULL: there is no plane
    uint32_t word_bytes; ///< 4 or 1
    uint32_t bits;
    uint32_t add;         ///< to every word, before it is taken apart
    uint8_t plus;         ///< to every integer, modulo 2^bits
    uint8_t flip;         ///< bits of an integer that are inverted
    uint8_t offset;       ///< to every integer, at last
    const uint8_t *order; ///< [8] of each eight integers of 4 bits; NULL: in order
    uint64_t pack_stride;
    uint64_t line_stride;
};
/// Returns a plane of 32-bit words, or of signed bytes made unsigned by adding 128. Strides are
/// left 0.
struct nib_code_plane nib_code_plane_words(const struct nib_tensor *tensor, uint32_t bits);
struct nib_code_plane nib_code_plane_bytes(const struct nib_tensor *tensor);
/// Returns whether the first `count` integers of the first `lines` lines are all `value`.
bool nib_code_plane_holds(const struct nib_code_plane *plane, uint64_t count, uint64_t lines,
                          uint8_t value);
/// Returns the format that codes of so many bits are read as. Those of 2 and 3 bits become the
/// middle ones of int4: symmetric ones by nib_code_offset.
enum nib_format_id nib_code_format(uint32_t bits, bool symmetric);
/// Returns what is added to symmetric codes of `bits` for nib_code_format.
uint8_t nib_code_offset(uint32_t bits);

/// Scales: that of row r and group g is number r · row_stride + g · group_stride, divided by
/// `divisor`.
struct nib_scale_plane {
    const struct nib_tensor *tensor;
    uint64_t row_stride;
    uint64_t group_stride;
    float divisor;
};

/// A matrix in planes, and its reader.
struct nib_plane_matrix {
    struct nib_code_plane codes;
    bool codes_by_row; ///< codes are packed along the row, lowest bits first, else along the
                       ///< column, 4 bits each
    struct nib_code_plane zeros;
    bool zeros_by_row;
    struct nib_scale_plane scales;
    const struct nib_tensor_directory *directory;
    const struct nib_tensor *parts[3]; ///< codes first; the others may be NULL
    struct nib_row_reader reader;
};

/// Makes a matrix of `format` with `group`, in the arena, with its reader all but complete: planes
/// other than `codes`, strides, permutation and activation are the caller's to set.
/// Errors: memory.
enum nib_status nib_plane_matrix_make(const struct nib_matrix_query *query,
                                      const struct nib_tensor *codes, enum nib_format_id format,
                                      uint32_t group, struct nib_plane_matrix **out_matrix,
                                      struct nib_error *err);
/// Sets the matrix's scales and the format's scale type from `tensor`, a part of float type.
void nib_plane_matrix_set_scales(struct nib_plane_matrix *matrix, const struct nib_tensor *tensor,
                                 uint64_t row_stride, uint64_t group_stride);

/// Makes the order of columns in which the groups of `group_index`, [cols] I32, lie one after the
/// other; NULL where they do already. Errors: format (an index out of range), unsupported (groups
/// that are not full), memory.
enum nib_status nib_group_permutation(const struct nib_matrix_query *query,
                                      const struct nib_tensor *group_index, uint32_t group,
                                      const uint32_t **out_permutation, struct nib_error *err);

/// The parser of compressed-tensors' part of `quantization_config`.
enum nib_status nib_quantization_parse_compressed(const json_t *object,
                                                  struct nib_quantization *quantization,
                                                  struct nib_error *err);
/// Returns the scheme for `module`, or NULL: targets that name it go before patterns, and patterns
/// before classes. Errors: format (a pattern), memory.
enum nib_status nib_quantization_match(const struct nib_quantization *quantization,
                                       const char *module,
                                       const struct nib_quantization_scheme **out_scheme,
                                       struct nib_error *err);

/// For the parsers: fail since `key` has a value that is of the wrong type (format) or not known
/// here (unsupported).
enum nib_status nib_quantization_bad_key(const json_t *object, const char *key,
                                         struct nib_error *err);
enum nib_status nib_quantization_unknown(const json_t *object, const char *key,
                                         struct nib_error *err);
/// Each reads an optional key into `*out`, which keeps its value where the key is absent or null.
/// Errors: format (type).
enum nib_status nib_quantization_bool(const json_t *object, const char *key, bool *out,
                                      struct nib_error *err);
enum nib_status nib_quantization_text(const json_t *object, const char *key, struct nib_text *out,
                                      struct nib_error *err);
/// A group's size; -1 becomes 0: the row. Errors: also format (another number below 1).
enum nib_status nib_quantization_group(const json_t *object, const char *key, uint32_t *out,
                                       struct nib_error *err);
/// Reads 2, 3, 4 or 8. Errors: format (absent), unsupported.
enum nib_status nib_quantization_bits(const json_t *object, const char *key, uint32_t *out,
                                      struct nib_error *err);
/// Fails where the key is there with anything in it. Errors: unsupported.
enum nib_status nib_quantization_refuse(const json_t *object, const char *key,
                                        struct nib_error *err);
/// Returns whether `text` is `word`, whatever the case of its ASCII letters.
bool nib_quantization_is(struct nib_text text, const char *word);

#endif
