/// The inner loops of products, compiled once for each instruction set; for dense.c.
#ifndef RUNTIME_COMPRESS_DENSE_KERNEL_H
#define RUNTIME_COMPRESS_DENSE_KERNEL_H

#include <stdint.h>

/// Rows and columns of the largest tile.
#define NIB_TILE_ROWS 12
#define NIB_TILE_COLS 32

/// out[rows][cols] = Σ_k a[k][row] · b[k][col], a tile of the kernel's own size.
struct nib_dense_kernels {
    uint32_t rows;
    uint32_t cols_f32;
    uint32_t cols_f64;
    void (*tile_f32)(uint64_t k, const float *a, const float *b, float *out);
    void (*tile_f64)(uint64_t k, const double *a, const double *b, double *out);
};

extern const struct nib_dense_kernels nib_dense_base;
#ifdef NIB_DENSE_HAS_X86
extern const struct nib_dense_kernels nib_dense_avx2;
extern const struct nib_dense_kernels nib_dense_avx512;
#endif

#endif
