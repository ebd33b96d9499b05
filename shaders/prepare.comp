#version 450
// The input of a matmul in the order of the weight's granules, 32 numbers each, the last ones zero:
// floats, or packed int8 codes, with each granule's scale and sums. Codes are those of
// runtime/quant/activation.h. 8 invocations share a granule, or one takes it. Workgroups in z share
// a row: each finds what the row has in common for itself.
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_control_flow_attributes : require
#include "lib/activate.glsl"
#include "lib/divide.glsl"
#include "lib/half.glsl"
#include "lib/step.glsl"
#include "shared/kernels.h"

layout(constant_id = NIB_PREPARE_MODE) const uint MODE = NIB_PREPARE_F32;
// Codes become the numbers that they stand for.
layout(constant_id = NIB_PREPARE_AS_VALUES) const bool AS_VALUES = false;
// Granules may be shorter than 32 columns.
layout(constant_id = NIB_PREPARE_HAS_SPANS) const bool HAS_SPANS = false;
layout(constant_id = NIB_PREPARE_HAS_PERMUTATION) const bool HAS_PERMUTATION = false;
layout(constant_id = NIB_PREPARE_IS_LINES) const bool IS_LINES = false;
layout(constant_id = NIB_PREPARE_SOURCE) const uint SOURCE = NIB_PREPARE_SOURCE_VALUES;
// Quads of a granule that an invocation takes: 1 or 8.
layout(constant_id = NIB_PREPARE_QUADS) const uint QUADS = 1;
// The order in which nibbles of a word are taken apart with one mask.
layout(constant_id = NIB_PREPARE_IS_SPLIT) const bool IS_SPLIT = false;
#define THREADS uint(NIB_PREPARE_THREADS)
layout(local_size_x = NIB_PREPARE_THREADS) in;

const bool IS_LLM = MODE == NIB_PREPARE_LLM;
const bool IS_NORM = SOURCE == NIB_PREPARE_SOURCE_NORM || SOURCE == NIB_PREPARE_SOURCE_NORM_TIMES;
const bool IS_GATE = SOURCE >= NIB_PREPARE_SOURCE_GATE;
const bool MAKES_FLOATS = MODE == NIB_PREPARE_F32 || AS_VALUES;

layout(push_constant) uniform Push {
    nib_prepare_args p;
};

layout(std430, set = 0, binding = NIB_BIND_IN) readonly buffer In {
    float values[];
};
layout(std430, set = 0, binding = NIB_BIND_IN_2) readonly buffer Mask {
    uint mask[]; // of outliers: [sequence or line][column of the input]
};
layout(std430, set = 0, binding = NIB_BIND_IN_2) readonly buffer Up {
    float up[];
};
layout(std430, set = 0, binding = NIB_BIND_MATRIX) readonly buffer Weight {
    float norm_weight[];
};
layout(std430, set = 0, binding = NIB_BIND_INPUT) writeonly buffer Floats {
    vec4 floats[]; // [row][granule][8]
};
layout(std430, set = 0, binding = NIB_BIND_INPUT) writeonly buffer Codes {
    uint codes[]; // [row][granule][8]
};
layout(std430, set = 0, binding = NIB_BIND_OUT) writeonly buffer Outliers {
    vec4 outliers[]; // [row][granule][8], of granules that have some
};
layout(std430, set = 0, binding = NIB_BIND_SUMS) writeonly buffer Sums {
    vec4 sums[]; // the scale, the sums of both halves, whether the granule has outliers
};
layout(std430, set = 0, binding = NIB_BIND_TABLE) readonly buffer Tables {
    uint table[]; // first column and number of columns of each granule, then the permutation
};

shared float maxima[THREADS]; // of each quad
shared float quad_sums[THREADS];
shared uint outlier_quads[THREADS];

uint place_of(uint column)
{
    return HAS_PERMUTATION ? table[p.permutation_at + column] : column;
}

// Four neighbours of the row, before a norm.
vec4 norm_quad(uint q)
{
    uint at = gl_WorkGroupID.y * p.in_stride + p.in_at;
    vec4 v;
    [[unroll]] for (uint i = 0u; i < 4u; i++)
        v[i] = 4u * q + i < p.n_cols ? values[at + 4u * q + i] : 0.0;
    return v;
}
#include "lib/row_norm.glsl"

float norm_factor = 1.0;

float load(uint row, uint place)
{
    float value = values[row * p.in_stride + p.in_at + place];
    if (IS_NORM)
        value *= norm_factor;
    if (SOURCE == NIB_PREPARE_SOURCE_NORM_TIMES)
        value *= norm_weight[place];
    if (IS_GATE)
        value = activate(SOURCE - NIB_PREPARE_SOURCE_GATE, value) *
                up[row * p.up_stride + p.up_at + place];
    return IS_LLM ? half_to_float(half_from_float(value)) : value;
}

float magnitude(uint row, uint column)
{
    float value = abs(load(row, place_of(column)));
    return IS_LLM && !(value < p.limit) ? 0.0 : value;
}

float row_maximum(uint row)
{
    uint thread = gl_LocalInvocationIndex;
    float most = 0.0;
    for (uint c = thread; c < p.n_cols; c += THREADS)
        most = max(most, magnitude(row, c));
    maxima[thread] = most;
    barrier();
    for (uint i = 8u; thread < 8u && i < THREADS; i += 8u)
        maxima[thread] = max(maxima[thread], maxima[thread + i]);
    barrier();
    most = maxima[0];
    for (uint i = 1u; i < 8u; i++)
        most = max(most, maxima[i]);
    barrier();
    return most;
}

// Returns the largest magnitude of quad q of the group of 32 columns that begins at `begin`.
float quad_maximum(uint row, uint begin, uint q)
{
    float most = 0.0;
    for (uint c = begin + 4u * q; c < min(begin + 4u * q + 4u, p.n_cols); c++)
        most = max(most, magnitude(row, c));
    return most;
}

// The row of the mask, or NIB_NONE where the row is padding.
uint mask_row(uint row)
{
    return IS_LINES ? row : step.rows[row].sequence;
}

float quantize(float value, float scale, float inverse)
{
    if (MODE == NIB_PREPARE_GROUP)
        return roundEven(clamp(value * inverse, -127.0, 127.0));
    float least = IS_LLM ? -127.0 : -128.0;
    return scale > 0.0 ? roundEven(clamp(divide(value, scale), least, 127.0)) : 0.0;
}

// Returns which column of a granule is number i of quad q.
uint quad_column(uint q, uint i)
{
    return IS_SPLIT ? q / 2u * 8u + 2u * i + (q & 1u) : 4u * q + i;
}

// A granule's columns.
struct Span {
    uint begin;
    uint count;
};

// Leaves the codes of quad q in `v`, numbers in `exact` where the column has outliers. Returns
// whether one has.
bool take_quad(uint row, Span span, uint q, float scale, float inverse, uint mask_at, out vec4 v,
               out vec4 exact)
{
    bool has_outlier = false;
    v = vec4(0.0);
    exact = vec4(0.0);
    for (uint i = 0u; i < 4u; i++) {
        uint column = quad_column(q, i);
        if (column >= span.count)
            break;
        uint place = place_of(span.begin + column);
        float value = load(row, place);
        if (IS_LLM && mask_at != NIB_NONE && mask[mask_at + place] != 0u) {
            exact[i] = values[row * p.in_stride + p.in_at + place];
            has_outlier = true;
        } else {
            v[i] = MODE == NIB_PREPARE_F32 ? value : quantize(value, scale, inverse);
        }
    }
    return has_outlier;
}

// The scale in x and what a number is multiplied with in y, of a group with this maximum.
vec2 group_scale(float most)
{
    return most < NIB_PREPARE_LEAST ? vec2(0.0) : vec2(most / 127.0, 127.0 / most);
}

// Returns what the invocations that share a granule have found, put together.
float join_maxima(float most, uint lane)
{
    uint thread = gl_LocalInvocationIndex;
    maxima[thread] = most;
    barrier();
    for (uint i = 0u; i < 8u; i++)
        most = max(most, maxima[thread - lane + i]);
    return most;
}

// Adds the sums of quads up, by halves, and whether there are outliers; true for all.
void join_sums(inout float half_sums[2], inout bool has_outliers, uint lane)
{
    uint thread = gl_LocalInvocationIndex;
    quad_sums[thread] = half_sums[lane / 4u];
    outlier_quads[thread] = has_outliers ? 1u : 0u;
    barrier();
    half_sums[0] = 0.0;
    half_sums[1] = 0.0;
    for (uint i = 0u; i < 8u; i++) {
        half_sums[i / 4u] += quad_sums[thread - lane + i];
        has_outliers = has_outliers || outlier_quads[thread - lane + i] != 0u;
    }
}

// Makes QUADS quads of granule g, from `lane` on.
void prepare_quads(uint row, uint g, uint lane, float scale, uint mask_at)
{
    Span span = Span(32u * g, min(32u, p.n_cols - 32u * g));
    if (HAS_SPANS)
        span = Span(table[2u * g], table[2u * g + 1u]);
    float most = 0.0;
    for (uint q = lane; MODE == NIB_PREPARE_GROUP && q < lane + QUADS; q++)
        most = max(most, quad_maximum(row, span.begin / 32u * 32u, q));
    if (QUADS < 8u)
        most = join_maxima(most, lane);
    vec2 group = MODE == NIB_PREPARE_GROUP ? group_scale(most) : vec2(scale);
    float granule_scale = MODE == NIB_PREPARE_F32 ? 1.0 : group.x;
    float half_sums[2] = float[2](0.0, 0.0);
    bool has_outliers = false;
    for (uint q = lane; q < lane + QUADS; q++) {
        vec4 v, exact;
        bool is_outlier = take_quad(row, span, q, granule_scale, group.y, mask_at, v, exact);
        has_outliers = has_outliers || is_outlier;
        uint place = (row * p.n_granules + g) * 8u + q;
        if (MAKES_FLOATS) {
            v = AS_VALUES ? granule_scale * v + exact : v;
            floats[place] = v;
        } else {
            uvec4 c = uvec4(ivec4(v)) & 255u;
            codes[place] = c.x | (c.y << 8) | (c.z << 16) | (c.w << 24);
            if (IS_LLM)
                outliers[place] = exact;
        }
        half_sums[q / 4u] += (v.x + v.y) + (v.z + v.w);
    }
    if (QUADS < 8u)
        join_sums(half_sums, has_outliers, lane);
    if (lane == 0u)
        sums[row * p.n_granules + g] = vec4(MAKES_FLOATS ? 1.0 : granule_scale, half_sums[0],
                                            half_sums[1], has_outliers ? 1.0 : 0.0);
}

void main()
{
    uint row = gl_WorkGroupID.y;
    float scale = p.scale;
    if (IS_NORM)
        norm_factor =
            find_norm_factor(gl_LocalInvocationIndex, THREADS, p.n_cols, p.epsilon);
    if (MODE == NIB_PREPARE_TOKEN)
        scale = divide(row_maximum(row), 127.5);
    else if (IS_LLM)
        scale = divide(row_maximum(row), 127.0);
    uint mask_at = IS_LLM ? mask_row(row) : NIB_NONE;
    mask_at = mask_at == NIB_NONE ? NIB_NONE : mask_at * p.mask_stride;
    const uint sharers = 8u / QUADS, together = THREADS / sharers;
    uint own = gl_LocalInvocationIndex / sharers, lane = gl_LocalInvocationIndex % sharers;
    for (uint first = gl_WorkGroupID.z * together; first < p.n_granules;
         first += gl_NumWorkGroups.z * together) {
        // All that meet at barriers go there: those beyond the row make its last granule again.
        if (QUADS < 8u || first + own < p.n_granules)
            prepare_quads(row, min(first + own, p.n_granules - 1u), lane, scale, mask_at);
    }
}
