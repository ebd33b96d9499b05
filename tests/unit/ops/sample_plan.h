/// A small valid plan that tests break in one place at a time.
#ifndef TESTS_UNIT_OPS_SAMPLE_PLAN_H
#define TESTS_UNIT_OPS_SAMPLE_PLAN_H

#include "runtime/ops/plan.h"

enum { HIDDEN = 16, HEADS = 4, KV_HEADS = 2, HEAD_DIM = 4, FFN = 24, VOCABULARY = 50 };

/// Ops of the sample plan, in order.
enum sample_op {
    OP_EMBED,
    OP_NORM,
    OP_Q,
    OP_KV,
    OP_ROPE,
    OP_KV_STORE,
    OP_ATTENTION,
    OP_OUT,
    OP_ADD,
    OP_GATE_UP,
    OP_ACTIVATE,
    OP_SCALE,
    OP_GATHER,
    OP_HEAD,
    OP_SOFTCAP,
    N_OPS
};
enum sample_weight {
    W_EMBEDDING,
    W_NORM,
    W_Q,
    W_KV,
    W_Q_BIAS,
    W_OUT,
    W_GATE_UP,
    W_HEAD,
    N_WEIGHTS
};
enum sample_value { V_HIDDEN, V_NORMED, V_QKV, V_ATTENTION, V_FFN, V_LOGITS, N_VALUES };

/// The plan with its arrays, which may be changed before it is used.
struct sample_plan {
    struct nib_plan plan;
    struct nib_op ops[N_OPS];
    struct nib_weight weights[N_WEIGHTS];
    struct nib_segment segments[3];
    struct nib_rope_table rope;
    struct nib_kv_layer kv_layer;
    float frequency[HEAD_DIM / 2];
};

void sample_plan_init(struct sample_plan *p);

#endif
