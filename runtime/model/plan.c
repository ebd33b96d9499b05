#include "runtime/model/plan_build.h"

#include "runtime/base/status.h"
#include "runtime/ops/step.h"
#include <nibble/engine.h>

#include <stdlib.h>

/// A plan with the memory of all that it points to.
struct owned_plan {
    struct nib_plan plan; ///< first, so that a plan's address is the owned plan's
    struct nib_arena arena;
};

// Shapes are those of one row. H: hidden_size, F: ffn_size, V: vocabulary.

static void plan_embedding(struct nib_plan_builder *b)
{
    nib_build_segment(b, NIB_SEGMENT_EMBEDDING, 0);
    nib_build_embed(b, nib_build_value(b, "hidden", b->config->hidden_size)); // [H]
}

static void add_to_hidden(struct nib_plan_builder *b, struct nib_view hidden, struct nib_view delta)
{
    struct nib_op op = {.kind = NIB_OP_ADD};
    op.add = (struct nib_op_add){.in = delta, .out = hidden, .scale = b->config->residual_scale};
    nib_build_op(b, &op);
}

/// Returns what a block reads: the hidden state, normed where the architecture norms before.
static struct nib_view plan_block_input(struct nib_plan_builder *b, struct nib_view hidden,
                                        enum nib_role norm)
{
    if (!b->config->pre_norm)
        return hidden;
    struct nib_view normed = nib_build_value(b, "normed", b->config->hidden_size); // [H]
    nib_build_norm(b, hidden, normed, norm, 1);
    return normed;
}

struct attention_inputs {
    struct nib_view q; ///< [heads][key_dim]
    struct nib_view k; ///< [KV heads][key_dim]
    struct nib_view v; ///< [KV heads][value_dim]
};

static struct attention_inputs plan_qkv(struct nib_plan_builder *b, struct nib_view x)
{
    const struct nib_model_config *c = b->config;
    const uint32_t q = c->n_heads * c->key_dim;
    const uint32_t k = c->n_kv_heads * c->key_dim;
    const uint32_t v = c->n_kv_heads * c->value_dim;
    struct attention_inputs out;
    if (nib_build_has(b, NIB_ROLE_QKV)) {
        struct nib_view all = nib_build_value(b, "qkv", q + k + v);
        nib_build_matmul(b, x, all, NIB_ROLE_QKV, NIB_ROLE_QKV_BIAS);
        out.q = nib_build_part(all, 0, q);
        out.k = nib_build_part(all, q, k);
        out.v = nib_build_part(all, q + k, v);
    } else {
        out.q = nib_build_value(b, "q", q);
        out.k = nib_build_value(b, "k", k);
        out.v = nib_build_value(b, "v", v);
        nib_build_matmul(b, x, out.q, NIB_ROLE_Q, NIB_ROLE_Q_BIAS);
        nib_build_matmul(b, x, out.k, NIB_ROLE_K, NIB_ROLE_K_BIAS);
        nib_build_matmul(b, x, out.v, NIB_ROLE_V, NIB_ROLE_V_BIAS);
    }
    if (c->qk_norm != NIB_QK_NORM_NONE) {
        bool heads = c->qk_norm == NIB_QK_NORM_HEAD;
        nib_build_norm(b, out.q, out.q, NIB_ROLE_Q_NORM, heads ? c->n_heads : 1);
        nib_build_norm(b, out.k, out.k, NIB_ROLE_K_NORM, heads ? c->n_kv_heads : 1);
    }
    return out;
}

static void plan_attention(struct nib_plan_builder *b)
{
    const struct nib_model_config *c = b->config;
    const int32_t rope = c->layers[b->layer].rope;
    struct nib_view hidden = nib_build_value(b, "hidden", c->hidden_size);    // [H]
    struct nib_view x = plan_block_input(b, hidden, NIB_ROLE_ATTENTION_NORM); // [H]
    struct attention_inputs in = plan_qkv(b, x);
    struct nib_view out = nib_build_value(b, "attention", c->n_heads * c->value_dim);
    struct nib_view delta = nib_build_value(b, "delta", c->hidden_size); // [H]

    if (rope >= 0) {
        nib_build_rope(b, in.q, c->n_heads, (uint32_t)rope);
        nib_build_rope(b, in.k, c->n_kv_heads, (uint32_t)rope);
    }
    struct nib_op op = {.kind = NIB_OP_KV_STORE};
    op.kv_store = (struct nib_op_kv_store){.key = in.k, .value = in.v, .kv_layer = b->layer};
    nib_build_op(b, &op);

    op.kind = NIB_OP_ATTENTION;
    op.attention = (struct nib_op_attention){
        .query = in.q,
        .out = out,
        .kv_layer = b->layer,
        .n_heads = c->n_heads,
        .scale = c->attention_scale,
        .softcap = c->attention_softcap,
    };
    nib_build_op(b, &op);
    nib_build_matmul(b, out, delta, NIB_ROLE_ATTENTION_OUT, NIB_ROLE_ATTENTION_OUT_BIAS);
    if (c->post_norm)
        nib_build_norm(b, delta, delta, NIB_ROLE_ATTENTION_POST_NORM, 1);
    add_to_hidden(b, hidden, delta);
}

static void plan_ffn(struct nib_plan_builder *b, struct nib_view hidden)
{
    const struct nib_model_config *c = b->config;
    struct nib_view x = plan_block_input(b, hidden, NIB_ROLE_FFN_NORM);       // [H]
    struct nib_view activated = nib_build_value(b, "activated", c->ffn_size); // [F]
    struct nib_view delta = nib_build_value(b, "delta", c->hidden_size);      // [H]
    struct nib_view gate, up;                                                 // [F]

    if (nib_build_has(b, NIB_ROLE_FFN_GATE_UP)) {
        struct nib_view both = nib_build_value(b, "gate_up", 2 * c->ffn_size);
        nib_build_matmul(b, x, both, NIB_ROLE_FFN_GATE_UP, NIB_ROLE_COUNT);
        gate = nib_build_part(both, 0, c->ffn_size);
        up = nib_build_part(both, c->ffn_size, c->ffn_size);
    } else {
        gate = nib_build_value(b, "gate", c->ffn_size);
        up = nib_build_value(b, "up", c->ffn_size);
        nib_build_matmul(b, x, gate, NIB_ROLE_FFN_GATE, NIB_ROLE_FFN_GATE_BIAS);
        nib_build_matmul(b, x, up, NIB_ROLE_FFN_UP, NIB_ROLE_FFN_UP_BIAS);
    }
    struct nib_op op = {.kind = NIB_OP_ACTIVATE};
    op.activate =
        (struct nib_op_activate){.gate = gate, .up = up, .out = activated, .function = c->gate};
    nib_build_op(b, &op);
    nib_build_matmul(b, activated, delta, NIB_ROLE_FFN_DOWN, NIB_ROLE_FFN_DOWN_BIAS);
    if (c->post_norm)
        nib_build_norm(b, delta, delta, NIB_ROLE_FFN_POST_NORM, 1);
    add_to_hidden(b, hidden, delta);
}

/// Returns whether the FFN of the current layer is the head's.
static bool has_late_ffn(struct nib_plan_builder *b)
{
    static const enum nib_role matrices[] = {NIB_ROLE_FFN_GATE, NIB_ROLE_FFN_UP,
                                             NIB_ROLE_FFN_GATE_UP, NIB_ROLE_FFN_DOWN};
    bool is_late = !b->params.whole_layers && b->layer + 1 == b->config->n_layers;
    for (size_t i = 0; i < sizeof matrices / sizeof *matrices && is_late; i++)
        is_late = !nib_build_looks_at_rows(b, matrices[i]);
    return is_late;
}

/// Only rows that want logits pass: they are gathered before the norm, or already before the last
/// layer's FFN, which no other row has a use for.
static void plan_head(struct nib_plan_builder *b)
{
    const struct nib_model_config *c = b->config;
    nib_build_segment(b, NIB_SEGMENT_HEAD, 0);
    struct nib_view head = nib_build_value(b, "head", c->hidden_size);    // [H]
    struct nib_view logits = nib_build_value(b, "logits", c->vocabulary); // [V]
    const bool tied = !nib_build_has(b, NIB_ROLE_OUTPUT);

    struct nib_op op = {.kind = NIB_OP_GATHER};
    op.gather =
        (struct nib_op_gather){.in = nib_build_value(b, "hidden", c->hidden_size), .out = head};
    nib_build_op(b, &op);
    b->layer = c->n_layers - 1;
    if (has_late_ffn(b))
        plan_ffn(b, head);
    b->layer = 0;
    nib_build_norm(b, head, head, NIB_ROLE_OUTPUT_NORM, 1);
    nib_build_matmul(b, head, logits, tied ? NIB_ROLE_TOKEN_EMBEDDING : NIB_ROLE_OUTPUT,
                     NIB_ROLE_OUTPUT_BIAS);
    if (c->logit_scale != 1) {
        op.kind = NIB_OP_SCALE;
        op.scale = (struct nib_op_scale){.x = logits, .factor = c->logit_scale};
        nib_build_op(b, &op);
    }
    if (c->logit_softcap != 0) {
        op.kind = NIB_OP_SOFTCAP;
        op.softcap = (struct nib_op_softcap){.x = logits, .cap = c->logit_softcap};
        nib_build_op(b, &op);
    }
    b->plan->logits_value = logits.value;
}

/// Works out the angles of each kind of RoPE.
static enum nib_status plan_ropes(struct nib_plan_builder *b)
{
    const struct nib_model_config *c = b->config;
    struct nib_rope_table *tables = nib_arena_array(b->arena, c->n_ropes, sizeof *tables);
    if (!tables)
        return nib_fail_memory(b->err);
    for (uint32_t i = 0; i < c->n_ropes; i++) {
        float *frequency = nib_arena_array(b->arena, c->ropes[i].dims / 2, sizeof *frequency);
        if (!frequency)
            return nib_fail_memory(b->err);
        tables[i].dims = c->ropes[i].dims;
        tables[i].frequency = frequency;
        nib_rope_frequencies(&c->ropes[i], c->context, b->params.context, frequency,
                             &tables[i].magnitude);
    }
    b->plan->ropes = tables;
    b->plan->n_ropes = c->n_ropes;
    return NIB_OK;
}

/// Lays out the cache: layers with a window, where there are others too, form a class of their own,
/// whose sequences need fewer pages.
static enum nib_status plan_cache(struct nib_plan_builder *b)
{
    const struct nib_model_config *c = b->config;
    struct nib_kv_layer *layers = nib_arena_array(b->arena, c->n_layers, sizeof *layers);
    if (!layers)
        return nib_fail_memory(b->err);
    // Where nothing is transformed anyhow, what was asked for makes no difference to the cache.
    const struct nib_kv_layer transformed = {.plain_keys = 0};
    const bool plain_keys =
        b->params.plain_keys && nib_kv_transforms_keys(&transformed, b->params.key_format);
    const bool plain_values =
        b->params.plain_values && nib_kv_transforms_values(&transformed, b->params.value_format);
    bool all_windowed = true;
    for (uint32_t i = 0; i < c->n_layers; i++)
        all_windowed &= c->layers[i].window != 0;

    b->plan->n_kv_classes = 1;
    for (uint32_t i = 0; i < c->n_layers; i++) {
        const uint32_t window = c->layers[i].window;
        layers[i] = (struct nib_kv_layer){
            .n_heads = c->n_kv_heads,
            .key_dim = c->key_dim,
            .value_dim = c->value_dim,
            .window = window,
            .kv_class = window != 0 && !all_windowed ? 1 : 0,
            .plain_keys = plain_keys,
            .plain_values = plain_values,
        };
        if (!nib_kv_layer_size(&layers[i], b->params.key_format, b->params.value_format))
            return nib_fail(b->err, NIB_ERROR_UNSUPPORTED,
                            "%u KV heads of %u and %u numbers are too many for a page",
                            c->n_kv_heads, c->key_dim, c->value_dim);
        if (layers[i].kv_class == 1)
            b->plan->n_kv_classes = 2;
    }
    if (b->params.recent_tokens > 0 || b->params.first_tokens > 0)
        b->plan->n_kv_classes++;
    b->plan->kv_layers = layers;
    b->plan->n_kv_layers = c->n_layers;
    return NIB_OK;
}

/// Returns how many newest tokens are kept in f16 where nothing is said about it.
static uint32_t default_recent(const struct nib_model_config *config,
                               const struct nib_plan_params *params)
{
    bool is_i4 = params->key_format == NIB_KV_I4 && params->value_format == NIB_KV_I4;
    // Where layers hold a window alone, such pages are a large part of the cache.
    for (uint32_t i = 0; i < config->n_layers; i++)
        is_i4 = is_i4 && config->layers[i].window == 0;
    // GPUs keep no heads of odd size in f16.
    is_i4 = is_i4 && (config->key_dim | config->value_dim) % 2 == 0;
    return is_i4 || params->key_format == NIB_KV_I4_CHANNEL ? NIB_KV_RECENT_I4 : 0;
}

/// Puts what NIB_KV_RECENT_DEFAULT and NIB_KV_RECENT_NONE stand for in their place.
static enum nib_status resolve_recent(const struct nib_model_config *config,
                                      struct nib_plan_params *params, struct nib_error *err)
{
    uint32_t n = params->recent_tokens;
    if (n == NIB_KV_RECENT_DEFAULT)
        n = default_recent(config, params);
    else if (n == NIB_KV_RECENT_NONE)
        n = 0;
    else if (n % NIB_KV_PAGE_TOKENS != 0 || n > NIB_KV_RECENT_STRIDE * NIB_KV_PAGE_TOKENS)
        return nib_fail(err, NIB_ERROR_ARGUMENT,
                        "%u newest tokens cannot be kept in f16: a multiple of %d up to %d can", n,
                        NIB_KV_PAGE_TOKENS, NIB_KV_RECENT_STRIDE * NIB_KV_PAGE_TOKENS);
    else if (!nib_kv_has_codes(params->key_format) && !nib_kv_has_codes(params->value_format))
        return nib_fail(err, NIB_ERROR_ARGUMENT,
                        "newest tokens are kept in f16 beside i8 and i4 alone; choose one of these "
                        "for keys or values");
    if (n == 0 && params->key_format == NIB_KV_I4_CHANNEL)
        return nib_fail(err, NIB_ERROR_ARGUMENT,
                        "keys in i4c are packed when %d tokens are there, and read in f16 before: "
                        "keep newest tokens, as recent=%d",
                        NIB_KV_PAGE_TOKENS, NIB_KV_RECENT_I4);
    params->recent_tokens = n;
    return NIB_OK;
}

static enum nib_status check_first(const struct nib_plan_params *params, struct nib_error *err)
{
    uint32_t n = params->first_tokens;
    if (n % NIB_KV_PAGE_TOKENS != 0 || n > NIB_KV_MAX_FIRST * NIB_KV_PAGE_TOKENS)
        return nib_fail(err, NIB_ERROR_ARGUMENT,
                        "%u first tokens cannot be kept in f16: a multiple of %d up to %d can", n,
                        NIB_KV_PAGE_TOKENS, NIB_KV_MAX_FIRST * NIB_KV_PAGE_TOKENS);
    if (n > 0 && !nib_kv_has_codes(params->key_format) && !nib_kv_has_codes(params->value_format))
        return nib_fail(err, NIB_ERROR_ARGUMENT,
                        "first tokens are kept in f16 beside i8 and i4 alone; choose one of these "
                        "for keys or values");
    return NIB_OK;
}

static enum nib_status resolve_params(const struct nib_model_config *config,
                                      const struct nib_plan_params *params,
                                      struct nib_plan_params *out, struct nib_error *err)
{
    *out = *params;
    if (out->context == 0)
        out->context =
            config->context < NIB_DEFAULT_CONTEXT ? config->context : NIB_DEFAULT_CONTEXT;
    if (out->context > config->context)
        return nib_fail(err, NIB_ERROR_ARGUMENT,
                        "a context of %u tokens is more than the model's %u; lower --ctx",
                        (unsigned)out->context, (unsigned)config->context);
    if (out->max_rows == 0)
        out->max_rows = NIB_STEP_MAX_ROWS;
    if (out->max_rows > NIB_STEP_MAX_ROWS || (out->max_rows & (out->max_rows - 1)) != 0)
        return nib_fail(err, NIB_ERROR_ARGUMENT, "a step of %u rows is no power of two up to %u",
                        (unsigned)out->max_rows, NIB_STEP_MAX_ROWS);
    if ((unsigned)out->key_format > NIB_KV_I4_CHANNEL ||
        (unsigned)out->value_format > NIB_KV_I4_CHANNEL)
        return nib_fail(err, NIB_ERROR_ARGUMENT, "there is no KV format %u",
                        (unsigned)out->key_format > NIB_KV_I4_CHANNEL
                            ? (unsigned)out->key_format
                            : (unsigned)out->value_format);
    if (out->key_format == NIB_KV_DEFAULT)
        out->key_format = NIB_KV_F16;
    if (out->value_format == NIB_KV_DEFAULT)
        out->value_format = NIB_KV_F16;
    if (out->value_format == NIB_KV_I4_CHANNEL)
        return nib_fail(err, NIB_ERROR_ARGUMENT,
                        "values cannot be i4c, which packs channels of keys; use --kv k=i4c,v=i4");
    enum nib_status status = check_first(out, err);
    return status == NIB_OK ? resolve_recent(config, out, err) : status;
}

/// Makes the plan in `b->plan`, from the embedding to the head.
static enum nib_status make_plan(struct nib_plan_builder *b)
{
    enum nib_status status;
    nib_build_begin(b);
    plan_embedding(b);
    for (uint32_t layer = 0; layer < b->config->n_layers; layer++) {
        nib_build_segment(b, NIB_SEGMENT_LAYER, layer);
        plan_attention(b);
        if (!has_late_ffn(b))
            plan_ffn(b, nib_build_value(b, "hidden", b->config->hidden_size));
    }
    plan_head(b);
    NIB_TRY(b->status);
    NIB_TRY(plan_ropes(b));
    NIB_TRY(plan_cache(b));
fail:
    return status;
}

enum nib_status nib_plan_create(const struct nib_source *source,
                                const struct nib_plan_params *params, struct nib_plan **out_plan,
                                struct nib_error *err)
{
    enum nib_status status;
    struct owned_plan *owned = NULL;
    struct nib_plan_builder b = {.source = source, .config = nib_source_config(source), .err = err};
    *out_plan = NULL;
    NIB_TRY(resolve_params(b.config, params, &b.params, err));
    owned = calloc(1, sizeof *owned);
    if (!owned)
        return nib_fail_memory(err);
    b.plan = &owned->plan;
    b.arena = &owned->arena;
    *b.plan = (struct nib_plan){
        .hidden_size = b.config->hidden_size,
        .vocabulary = b.config->vocabulary,
        .context = b.params.context,
        .max_rows = b.params.max_rows,
        .key_format = b.params.key_format,
        .value_format = b.params.value_format,
        .recent_pages = b.params.recent_tokens / NIB_KV_PAGE_TOKENS,
        .first_pages = b.params.first_tokens / NIB_KV_PAGE_TOKENS,
    };
    NIB_TRY(make_plan(&b));
    *out_plan = b.plan;
    return NIB_OK;
fail:
    if (owned)
        nib_arena_free(&owned->arena);
    free(owned);
    return status;
}

void nib_plan_destroy(struct nib_plan **plan)
{
    struct owned_plan *owned = (struct owned_plan *)*plan;
    *plan = NULL;
    if (!owned)
        return;
    nib_arena_free(&owned->arena);
    free(owned);
}
