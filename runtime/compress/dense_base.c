// For every CPU of the architecture.
#define KERNELS nib_dense_base
#define VECTOR_BYTES 16
#define TILE_ROWS 4
#include "runtime/compress/dense_kernel.inc"
