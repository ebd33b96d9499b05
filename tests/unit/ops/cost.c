#include <criterion/criterion.h>

#include "sample_plan.h"

Test(ops_cost, matmul)
{
    struct sample_plan p;
    sample_plan_init(&p);
    struct nib_cost cost = nib_op_cost(&p.plan, OP_Q, 3, 100);
    cr_assert_eq(cost.macs, 3u * HIDDEN * HEADS * HEAD_DIM);
    cr_assert_eq(cost.bytes, p.weights[W_Q].bytes + p.weights[W_Q_BIAS].bytes +
                                 3u * 4 * (HIDDEN + HEADS * HEAD_DIM));
}

Test(ops_cost, embedding_reads_its_rows_alone)
{
    struct sample_plan p;
    sample_plan_init(&p);
    struct nib_cost cost = nib_op_cost(&p.plan, OP_EMBED, 2, 0);
    cr_assert_eq(cost.macs, 0);
    cr_assert_eq(cost.bytes, 2u * HIDDEN * 2 + 2u * HIDDEN * 4);
}

Test(ops_cost, attention_sees_no_more_than_its_window)
{
    struct sample_plan p;
    sample_plan_init(&p);
    uint64_t token = KV_HEADS * HEAD_DIM * (2 + 4), rows = 4u * 2 * HEADS * HEAD_DIM;
    struct nib_cost cost = nib_op_cost(&p.plan, OP_ATTENTION, 1, 100);
    cr_assert_eq(cost.macs, 100u * HEADS * 2 * HEAD_DIM);
    cr_assert_eq(cost.bytes, 100 * token + rows);
    p.kv_layer.window = 10;
    cost = nib_op_cost(&p.plan, OP_ATTENTION, 1, 100);
    cr_assert_eq(cost.macs, 10u * HEADS * 2 * HEAD_DIM);
    cost = nib_op_cost(&p.plan, OP_ATTENTION, 1, 4);
    cr_assert_eq(cost.macs, 4u * HEADS * 2 * HEAD_DIM);
}

Test(ops_cost, every_op_moves_bytes)
{
    struct sample_plan p;
    sample_plan_init(&p);
    for (uint32_t i = 0; i < N_OPS; i++)
        cr_assert_gt(nib_op_cost(&p.plan, i, 1, 1).bytes, 0, "op %u", i);
}

Test(ops_cost, scratch_leaves_the_logits_out)
{
    struct sample_plan p;
    sample_plan_init(&p);
    uint64_t bytes = nib_plan_scratch_bytes(&p.plan, 1), width = 0;
    for (uint32_t v = 0; v < N_VALUES; v++)
        width += v == V_LOGITS ? 0 : p.plan.values[v].width;
    cr_assert_eq(bytes, 32 * (width * 4 + HIDDEN * 2 + 8));
    cr_assert_eq(nib_plan_scratch_bytes(&p.plan, 64), 2 * bytes);
    for (uint32_t i = 0; i < N_OPS; i++) {
        if (p.ops[i].kind == NIB_OP_MATMUL)
            p.ops[i].matmul.activation = NIB_ACTIVATION_F32;
    }
    cr_assert_eq(nib_plan_scratch_bytes(&p.plan, 1), 32 * width * 4);
}
