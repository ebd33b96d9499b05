// The paged KV cache. C and GLSL.
//
// A page holds NIB_KV_PAGE_TOKENS tokens of one layer: keys [kv head][token][key dim], then, in a
// plane of their own, values [kv head][token][value dim]; scales, where the format has them, in two
// more planes [kv head][token][group]. Page p of a layer begins p · page size into each of the
// layer's planes. The bytes are the same on every backend.
#ifndef SHADERS_SHARED_KV_H
#define SHADERS_SHARED_KV_H

#include "types.h"

#define NIB_KV_PAGE_TOKENS 32
#define NIB_KV_MAX_CLASSES 2 // layers that see everything, layers with a window

#endif
