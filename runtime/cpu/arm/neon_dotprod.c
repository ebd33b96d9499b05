// The kernels of level neon-dotprod.
#define NIB_LANES_DOTPROD
#define FILL nib_cpu_neon_dotprod_fill
#include "runtime/cpu/arm/lanes_neon.inc"

#include "runtime/cpu/simd/table.inc"
