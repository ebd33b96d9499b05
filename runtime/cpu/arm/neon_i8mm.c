// The kernels of level neon-i8mm.
#define NIB_LANES_I8MM
#define FILL nib_cpu_neon_i8mm_fill
#include "runtime/cpu/arm/lanes_neon.inc"

#include "runtime/cpu/simd/table.inc"
