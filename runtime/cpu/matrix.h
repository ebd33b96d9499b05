/// Matrices as the CPU backend keeps them: the mapped file's own rows, a packed copy, or panels.
#ifndef RUNTIME_CPU_MATRIX_H
#define RUNTIME_CPU_MATRIX_H

#include "runtime/base/thread_pool.h"
#include "runtime/cpu/panel.h"

/// One weight. Thread-safety: safe once packed.
struct nib_cpu_matrix {
    struct nib_format format;
    uint64_t rows; ///< 0: not packed yet
    uint64_t cols;
    const uint8_t *raw; ///< rows in the container's blocks, in the mapped file; or NULL
    uint8_t *packed;    ///< panels, or rows in this backend's own records; else NULL
    bool has_panels;
    bool owns_packed; ///< `packed` is freed with the matrix
    struct nib_panel_layout panels;
    uint64_t row_bytes;          ///< from one row to the next
    float *vector;               ///< [cols], weights that are vectors; the others are NULL then
    uint64_t bytes;              ///< in use, mapped or allocated
    const uint32_t *permutation; ///< as in nib_row_reader
    float activation_scale;
    float outlier_threshold;
    float *norms; ///< [panels] the largest nib_row_norm of each; NULL where none were asked for
};

/// How matrices are packed.
struct nib_cpu_packing {
    struct nib_thread_pool *pool;    ///< packs on these threads; NULL: on the caller's
    nib_panel_store_fn *store_panel; ///< NULL: in rows, not in panels
    /// Where the matrix goes, nib_cpu_matrix_size bytes aligned to 64 that outlive it; NULL: it
    /// takes memory of its own.
    uint8_t *memory;
    bool wants_norms; ///< nib_cpu_matrix.norms are wanted of a matrix in panels
};

/// Returns the bytes that a matrix of `format` is packed in, 0 where its rows are used in place in
/// most files, UINT64_MAX where that overflows.
uint64_t nib_cpu_matrix_size(const struct nib_cpu_packing *packing, const struct nib_format *format,
                             uint64_t rows, uint64_t cols);
/// Packs the matrix that `reader` gives in panels, where they are wanted and its format has them;
/// else keeps rows of a mapped file in place and copies all others, four bits a code where the
/// format's codes have no more. What was copied is dropped. The reader's raw rows and permutation
/// must outlive the matrix. What comes out, failures too, does not depend on the number of threads.
/// Errors: memory, format (a scale that is not of the format's scale type), those of the reader.
enum nib_status nib_cpu_matrix_pack(struct nib_cpu_matrix *matrix,
                                    const struct nib_cpu_packing *packing,
                                    const struct nib_row_reader *reader, struct nib_error *err);
/// Keeps a vector, a matrix of one row, as floats. Errors: memory, those of the reader.
enum nib_status nib_cpu_vector_pack(struct nib_cpu_matrix *matrix,
                                    const struct nib_row_reader *reader, struct nib_error *err);
/// Frees what pack took; a zeroed matrix is accepted.
void nib_cpu_matrix_free(struct nib_cpu_matrix *matrix);

/// Takes row `row` of a packed matrix that is no vector apart into row `block_row` of `block`.
void nib_cpu_matrix_load(const struct nib_cpu_matrix *matrix, uint64_t row, uint64_t block_row,
                         struct nib_row_block *block);

#endif
