#version 450
// Makes codes of the keys of pages that are whole with a row of the step, channel by channel, as
// shared/kv.h defines them, from the newest tokens in f16. An invocation has eight channels of a
// head, which share a word of each token.
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_control_flow_attributes : require
#include "lib/half.glsl"
#include "lib/step.glsl"
#include "shared/kernels.h"

#define PAGE uint(NIB_KV_PAGE_TOKENS)
#define WORDS (uint(NIB_KV_GROUP) / 8u) // of a group
#define HALF_MAX NIB_KV_HALF_MAX

layout(constant_id = NIB_KV_STORE_DIM) const uint DIM = 64;
layout(local_size_x = 64) in;

const uint GROUPS = (DIM + uint(NIB_KV_GROUP) - 1u) / uint(NIB_KV_GROUP);

layout(push_constant) uniform Push {
    nib_kv_pack_args p;
};

layout(std430, set = 0, binding = NIB_BIND_MATRIX) buffer Plane {
    uint plane[];
};
layout(std430, set = 0, binding = NIB_BIND_INPUT) writeonly buffer Scales {
    uint scales[];
};

// Channels 8 word to 8 word + 7 of the token that begins at `from`; zeros fill the head up.
void load_channels(uint from, uint word, out vec4 low, out vec4 high)
{
    [[unroll]] for (uint i = 0u; i < 4u; i++) {
        uint at = 4u * word + i;
        uint pair = at < DIM / 2u ? plane[from + min(at, DIM / 2u - 1u)] : 0u;
        vec2 numbers = vec2(half_to_float(pair & 0xffffu), half_to_float(pair >> 16));
        if (i < 2u) {
            low[2u * i] = numbers.x;
            low[2u * i + 1u] = numbers.y;
        } else {
            high[2u * i - 4u] = numbers.x;
            high[2u * i - 3u] = numbers.y;
        }
    }
}

// Makes scale and minimum of four channels: their bits, and what codes are made with.
void find_scales(vec4 least, vec4 most, out uvec4 bits, out vec4 minimum, out vec4 factor)
{
    [[unroll]] for (uint i = 0u; i < 4u; i++) {
        uint low = half_from_float(least[i]);
        uint scale = half_from_float(min((most[i] - least[i]) / 15.0, HALF_MAX));
        float apart = half_to_float(scale);
        bits[i] = scale | low << 16;
        minimum[i] = half_to_float(low);
        factor[i] = apart > 0.0 ? 1.0 / apart : 0.0;
    }
}

uint pack(vec4 numbers, vec4 minimum, vec4 factor)
{
    uvec4 codes = uvec4(roundEven(clamp((numbers - minimum) * factor, 0.0, 15.0)));
    return codes.x | codes.y << 4 | codes.z << 8 | codes.w << 12;
}

void main()
{
    uint i = gl_GlobalInvocationID.x;
    nib_step_row r = step.rows[gl_WorkGroupID.y];
    if (i >= p.n_heads * GROUPS * WORDS || r.sequence == NIB_NONE ||
        r.position % PAGE != PAGE - 1u)
        return;
    uint head = i / (GROUPS * WORDS), word = i % (GROUPS * WORDS);
    uint tables = p.tables_at + sequence_word(p.sequences_at, r.sequence, 1u) + r.position / PAGE;
    uint page = step.rest[tables + p.kv_class * step.header.page_table_stride];
    uint recent = step.rest[tables + p.recent.kv_class * step.header.page_table_stride];
    uint from = p.recent.at + (recent * p.n_heads + head) * PAGE * (DIM / 2u);

    vec4 low, high, least_low, least_high, most_low, most_high;
    load_channels(from, word, least_low, least_high);
    most_low = least_low;
    most_high = least_high;
    for (uint t = 1u; t < PAGE; t++) {
        load_channels(from + t * (DIM / 2u), word, low, high);
        least_low = min(least_low, low);
        most_low = max(most_low, low);
        least_high = min(least_high, high);
        most_high = max(most_high, high);
    }
    uvec4 bits_low, bits_high;
    vec4 factor_low, factor_high;
    find_scales(least_low, most_low, bits_low, least_low, factor_low);
    find_scales(least_high, most_high, bits_high, least_high, factor_high);
    uint to = page * p.scale_page_words +
              NIB_KV_BY_TOKEN(head, GROUPS, word / WORDS, word % WORDS * 8u);
    [[unroll]] for (uint k = 0u; k < 4u; k++) {
        scales[to + k] = bits_low[k];
        scales[to + 4u + k] = bits_high[k];
    }
    for (uint t = 0u; t < PAGE; t++) {
        load_channels(from + t * (DIM / 2u), word, low, high);
        plane[page * p.page_words + NIB_KV_BY_TOKEN(head, GROUPS * WORDS, word, t)] =
            pack(low, least_low, factor_low) | pack(high, least_high, factor_high) << 16;
    }
}
