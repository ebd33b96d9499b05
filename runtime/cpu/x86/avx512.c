// The kernels of level avx512.
#define FILL nib_cpu_avx512_fill
#include "runtime/cpu/x86/lanes_avx512.inc"

#include "runtime/cpu/simd/table.inc"
