// Twelve sums, two vectors of columns and a broadcast in sixteen registers.
#define KERNELS nib_dense_avx2
#define VECTOR_BYTES 32
#define TILE_ROWS 6
#include "runtime/compress/dense_kernel.inc"
