// The kernels of level avx512-vnni.
#define NIB_LANES_VNNI
#define NIB_LANES_TALL "runtime/cpu/x86/tall_vnni.inc"
#define NIB_LANES_FOURS
#define FILL nib_cpu_avx512_vnni_fill
#include "runtime/cpu/x86/lanes_avx512.inc"

#include "runtime/cpu/simd/table.inc"
