#include "runtime/vulkan/self_test.h"

#include <stdlib.h>
#include <string.h>

#include "runtime/base/buffer.h"
#include "runtime/base/bytes.h"
#include "runtime/base/status.h"
#include "runtime/vulkan/cache_file.h"
#include "runtime/vulkan/probe.h"

/// "NIBTRUS1"
#define MAGIC 0x315355525442494eull

struct nib_vk_trust {
    struct nib_vk_reference reference;
    struct nib_mutex *mutex; ///< held while kernels are checked
    uint32_t distrusted;
    uint64_t *passed; ///< hashes of probes
    size_t n_passed;
    size_t capacity;
    bool is_changed;
};

/// The verdict's file: kernels that are distrusted, then the hashes of what has passed.
static enum nib_status read_verdict(const struct nib_vk_device *d, struct nib_vk_trust *trust,
                                    struct nib_error *err)
{
    struct nib_file_map map;
    size_t size;
    enum nib_status status = NIB_OK;
    const uint8_t *data = nib_vk_cache_read(d, d->verdict_path, MAGIC, &map, &size);
    if (data && size >= 8 && size % 8 == 0) {
        void *array = NULL;
        size_t n = size / 8 - 1;
        status = nib_array_reserve(&array, &trust->capacity, n + 1, sizeof *trust->passed, err);
        trust->passed = array;
        for (size_t i = 0; status == NIB_OK && i < n; i++)
            trust->passed[trust->n_passed++] = nib_load_u64(data + 8 + 8 * i);
        trust->distrusted = nib_load_u32(data) & ((1u << NIB_VK_KERNEL_COUNT) - 1);
    }
    nib_file_map_close(&map);
    return status;
}

static void write_verdict(const struct nib_vk_device *d, struct nib_vk_trust *trust)
{
    if (!d->verdict_path || !trust->is_changed)
        return;
    size_t size = 8 + 8 * trust->n_passed;
    uint8_t *data = calloc(1, size);
    struct nib_error error = {0};
    if (data) {
        nib_store_u32(data, trust->distrusted);
        for (size_t i = 0; i < trust->n_passed; i++)
            nib_store_u64(data + 8 + 8 * i, trust->passed[i]);
        if (nib_vk_cache_write(d, d->verdict_path, MAGIC, data, size, &error) != NIB_OK)
            nib_log_write(&d->log, NIB_LOG_WARNING, "the verdict on kernels is not kept: %s",
                          error.message);
    }
    free(data);
    trust->is_changed = false;
}

enum nib_status nib_vk_trust_open(void *device, const struct nib_backend *reference,
                                  struct nib_error *err)
{
    enum nib_status status = NIB_OK;
    struct nib_vk_device *d = device;
    if (d->self_test == NIB_SELF_TEST_OFF)
        return NIB_OK;
    struct nib_vk_trust *trust = calloc(1, sizeof *trust);
    if (!trust)
        return nib_fail_memory(err);
    d->trust = trust;
    NIB_TRY(nib_mutex_create(&trust->mutex, err));
    NIB_TRY(nib_vk_reference_open(reference, &trust->reference, err));
    if (d->verdict_path && d->self_test == NIB_SELF_TEST_CACHED)
        NIB_TRY(read_verdict(d, trust, err));
fail:
    return status;
}

void nib_vk_trust_close(struct nib_vk_device *device)
{
    struct nib_vk_trust *trust = device->trust;
    if (!trust)
        return;
    nib_vk_reference_close(&trust->reference);
    nib_mutex_destroy(&trust->mutex);
    free(trust->passed);
    free(trust);
    device->trust = NULL;
}

/// What a verdict on a probe holds for: the kernels that are chosen, and how they are cut.
static uint64_t hash_probe(const struct nib_vk_probe *probe, const struct nib_vk_device *d,
                           const struct nib_vk_choices *choices)
{
    const struct nib_vk_device_plan *p = &d->plan;
    const uint32_t words[] = {
        choices->distrusted,  choices->is_forced ? 1u + (uint32_t)choices->forced_family : 0,
        p->has_texels,        p->n_families,
        p->matmul_lanes,      p->matmul_columns,
        p->matmul_width,      p->attention_units,
        p->attention_numbers, p->attention_parts,
        p->has_cooperative,   p->cooperative_subgroup,
        p->has_sizes,         p->matmul_subgroup,
        p->most_lanes,        p->has_attention_coop};
    uint64_t hash = nib_vk_hash(NIB_VK_HASH_BEGIN, probe->name, strlen(probe->name));
    hash = nib_vk_hash(hash, words, sizeof words);
    for (uint32_t i = 0; i < p->n_families; i++)
        hash = nib_vk_hash(hash, &p->families[i], sizeof p->families[i]);
    hash = nib_vk_hash(hash, p->tiles, sizeof p->tiles);
    hash = nib_vk_hash(hash, &p->blocks, sizeof p->blocks);
    return hash;
}

static bool has_passed(const struct nib_vk_trust *trust, uint64_t hash)
{
    for (size_t i = 0; i < trust->n_passed; i++) {
        if (trust->passed[i] == hash)
            return true;
    }
    return false;
}

static enum nib_status remember(struct nib_vk_trust *trust, uint64_t hash, struct nib_error *err)
{
    void *array = trust->passed;
    enum nib_status status = nib_array_reserve(&array, &trust->capacity, trust->n_passed + 1,
                                               sizeof *trust->passed, err);
    trust->passed = array;
    if (status == NIB_OK)
        trust->passed[trust->n_passed++] = hash;
    trust->is_changed = true;
    return status;
}

static struct nib_vk_choices choices_of(const struct nib_vk_device *d)
{
    return (struct nib_vk_choices){.is_forced = d->plan.is_forced,
                                   .forced_family = d->plan.forced_family,
                                   .distrusted = d->trust ? d->trust->distrusted : 0};
}

/// Returns which of the kernels that ran are blamed for a wrong result: those for many rows of
/// input, and for a single one that comes with more, before those that serve any number.
static uint32_t find_culprits(uint32_t kernels)
{
    uint32_t special = kernels & (1u << NIB_VK_FAMILY_COOP8 | 1u << NIB_VK_FAMILY_COOP16 |
                                  1u << NIB_VK_FAMILY_HALF | NIB_VK_KERNEL_ATTENTION_COOP |
                                  NIB_VK_KERNEL_ATTENTION_OWN);
    return special ? special : kernels;
}

/// Runs a probe until the kernels that are left for it pass.
static enum nib_status check(struct nib_vk_device *d, const struct nib_vk_probe *probe,
                             struct nib_error *err)
{
    struct nib_vk_trust *trust = d->trust;
    for (;;) {
        struct nib_vk_choices choices = choices_of(d);
        uint64_t hash = hash_probe(probe, d, &choices);
        struct nib_vk_probe_result result;
        if (has_passed(trust, hash))
            return NIB_OK;
        uint64_t start_ns = nib_clock_ns();
        enum nib_status status =
            nib_vk_probe_run(probe, d, &choices, &trust->reference, &result, err);
        if (status != NIB_OK)
            return nib_fail_context(err, status, "self-test of %s", probe->name);
        nib_log_write(&d->log, NIB_LOG_INFO, "checked %s: off by %.2g, %llu ms", probe->name,
                      result.error, (unsigned long long)((nib_clock_ns() - start_ns) / 1000000));
        if (result.error <= probe->limit)
            return remember(trust, hash, err);
        if (!(result.kernels & ~trust->distrusted)) {
            return nib_fail(err, NIB_ERROR_UNSUPPORTED,
                            "%s computes wrong results (%s is off by %.2g); use --device cpu",
                            d->snapshot.name, probe->name, result.error);
        }
        uint32_t culprits = find_culprits(result.kernels & ~trust->distrusted);
        for (uint32_t i = 0; i < NIB_VK_KERNEL_COUNT; i++) {
            if (culprits >> i & 1)
                nib_log_write(&d->log, NIB_LOG_WARNING,
                              "%s: kernel '%s' computes wrong results and is replaced (%s is off "
                              "by %.2g)",
                              d->snapshot.name, nib_vk_kernel_name(i), probe->name, result.error);
        }
        trust->distrusted |= culprits;
        trust->is_changed = true;
    }
}

/// Returns the op that computes the input of matmul `op` for matmuls alone, or NULL: one that is
/// taken in.
static const struct nib_op *find_source(const struct nib_plan *plan, uint32_t op)
{
    const struct nib_view *in = &plan->ops[op].matmul.in;
    for (uint32_t i = op; i-- > 0 && plan->ops[i].segment == plan->ops[op].segment;) {
        const struct nib_op *other = &plan->ops[i];
        const struct nib_view *out = other->kind == NIB_OP_NORM       ? &other->norm.out
                                     : other->kind == NIB_OP_ACTIVATE ? &other->activate.out
                                                                      : NULL;
        bool is_single = other->kind == NIB_OP_ACTIVATE ||
                         (other->kind == NIB_OP_NORM && other->norm.n_groups == 1);
        if (out && is_single && out->value == in->value && out->offset == in->offset &&
            out->width == in->width && in->value != NIB_VALUE_HIDDEN)
            return other;
    }
    return NULL;
}

static enum nib_status make_matmul(const struct nib_vk_instance *instance, uint32_t op,
                                   struct nib_vk_probe *probe, struct nib_error *err)
{
    const struct nib_plan *plan = instance->plan;
    const struct nib_op_matmul *matmul = &plan->ops[op].matmul;
    const struct nib_vk_matrix *weight = nib_vk_instance_weight(instance, matmul->weight);
    const struct nib_op *next = op + 1 < plan->n_ops ? &plan->ops[op + 1] : NULL;
    const struct nib_op *source = find_source(plan, op);
    struct nib_vk_probe_matmul params = {
        .format = weight->layout.format,
        .activation = matmul->activation,
        .activation_scale = weight->activation_scale,
        .outlier_threshold = weight->outlier_threshold,
        .has_permutation = weight->has_permutation,
        .has_bias = matmul->bias != NIB_NO_WEIGHT,
        .has_add = next && next->kind == NIB_OP_ADD && next->segment == plan->ops[op].segment &&
                   next->add.in.value == matmul->out.value,
        .cols = (uint32_t)weight->layout.cols,
        .source = source,
        .source_has_weight =
            source && source->kind == NIB_OP_NORM && source->norm.weight != NIB_NO_WEIGHT,
    };
    return nib_vk_probe_make_matmul(&params, probe, err);
}

/// Returns the op that turns an attention's queries, or NULL.
static const struct nib_op_rope *find_rope(const struct nib_plan *plan, uint32_t attention)
{
    const struct nib_op *op = &plan->ops[attention];
    const struct nib_view *query = &op->attention.query;
    while (op-- != plan->ops && op->segment == plan->ops[attention].segment) {
        const struct nib_view *x = &op->rope.x;
        if (op->kind == NIB_OP_ROPE && x->value == query->value && x->offset == query->offset)
            return &op->rope;
    }
    return NULL;
}

/// Makes the probe of an op; `*out_is_needed` is false where another op's is the same.
static enum nib_status make_probe(const struct nib_vk_instance *instance, uint32_t op,
                                  struct nib_vk_probe *probe, bool *out_is_needed,
                                  struct nib_error *err)
{
    const struct nib_plan *plan = instance->plan;
    const struct nib_op *o = &plan->ops[op];
    *out_is_needed =
        o->segment - instance->first_segment < instance->n_segments && o->kind != NIB_OP_KV_STORE;
    if (!*out_is_needed)
        return NIB_OK;
    if (o->kind == NIB_OP_MATMUL)
        return make_matmul(instance, op, probe, err);
    if (o->kind == NIB_OP_GATHER) {
        // What is gathered are the lines that tokens are drawn from.
        nib_vk_probe_make_draw(probe);
        return NIB_OK;
    }
    if (o->kind != NIB_OP_ATTENTION)
        return nib_vk_probe_make_op(o, plan, probe, err);
    const struct nib_op_rope *rope = find_rope(plan, op);
    const struct nib_vk_probe_attention params = {.layer = plan->kv_layers[o->attention.kv_layer],
                                                  .key_format = plan->key_format,
                                                  .recent_pages = plan->recent_pages,
                                                  .first_pages = plan->first_pages,
                                                  .value_format = plan->value_format,
                                                  .n_heads = o->attention.n_heads,
                                                  .scale = o->attention.scale,
                                                  .softcap = o->attention.softcap,
                                                  .rope = rope,
                                                  .table = rope ? &plan->ropes[rope->table] : NULL};
    return nib_vk_probe_make_attention(&params, probe, err);
}

/// Adds the op to the list unless its probe has passed or is there already. `hashes` are those of
/// the list.
static enum nib_status list_op(struct nib_vk_instance *instance, uint32_t op, uint64_t *hashes,
                               struct nib_error *err)
{
    struct nib_vk_device *d = instance->device;
    const struct nib_vk_choices choices = choices_of(d);
    struct nib_vk_probe probe = {0};
    bool is_needed;
    enum nib_status status = make_probe(instance, op, &probe, &is_needed, err);
    if (status == NIB_OK && is_needed) {
        uint64_t hash = hash_probe(&probe, d, &choices);
        bool is_listed = has_passed(d->trust, hash);
        for (uint32_t i = 0; i < instance->n_probes; i++)
            is_listed = is_listed || hashes[i] == hash;
        hashes[instance->n_probes] = hash;
        instance->probes[instance->n_probes] = op;
        instance->n_probes += !is_listed;
    }
    nib_vk_probe_free(&probe);
    return status;
}

/// Makes the list of what is to be checked with the choices as they are.
static enum nib_status list_probes(struct nib_vk_instance *instance, struct nib_error *err)
{
    uint32_t n_ops = instance->plan->n_ops;
    uint64_t *hashes = calloc(n_ops + 1ull, sizeof *hashes);
    enum nib_status status = NIB_OK;
    free(instance->probes);
    instance->probes = calloc(n_ops + 1ull, sizeof *instance->probes);
    instance->n_checked += instance->next_probe;
    instance->n_probes = 0;
    instance->next_probe = 0;
    if (!hashes || !instance->probes)
        NIB_TRY(nib_fail_memory(err));
    for (uint32_t op = 0; op < n_ops; op++)
        NIB_TRY(list_op(instance, op, hashes, err));
fail:
    free(hashes);
    if (status != NIB_OK) {
        free(instance->probes);
        instance->probes = NULL;
    }
    return status;
}

/// Checks the listed ops' kernels, one op after the other.
static enum nib_status check_ops(struct nib_vk_instance *instance, uint64_t end_ns,
                                 struct nib_error *err)
{
    struct nib_vk_trust *trust = instance->device->trust;
    enum nib_status status = instance->probes ? NIB_OK : list_probes(instance, err);
    while (status == NIB_OK && instance->next_probe < instance->n_probes) {
        uint32_t before = trust->distrusted;
        bool is_needed;
        struct nib_vk_probe probe = {0};
        status =
            make_probe(instance, instance->probes[instance->next_probe], &probe, &is_needed, err);
        if (status == NIB_OK)
            status = check(instance->device, &probe, err);
        nib_vk_probe_free(&probe);
        instance->next_probe += status == NIB_OK;
        // What replaces a kernel is new to the ops before.
        if (status == NIB_OK && trust->distrusted != before)
            status = list_probes(instance, err);
        if (end_ns && nib_clock_ns() >= end_ns)
            break;
    }
    return status;
}

/// Returns whether all listed kernels have been checked.
static bool is_over(const struct nib_vk_instance *instance)
{
    return instance->probes && instance->next_probe == instance->n_probes;
}

enum nib_status nib_vk_self_test(struct nib_vk_instance *instance, uint64_t end_ns,
                                 struct nib_error *err)
{
    struct nib_vk_device *d = instance->device;
    enum nib_status status = NIB_OK;
    if (d->trust) {
        nib_mutex_lock(d->trust->mutex);
        status = check_ops(instance, end_ns, err);
        if (status != NIB_OK || is_over(instance))
            write_verdict(d, d->trust);
        instance->choices = choices_of(d);
        nib_mutex_unlock(d->trust->mutex);
    } else {
        instance->choices = choices_of(d);
    }
    instance->is_trusted = status == NIB_OK && (!d->trust || is_over(instance));
    instance->n_replaced = 0;
    for (uint32_t i = 0; instance->is_trusted && i < NIB_VK_KERNEL_COUNT; i++) {
        if (instance->choices.distrusted >> i & 1)
            instance->replaced[instance->n_replaced++] = nib_vk_kernel_name(i);
    }
    return status;
}
