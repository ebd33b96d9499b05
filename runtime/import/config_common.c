#include "runtime/import/config_import.h"

#include "runtime/base/status.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// Limits that no published model comes near, under which products of three sizes fit in 64 bits and
// widths of activations in 32.
enum {
    MAX_LAYERS = 1024,
    MAX_HEADS = 4096,
    MAX_HEAD_DIM = 4096,
    MAX_WIDTH = 1 << 20,
    MAX_FFN = 1 << 22,
    MAX_CONTEXT = 1 << 28
};
static const double MAX_SCALE = 1e6;

/// A number that both containers may hold, under keys of their own.
struct field {
    const char *keys[NIB_CONTAINER_COUNT]; ///< NULL: the container has none
    size_t offset;                         ///< in nib_model_config
    bool whole;                            ///< uint32_t, else float
    bool required;                         ///< unless the architecture has a default
    double least;
    double most;
};

#define FIELD(member, whole, required, gguf, hf, least, most)                               \
    {                                                                                       \
        {gguf, hf}, offsetof(struct nib_model_config, member), whole, required, least, most \
    }
#define NEEDED(...) FIELD(__VA_ARGS__)
#define WHOLE(member, ...) FIELD(member, true, false, __VA_ARGS__)
#define REAL(member, ...) FIELD(member, false, false, __VA_ARGS__)
static const struct field fields[] = {
    NEEDED(n_layers, true, true, "block_count", "num_hidden_layers", 1, MAX_LAYERS),
    NEEDED(hidden_size, true, true, "embedding_length", "hidden_size", 1, MAX_WIDTH),
    NEEDED(ffn_size, true, true, "feed_forward_length", "intermediate_size", 1, MAX_FFN),
    NEEDED(n_heads, true, true, "attention.head_count", "num_attention_heads", 1, MAX_HEADS),
    NEEDED(context, true, true, "context_length", "max_position_embeddings", 1, MAX_CONTEXT),
    WHOLE(n_kv_heads, "attention.head_count_kv", "num_key_value_heads", 1, MAX_HEADS),
    WHOLE(key_dim, "attention.key_length", "head_dim", 1, MAX_HEAD_DIM),
    WHOLE(value_dim, "attention.value_length", NULL, 1, MAX_HEAD_DIM),
    WHOLE(sliding_window, "attention.sliding_window", "sliding_window", 0, INT32_MAX),
    REAL(norm_epsilon, "attention.layer_norm_rms_epsilon", "rms_norm_eps", 1e-20, 1),
    REAL(attention_scale, "attention.scale", "attention_multiplier", 0, MAX_SCALE),
    REAL(attention_softcap, "attn_logit_softcapping", "attn_logit_softcapping", 0, MAX_SCALE),
    REAL(logit_softcap, "final_logit_softcapping", "final_logit_softcapping", 0, MAX_SCALE),
    REAL(embedding_scale, "embedding_scale", "embedding_multiplier", 1e-6, MAX_SCALE),
    REAL(residual_scale, "residual_scale", "residual_multiplier", 1e-6, MAX_SCALE),
    REAL(logit_scale, "logit_scale", "logits_scaling", 1e-6, MAX_SCALE),
};
enum { N_FIELDS = sizeof fields / sizeof fields[0] };

/// What a number may be.
struct range {
    double least;
    double most;
};

/// Looks `key` up and checks its range. Sets `*out` to NaN where the file leaves the default.
static enum nib_status find_in_range(const struct nib_number_file *numbers, const char *key,
                                     struct range range, double *out, struct nib_error *err)
{
    enum nib_found found;
    enum nib_status status = numbers->find(numbers->file, key, &found, out, err);
    if (status != NIB_OK)
        return status;
    if (found == NIB_NUMBER && !(*out >= range.least && *out <= range.most))
        return nib_fail(err, NIB_ERROR_FORMAT, "key '%s' is %g, which is not within %g and %g", key,
                        *out, range.least, range.most);
    if (found == NIB_NULL && range.least == 0)
        *out = 0;
    else if (found != NIB_NUMBER)
        *out = NAN;
    return NIB_OK;
}

enum nib_status nib_config_number(const struct nib_number_file *numbers, const char *key,
                                  double least, double most, float *out, struct nib_error *err)
{
    double number;
    enum nib_status status = find_in_range(numbers, key, (struct range){least, most}, &number, err);
    if (status == NIB_OK && !isnan(number))
        *out = (float)number;
    return status;
}

enum nib_status nib_config_count(const struct nib_number_file *numbers, const char *key,
                                 uint32_t least, uint32_t most, uint32_t *out,
                                 struct nib_error *err)
{
    double number;
    enum nib_status status = find_in_range(numbers, key, (struct range){least, most}, &number, err);
    if (status != NIB_OK || isnan(number))
        return status;
    if (number != floor(number))
        return nib_fail(err, NIB_ERROR_FORMAT, "key '%s' is %g, which is no whole number", key,
                        number);
    *out = (uint32_t)number;
    return NIB_OK;
}

static enum nib_status read_field(const struct nib_number_file *numbers, const struct field *field,
                                  struct nib_model_config *model, struct nib_error *err)
{
    const char *key = field->keys[numbers->container];
    void *member = (char *)model + field->offset;
    if (!key)
        return NIB_OK;
    if (!field->whole)
        return nib_config_number(numbers, key, field->least, field->most, member, err);

    enum nib_status status =
        nib_config_count(numbers, key, (uint32_t)field->least, (uint32_t)field->most, member, err);
    if (status == NIB_OK && field->required && *(uint32_t *)member == 0)
        return nib_fail(err, NIB_ERROR_FORMAT, "key '%s' is missing", key);
    return status;
}

/// Returns the decimal number of the fewest digits that is `number` as a float.
static double shortest(float number)
{
    char text[32];
    double decimal = (double)number;
    for (int digits = 6; digits <= 9; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, (double)number);
        decimal = strtod(text, NULL);
        if ((float)decimal == number)
            break;
    }
    return decimal;
}

json_t *nib_config_real(float number)
{
    return json_real(shortest(number));
}

/// Whether only architectures with an attention multiplier have the field's key.
static bool is_multiplier(const struct field *field)
{
    return field->offset == offsetof(struct nib_model_config, attention_scale) ||
           field->offset == offsetof(struct nib_model_config, embedding_scale) ||
           field->offset == offsetof(struct nib_model_config, residual_scale) ||
           field->offset == offsetof(struct nib_model_config, logit_scale);
}

bool nib_config_put_numbers(const struct nib_import_config *config, json_t *object)
{
    for (size_t i = 0; i < N_FIELDS; i++) {
        const struct field *field = &fields[i];
        const char *key = field->keys[NIB_CONTAINER_HF];
        const void *member = (const char *)&config->model + field->offset;
        if (!key || (is_multiplier(field) && config->arch->attention_multiplier == 0))
            continue;
        const uint32_t whole = field->whole ? *(const uint32_t *)member : 0;
        float real = field->whole ? 0 : *(const float *)member;
        if (whole == 0 && real == 0)
            continue;
        if (field->offset == offsetof(struct nib_model_config, logit_scale))
            real = 1 / real;
        if (json_object_set_new(object, key,
                                field->whole ? json_integer(whole) : nib_config_real(real)) != 0)
            return false;
    }
    return true;
}

/// Sets what the architecture says by itself; numbers that it leaves to the file are 0.
static void set_defaults(const struct nib_arch *arch, enum nib_container container,
                         struct nib_model_config *model)
{
    bool gguf = container == NIB_CONTAINER_GGUF;
    *model = (struct nib_model_config){
        .architecture = arch->name,
        .name = "",
        .n_heads = arch->n_heads,
        .n_kv_heads = arch->n_kv_heads,
        .key_dim = arch->key_dim,
        .context = arch->context,
        .norm_epsilon = arch->norm_epsilon,
        .norm_offset = arch->shifted_norms && !gguf ? 1 : 0,
        .pre_norm = !arch->no_pre_norm,
        .post_norm = arch->post_norm,
        .qk_norm = arch->qk_norm,
        .gate = arch->gate,
        .embedding_scale = 1,
        .residual_scale = 1,
        .logit_scale = 1,
        .attention_scale = gguf ? 0 : arch->attention_multiplier,
        .attention_softcap = arch->attention_softcap,
        .logit_softcap = arch->logit_softcap,
        .sliding_window = gguf ? arch->gguf_window : arch->window,
        .n_ropes = 1,
    };
    if (gguf) // the containers differ in how they leave sizes out
        model->key_dim = model->n_heads = model->n_kv_heads = 0;
}

enum nib_status nib_config_begin(const struct nib_arch *arch, const struct nib_number_file *numbers,
                                 struct nib_import_config *out_config, struct nib_error *err)
{
    enum nib_status status = NIB_OK;
    struct nib_model_config *model = &out_config->model;
    out_config->arch = arch;
    out_config->tied = arch->tied;
    out_config->biased = arch->qkv_bias;
    set_defaults(arch, numbers->container, model);
    for (size_t i = 0; i < N_FIELDS; i++)
        NIB_TRY(read_field(numbers, &fields[i], model, err));

    if (model->n_kv_heads == 0)
        model->n_kv_heads = model->n_heads;
    if (model->key_dim == 0)
        model->key_dim = model->hidden_size / model->n_heads;
    if (model->value_dim == 0)
        model->value_dim = model->key_dim;
    if (model->key_dim == 0 || model->n_heads % model->n_kv_heads != 0)
        return nib_fail(err, NIB_ERROR_FORMAT,
                        "%" PRIu32 " heads do not go with %" PRIu32
                        " heads of keys and values and a hidden size of %" PRIu32,
                        model->n_heads, model->n_kv_heads, model->hidden_size);
    if (arch->scaled_embedding)
        model->embedding_scale = sqrtf((float)model->hidden_size);
    model->logit_scale = 1 / model->logit_scale;
fail:
    return status;
}

enum nib_status nib_config_check_rope(const struct nib_rope_config *rope,
                                      const struct nib_model_config *model, struct nib_error *err)
{
    if (rope->dims < 2 || rope->dims % 2 != 0 || rope->dims > model->key_dim)
        return nib_fail(err, NIB_ERROR_FORMAT,
                        "RoPE of %" PRIu32 " dimensions does not fit heads of %" PRIu32, rope->dims,
                        model->key_dim);
    const bool yarn = rope->scaling == NIB_ROPE_SCALING_YARN;
    const bool longrope = rope->scaling == NIB_ROPE_SCALING_LONGROPE;
    const uint32_t original = rope->original_context ? rope->original_context : model->context;
    if ((yarn || longrope) && original < 2)
        return nib_fail(err, NIB_ERROR_FORMAT,
                        "RoPE scaling needs an original context of more than one token");
    if (rope->scaling == NIB_ROPE_SCALING_LLAMA3 &&
        rope->high_frequency_factor <= rope->low_frequency_factor)
        return nib_fail(err, NIB_ERROR_FORMAT,
                        "RoPE's high_freq_factor %g is not above its low_freq_factor %g",
                        (double)rope->high_frequency_factor, (double)rope->low_frequency_factor);
    if (rope->scaling != NIB_ROPE_SCALING_NONE && !yarn && !longrope && rope->factor == 0)
        return nib_fail(err, NIB_ERROR_FORMAT, "RoPE scaling has no factor");
    return NIB_OK;
}

/// Whether a layer has the model's window by the architecture's own rule.
static bool has_window(const struct nib_import_config *config, const struct nib_layer_rules *rules,
                       uint32_t layer, bool has_rope)
{
    if (config->model.sliding_window == 0)
        return false;
    switch (config->arch->window_rule) {
    case NIB_WINDOW_NONE:
        return false;
    case NIB_WINDOW_ALL:
        return true;
    case NIB_WINDOW_PERIOD:
        return (layer + 1) % rules->window_period != 0;
    case NIB_WINDOW_FLAG:
        return rules->use_window && layer >= rules->first_window_layer;
    case NIB_WINDOW_NO_ROPE:
        return rules->use_window && !has_rope;
    }
    return false;
}

enum nib_status nib_config_end(struct nib_import_config *config,
                               const struct nib_layer_rules *rules, struct nib_arena *arena,
                               struct nib_error *err)
{
    struct nib_model_config *model = &config->model;
    struct nib_layer_config *layers = nib_arena_array(arena, model->n_layers, sizeof *layers);
    if (!layers)
        return nib_fail_memory(err);
    bool any_window = false;
    for (uint32_t i = 0; i < model->n_layers; i++) {
        bool rope = rules->has_rope
                        ? rules->has_rope[i]
                        : rules->no_rope_period == 0 || (i + 1) % rules->no_rope_period != 0;
        bool window = rules->has_window ? rules->has_window[i] : has_window(config, rules, i, rope);
        layers[i].window = window ? model->sliding_window : 0;
        layers[i].rope = !rope ? -1 : window && model->n_ropes == 2 ? 1 : 0;
        any_window |= layers[i].window != 0;
    }
    model->layers = layers;
    if (!any_window)
        model->sliding_window = 0;

    if ((uint64_t)model->n_heads * model->key_dim > MAX_FFN ||
        (uint64_t)model->n_heads * model->value_dim > MAX_FFN)
        return nib_fail(err, NIB_ERROR_FORMAT, "%" PRIu32 " heads of %" PRIu32 " are too many",
                        model->n_heads, model->key_dim);
    if (model->attention_scale == 0)
        model->attention_scale = (float)(1 / sqrt(model->key_dim));
    return NIB_OK;
}

/// Writes the model as files hold it: scales that the architecture implies are taken for granted.
static void fold_back(const struct nib_arch *arch, struct nib_model_config *model)
{
    if (arch->scaled_embedding)
        model->embedding_scale = 1;
    model->logit_scale = 1 / model->logit_scale;
    if (model->attention_scale == (float)(1 / sqrt(model->key_dim)))
        model->attention_scale = 0;
}

enum nib_status nib_config_visit_numbers(const struct nib_arch *arch, enum nib_container container,
                                         const struct nib_model_config *model,
                                         nib_visit_number_fn *visit, void *user,
                                         struct nib_error *err)
{
    enum nib_status status = NIB_OK;
    struct nib_model_config usual, stored = *model;
    set_defaults(arch, container, &usual);
    fold_back(arch, &stored);
    for (size_t i = 0; i < N_FIELDS; i++) {
        const struct field *field = &fields[i];
        const void *member = (const char *)&stored + field->offset;
        const void *usual_member = (const char *)&usual + field->offset;
        const char *key = field->keys[container];
        if (!key || (!field->required && memcmp(member, usual_member, sizeof(uint32_t)) == 0))
            continue;
        double number = field->whole ? *(const uint32_t *)member : (double)*(const float *)member;
        NIB_TRY(visit(user, key, field->whole, number, err));
    }
fail:
    return status;
}
