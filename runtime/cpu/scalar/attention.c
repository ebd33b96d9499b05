#include <float.h>
#include <math.h>

#include "runtime/base/half.h"
#include "runtime/cpu/kernels.h"
#include "runtime/cpu/scalar/lanes.h"

#define PAGE NIB_KV_PAGE_TOKENS
/// Query heads of one KV head that share a page's conversion to fp32.
#define MAX_HEADS 16
/// Where the running maximum begins: finite, so that differences of maxima are never NaN.
#define LEAST_SCORE (-FLT_MAX / 2)

/// Returns where one KV head of a page begins in its plane.
static uint8_t *find_head(uint8_t *plane, uint64_t page, uint32_t page_size, uint64_t kv_head,
                          uint64_t head_bytes)
{
    return plane + page * page_size + kv_head * head_bytes;
}

static uint32_t number_size(enum nib_kv_format format)
{
    return format == NIB_KV_F32 ? 4 : 2;
}

/// Returns where the page table that a row's sequence has for this layer begins.
static uint32_t find_table(const struct nib_step *step, const struct nib_kv_layer *layer,
                           const struct nib_step_row *row)
{
    const struct nib_step_sequence *sequence = &step->sequences[row->sequence];
    return sequence->page_table + layer->kv_class * step->header.page_table_stride;
}

// Planes are page-aligned and every number lies at a multiple of its size: no unaligned access.

static void store_numbers(enum nib_kv_format format, const float *x, uint32_t n, void *to)
{
    if (format == NIB_KV_F32) {
        memcpy(to, x, n * sizeof *x);
        return;
    }
    uint16_t *half = to;
    for (uint32_t i = 0; i < n; i++)
        half[i] = nib_f16_from_f32(x[i]);
}

/// Returns n numbers of the cache as floats, in place or converted into `buffer`.
static const float *load_numbers(enum nib_kv_format format, const void *from, uint32_t n,
                                 float *restrict buffer)
{
    if (format == NIB_KV_F32)
        return from;
    const uint16_t *restrict half = from;
    for (uint32_t i = 0; i < n; i++)
        buffer[i] = nib_f32_from_f16(half[i]);
    return buffer;
}

void nib_cpu_scalar_kv_store(const struct nib_cpu_kv_store *a, uint64_t first, uint64_t last,
                             uint32_t thread)
{
    (void)thread;
    const struct nib_cpu_cache *cache = a->cache;
    const struct nib_kv_layer *layer = cache->layer;
    uint32_t key_bytes = layer->key_dim * number_size(cache->key_format);
    uint32_t value_bytes = layer->value_dim * number_size(cache->value_format);
    for (uint64_t r = first; r < last; r++) {
        const struct nib_step_row *row = &a->step->rows[r];
        if (row->sequence == NIB_NONE)
            continue;
        uint32_t table = find_table(a->step, layer, row);
        uint64_t page = a->step->page_tables[table + row->position / PAGE];
        uint64_t slot = row->position % PAGE;
        for (uint32_t h = 0; h < layer->n_heads; h++) {
            uint8_t *keys =
                find_head(cache->keys, page, layer->key_page_size, h, (uint64_t)key_bytes * PAGE);
            uint8_t *values = find_head(cache->values, page, layer->value_page_size, h,
                                        (uint64_t)value_bytes * PAGE);
            const float *key = a->key.data + r * a->key.stride + (uint64_t)h * layer->key_dim;
            const float *value =
                a->value.data + r * a->value.stride + (uint64_t)h * layer->value_dim;
            store_numbers(cache->key_format, key, layer->key_dim, keys + slot * key_bytes);
            store_numbers(cache->value_format, value, layer->value_dim,
                          values + slot * value_bytes);
        }
    }
}

/// One query head on its way through the cache (online softmax: Milakov and Gimelshein 2018).
struct head {
    const float *query;
    float *out; ///< Σ e^(score − max) · value
    float max;
    float sum; ///< Σ e^(score − max)
};

/// Some tokens of a page: [n][key_dim] and [n][value_dim].
struct tokens {
    const float *keys;
    const float *values;
    uint32_t n;
};

static void attend(const struct nib_cpu_attention *a, const struct tokens *tokens,
                   struct head *head)
{
    uint32_t key_dim = a->cache->layer->key_dim, value_dim = a->cache->layer->value_dim;
    float score[PAGE], max = head->max;
    uint32_t blocks = tokens->n / 4 * 4;
    for (uint32_t t = 0; t < blocks; t += 4)
        nib_dot_4(tokens->keys + (uint64_t)t * key_dim, key_dim, head->query, key_dim, score + t);
    for (uint32_t t = blocks; t < tokens->n; t++)
        score[t] = nib_dot(tokens->keys + (uint64_t)t * key_dim, head->query, key_dim);
    for (uint32_t t = 0; t < tokens->n; t++) {
        score[t] *= a->scale;
        if (a->softcap > 0)
            score[t] = a->softcap * tanhf(score[t] / a->softcap);
        max = score[t] > max ? score[t] : max;
    }
    if (max > head->max) {
        float shrink = expf(head->max - max);
        head->max = max;
        head->sum *= shrink;
        for (uint32_t d = 0; d < value_dim; d++)
            head->out[d] *= shrink;
    }
    for (uint32_t t = 0; t < tokens->n; t++) {
        const float *restrict value = tokens->values + (uint64_t)t * value_dim;
        float *restrict out = head->out;
        float p = expf(score[t] - max);
        head->sum += p;
        for (uint32_t d = 0; d < value_dim; d++)
            out[d] += p * value[d];
    }
}

/// Runs `n` query heads that share KV head `kv_head` over what row `row` sees.
static void attend_row(const struct nib_cpu_attention *a, const struct nib_step_row *row,
                       uint32_t kv_head, struct head *heads, uint32_t n,
                       const struct nib_cpu_scratch *scratch)
{
    const struct nib_cpu_cache *cache = a->cache;
    const struct nib_kv_layer *layer = cache->layer;
    uint32_t key_bytes = layer->key_dim * number_size(cache->key_format);
    uint32_t value_bytes = layer->value_dim * number_size(cache->value_format);
    uint32_t table = find_table(a->step, layer, row);
    uint64_t end = (uint64_t)row->position + 1;
    uint64_t begin = layer->window && layer->window < end ? end - layer->window : 0;
    for (uint64_t next; begin < end; begin = next) {
        next = (begin / PAGE + 1) * PAGE;
        next = next < end ? next : end;
        uint64_t page = a->step->page_tables[table + begin / PAGE];
        uint64_t slot = begin % PAGE;
        const uint8_t *keys =
            find_head(cache->keys, page, layer->key_page_size, kv_head, (uint64_t)key_bytes * PAGE);
        const uint8_t *values = find_head(cache->values, page, layer->value_page_size, kv_head,
                                          (uint64_t)value_bytes * PAGE);
        struct tokens tokens = {.n = (uint32_t)(next - begin)};
        tokens.keys = load_numbers(cache->key_format, keys + slot * key_bytes,
                                   tokens.n * layer->key_dim, scratch->keys);
        tokens.values = load_numbers(cache->value_format, values + slot * value_bytes,
                                     tokens.n * layer->value_dim, scratch->page_values);
        for (uint32_t h = 0; h < n; h++)
            attend(a, &tokens, &heads[h]);
    }
}

void nib_cpu_scalar_attention(const struct nib_cpu_attention *a, uint64_t first, uint64_t last,
                              uint32_t thread)
{
    const struct nib_kv_layer *layer = a->cache->layer;
    uint32_t shared = a->n_heads / layer->n_heads;
    uint32_t value_dim = layer->value_dim;
    for (uint64_t item = first, next; item < last; item = next) {
        uint64_t r = item / a->n_heads;
        uint32_t h = (uint32_t)(item % a->n_heads);
        next = item + (shared - h % shared);
        next = item + MAX_HEADS < next ? item + MAX_HEADS : next;
        next = last < next ? last : next;
        uint32_t n = (uint32_t)(next - item);

        struct head heads[MAX_HEADS];
        for (uint32_t k = 0; k < n; k++) {
            heads[k] = (struct head){
                .query = a->query.data + r * a->query.stride + (uint64_t)(h + k) * layer->key_dim,
                .out = a->out.data + r * a->out.stride + (uint64_t)(h + k) * value_dim,
                .max = LEAST_SCORE,
            };
            memset(heads[k].out, 0, value_dim * sizeof(float));
        }
        const struct nib_step_row *row = &a->step->rows[r];
        if (row->sequence == NIB_NONE)
            continue;
        attend_row(a, row, h / shared, heads, n, &a->scratch[thread]);
        for (uint32_t k = 0; k < n; k++) {
            for (uint32_t d = 0; d < value_dim; d++)
                heads[k].out[d] /= heads[k].sum;
        }
    }
}
