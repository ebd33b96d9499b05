// Pairs of a head's numbers and the angles that turn them. Needs step.glsl and INTERLEAVED.
#ifndef SHADERS_LIB_ROPE_GLSL
#define SHADERS_LIB_ROPE_GLSL

// Where pair `j` of `half_dims` lies in a head that begins at `head`.
uvec2 pair_place(uint head, uint j, uint half_dims)
{
    return head + (INTERLEAVED ? uvec2(2u * j, 2u * j + 1u) : uvec2(j, j + half_dims));
}

// Turns pair `j` by its row's angle, of a table at `angles_at`.
vec2 turn_pair(float u, float v, uint angles_at, uint row, uint j, uint half_dims)
{
    uint at = angles_at + row * 2u * half_dims + j;
    float cosine = uintBitsToFloat(step.rest[at]);
    float sine = uintBitsToFloat(step.rest[at + half_dims]);
    return vec2(u * cosine - v * sine, u * sine + v * cosine);
}

#endif
