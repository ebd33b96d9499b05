// The kernels of level amx.
#define NIB_LANES_VNNI
#define NIB_LANES_TALL "runtime/cpu/x86/tall_amx.inc"
#define FILL nib_cpu_amx_fill
#include "runtime/cpu/x86/lanes_avx512.inc"

#include "runtime/cpu/simd/table.inc"
