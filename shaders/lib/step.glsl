// The step block as kernels see it: a binding of every kernel that reads it. Sequences, angles and
// page tables follow the rows at offsets that push constants hold, in words of `rest`.
#ifndef SHADERS_LIB_STEP_GLSL
#define SHADERS_LIB_STEP_GLSL

#include "../shared/kernels.h"
#include "../shared/kv.h"
#include "../shared/step.h"

layout(std430, set = 0, binding = NIB_BIND_STEP) readonly buffer Step {
    nib_step_header header;
    nib_step_row rows[NIB_STEP_MAX_ROWS];
    uint rest[];
} step;

// Returns word `word` of a sequence: 0 its length, 1 its page table.
uint sequence_word(uint sequences_at, uint sequence, uint word)
{
    return step.rest[sequences_at + sequence * 4u + word];
}

#endif
