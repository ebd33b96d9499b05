// The kernels of level neon.
#define FILL nib_cpu_neon_fill
#include "runtime/cpu/arm/lanes_neon.inc"

#include "runtime/cpu/simd/table.inc"
