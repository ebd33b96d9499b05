// The second half of attention.comp's work on a page: weighted values are added to the outputs of
// the invocation's tokens. Minima of codes of 4 bits are added up apart.

void add_floats(uint head, uint page, uint lane, uint place, uint last)
{
    [[unroll]] for (uint t = 0u; t < TOKENS; t++) {
        uint slot = min(place * TOKENS + t, last);
        uint at = page * p.value_page_words + (head * PAGE + slot) * p.value_words;
        [[unroll]] for (uint i = 0u; i < VALUE_SHARE; i++) {
            KvUnit v = load_value(at, min(i * LANES + lane, VALUE_UNITS - 1u));
            [[unroll]] for (uint r = 0u; r < ROWS; r++) {
                uint j = r * VALUE_QUADS + i * 2u;
                acc[j] += score[r * TOKENS + t] * v.low;
                acc[j + 1u] += score[r * TOKENS + t] * v.high;
            }
        }
    }
}

void add_codes(uint head, uint page, uint lane, uint place, uint last)
{
    const uint n = VALUE_FORMAT == NIB_KV_CODE_I8 ? 8u : 4u;
    const uint n_scales = VALUE_FORMAT == NIB_KV_CODE_I8 ? (VALUE_UNITS + 1u) / 2u : VALUE_UNITS;
    [[unroll]] for (uint t = 0u; t < TOKENS; t++) {
        uint slot = min(place * TOKENS + t, last);
        [[unroll]] for (uint i = 0u; i < VALUE_SHARE; i++) {
            uint group = min(i * LANES + lane, VALUE_UNITS - 1u);
            uint scale_at = page * p.value_scale_page_words +
                            NIB_KV_BY_TOKEN(head, n_scales, n == 8u ? group / 2u : group, slot);
            vec2 scale = scale_of(VALUE_FORMAT, value_scales[scale_at], group);
            float weight[ROWS];
            [[unroll]] for (uint r = 0u; r < ROWS; r++) {
                weight[r] = score[r * TOKENS + t] * scale.x;
                if (VALUE_FORMAT == NIB_KV_CODE_I4)
                    acc_min[r * VALUE_SHARE + i] += score[r * TOKENS + t] * scale.y;
            }
            uint at = page * p.value_page_words +
                      NIB_KV_BY_NUMBER(head, VALUE_UNITS * n, group * n, slot);
            [[unroll]] for (uint h = 0u; h < n / 4u; h++) {
                uvec4 codes = VALUE_QUAD(at / 4u + h);
                [[unroll]] for (uint w = 0u; w < 4u; w++) {
                    vec4 low = n == 8u ? centered_bytes(codes[w]) : nibbles(codes[w], 0u, 8u);
                    vec4 high = nibbles(codes[w], 4u, 8u);
                    [[unroll]] for (uint r = 0u; r < ROWS; r++) {
                        uint j = r * VALUE_QUADS + i * 8u + 4u * h + w;
                        acc[j] += weight[r] * low;
                        if (n == 4u)
                            acc[j + 4u] += weight[r] * high;
                    }
                }
            }
        }
    }
}

void add_recent(uint head, uint n_heads, uint page, uint lane, uint place, uint last)
{
    const uint n_units = (VALUE_DIM + 7u) / 8u;
    [[unroll]] for (uint t = 0u; t < TOKENS; t++) {
        uint slot = min(place * TOKENS + t, last);
        uint at = p.recent_values.at + ((page * n_heads + head) * PAGE + slot) * (VALUE_DIM / 2u);
        [[unroll]] for (uint i = 0u; i < VALUE_SHARE; i++) {
            [[unroll]] for (uint u = 0u; u < 4u; u++) {
                KvUnit v = load_recent_value(at, min((i * LANES + lane) * 4u + u, n_units - 1u));
                [[unroll]] for (uint r = 0u; r < ROWS; r++) {
                    uint j = r * VALUE_QUADS + i * 8u + 2u * u;
                    acc[j] += score[r * TOKENS + t] * v.low;
                    acc[j + 1u] += score[r * TOKENS + t] * v.high;
                }
            }
        }
    }
}
