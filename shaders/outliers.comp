#version 450
// LLM.int8 (Dettmers et al. 2022): the columns with an outlier in any row of a sequence, values
// rounded to binary16 first. An invocation takes a column of a sequence, or of the lines that
// belong to the sequence of line y.
#extension GL_GOOGLE_include_directive : require
#include "lib/step.glsl"
#include "lib/half.glsl"
#include "shared/kernels.h"

layout(constant_id = NIB_OUTLIERS_IS_LINES) const bool IS_LINES = false;
layout(local_size_x = 64) in;

layout(push_constant) uniform Push {
    nib_outliers_args p;
};

layout(std430, set = 0, binding = NIB_BIND_IN) readonly buffer In {
    float x[];
};
layout(std430, set = 0, binding = NIB_BIND_OUT) writeonly buffer Mask {
    uint mask[]; // [sequence or line][column]
};

// Returns the line of a row, or NIB_NONE.
uint line_of(uint row)
{
    uint line = step.rows[row].logit_row - step.header.first_logit;
    bool is_wanted = step.rows[row].logit_row != NIB_NONE && line < step.header.n_logits;
    return is_wanted ? line : NIB_NONE;
}

uint sequence_of_line(uint line)
{
    for (uint row = 0u; row < step.header.n_used_rows; row++) {
        if (line_of(row) == line)
            return step.rows[row].sequence;
    }
    return NIB_NONE;
}

void main()
{
    uint column = gl_GlobalInvocationID.x, slot = gl_WorkGroupID.y;
    uint sequence = IS_LINES ? sequence_of_line(slot) : slot;
    if (column >= p.n_cols || sequence >= step.header.n_sequences)
        return;
    uint first = sequence_word(p.sequences_at, sequence, 2u);
    uint end = first + sequence_word(p.sequences_at, sequence, 3u);
    bool is_outlier = false;
    for (uint row = first; row < end; row++) {
        uint place = IS_LINES ? line_of(row) : row;
        if (place == NIB_NONE)
            continue;
        float value =
            half_to_float(half_from_float(x[place * p.in_stride + p.in_at + column]));
        // NaN counts too.
        is_outlier = is_outlier || !(abs(value) < p.limit);
    }
    mask[slot * p.mask_stride + column] = is_outlier ? 1u : 0u;
}
