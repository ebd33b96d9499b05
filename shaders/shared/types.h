// The subset of types that C and GLSL share. Structs of this folder hold 32-bit scalars alone, so their
// layout is the same in C and in std430.
#ifndef SHADERS_SHARED_TYPES_H
#define SHADERS_SHARED_TYPES_H

#ifdef VULKAN // predefined by GLSL compilers for Vulkan
#define nib_uint uint
#else
#include <stdint.h>
typedef uint32_t nib_uint;
#endif

#define NIB_NONE 0xffffffffu

#endif
