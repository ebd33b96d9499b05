// The subset of types that C and GLSL share. Structs of this folder hold 32-bit scalars alone, so
// their layout is the same in C and in std430.
#ifndef SHADERS_SHARED_TYPES_H
#define SHADERS_SHARED_TYPES_H

#ifdef VULKAN // predefined by GLSL compilers for Vulkan
#define nib_uint uint
#define NIB_STRUCT(name) name
#else
#include <stdint.h>
typedef uint32_t nib_uint;
#define NIB_STRUCT(name) struct name
#endif

#define NIB_NONE 0xffffffffu

#endif
