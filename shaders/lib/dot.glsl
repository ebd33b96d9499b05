// Products of packed bytes, and weights as such bytes.
#ifndef SHADERS_LIB_DOT_GLSL
#define SHADERS_LIB_DOT_GLSL

#include "weights.glsl"

#ifdef HAS_DOT
// OpSDotAccSat would clamp; the sum of a granule fits anyway.
#extension GL_EXT_spirv_intrinsics : require
spirv_instruction(extensions = ["SPV_KHR_integer_dot_product"], capabilities = [6019, 6018],
                  id = 4450) int dot_packed(uint a, uint b, spirv_literal int format);
#endif

// Returns sum + Σ a_i · b_i over four signed bytes.
int dot_bytes(uint a, uint b, int sum)
{
#ifdef HAS_DOT
    return sum + dot_packed(a, b, 0);
#else
    [[unroll]] for (int i = 0; i < 32; i += 8)
        sum += bitfieldExtract(int(a), i, 8) * bitfieldExtract(int(b), i, 8);
    return sum;
#endif
}

// What is taken from codes so that they fit signed bytes.
const int BYTE_OFFSET = CODE_BITS == 8u ? 128 : 0;

uint pack_bytes(uvec4 v)
{
    return v.x | (v.y << 8) | (v.z << 16) | (v.w << 24);
}

// Returns the codes of quad q of a granule as signed bytes, less BYTE_OFFSET; of a format with a
// book of integers, the integers.
uint quad_bytes(Granule granule, uint q)
{
    if (CODE_BITS == 8u)
        return granule.low[q / 4u][q & 3u] ^ 0x80808080u;
    if (CODE_BITS == 4u && !HAS_BOOK)
        return split_nibbles(granule.low[0][q / 2u], q);
    if (CODE_BITS == 4u) {
        uint w = split_nibbles(granule.low[0][q / 2u], q);
        uvec4 c = uvec4(w & 255u, (w >> 8) & 255u, (w >> 16) & 255u, w >> 24);
        ivec4 v = ivec4(int(book[c.x]), int(book[c.y]), int(book[c.z]), int(book[c.w]));
        return pack_bytes(uvec4(v) & 255u);
    }
    return pack_bytes(code_quad(granule, q));
}

#endif
