#include "runtime/engine/session_file.h"

#include "runtime/base/bytes.h"
#include "runtime/base/status.h"
#include "runtime/ops/backend.h"

#define VERSION 6
/// Places of a tensor, and bytes at each, that go into a model's fingerprint.
#define N_SAMPLES 8
#define SAMPLE_SIZE 64

static const uint8_t magic[8] = "NIBSESS";

/// Adds one number to a fingerprint or checksum: a multiplication by an odd constant (the fraction
/// of the golden ratio), the high bits, which all bits of the number reach, folded into the low.
static uint64_t mix(uint64_t hash, uint64_t number)
{
    hash = (hash ^ number) * 0x9e3779b97f4a7c15u;
    return hash ^ hash >> 32;
}

static uint64_t mix_bytes(uint64_t hash, const uint8_t *bytes, uint64_t size)
{
    for (uint64_t i = 0; i < size; i++)
        hash = mix(hash, bytes[i]);
    return mix(hash, size);
}

static uint64_t mix_float(uint64_t hash, float number)
{
    uint32_t bits;
    memcpy(&bits, &number, sizeof bits);
    return mix(hash, bits);
}

uint64_t nib_session_model_print(const struct nib_source *source)
{
    const struct nib_tensor_directory *directory = nib_source_tensors(source);
    uint64_t hash = 0;
    for (uint32_t i = 0; i < directory->n_tensors; i++) {
        const struct nib_tensor *tensor = &directory->tensors[i];
        hash = mix_bytes(hash, (const uint8_t *)tensor->name, strlen(tensor->name));
        hash = mix(hash, tensor->dtype);
        for (uint32_t d = 0; d < tensor->n_dims; d++)
            hash = mix(hash, tensor->dims[d]);
        uint64_t size = tensor->size < SAMPLE_SIZE ? tensor->size : SAMPLE_SIZE;
        for (uint64_t s = 0; s < N_SAMPLES && tensor->size > 0; s++)
            hash = mix_bytes(hash, tensor->data + (tensor->size - size) / N_SAMPLES * s, size);
    }
    return hash;
}

uint64_t nib_session_cache_print(const struct nib_plan *plan)
{
    uint64_t hash = mix(0, plan->n_kv_layers);
    for (uint32_t i = 0; i < plan->n_kv_layers; i++) {
        const struct nib_kv_layer *layer = &plan->kv_layers[i];
        const uint32_t numbers[] = {layer->n_heads,
                                    layer->key_dim,
                                    layer->value_dim,
                                    layer->window,
                                    layer->kv_class,
                                    layer->key_page_size,
                                    layer->value_page_size,
                                    layer->key_scale_page_size,
                                    layer->value_scale_page_size,
                                    layer->recent_key_page_size,
                                    layer->recent_value_page_size,
                                    layer->plain_keys,
                                    layer->plain_values};
        _Static_assert(sizeof numbers == sizeof *layer, "whatever shapes a cache belongs here");
        for (size_t k = 0; k < sizeof numbers / sizeof numbers[0]; k++)
            hash = mix(hash, numbers[k]);
    }
    for (uint32_t i = 0; i < plan->n_ropes; i++) {
        const struct nib_rope_table *rope = &plan->ropes[i];
        hash = mix_float(mix(hash, rope->dims), rope->magnitude);
        for (uint32_t k = 0; k < rope->dims / 2; k++)
            hash = mix_float(hash, rope->frequency[k]);
    }
    return hash;
}

uint64_t nib_session_checksum(uint64_t checksum, const void *bytes, size_t size)
{
    const uint8_t *from = bytes;
    for (size_t i = 0; i + 8 <= size; i += 8)
        checksum = mix(checksum, nib_load_u64(from + i));
    return checksum;
}

uint64_t nib_session_tokens_size(uint32_t n_tokens)
{
    return ((uint64_t)n_tokens + n_tokens % 2) * sizeof(int32_t);
}

struct nib_session_run nib_session_find_run(const struct nib_session_shape *shape,
                                            uint32_t kv_layer, bool is_recent, uint32_t n_computed)
{
    const struct nib_plan *plan = shape->plan;
    const struct nib_kv_layer *layer = &plan->kv_layers[kv_layer];
    size_t bytes = is_recent ? nib_kv_recent_bytes(layer) : nib_kv_page_bytes(layer);
    struct nib_session_run run = {
        .kv_class = is_recent ? plan->n_kv_classes - 1 : layer->kv_class,
        .page_size = (bytes + 7) / 8 * 8,
        .is_recent = is_recent,
    };
    if (!is_recent || nib_plan_keeps_f16(plan))
        run.places = nib_kv_needed(shape->reach[run.kv_class], n_computed);
    return run;
}

/// Returns the bytes of the pages that follow the tokens.
static uint64_t pages_size(const struct nib_session_shape *shape, uint32_t n_computed)
{
    uint64_t size = 0;
    for (uint32_t i = 0; i < 2 * shape->plan->n_kv_layers; i++) {
        struct nib_session_run run = nib_session_find_run(shape, i / 2, i % 2, n_computed);
        size += (uint64_t)nib_kv_count(&run.places) * run.page_size;
    }
    return size;
}

static uint64_t file_size(const struct nib_session_shape *shape, uint32_t n_tokens,
                          uint32_t n_computed)
{
    return NIB_SESSION_HEADER_SIZE + nib_session_tokens_size(n_tokens) +
           pages_size(shape, n_computed);
}

/// Planes of codes that are not transformed.
#define PLAIN_KEYS 1u
#define PLAIN_VALUES 2u

static uint32_t plain_planes(const struct nib_plan *plan)
{
    const struct nib_kv_layer *layer = plan->kv_layers;
    bool keys =
        nib_kv_has_codes(plan->key_format) && !nib_kv_transforms_keys(layer, plan->key_format);
    bool values = nib_kv_has_codes(plan->value_format) &&
                  !nib_kv_transforms_values(layer, plan->value_format);
    return (keys ? PLAIN_KEYS : 0) | (values ? PLAIN_VALUES : 0);
}

void nib_session_write_header(const struct nib_session_shape *shape,
                              const struct nib_session_content *content,
                              uint8_t out_header[NIB_SESSION_HEADER_SIZE])
{
    memset(out_header, 0, NIB_SESSION_HEADER_SIZE);
    memcpy(out_header, magic, sizeof magic);
    nib_store_u32(out_header + 8, VERSION);
    nib_store_u64(out_header + 16, file_size(shape, content->n_tokens, content->n_computed));
    nib_store_u64(out_header + 32, shape->model);
    nib_store_u64(out_header + 40, shape->cache);
    nib_store_u32(out_header + 48, shape->plan->key_format);
    nib_store_u32(out_header + 52, shape->plan->value_format);
    nib_store_u32(out_header + 56, shape->precise);
    nib_store_u32(out_header + 60, shape->plan->recent_pages);
    nib_store_u32(out_header + 64, content->n_tokens);
    nib_store_u32(out_header + 68, content->n_computed);
    nib_store_u32(out_header + 72, plain_planes(shape->plan));
    nib_store_u32(out_header + 76, shape->plan->first_pages);
}

/// Checks that the file is whole.
static enum nib_status check_bytes(const uint8_t *data, size_t size, const char *name,
                                   struct nib_error *err)
{
    if (size < NIB_SESSION_HEADER_SIZE || memcmp(data, magic, sizeof magic) != 0)
        return nib_fail(err, NIB_ERROR_FORMAT, "%s: is no file of a saved session", name);
    if (nib_load_u64(data + 8) != VERSION)
        return nib_fail(err, NIB_ERROR_UNSUPPORTED,
                        "%s: is of version %u, but this library reads version %d", name,
                        nib_load_u32(data + 8), VERSION);
    if (nib_load_u64(data + 16) != size || size % 8 != 0)
        return nib_fail(err, NIB_ERROR_FORMAT,
                        "%s: has %zu bytes instead of %llu; it was cut off or is damaged", name,
                        size, (unsigned long long)nib_load_u64(data + 16));
    uint64_t checksum =
        nib_session_checksum(0, data + NIB_SESSION_CHECKED, size - NIB_SESSION_CHECKED);
    if (checksum != nib_load_u64(data + NIB_SESSION_CHECKSUM))
        return nib_fail(err, NIB_ERROR_FORMAT, "%s: the checksum is wrong; the file is damaged",
                        name);
    return NIB_OK;
}

static const char *format_name(uint32_t format)
{
    static const char *const names[] = {"?", "f32", "f16", "i8", "i4", "i4c"};
    return names[format < sizeof names / sizeof names[0] ? format : 0];
}

/// Fails: other tokens are in f16, pages of newest ones `recent` and of first ones `first`.
static enum nib_status refuse_in_f16(const struct nib_plan *plan, uint32_t recent, uint32_t first,
                                     const char *name, struct nib_error *err)
{
    bool is_recent = recent != plan->recent_pages;
    unsigned long long n = (is_recent ? recent : first) * (unsigned long long)NIB_KV_PAGE_TOKENS;
    return nib_fail(err, NIB_ERROR_UNSUPPORTED,
                    "%s: its cache keeps %llu %s tokens in f16, this one %u; use --kv with %s=%llu",
                    name, n, is_recent ? "newest" : "first",
                    (is_recent ? plan->recent_pages : plan->first_pages) * NIB_KV_PAGE_TOKENS,
                    is_recent ? "recent" : "first", n);
}

/// Checks that the file comes from such an engine.
static enum nib_status check_origin(const struct nib_session_shape *shape, const uint8_t *data,
                                    const char *name, struct nib_error *err)
{
    const struct nib_plan *plan = shape->plan;
    uint32_t keys = nib_load_u32(data + 48), values = nib_load_u32(data + 52);
    uint32_t precise = nib_load_u32(data + 56), recent = nib_load_u32(data + 60);
    uint32_t plain = nib_load_u32(data + 72), first = nib_load_u32(data + 76);
    if (nib_load_u64(data + 32) != shape->model)
        return nib_fail(err, NIB_ERROR_UNSUPPORTED,
                        "%s: was saved with another model; open that one", name);
    if (keys != (uint32_t)plan->key_format || values != (uint32_t)plan->value_format)
        return nib_fail(err, NIB_ERROR_UNSUPPORTED,
                        "%s: its cache is k=%s,v=%s, this one k=%s,v=%s; use --kv k=%s,v=%s", name,
                        format_name(keys), format_name(values), format_name(plan->key_format),
                        format_name(plan->value_format), format_name(keys), format_name(values));
    if (recent != plan->recent_pages || first != plan->first_pages)
        return refuse_in_f16(plan, recent, first, name, err);
    if (plain != plain_planes(plan))
        return nib_fail(err, NIB_ERROR_UNSUPPORTED,
                        "%s: its keys are %s and its values %s, which is otherwise here; use --kv "
                        "with transform=%s",
                        name, plain & PLAIN_KEYS ? "plain" : "transformed",
                        plain & PLAIN_VALUES ? "plain" : "transformed",
                        plain & ~plain_planes(plan) ? "off" : "on");
    if (precise != shape->precise)
        return nib_fail(err, NIB_ERROR_UNSUPPORTED,
                        "%s: was computed %s --precise, this is %s; open it %s", name,
                        shape->precise ? "without" : "with", shape->precise ? "with" : "without",
                        shape->precise ? "without it" : "with --precise");
    if (nib_load_u64(data + 40) != shape->cache)
        return nib_fail(err, NIB_ERROR_UNSUPPORTED,
                        "%s: its cache was laid out or rotated otherwise; use the --ctx that it "
                        "was saved with",
                        name);
    return NIB_OK;
}

static enum nib_status check_tokens(const struct nib_session_shape *shape,
                                    const struct nib_session_content *content, const char *name,
                                    struct nib_error *err)
{
    const struct nib_plan *plan = shape->plan;
    if (content->n_tokens > plan->context)
        return nib_fail(err, NIB_ERROR_CONTEXT_FULL,
                        "%s: has %u tokens, but the context holds %u; raise --ctx", name,
                        content->n_tokens, plan->context);
    for (uint32_t i = 0; i < content->n_tokens; i++) {
        uint32_t id = nib_load_u32(content->tokens + (size_t)i * 4);
        if (id >= plan->vocabulary)
            return nib_fail(err, NIB_ERROR_FORMAT,
                            "%s: token %u is %u, outside the vocabulary of %u", name, i, id,
                            plan->vocabulary);
    }
    return NIB_OK;
}

enum nib_status nib_session_parse(const struct nib_session_shape *shape, const uint8_t *data,
                                  size_t size, const char *name,
                                  struct nib_session_content *out_content, struct nib_error *err)
{
    enum nib_status status = NIB_OK;
    *out_content = (struct nib_session_content){0};
    NIB_TRY(check_bytes(data, size, name, err));
    NIB_TRY(check_origin(shape, data, name, err));
    uint32_t n_tokens = nib_load_u32(data + 64), n_computed = nib_load_u32(data + 68);
    if (n_tokens > size / sizeof(int32_t) || n_computed > n_tokens ||
        n_computed % NIB_KV_PAGE_TOKENS != 0 || file_size(shape, n_tokens, n_computed) != size)
        NIB_TRY(nib_fail(err, NIB_ERROR_FORMAT,
                         "%s: %zu bytes cannot be %u tokens, %u of them computed; it is damaged",
                         name, size, n_tokens, n_computed));
    struct nib_session_content content = {
        .n_tokens = n_tokens,
        .n_computed = n_computed,
        .tokens = data + NIB_SESSION_HEADER_SIZE,
        .pages = data + NIB_SESSION_HEADER_SIZE + nib_session_tokens_size(n_tokens),
    };
    NIB_TRY(check_tokens(shape, &content, name, err));
    *out_content = content;

fail:
    return status;
}
