// The step block: what changes from one step to the next, in one fixed place. C and GLSL.
#ifndef SHADERS_SHARED_STEP_H
#define SHADERS_SHARED_STEP_H

#include "types.h"

// Buckets of rows that a segment is recorded for: the powers of two up to this.
#define NIB_STEP_MAX_ROWS 512

#define NIB_STEP_DRAWN 0x80000000u

// One row of a step: a token at a position of a sequence.
struct nib_step_row {
    nib_uint token; // or NIB_STEP_DRAWN and a line: the token that the run before drew there
    nib_uint position;
    nib_uint sequence;  // index into the step's sequences; NIB_NONE: padding, which writes nowhere
    nib_uint logit_row; // index of the row's logits; NIB_NONE: it wants none
};

// One sequence of a step. Its rows are neighbours and their positions follow each other.
struct nib_step_sequence {
    nib_uint kv_length;  // tokens in the cache once this step's rows are stored
    nib_uint page_table; // offset of its page table in the step's page tables
    nib_uint first_row;
    nib_uint n_rows;
};

// How the token behind a row is drawn on the device. Weights are e^((logit - largest logit) ·
// inverse_temperature) in units of 2^-30.
struct nib_step_draw {
    float inverse_temperature; // 0: the largest logit is taken
    nib_uint top_k;            // 0: all
    nib_uint top_share;        // keep the fewest whose weights sum to this · 2^-32 of all; 0: all
    nib_uint least_weight;     // keep those that weigh so much
    nib_uint random;           // where the draw falls, in units of 2^-32
};
#define NIB_STEP_DRAW_WORDS 5

// The header of the step block; the arrays of rows, sequences and page tables follow in buffers of
// their own. The page table of KV class c begins at page_table + c · page_table_stride.
struct nib_step_header {
    nib_uint n_rows;      // rounded up to a bucket
    nib_uint n_used_rows; // rows that are not padding; they come first
    nib_uint n_sequences;
    nib_uint n_logits;
    nib_uint page_table_stride; // entries of one class of one sequence
    nib_uint first_logit;       // rows whose logit_row is in [first_logit, first_logit + n_logits)
                                // take part in this run of the head
    nib_uint step;              // counts steps; the timeline's value
    nib_uint slot;              // of the backend's, where it leaves what is drawn
};
#define NIB_STEP_HEADER_WORDS 8

#endif
