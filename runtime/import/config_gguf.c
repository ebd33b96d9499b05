#include "runtime/import/config_import.h"

#include "runtime/base/bytes.h"
#include "runtime/base/half.h"
#include "runtime/base/status.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

/// Keys of an architecture lie under its name.
struct metadata {
    const struct nib_gguf *gguf;
    const struct nib_arch *arch;
};

static const struct nib_gguf_value *find(const struct metadata *metadata, const char *key)
{
    char full[96];
    snprintf(full, sizeof full, "%s.%s", metadata->arch->gguf, key);
    return nib_gguf_find(metadata->gguf, full);
}

static enum nib_status find_number(const void *file, const char *key, enum nib_found *out_found,
                                   double *out_number, struct nib_error *err)
{
    const struct metadata *metadata = file;
    const struct nib_gguf_value *value = find(metadata, key);
    uint64_t whole;
    float real;
    *out_found = NIB_ABSENT;
    *out_number = 0;
    if (!value)
        return NIB_OK;
    if (nib_gguf_get_u64(value, &whole))
        *out_number = (double)whole;
    else if (nib_gguf_get_f32(value, &real))
        *out_number = (double)real;
    else
        return nib_fail(err, NIB_ERROR_FORMAT, "key '%s.%s' is no number", metadata->arch->gguf,
                        key);
    *out_found = NIB_NUMBER;
    return NIB_OK;
}

/// Copies a vector of factors, `count` positive numbers, or leaves NULL where the file has none.
static enum nib_status read_factors(const struct nib_gguf *gguf, const char *name, uint32_t count,
                                    struct nib_arena *arena, const float **out_factors,
                                    struct nib_error *err)
{
    *out_factors = NULL;
    const struct nib_tensor *tensor = nib_tensor_find(&gguf->directory, name);
    if (!tensor)
        return NIB_OK;
    if (tensor->dtype != NIB_DTYPE_F32 || tensor->size != (uint64_t)count * sizeof(float))
        return nib_fail(err, NIB_ERROR_FORMAT, "tensor '%s' does not hold %" PRIu32 " f32 numbers",
                        name, count);
    float *factors = nib_arena_array(arena, count, sizeof *factors);
    if (!factors)
        return nib_fail_memory(err);
    for (uint32_t i = 0; i < count; i++) {
        factors[i] = nib_load_f32(tensor->data + (size_t)i * sizeof(float));
        if (!(factors[i] > 0 && factors[i] <= (float)NIB_ROPE_LIMIT))
            return nib_fail(err, NIB_ERROR_FORMAT, "number %" PRIu32 " of tensor '%s' is %g", i,
                            name, (double)factors[i]);
    }
    *out_factors = factors;
    return NIB_OK;
}

static enum nib_status read_scaling_type(const struct metadata *metadata,
                                         enum nib_rope_scaling *out_scaling, struct nib_error *err)
{
    static const struct {
        const char *name;
        enum nib_rope_scaling scaling;
    } types[] = {
        {"none", NIB_ROPE_SCALING_NONE},
        {"linear", NIB_ROPE_SCALING_LINEAR},
        {"yarn", NIB_ROPE_SCALING_YARN},
        {"longrope", NIB_ROPE_SCALING_LONGROPE},
    };
    struct nib_text text;
    // Without a type a factor is a linear one.
    *out_scaling = NIB_ROPE_SCALING_LINEAR;
    if (!nib_gguf_get_text(find(metadata, "rope.scaling.type"), &text))
        return NIB_OK;
    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++) {
        if (text.size == strlen(types[i].name) && memcmp(text.ptr, types[i].name, text.size) == 0) {
            *out_scaling = types[i].scaling;
            return NIB_OK;
        }
    }
    return nib_fail(err, NIB_ERROR_UNSUPPORTED, "RoPE scaling '%.*s' is not known (key '%s.%s')",
                    text.size < 64 ? (int)text.size : 64, text.ptr, metadata->arch->gguf,
                    "rope.scaling.type");
}

static enum nib_status read_scaling(const struct metadata *metadata,
                                    const struct nib_number_file *numbers,
                                    struct nib_rope_config *rope, struct nib_error *err)
{
    enum nib_status status;
    const double limit = NIB_ROPE_LIMIT;
    NIB_TRY(read_scaling_type(metadata, &rope->scaling, err));
    NIB_TRY(nib_config_number(numbers, "rope.scale_linear", 0, limit, &rope->factor, err));
    NIB_TRY(nib_config_number(numbers, "rope.scaling.factor", 0, limit, &rope->factor, err));
    if (rope->scaling == NIB_ROPE_SCALING_LINEAR && rope->factor == 0)
        rope->scaling = NIB_ROPE_SCALING_NONE;
    NIB_TRY(nib_config_count(numbers, "rope.scaling.original_context_length", 0, INT32_MAX,
                             &rope->original_context, err));
    NIB_TRY(nib_config_number(numbers, "rope.scaling.attn_factor", 0, limit,
                              &rope->attention_factor, err));
    NIB_TRY(nib_config_number(numbers, "rope.scaling.yarn_attn_factor", 0, limit,
                              &rope->attention_factor, err));
    rope->beta_fast = 32;
    rope->beta_slow = 1;
    rope->truncate = true;
    NIB_TRY(nib_config_number(numbers, "rope.scaling.yarn_beta_fast", 1e-6, limit, &rope->beta_fast,
                              err));
    NIB_TRY(nib_config_number(numbers, "rope.scaling.yarn_beta_slow", 1e-6, limit, &rope->beta_slow,
                              err));
fail:
    return status;
}

/// Reads ropes[0], and ropes[1] where layers with a window have one of their own.
static enum nib_status read_ropes(const struct metadata *metadata,
                                  const struct nib_number_file *numbers,
                                  struct nib_model_config *model, struct nib_arena *arena,
                                  struct nib_error *err)
{
    enum nib_status status;
    const struct nib_arch *arch = metadata->arch;
    const struct nib_gguf *gguf = metadata->gguf;
    struct nib_rope_config *rope = &model->ropes[0];
    *rope = (struct nib_rope_config){
        .base = arch->rope_base, .dims = model->key_dim, .interleaved = arch->interleaved};
    NIB_TRY(nib_config_count(numbers, "rope.dimension_count", 2, model->key_dim, &rope->dims, err));
    NIB_TRY(nib_config_number(numbers, "rope.freq_base", 1.001, NIB_ROPE_LIMIT, &rope->base, err));
    NIB_TRY(read_scaling(metadata, numbers, rope, err));

    uint32_t pairs = rope->dims / 2;
    NIB_TRY(read_factors(gguf, "rope_freqs.weight", pairs, arena, &rope->divisors, err));
    NIB_TRY(read_factors(gguf, "rope_factors_long.weight", pairs, arena, &rope->long_factors, err));
    NIB_TRY(
        read_factors(gguf, "rope_factors_short.weight", pairs, arena, &rope->short_factors, err));
    if (rope->long_factors && rope->short_factors)
        rope->scaling = NIB_ROPE_SCALING_LONGROPE;
    else if (rope->scaling == NIB_ROPE_SCALING_LONGROPE || rope->long_factors ||
             rope->short_factors)
        return nib_fail(err, NIB_ERROR_FORMAT,
                        "tensors 'rope_factors_long.weight' and 'rope_factors_short.weight' "
                        "are not both there");
    NIB_TRY(nib_config_check_rope(rope, model, err));

    if (arch->window_rope_base == 0 && !arch->window_rope_plain)
        return NIB_OK;
    model->n_ropes = 2;
    model->ropes[1] = (struct nib_rope_config){
        .base = arch->window_rope_base != 0 ? arch->window_rope_base : rope->base,
        .dims = rope->dims,
        .interleaved = rope->interleaved,
        .original_context = model->context,
    };
    NIB_TRY(nib_config_number(numbers, "rope.freq_base_swa", 1.001, NIB_ROPE_LIMIT,
                              &model->ropes[1].base, err));
fail:
    return status;
}

/// Reads which layers have a window: a period, or a flag for each layer.
static enum nib_status read_pattern(const struct metadata *metadata, uint32_t n_layers,
                                    struct nib_layer_rules *rules, struct nib_arena *arena,
                                    struct nib_error *err)
{
    const char *key = "attention.sliding_window_pattern";
    const struct nib_gguf_value *value = find(metadata, key);
    if (!value)
        return NIB_OK;
    uint32_t period;
    if (nib_gguf_get_u32(value, &period) && period > 0) {
        rules->window_period = period;
        return NIB_OK;
    }
    bool *flags = nib_arena_array(arena, n_layers, sizeof *flags);
    if (!flags)
        return nib_fail_memory(err);
    for (uint32_t i = 0; i < n_layers; i++) {
        int64_t flag;
        if (!nib_gguf_element_i64(value, i, &flag))
            return nib_fail(err, NIB_ERROR_FORMAT,
                            "key '%s.%s' is neither a period nor %" PRIu32 " flags",
                            metadata->arch->gguf, key, n_layers);
        flags[i] = flag != 0;
    }
    rules->has_window = flags;
    return NIB_OK;
}

static enum nib_status find_arch(const struct nib_gguf *gguf, const struct nib_arch **out_arch,
                                 struct nib_error *err)
{
    struct nib_text name;
    if (!nib_gguf_get_text(nib_gguf_find(gguf, "general.architecture"), &name))
        return nib_fail(err, NIB_ERROR_FORMAT, "key 'general.architecture' is missing");
    *out_arch = nib_arch_find(NIB_CONTAINER_GGUF, name);
    if (*out_arch)
        return NIB_OK;
    char known[256];
    nib_arch_list(NIB_CONTAINER_GGUF, known, sizeof known);
    return nib_fail(err, NIB_ERROR_UNSUPPORTED, "architecture '%.*s' is none of %s",
                    name.size < 64 ? (int)name.size : 64, name.ptr, known);
}

enum nib_status nib_config_from_gguf(const struct nib_gguf *gguf, struct nib_arena *arena,
                                     struct nib_import_config *out_config, struct nib_error *err)
{
    enum nib_status status;
    struct nib_model_config *model = &out_config->model;
    struct metadata metadata = {.gguf = gguf};
    *out_config = (struct nib_import_config){0};
    NIB_TRY(find_arch(gguf, &metadata.arch, err));
    const struct nib_arch *arch = metadata.arch;
    const struct nib_number_file numbers = {NIB_CONTAINER_GGUF, &metadata, find_number};
    NIB_TRY(nib_config_begin(arch, &numbers, out_config, err));

    uint32_t n_experts = 0;
    NIB_TRY(nib_config_count(&numbers, "expert_count", 0, UINT32_MAX, &n_experts, err));
    if (n_experts > 0)
        return nib_fail(err, NIB_ERROR_UNSUPPORTED,
                        "the model is a mixture of %" PRIu32 " experts, which cannot run yet",
                        n_experts);

    struct nib_text name;
    if (nib_gguf_get_text(nib_gguf_find(gguf, "general.name"), &name)) {
        model->name = nib_arena_text(arena, name.ptr, name.size);
        if (!model->name)
            return nib_fail_memory(err);
    }
    // An absent head means a tied one.
    out_config->tied = false;
    if (arch->wide_head_layers != 0 && model->n_layers == arch->wide_head_layers &&
        model->attention_scale == 0)
        model->attention_scale =
            (float)(1 / sqrt((double)model->hidden_size / (double)model->n_heads));
    NIB_TRY(read_ropes(&metadata, &numbers, model, arena, err));

    struct nib_layer_rules rules = {.window_period = arch->window_period,
                                    .no_rope_period = arch->no_rope_period};
    NIB_TRY(read_pattern(&metadata, model->n_layers, &rules, arena, err));
    NIB_TRY(nib_config_end(out_config, &rules, arena, err));
fail:
    return status;
}
