// The kernels of level avx-vnni.
#define NIB_LANES_VNNI
#define FILL nib_cpu_avx_vnni_fill
#include "runtime/cpu/x86/lanes_avx2.inc"

#include "runtime/cpu/simd/table.inc"
