// Twenty-four sums, two vectors of columns and a broadcast in thirty-two registers.
#define KERNELS nib_dense_avx512
#define VECTOR_BYTES 64
#define TILE_ROWS 12
#include "runtime/compress/dense_kernel.inc"
