/// Matrices as the CPU backend keeps them: the mapped file's own rows, a packed copy, or panels.
#ifndef RUNTIME_CPU_MATRIX_H
#define RUNTIME_CPU_MATRIX_H

#include "runtime/cpu/panel.h"

/// One weight. Thread-safety: safe once packed.
struct nib_cpu_matrix {
    struct nib_format format;
    uint64_t rows; ///< 0: not packed yet
    uint64_t cols;
    const uint8_t *raw; ///< rows in the container's blocks, in the mapped file; or NULL
    uint8_t *packed;    ///< panels, or rows in this backend's own records; else NULL
    bool has_panels;
    struct nib_panel_layout panels;
    uint64_t row_bytes;          ///< from one row to the next
    float *vector;               ///< [cols], weights that are vectors; the other two are NULL then
    uint64_t bytes;              ///< in use, mapped or allocated
    const uint32_t *permutation; ///< as in nib_row_reader
    float activation_scale;
    float outlier_threshold;
};

/// Packs what `reader` gives: a vector is dequantized, rows of a mapped file are kept in place,
/// everything else is copied, four bits a code where the format's codes have no more, and dropped.
/// The reader's raw rows and permutation must outlive the matrix.
/// Errors: memory, format (a scale that is not of the format's scale type), those of the reader.
enum nib_status nib_cpu_matrix_pack(struct nib_cpu_matrix *matrix,
                                    const struct nib_row_reader *reader, bool is_vector,
                                    struct nib_error *err);
/// Packs a matrix, not a vector, in panels, and drops the reader's rows as it goes; where its
/// format has no panels, does what nib_cpu_matrix_pack does. Errors: those.
enum nib_status nib_cpu_matrix_pack_panels(struct nib_cpu_matrix *matrix,
                                           const struct nib_row_reader *reader,
                                           struct nib_error *err);
/// Frees what pack took; a zeroed matrix is accepted.
void nib_cpu_matrix_free(struct nib_cpu_matrix *matrix);

/// Takes row `row` of a packed matrix that is no vector apart into row `block_row` of `block`.
void nib_cpu_matrix_load(const struct nib_cpu_matrix *matrix, uint64_t row, uint64_t block_row,
                         struct nib_row_block *block);

#endif
