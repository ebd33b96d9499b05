// Every kernel that can run on a device, chosen or not, compared with the scalar CPU code.
#include "runtime/base/os.h"
#include "runtime/base/status.h"
#include "runtime/vulkan/probe.h"
#include "runtime/vulkan/self_test.h"

/// A run over all kernels.
struct all {
    struct nib_vk_device *device;
    struct nib_vk_reference reference;
    nib_kernel_check_fn *on_check;
    void *user;
    bool counts; ///< nothing is run: probes are counted
    uint32_t n_done;
    uint32_t n_probes;
};

/// Runs a probe and reports it, if it uses kernel `bit` (NIB_VK_KERNEL_COUNT: none that others can
/// replace). Frees the probe.
static enum nib_status report(struct all *all, struct nib_vk_probe *probe,
                              const struct nib_vk_choices *choices, uint32_t bit,
                              struct nib_error *err)
{
    struct nib_vk_probe_result result;
    uint64_t start_ns = nib_clock_ns();
    if (all->counts) {
        all->n_probes++;
        nib_vk_probe_free(probe);
        return NIB_OK;
    }
    enum nib_status status =
        nib_vk_probe_run(probe, all->device, choices, &all->reference, &result, err);
    bool is_used = bit == NIB_VK_KERNEL_COUNT || (status == NIB_OK && result.kernels >> bit & 1);
    all->n_done++;
    if (status == NIB_OK && is_used) {
        const struct nib_kernel_check check = {
            .kernel = bit == NIB_VK_KERNEL_COUNT ? "" : nib_vk_kernel_name(bit),
            .work = probe->name,
            .error = result.error,
            .limit = probe->limit,
            .passed = result.error <= probe->limit,
            .ns = nib_clock_ns() - start_ns,
            .done = all->n_done,
            .total = all->n_probes};
        if (!all->on_check(all->user, &check))
            status = nib_fail(err, NIB_ERROR_CANCELLED, "the self-test was cancelled");
    }
    nib_fail_context(err, status, "self-test of %s", probe->name);
    nib_vk_probe_free(probe);
    return status;
}

/// Checks a matmul with each family of kernels that serves it.
static enum nib_status check_matmul(struct all *all, const struct nib_vk_probe_matmul *params,
                                    struct nib_error *err)
{
    for (uint32_t i = 0; i < NIB_VK_FAMILY_COUNT; i++) {
        enum nib_vk_family family = (enum nib_vk_family)i;
        const struct nib_vk_choices choices = {.is_forced = true, .forced_family = family};
        bool needs_texels = family == NIB_VK_FAMILY_TEXEL || family == NIB_VK_FAMILY_SINGLE;
        // What the plan left out was not enabled when the device was made.
        if (nib_vk_family_missing(&all->device->snapshot, family) ||
            (needs_texels && !all->device->plan.has_texels) ||
            (family == NIB_VK_FAMILY_DOT && !all->device->plan.has_integer_dot) ||
            (family == NIB_VK_FAMILY_SUB &&
             !(all->device->plan.has_integer_dot && all->device->plan.has_sizes)) ||
            (nib_vk_family_is_cooperative(family) && !all->device->plan.has_cooperative))
            continue;
        struct nib_vk_probe probe = {0};
        enum nib_status status = nib_vk_probe_make_matmul(params, &probe, err);
        if (status != NIB_OK) {
            nib_vk_probe_free(&probe);
            return status;
        }
        status = report(all, &probe, &choices, i, err);
        if (status != NIB_OK)
            return status;
    }
    return NIB_OK;
}

static enum nib_status check_formats(struct all *all, struct nib_error *err)
{
    static const enum nib_activation activations[] = {
        NIB_ACTIVATION_F32, NIB_ACTIVATION_INT8_GROUP, NIB_ACTIVATION_INT8_TOKEN,
        NIB_ACTIVATION_INT8_STATIC, NIB_ACTIVATION_LLM_INT8};
    for (uint32_t i = 0; i < (uint32_t)NIB_FORMAT_COUNT * 5; i++) {
        struct nib_vk_probe_matmul params = {.format = *nib_format_get((enum nib_format_id)(i / 5)),
                                             .activation = activations[i % 5],
                                             .outlier_threshold = 6.0f,
                                             .has_bias = i / 5 % 2 == 1,
                                             .cols = 1000};
        // Formats whose groups are the checkpoint's: a granule's, several, and an odd one.
        static const uint32_t groups[] = {32, 128, 100, 64, 0};
        if (params.format.group == 0 && params.format.code != NIB_CODE_FLOAT)
            params.format.group = groups[i % 5];
        params.has_permutation = params.format.group == 128;
        enum nib_status status = check_matmul(all, &params, err);
        if (status != NIB_OK)
            return status;
    }
    return NIB_OK;
}

/// What matmuls take in: norms and activations before, a sum behind.
static enum nib_status check_fused(struct all *all, struct nib_error *err)
{
    for (uint32_t i = 0; i < 5 * 2 * 2; i++) {
        uint32_t what = i / 4;
        const struct nib_op source = {.kind = what < 2 ? NIB_OP_NORM : NIB_OP_ACTIVATE,
                                      .activate.function =
                                          (enum nib_gate_function)(what < 2 ? 0 : what - 2)};
        const struct nib_vk_probe_matmul params = {
            .format = *nib_format_get(NIB_FORMAT_Q4_1),
            .activation = i / 2 % 2 ? NIB_ACTIVATION_INT8_GROUP : NIB_ACTIVATION_F32,
            .has_add = i % 2 == 1,
            .cols = 4096,
            .source = &source,
            .source_has_weight = what == 1};
        enum nib_status status = check_matmul(all, &params, err);
        if (status != NIB_OK)
            return status;
    }
    return NIB_OK;
}

static enum nib_status check_attention(struct all *all, struct nib_error *err)
{
    static const uint32_t dims[] = {64, 96, 128, 256};
    static const enum nib_kv_format formats[] = {NIB_KV_F32, NIB_KV_F16, NIB_KV_I8, NIB_KV_I4,
                                                 NIB_KV_I4_CHANNEL};
    static const struct nib_op_rope ropes[] = {{.interleaved = false}, {.interleaved = true}};
    for (uint32_t i = 0; i < 4 * 5 * 2; i++) {
        enum nib_kv_format format = formats[i / 2 % 5];
        bool is_channel = format == NIB_KV_I4_CHANNEL;
        bool has_first = nib_kv_has_codes(format) && i / 10 % 2 == 1;
        const struct nib_vk_probe_attention params = {.layer = {.n_heads = 2,
                                                                .key_dim = dims[i / 10],
                                                                .value_dim = dims[i / 10],
                                                                .window = i % 3 == 0 ? 16 : 0},
                                                      .key_format = format,
                                                      .value_format =
                                                          is_channel ? NIB_KV_I4 : format,
                                                      .recent_pages = is_channel,
                                                      .first_pages = has_first,
                                                      .n_heads = i / 10 % 2 ? 6 : 8,
                                                      .scale = 0.125f,
                                                      .softcap = i % 5 == 0 ? 50.0f : 0,
                                                      .rope = i % 3 < 2 ? &ropes[i % 3] : NULL};
        // The best that there is, and what runs everywhere.
        bool has_others = i % 2 == 0;
        const struct nib_vk_choices choices = {
            .distrusted =
                has_others ? 0 : NIB_VK_KERNEL_ATTENTION_TEXEL | NIB_VK_KERNEL_ATTENTION_COOP};
        uint32_t other =
            all->device->plan.has_attention_coop ? NIB_VK_FAMILY_COUNT + 2 : NIB_VK_FAMILY_COUNT;
        if (has_others && !all->device->plan.has_texels && !all->device->plan.has_attention_coop)
            continue;
        struct nib_vk_probe probe = {0};
        enum nib_status status = nib_vk_probe_make_attention(&params, &probe, err);
        if (status == NIB_OK)
            status = report(all, &probe, &choices, has_others ? other : NIB_VK_KERNEL_COUNT, err);
        if (status != NIB_OK)
            return status;
    }
    return NIB_OK;
}

/// The rest, of which there is one kernel each.
static enum nib_status check_others(struct all *all, struct nib_error *err)
{
    const struct nib_op ops[] = {
        {.kind = NIB_OP_NORM, .norm = {.weight = NIB_NO_WEIGHT, .n_groups = 1}},
        {.kind = NIB_OP_NORM, .norm = {.n_groups = 3}},
        {.kind = NIB_OP_ROPE, .rope = {.head_dim = 64}},
        {.kind = NIB_OP_ROPE, .rope = {.head_dim = 64, .interleaved = true}},
        {.kind = NIB_OP_ACTIVATE, .activate.function = NIB_GATE_SILU},
        {.kind = NIB_OP_ACTIVATE, .activate.function = NIB_GATE_GELU_TANH},
        {.kind = NIB_OP_ACTIVATE, .activate.function = NIB_GATE_GELU},
        {.kind = NIB_OP_ADD},
        {.kind = NIB_OP_SOFTCAP, .softcap.cap = 2.0f},
        {.kind = NIB_OP_GATHER},
    };
    const uint32_t n_ops = sizeof ops / sizeof ops[0];
    const struct nib_op embed = {.kind = NIB_OP_EMBED, .embed.scale = 2.0f};
    for (uint32_t i = 0; i < n_ops + NIB_FORMAT_COUNT; i++) {
        bool is_embed = i >= n_ops;
        struct nib_weight weight = {.cols = 1000};
        if (is_embed)
            weight.format = *nib_format_get((enum nib_format_id)(i - n_ops));
        const struct nib_plan plan = {.weights = &weight};
        const struct nib_vk_choices choices = {0};
        struct nib_vk_probe probe = {0};
        enum nib_status status =
            nib_vk_probe_make_op(is_embed ? &embed : &ops[i], is_embed ? &plan : NULL, &probe, err);
        if (status == NIB_OK)
            status = report(all, &probe, &choices, NIB_VK_KERNEL_COUNT, err);
        else
            nib_vk_probe_free(&probe);
        if (status != NIB_OK)
            return status;
    }
    return NIB_OK;
}

static enum nib_status check_draw(struct all *all, struct nib_error *err)
{
    const struct nib_vk_choices choices = {0};
    struct nib_vk_probe probe;
    nib_vk_probe_make_draw(&probe);
    return report(all, &probe, &choices, NIB_VK_FAMILY_COUNT + 1, err);
}

static enum nib_status check_all(struct all *all, struct nib_error *err)
{
    enum nib_status status = check_formats(all, err);
    if (status == NIB_OK)
        status = check_fused(all, err);
    if (status == NIB_OK)
        status = check_attention(all, err);
    if (status == NIB_OK)
        status = check_others(all, err);
    return status == NIB_OK ? check_draw(all, err) : status;
}

enum nib_status nib_vk_self_test_all(void *device, const struct nib_backend *reference,
                                     nib_kernel_check_fn *on_check, void *user,
                                     struct nib_error *err)
{
    struct all all = {.device = device, .on_check = on_check, .user = user, .counts = true};
    enum nib_status status = nib_vk_reference_open(reference, &all.reference, err);
    if (status != NIB_OK)
        return status;
    NIB_TRY(check_all(&all, err));
    all.counts = false;
    NIB_TRY(check_all(&all, err));
fail:
    nib_vk_reference_close(&all.reference);
    return status;
}
