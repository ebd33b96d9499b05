#version 450
// Attention of one head of one row over the paged cache, a page at a time, with the running maximum
// and sum of Milakov and Gimelshein 2018. Four invocations make a score; then each invocation keeps
// every 128th number of the output.
#extension GL_GOOGLE_include_directive : require
#include "lib/step.glsl"
#include "shared/kernels.h"

#define PAGE 32u
#define THREADS 128u
#define MAX_DIM uint(NIB_ATTENTION_MAX_DIM)
// Finite, so that a difference of maxima is never NaN.
#define LEAST_SCORE (-1.0e38)

layout(constant_id = NIB_ATTENTION_KEYS_ARE_HALF) const bool KEYS_ARE_HALF = true;
layout(constant_id = NIB_ATTENTION_VALUES_ARE_HALF) const bool VALUES_ARE_HALF = true;
layout(constant_id = NIB_ATTENTION_KEY_DIM) const uint KEY_DIM = 64;
layout(constant_id = NIB_ATTENTION_VALUE_DIM) const uint VALUE_DIM = 64;
layout(local_size_x = 128) in;

layout(push_constant) uniform Push {
    nib_attention_args p;
};

layout(std430, set = 0, binding = NIB_BIND_IN) readonly buffer Query {
    float query[];
};
layout(std430, set = 0, binding = NIB_BIND_OUT) writeonly buffer Out {
    float y[];
};
layout(std430, set = 0, binding = NIB_BIND_MATRIX) readonly buffer Keys {
    uint keys[];
};
layout(std430, set = 0, binding = NIB_BIND_INPUT) readonly buffer Values {
    uint cached_values[];
};

shared float q[KEY_DIM];
shared float parts[THREADS];
shared float scores[PAGE];

float key_product(uint at, uint part)
{
    float sum = 0.0;
    if (KEYS_ARE_HALF) {
        for (uint i = part; i < KEY_DIM / 2u; i += 4u) {
            vec2 k = unpackHalf2x16(keys[at + i]);
            sum += k.x * q[2u * i] + k.y * q[2u * i + 1u];
        }
    } else {
        for (uint i = part; i < KEY_DIM; i += 4u)
            sum += uintBitsToFloat(keys[at + i]) * q[i];
    }
    return sum;
}

float load_value(uint at, uint d)
{
    if (!VALUES_ARE_HALF)
        return uintBitsToFloat(cached_values[at + d]);
    vec2 pair = unpackHalf2x16(cached_values[at + d / 2u]);
    return (d & 1u) == 0u ? pair.x : pair.y;
}

float tanh_bounded(float x)
{
    return tanh(clamp(x, -12.0, 12.0));
}

void main()
{
    uint thread = gl_LocalInvocationIndex, head = gl_WorkGroupID.x, row = gl_WorkGroupID.y;
    nib_step_row r = step.rows[row];
    bool is_used = r.sequence != NIB_NONE;
    uint end = is_used ? r.position + 1u : 0u;
    uint begin = p.window != 0u && p.window < end ? end - p.window : 0u;
    uint table = 0u;
    if (is_used) {
        table = p.tables_at + sequence_word(p.sequences_at, r.sequence, 1u) +
                p.kv_class * step.header.page_table_stride;
    }
    uint kv_head = head / p.heads_per_kv_head;
    uint key_words = KEYS_ARE_HALF ? KEY_DIM / 2u : KEY_DIM;
    uint value_words = VALUES_ARE_HALF ? VALUE_DIM / 2u : VALUE_DIM;
    for (uint d = thread; d < KEY_DIM; d += THREADS)
        q[d] = query[row * p.query_stride + p.query_at + head * KEY_DIM + d];

    float most = LEAST_SCORE, sum = 0.0;
    float acc[MAX_DIM / THREADS] = float[MAX_DIM / THREADS](0.0, 0.0, 0.0, 0.0);
    for (uint base = begin / PAGE * PAGE; base < end; base += PAGE) {
        uint page = step.rest[table + base / PAGE];
        uint slot = thread / 4u, token = base + slot;
        bool is_seen = token >= begin && token < end;
        uint key_at = page * p.key_page_words + (kv_head * PAGE + slot) * key_words;
        barrier();
        parts[thread] = is_seen ? key_product(key_at, thread % 4u) : 0.0;
        barrier();
        if (thread % 4u == 0u) {
            float score = (parts[thread] + parts[thread + 1u]) +
                          (parts[thread + 2u] + parts[thread + 3u]);
            score *= p.scale;
            if (p.softcap > 0.0)
                score = p.softcap * tanh_bounded(score / p.softcap);
            scores[slot] = is_seen ? score : LEAST_SCORE;
        }
        barrier();
        float next = most;
        for (uint t = 0u; t < PAGE; t++)
            next = max(next, scores[t]);
        float shrink = exp(most - next);
        most = next;
        sum *= shrink;
        for (uint k = 0u; k < MAX_DIM / THREADS; k++)
            acc[k] *= shrink;
        uint first = max(base, begin) - base, last = min(PAGE, end - base);
        for (uint t = first; t < last; t++) {
            float weight = exp(scores[t] - most);
            sum += weight;
            uint value_at = page * p.value_page_words + (kv_head * PAGE + t) * value_words;
            for (uint k = 0u; k * THREADS < VALUE_DIM; k++) {
                uint d = k * THREADS + thread;
                if (d < VALUE_DIM)
                    acc[k] += weight * load_value(value_at, d);
            }
        }
    }
    for (uint k = 0u; k * THREADS < VALUE_DIM; k++) {
        uint d = k * THREADS + thread;
        if (d < VALUE_DIM)
            y[row * p.out_stride + p.out_at + head * VALUE_DIM + d] =
                sum > 0.0 ? acc[k] / sum : 0.0;
    }
}
