// The kernels of level avx2.
#define NIB_LANES_TALL "runtime/cpu/x86/tall_avx2.inc"
#define FILL nib_cpu_avx2_fill
#include "runtime/cpu/x86/lanes_avx2.inc"

#include "runtime/cpu/simd/table.inc"
