// One plane of the cache, read in units of 8 numbers. Included once for each plane, with
// UNIT_FORMAT, UNIT_DIM (specialization constants), UNIT_WORDS and UNIT_QUADS (the buffer's words,
// and its pieces of 16 bytes) and UNIT_LOAD (the function's name) defined.

// Returns unit `unit` of the head of a token that begins at word `at`; numbers behind its end are
// zero. What may lie behind it is chosen between, not branched on: drivers that unroll before they
// fold would hold every branch of all tokens.
KvUnit UNIT_LOAD(uint at, uint unit)
{
    const bool is_aligned = UNIT_DIM % 8u == 0u;
    uvec4 low = uvec4(0u), high = uvec4(0u);
    if (UNIT_FORMAT == NIB_KV_CODE_F16) {
        if (is_aligned) {
            low = UNIT_QUADS(at / 4u + unit);
        } else {
            [[unroll]] for (uint i = 0u; i < 4u; i++) {
                uint j = 4u * unit + i, word = UNIT_WORDS[at + min(j, UNIT_DIM / 2u - 1u)];
                low[i] = j < UNIT_DIM / 2u ? word : 0u;
            }
        }
        return KvUnit(vec4(unpackHalf2x16(low.x), unpackHalf2x16(low.y)),
                      vec4(unpackHalf2x16(low.z), unpackHalf2x16(low.w)));
    }
    if (is_aligned) {
        low = UNIT_QUADS(at / 4u + 2u * unit);
        high = UNIT_QUADS(at / 4u + 2u * unit + 1u);
    } else {
        [[unroll]] for (uint i = 0u; i < 4u; i++) {
            uint first = 8u * unit + i, last = first + 4u;
            uint word = UNIT_WORDS[at + min(first, UNIT_DIM - 1u)];
            uint other = UNIT_WORDS[at + min(last, UNIT_DIM - 1u)];
            low[i] = first < UNIT_DIM ? word : 0u;
            high[i] = last < UNIT_DIM ? other : 0u;
        }
    }
    return KvUnit(uintBitsToFloat(low), uintBitsToFloat(high));
}

#undef UNIT_FORMAT
#undef UNIT_DIM
#undef UNIT_WORDS
#undef UNIT_QUADS
#undef UNIT_LOAD
