#include "sample_plan.h"

static struct nib_view view(uint32_t value, uint32_t offset, uint32_t width)
{
    return (struct nib_view){.value = value, .offset = offset, .width = width};
}

static struct nib_op matmul(struct nib_view in, struct nib_view out, uint32_t weight, uint32_t bias)
{
    return (struct nib_op){.kind = NIB_OP_MATMUL,
                           .segment = 1,
                           .matmul = {.in = in,
                                      .out = out,
                                      .weight = weight,
                                      .bias = bias,
                                      .activation = NIB_ACTIVATION_INT8_GROUP,
                                      .experts = NIB_NO_WEIGHT,
                                      .tap = NIB_NO_WEIGHT}};
}

static void init_weights(struct nib_weight *w)
{
    const uint32_t kv = KV_HEADS * HEAD_DIM;
    w[W_EMBEDDING] =
        (struct nib_weight){.role = NIB_ROLE_TOKEN_EMBEDDING, .rows = VOCABULARY, .cols = HIDDEN};
    w[W_NORM] = (struct nib_weight){.role = NIB_ROLE_ATTENTION_NORM, .rows = 1, .cols = HIDDEN};
    w[W_Q] = (struct nib_weight){.role = NIB_ROLE_Q, .rows = HEADS * HEAD_DIM, .cols = HIDDEN};
    w[W_KV] = (struct nib_weight){.role = NIB_ROLE_QKV, .rows = 2 * kv, .cols = HIDDEN};
    w[W_Q_BIAS] = (struct nib_weight){.role = NIB_ROLE_Q_BIAS, .rows = 1, .cols = HEADS * HEAD_DIM};
    w[W_OUT] = (struct nib_weight){
        .role = NIB_ROLE_ATTENTION_OUT, .rows = HIDDEN, .cols = HEADS * HEAD_DIM};
    w[W_GATE_UP] =
        (struct nib_weight){.role = NIB_ROLE_FFN_GATE_UP, .rows = 2 * FFN, .cols = HIDDEN};
    w[W_HEAD] = (struct nib_weight){.role = NIB_ROLE_OUTPUT, .rows = VOCABULARY, .cols = HIDDEN};
    for (uint32_t i = 0; i < N_WEIGHTS; i++) {
        bool is_matrix = nib_role_is_matrix(w[i].role);
        w[i].format = *nib_format_get(is_matrix ? NIB_FORMAT_F16 : NIB_FORMAT_F32);
        w[i].bytes = w[i].rows * w[i].cols * (is_matrix ? 2 : 4);
        w[i].shared_with = NIB_NO_WEIGHT;
        w[i].segment = i == W_EMBEDDING ? 0 : i == W_HEAD ? 2 : 1;
    }
    w[W_HEAD].shared_with = W_EMBEDDING;
}

static void init_ops(struct nib_op *ops)
{
    const uint32_t q = HEADS * HEAD_DIM, kv = KV_HEADS * HEAD_DIM;
    struct nib_view hidden = view(V_HIDDEN, 0, HIDDEN), normed = view(V_NORMED, 0, HIDDEN);
    struct nib_view query = view(V_QKV, 0, q), logits = view(V_LOGITS, 0, VOCABULARY);
    struct nib_view gate = view(V_FFN, 0, FFN), up = view(V_FFN, FFN, FFN);
    ops[OP_EMBED] = (struct nib_op){.kind = NIB_OP_EMBED,
                                    .embed = {.weight = W_EMBEDDING, .out = hidden, .scale = 1.0f}};
    ops[OP_NORM] = (struct nib_op){
        .kind = NIB_OP_NORM,
        .segment = 1,
        .norm = {.in = hidden, .out = normed, .weight = W_NORM, .n_groups = 1, .epsilon = 1e-5f}};
    ops[OP_Q] = matmul(normed, query, W_Q, W_Q_BIAS);
    ops[OP_KV] = matmul(normed, view(V_QKV, q, 2 * kv), W_KV, NIB_NO_WEIGHT);
    ops[OP_ROPE] =
        (struct nib_op){.kind = NIB_OP_ROPE,
                        .segment = 1,
                        .rope = {.x = query, .n_heads = HEADS, .head_dim = HEAD_DIM, .table = 0}};
    ops[OP_KV_STORE] =
        (struct nib_op){.kind = NIB_OP_KV_STORE,
                        .segment = 1,
                        .kv_store = {.key = view(V_QKV, q, kv), .value = view(V_QKV, q + kv, kv)}};
    ops[OP_ATTENTION] = (struct nib_op){
        .kind = NIB_OP_ATTENTION,
        .segment = 1,
        .attention = {
            .query = query, .out = view(V_ATTENTION, 0, q), .n_heads = HEADS, .scale = 0.5f}};
    ops[OP_OUT] = matmul(view(V_ATTENTION, 0, q), normed, W_OUT, NIB_NO_WEIGHT);
    ops[OP_ADD] = (struct nib_op){
        .kind = NIB_OP_ADD, .segment = 1, .add = {.in = normed, .out = hidden, .scale = 1.0f}};
    ops[OP_GATE_UP] = matmul(normed, view(V_FFN, 0, 2 * FFN), W_GATE_UP, NIB_NO_WEIGHT);
    ops[OP_ACTIVATE] = (struct nib_op){
        .kind = NIB_OP_ACTIVATE, .segment = 1, .activate = {.gate = gate, .up = up, .out = gate}};
    ops[OP_SCALE] =
        (struct nib_op){.kind = NIB_OP_SCALE, .segment = 1, .scale = {.x = hidden, .factor = 2.0f}};
    ops[OP_GATHER] = (struct nib_op){
        .kind = NIB_OP_GATHER, .segment = 2, .gather = {.in = hidden, .out = normed}};
    ops[OP_HEAD] = matmul(normed, logits, W_HEAD, NIB_NO_WEIGHT);
    ops[OP_HEAD].segment = 2;
    ops[OP_SOFTCAP] = (struct nib_op){
        .kind = NIB_OP_SOFTCAP, .segment = 2, .softcap = {.x = logits, .cap = 30.0f}};
}

void sample_plan_init(struct sample_plan *p)
{
    *p = (struct sample_plan){.frequency = {1.0f, 0.1f}};
    init_weights(p->weights);
    init_ops(p->ops);
    p->segments[0] = (struct nib_segment){.kind = NIB_SEGMENT_EMBEDDING, .n_ops = 1};
    p->segments[1] = (struct nib_segment){
        .kind = NIB_SEGMENT_LAYER, .first_op = OP_NORM, .n_ops = OP_GATHER - OP_NORM};
    p->segments[2] = (struct nib_segment){
        .kind = NIB_SEGMENT_HEAD, .first_op = OP_GATHER, .n_ops = N_OPS - OP_GATHER};
    p->rope =
        (struct nib_rope_table){.dims = HEAD_DIM, .frequency = p->frequency, .magnitude = 1.0f};
    p->kv_layer = (struct nib_kv_layer){
        .n_heads = KV_HEADS,
        .key_dim = HEAD_DIM,
        .value_dim = HEAD_DIM,
    };
    (void)nib_kv_layer_size(&p->kv_layer, NIB_KV_F16, NIB_KV_F32);
    p->plan = (struct nib_plan){
        .values = {{"hidden", HIDDEN},
                   {"normed", HIDDEN},
                   {"qkv", (HEADS + 2 * KV_HEADS) * HEAD_DIM},
                   {"attention", HEADS * HEAD_DIM},
                   {"ffn", 2 * FFN},
                   {"logits", VOCABULARY}},
        .n_values = N_VALUES,
        .ops = p->ops,
        .n_ops = N_OPS,
        .segments = p->segments,
        .n_segments = 3,
        .weights = p->weights,
        .n_weights = N_WEIGHTS,
        .ropes = &p->rope,
        .n_ropes = 1,
        .kv_layers = &p->kv_layer,
        .n_kv_layers = 1,
        .n_kv_classes = 1,
        .logits_value = V_LOGITS,
        .hidden_size = HIDDEN,
        .vocabulary = VOCABULARY,
        .context = 128,
        .max_rows = 32,
        .key_format = NIB_KV_F16,
        .value_format = NIB_KV_F32,
    };
}
