// The first half of attention.comp's work on a page: scores of its tokens, and weights from them.

// Adds to each row's scores what the invocation's share of float keys gives. `last` is the last
// token of the page that is there: what lies behind it may be anything.
void score_floats(uint head, uint page, uint lane, uint place, uint last)
{
    [[unroll]] for (uint t = 0u; t < TOKENS; t++) {
        uint slot = min(place * TOKENS + t, last);
        uint at = page * p.key_page_words + (head * PAGE + slot) * p.key_words;
        [[unroll]] for (uint i = 0u; i < KEY_SHARE; i++) {
            KvUnit k = load_key(at, min(i * LANES + lane, KEY_UNITS - 1u));
            [[unroll]] for (uint r = 0u; r < ROWS; r++) {
                uint j = r * KEY_QUADS + i * 2u;
                score[r * TOKENS + t] += dot(k.low, q[j]) + dot(k.high, q[j + 1u]);
            }
        }
    }
}

// What the base of a page's keys adds to the scores of all its tokens.
void score_base(uint head, uint n_heads, uint page, uint lane)
{
    const uint n = KEY_FORMAT == NIB_KV_CODE_I8 ? 8u : 4u; // words of a group
    const uint pairs = (KEY_UNITS + 1u) / 2u;
    const uint n_scales = KEY_FORMAT == NIB_KV_CODE_I8 ? pairs : KEY_UNITS;
    uint at = page * p.key_page_words +
              (n_heads * KEY_UNITS * n * PAGE + head * KEY_UNITS * (GROUP / 4u));
    uint scales_at = page * p.key_scale_page_words + n_heads * n_scales * PAGE + head * pairs;
    [[unroll]] for (uint i = 0u; i < KEY_SHARE; i++) {
        uint group = min(i * LANES + lane, KEY_UNITS - 1u);
        float part[ROWS];
        [[unroll]] for (uint r = 0u; r < ROWS; r++)
            part[r] = 0.0;
        [[unroll]] for (uint h = 0u; h < 2u; h++) {
            uvec4 words = KEY_QUAD(at / 4u + group * 2u + h);
            [[unroll]] for (uint w = 0u; w < 4u; w++) {
                vec4 k = centered_bytes(words[w]);
                [[unroll]] for (uint r = 0u; r < ROWS; r++)
                    part[r] += dot(k, q[r * KEY_QUADS + i * 8u + 4u * h + w]);
            }
        }
        float scale = scale_of(NIB_KV_CODE_I8, key_scales[scales_at + group / 2u], group).x;
        [[unroll]] for (uint j = 0u; j < ROWS * TOKENS; j++)
            score[j] += part[j / TOKENS] * scale;
    }
}

// Words of two or four neighbouring tokens.
uvec4 code_words(uint at)
{
    if (TOKENS == 4u)
        return KEY_QUAD(at / 4u);
    return TOKENS == 2u ? uvec4(KEY_PAIR(at / 2u), 0u, 0u) : uvec4(0u);
}

// The same for codes: a word of neighbouring tokens at a time.
void score_codes(uint head, uint page, uint lane, uint place)
{
    const uint n = KEY_FORMAT == NIB_KV_CODE_I8 ? 8u : 4u; // words of a group
    const uint n_scales = KEY_FORMAT == NIB_KV_CODE_I8 ? (KEY_UNITS + 1u) / 2u : KEY_UNITS;
    [[unroll]] for (uint i = 0u; i < KEY_SHARE; i++) {
        uint group = min(i * LANES + lane, KEY_UNITS - 1u);
        float part[ROWS * TOKENS];
        [[unroll]] for (uint j = 0u; j < ROWS * TOKENS; j++)
            part[j] = 0.0;
        [[unroll]] for (uint w = 0u; w < n; w++) {
            uint at = page * p.key_page_words +
                      NIB_KV_BY_TOKEN(head, KEY_UNITS * n, group * n + w, place * TOKENS);
            uvec4 words = code_words(at);
            [[unroll]] for (uint t = 0u; t < TOKENS; t++) {
                uint codes = TOKENS == 2u || TOKENS == 4u ? words[t % 4u] : key_words[at + t];
                [[unroll]] for (uint h = 0u; h < 8u / n; h++) {
                    vec4 k = n == 8u ? centered_bytes(codes) : nibbles(codes, 16u * h, 4u);
                    uint quad = i * 8u + w * (8u / n) + h;
                    [[unroll]] for (uint r = 0u; r < ROWS; r++)
                        part[r * TOKENS + t] += dot(k, q[r * KEY_QUADS + quad]);
                }
            }
        }
        [[unroll]] for (uint t = 0u; t < TOKENS; t++) {
            uint w = n == 8u ? group / 2u : group;
            uint at = page * p.key_scale_page_words +
                      NIB_KV_BY_TOKEN(head, n_scales, w, place * TOKENS + t);
            vec2 scale = scale_of(KEY_FORMAT, key_scales[at], group);
            [[unroll]] for (uint r = 0u; r < ROWS; r++) {
                score[r * TOKENS + t] += part[r * TOKENS + t] * scale.x;
                if (KEY_FORMAT == NIB_KV_CODE_I4)
                    score[r * TOKENS + t] += q_sum[r * KEY_SHARE + i] * scale.y;
            }
        }
    }
}

// The same for codes with a scale and a minimum for each channel, of whole pages.
void score_channels(uint head, uint page, uint lane, uint place)
{
    [[unroll]] for (uint i = 0u; i < KEY_SHARE; i++) {
        uint group = min(i * LANES + lane, KEY_UNITS - 1u);
        uint scales_at =
            page * p.key_scale_page_words + NIB_KV_BY_TOKEN(head, KEY_UNITS, group, 0u);
        [[unroll]] for (uint w = 0u; w < 4u; w++) {
            uint at = page * p.key_page_words +
                      NIB_KV_BY_TOKEN(head, KEY_UNITS * 4u, group * 4u + w, place * TOKENS);
            uvec4 words = code_words(at);
            [[unroll]] for (uint h = 0u; h < 2u; h++) {
                vec4 scale, minimum;
                [[unroll]] for (uint j = 0u; j < 4u; j++) {
                    vec2 both = half_pair(key_scales[scales_at + 8u * w + 4u * h + j]);
                    scale[j] = both.x;
                    minimum[j] = both.y;
                }
                [[unroll]] for (uint t = 0u; t < TOKENS; t++) {
                    uint codes = TOKENS == 2u || TOKENS == 4u ? words[t % 4u] : key_words[at + t];
                    vec4 k = nibbles(codes, 16u * h, 4u) * scale + minimum;
                    [[unroll]] for (uint r = 0u; r < ROWS; r++)
                        score[r * TOKENS + t] += dot(k, q[r * KEY_QUADS + i * 8u + 2u * w + h]);
                }
            }
        }
    }
}

// The same for keys of tokens in f16: four units to each of the invocation's groups.
void score_recent(uint head, uint n_heads, uint page, uint lane, uint place, uint last)
{
    const uint n_units = (KEY_DIM + 7u) / 8u;
    [[unroll]] for (uint t = 0u; t < TOKENS; t++) {
        uint slot = min(place * TOKENS + t, last);
        uint at = p.recent_keys.at + ((page * n_heads + head) * PAGE + slot) * (KEY_DIM / 2u);
        [[unroll]] for (uint i = 0u; i < KEY_SHARE; i++) {
            [[unroll]] for (uint u = 0u; u < 4u; u++) {
                KvUnit k = load_recent_key(at, min((i * LANES + lane) * 4u + u, n_units - 1u));
                [[unroll]] for (uint r = 0u; r < ROWS; r++) {
                    uint j = r * KEY_QUADS + i * 8u + 2u * u;
                    score[r * TOKENS + t] += dot(k.low, q[j]) + dot(k.high, q[j + 1u]);
                }
            }
        }
    }
}

// The page from which on a row at `position` reads newest tokens.
uint first_recent(uint position)
{
    return NIB_KV_FIRST_RECENT(position / PAGE, RECENT);
}

// Turns scores into weights, and brings maxima, sums and outputs up to date with them. Rows that
// read the page otherwise than it was do not see it.
void weigh_scores(Tile tile, uint first_token, bool is_recent)
{
    [[unroll]] for (uint r = 0u; r < ROWS; r++) {
        uint seen = tile.position + r / HEADS + 1u;
        uint unseen = p.window != 0u && p.window < seen ? seen - p.window : 0u;
        seen -= OWN_TOKENS;
        bool is_first = FIRST > 0u && first_token / PAGE < FIRST; // for all rows
        if (RECENT > 0u && !is_first &&
            is_recent != (first_token / PAGE >= first_recent(seen - 1u)))
            seen = 0u;
        float next = most[r];
        [[unroll]] for (uint t = 0u; t < TOKENS; t++) {
            uint token = first_token + t, i = r * TOKENS + t;
            if (p.softcap > 0.0)
                score[i] = p.softcap * tanh_bounded(score[i] / p.softcap);
            score[i] = token >= unseen && token < seen ? score[i] : NIB_ATTENTION_LEAST;
            next = max(next, score[i]);
        }
        float shrink = exp(most[r] - next), added = 0.0;
        most[r] = next;
        [[unroll]] for (uint t = 0u; t < TOKENS; t++) {
            uint i = r * TOKENS + t;
            score[i] = score[i] > NIB_ATTENTION_LEAST ? exp(score[i] - next) : 0.0;
            added += score[i];
        }
        sum[r] = sum[r] * shrink + added;
        [[unroll]] for (uint i = 0u; i < VALUE_QUADS; i++)
            acc[r * VALUE_QUADS + i] *= shrink;
        if (VALUE_FORMAT == NIB_KV_CODE_I4) {
            [[unroll]] for (uint i = 0u; i < VALUE_SHARE; i++)
                acc_min[r * VALUE_SHARE + i] *= shrink;
        }
    }
}
