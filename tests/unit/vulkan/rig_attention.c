#include "rig_attention.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#define PAGE NIB_KV_PAGE_TOKENS

static void *new_zeros(uint64_t count, size_t size)
{
    void *memory = calloc(count ? count : 1, size);
    cr_assert_not_null(memory);
    return memory;
}

uint32_t rig_out_width(const struct rig_attention *params)
{
    return params->n_heads * params->value_dim;
}

/// Queries, keys and values of a row, one behind the other.
static uint32_t in_width(const struct rig_attention *p)
{
    return p->n_heads * p->key_dim + p->n_kv_heads * (p->key_dim + p->value_dim);
}

static void make_plan(struct rig_cache *c)
{
    const struct rig_attention *p = &c->params;
    uint32_t query = p->n_heads * p->key_dim, key = p->n_kv_heads * p->key_dim;
    uint32_t value = p->n_kv_heads * p->value_dim, width = in_width(p) + rig_out_width(p);
    c->ops[0] = (struct nib_op){.kind = NIB_OP_KV_STORE, .segment = 1};
    c->ops[0].kv_store =
        (struct nib_op_kv_store){.key = {0, query, key}, .value = {0, query + key, value}};
    c->ops[1] = (struct nib_op){.kind = NIB_OP_ATTENTION, .segment = 1};
    c->ops[1].attention = (struct nib_op_attention){.query = {0, 0, query},
                                                    .out = {0, in_width(p), rig_out_width(p)},
                                                    .n_heads = p->n_heads,
                                                    .scale = 0.125f,
                                                    .softcap = p->softcap};
    c->segments[0] = (struct nib_segment){.kind = NIB_SEGMENT_EMBEDDING};
    c->segments[1] = (struct nib_segment){.kind = NIB_SEGMENT_LAYER, .n_ops = 2};
    c->segments[2] = (struct nib_segment){.kind = NIB_SEGMENT_HEAD, .first_op = 2};
    c->layer = (struct nib_kv_layer){
        .n_heads = p->n_kv_heads,
        .key_dim = p->key_dim,
        .value_dim = p->value_dim,
        .window = p->window,
        .plain_keys = p->is_plain,
        .plain_values = p->is_plain,
    };
    cr_assert(nib_kv_layer_size(&c->layer, p->key_format, p->value_format));
    c->plan = (struct nib_plan){.values = {{"hidden", width}, {"logits", 1}},
                                .n_values = 2,
                                .ops = c->ops,
                                .n_ops = 2,
                                .segments = c->segments,
                                .n_segments = 3,
                                .kv_layers = &c->layer,
                                .n_kv_layers = 1,
                                .n_kv_classes = p->recent_pages || p->first_pages ? 2 : 1,
                                .recent_pages = p->recent_pages,
                                .first_pages = p->first_pages,
                                .logits_value = 1,
                                .hidden_size = width,
                                .vocabulary = 1,
                                .context = p->context,
                                .max_rows = 512,
                                .key_format = p->key_format,
                                .value_format = p->value_format};
}

void rig_cache_open(struct rig_cache *c, const struct rig_attention *params,
                    const struct nib_backend *backend, void *device)
{
    struct nib_error error;
    *c = (struct rig_cache){.params = *params, .backend = backend};
    make_plan(c);
    uint32_t stride = params->context / PAGE, n = params->n_sequences * stride;
    c->tables = new_zeros(2 * n, sizeof *c->tables);
    // Pages out of order; 7 has no factor in common with any number of pages in use.
    for (uint32_t i = 0; i < n; i++) {
        uint32_t first = i / stride * stride * c->plan.n_kv_classes + i % stride;
        c->tables[first] = n % 7 ? (7 * i + 3) % n : n - 1 - i;
        if (c->plan.n_kv_classes > 1)
            c->tables[first + stride] = (i + 5) % n;
    }
    struct nib_instance_params p = {.plan = &c->plan,
                                    .device = device,
                                    .first_segment = 1,
                                    .n_segments = 1,
                                    .n_pages = {n, n + nib_plan_step_pages(&c->plan)},
                                    .max_sequences = params->n_sequences,
                                    .max_logits = 1};
    cr_assert_eq(backend->create(&p, &c->self, &error), NIB_OK, "%s", error.message);
}

void rig_cache_close(struct rig_cache *c)
{
    c->backend->destroy(c->self);
    free(c->tables);
}

uint32_t rig_step_rows(const struct rig_step *step)
{
    uint32_t n = 0;
    for (size_t i = 0; i < sizeof step->chunks / sizeof *step->chunks; i++)
        n += step->chunks[i].n;
    return n;
}

static float number(uint64_t seed)
{
    uint64_t x = (seed + 1) * UINT64_C(0x9e3779b97f4a7c15);
    x = (x ^ (x >> 29)) * UINT64_C(0xbf58476d1ce4e5b9);
    return (float)(x >> 40) / 8388608.0f - 1.0f;
}

static void fill_row(const struct rig_attention *p, uint32_t sequence, uint32_t position, float *x)
{
    uint32_t n = in_width(p), n_queries = p->n_heads * p->key_dim;
    for (uint32_t i = 0; i < n; i++) {
        uint64_t seed = ((uint64_t)sequence * 65536 + position) * 65536 + i;
        x[i] = number(seed) * (i < n_queries ? p->query_size : seed % 61 ? 1.0f : 4.0f);
    }
}

void rig_cache_run(struct rig_cache *c, const struct rig_step *in, float *out)
{
    const struct rig_attention *p = &c->params;
    struct nib_error error;
    uint32_t n = rig_step_rows(in), width = in_width(p) + rig_out_width(p), r = 0, n_sequences = 0;
    uint32_t stride = p->context / PAGE, bucket = 1;
    while (bucket < n)
        bucket *= 2;
    struct nib_step_row *rows = new_zeros(bucket, sizeof *rows);
    struct nib_step_sequence sequences[20];
    float *x = new_zeros((uint64_t)bucket * width, sizeof *x);
    for (size_t i = 0; i < sizeof in->chunks / sizeof *in->chunks; i++) {
        const struct rig_chunk *chunk = &in->chunks[i];
        if (chunk->n == 0)
            continue;
        sequences[n_sequences] = (struct nib_step_sequence){.kv_length = chunk->first + chunk->n,
                                                            .page_table = chunk->sequence * stride *
                                                                          c->plan.n_kv_classes,
                                                            .first_row = r,
                                                            .n_rows = chunk->n};
        for (uint32_t k = 0; k < chunk->n; k++, r++) {
            rows[r] = (struct nib_step_row){
                .position = chunk->first + k, .sequence = n_sequences, .logit_row = NIB_NONE};
            fill_row(p, chunk->sequence, chunk->first + k, x + (uint64_t)r * width);
        }
        n_sequences++;
    }
    for (; r < bucket; r++)
        rows[r] = (struct nib_step_row){.sequence = NIB_NONE, .logit_row = NIB_NONE};
    struct nib_step step = {.header = {.n_rows = bucket,
                                       .n_used_rows = n,
                                       .n_sequences = n_sequences,
                                       .page_table_stride = stride},
                            .rows = rows,
                            .sequences = sequences,
                            .page_tables = c->tables};
    cr_assert_eq(c->backend->run(c->self, 1, 1, &step, x, x, &error), NIB_OK, "%s", error.message);
    if (c->backend->wait)
        cr_assert_eq(c->backend->wait(c->self, &error), NIB_OK, "%s", error.message);
    for (uint32_t i = 0; i < n; i++)
        memcpy(out + (uint64_t)i * rig_out_width(p), x + (uint64_t)i * width + in_width(p),
               rig_out_width(p) * sizeof *out);
    free(rows);
    free(x);
}
