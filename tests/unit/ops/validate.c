#include <criterion/criterion.h>
#include <math.h>
#include <string.h>

#include "sample_plan.h"

/// Ways to break the plan `p`. Columns: a piece of the message that says so, the change.
#define BREAKAGES(X)                                                                             \
    X("has 0 values", p->plan.n_values = 0)                                                      \
    X("has 17 values", p->plan.n_values = 17)                                                    \
    X("value 2 of the plan has width 0", p->plan.values[V_QKV].width = 0)                        \
    X("is not the hidden size", p->plan.hidden_size = 15)                                        \
    X("cannot hold the logits", p->plan.vocabulary = 51)                                         \
    X("cannot hold the logits", p->plan.logits_value = N_VALUES)                                 \
    X("plan has 0 rows", p->plan.max_rows = 0)                                                   \
    X("plan has 513 rows", p->plan.max_rows = 513)                                               \
    X("context of 0", p->plan.context = 0)                                                       \
    X("segment 0 is out of order", p->segments[0].kind = NIB_SEGMENT_LAYER)                      \
    X("segment 1 is out of order", p->segments[1].layer = 1)                                     \
    X("segment 2 does not go on", p->segments[2].first_op++)                                     \
    X("segment 2 does not go on", p->segments[2].n_ops = UINT32_MAX)                             \
    X("hold 14 of 15 ops", p->segments[2].n_ops--)                                               \
    X("1 segments hold 1 of 15", p->plan.n_segments = 1)                                         \
    X("names 1", p->ops[OP_HEAD].segment = 1)                                                    \
    X("weight 1 has a role", p->weights[W_NORM].cols = 0)                                        \
    X("weight 1 has a role", p->weights[W_NORM].segment = 3)                                     \
    X("weight 2 has a role", p->weights[W_Q].rows = UINT64_MAX)                                  \
    X("weight 2 has a role", p->weights[W_Q].format.bits = 0)                                    \
    X("weight 1 (attention_norm) is a vector of 2 rows", p->weights[W_NORM].rows = 2)            \
    X("cannot share weight 7", p->weights[W_HEAD].shared_with = W_HEAD)                          \
    X("cannot share weight 0", p->weights[W_HEAD].rows--)                                        \
    X("RoPE table 0 turns 3", p->rope.dims = 3)                                                  \
    X("RoPE table 0 turns", p->rope.magnitude = NAN)                                             \
    X("plan has 4 KV classes", p->plan.n_kv_classes = 4)                                         \
    X("in class 1", p->kv_layer.kv_class = 1)                                                    \
    X("KV layer 0 has 0 heads", p->kv_layer.n_heads = 0)                                         \
    X("and scales of 0 and 0", p->plan.key_format = NIB_KV_I8)                                   \
    X("KV layer 0 has pages of", p->kv_layer.key_page_size++)                                    \
    X("op 2 has kind 99", p->ops[OP_Q].kind = (enum nib_op_kind)99)                              \
    X("op 2 (route): this op is reserved", p->ops[OP_Q].kind = NIB_OP_ROUTE)                     \
    X("op 0 (embed): weight 1 (attention_norm)", p->ops[OP_EMBED].embed.weight = W_NORM)         \
    X("op 0 (embed): scale inf", p->ops[OP_EMBED].embed.scale = INFINITY)                        \
    X("op 1 (norm): view 'in', columns 1", p->ops[OP_NORM].norm.in.offset = 1)                   \
    X("op 1 (norm): view 'out'", p->ops[OP_NORM].norm.out.value = 9)                             \
    X("op 1 (norm): 16 columns do not make 3", p->ops[OP_NORM].norm.n_groups = 3)                \
    X("op 1 (norm): weight 1 (attention_norm) has 16", p->ops[OP_NORM].norm.n_groups = 2)        \
    X("op 1 (norm): epsilon", p->ops[OP_NORM].norm.epsilon = -1)                                 \
    X("op 1 (norm): weight 8 is not one of 8", p->ops[OP_NORM].norm.weight = 8)                  \
    X("op 2 (matmul): weight 1", p->ops[OP_Q].matmul.weight = W_NORM)                            \
    X("op 2 (matmul): weight 0 (token_embedding) belongs to segment 0",                          \
      p->ops[OP_Q].matmul.weight = W_EMBEDDING)                                                  \
    X("op 2 (matmul): view 'out' has 15", p->ops[OP_Q].matmul.out.width = 15)                    \
    X("op 2 (matmul): input and output overlap", p->ops[OP_Q].matmul.out.value = V_NORMED)       \
    X("op 2 (matmul): weight 2 (q) has 16 columns; a vector", p->ops[OP_Q].matmul.bias = W_Q)    \
    X("op 2 (matmul): activation mode 6", p->ops[OP_Q].matmul.activation = NIB_ACTIVATION_COUNT) \
    X("op 2 (matmul): mixtures", p->ops[OP_Q].matmul.experts = 0)                                \
    X("op 2 (matmul): tap 0 is not one of 0", p->ops[OP_Q].matmul.tap = 0)                       \
    X("op 4 (rope): view 'x' has 16", p->ops[OP_ROPE].rope.n_heads = 3)                          \
    X("op 4 (rope): RoPE table 1 is not", p->ops[OP_ROPE].rope.table = 1)                        \
    X("op 4 (rope): RoPE table 0 turns 6", p->rope.dims = 6)                                     \
    X("op 5 (kv_store): KV layer 1 is not", p->ops[OP_KV_STORE].kv_store.kv_layer = 1)           \
    X("op 5 (kv_store): view 'value' has 7", p->ops[OP_KV_STORE].kv_store.value.width = 7)       \
    X("op 6 (attention): 3 query heads", p->ops[OP_ATTENTION].attention.n_heads = 3)             \
    X("op 6 (attention): 0 query heads", p->ops[OP_ATTENTION].attention.n_heads = 0)             \
    X("op 6 (attention): view 'query' has 16", p->ops[OP_ATTENTION].attention.n_heads = 2)       \
    X("op 6 (attention): softcap", p->ops[OP_ATTENTION].attention.softcap = -1)                  \
    X("op 6 (attention): scale", p->ops[OP_ATTENTION].attention.scale = NAN)                     \
    X("op 8 (add): input and output overlap", p->ops[OP_ADD].add.in.value = V_HIDDEN)            \
    X("op 10 (activate): view 'up' has 23", p->ops[OP_ACTIVATE].activate.up.width = 23)          \
    X("op 10 (activate): input and output overlap", p->ops[OP_ACTIVATE].activate.out.offset = 1) \
    X("op 10 (activate): gate function 3",                                                       \
      p->ops[OP_ACTIVATE].activate.function = (enum nib_gate_function)3)                         \
    X("op 11 (scale): factor", p->ops[OP_SCALE].scale.factor = NAN)                              \
    X("op 12 (gather): it cannot write", p->ops[OP_GATHER].gather.out.value = V_HIDDEN)          \
    X("op 14 (softcap): cap 0", p->ops[OP_SOFTCAP].softcap.cap = 0)                              \
    X("op 14 (gather): op 12 has gathered", p->ops[OP_SOFTCAP] = p->ops[OP_GATHER])              \
    X("op 13 (embed): it may stand in the embedding alone",                                      \
      (p->ops[OP_HEAD] = p->ops[OP_EMBED], p->ops[OP_HEAD].segment = 2))

static void break_plan(struct sample_plan *p, int which)
{
    int i = 0;
#define X(message, change) \
    if (i++ == which) {    \
        change;            \
    }
    BREAKAGES(X)
#undef X
}

Test(ops_validate, accepts_the_sample)
{
    struct sample_plan p;
    struct nib_error error;
    sample_plan_init(&p);
    cr_assert_eq(nib_plan_validate(&p.plan, &error), NIB_OK, "%s", error.message);
    cr_assert_eq(nib_plan_validate(&p.plan, NULL), NIB_OK);
}

Test(ops_validate, refuses_each_breakage)
{
    static const char *const messages[] = {
#define X(message, change) message,
        BREAKAGES(X)
#undef X
    };
    for (int i = 0; i < (int)(sizeof messages / sizeof *messages); i++) {
        struct sample_plan p;
        struct nib_error error = {0};
        sample_plan_init(&p);
        break_plan(&p, i);
        cr_expect_eq(nib_plan_validate(&p.plan, &error), NIB_ERROR_ARGUMENT, "%s", messages[i]);
        cr_expect(strstr(error.message, messages[i]), "'%s' has no '%s'", error.message,
                  messages[i]);
    }
}

Test(ops_validate, norm_and_activation_may_work_in_place)
{
    struct sample_plan p;
    struct nib_error error;
    sample_plan_init(&p);
    p.ops[OP_NORM].norm.out = p.ops[OP_NORM].norm.in;
    p.ops[OP_ACTIVATE].activate.out = p.ops[OP_ACTIVATE].activate.up;
    cr_assert_eq(nib_plan_validate(&p.plan, &error), NIB_OK, "%s", error.message);
}
