#include "runtime/import/config_import.h"

#include "runtime/base/status.h"

#include <math.h>

/// What a user can do about a model that no class of transformers describes.
#define REMEDY "take the model's own Hugging Face folder as the source"

/// What is written. `failed`: memory has run out, which is looked at once, at the end.
struct writer {
    const struct nib_import_config *config;
    json_t *json;
    bool failed;
};

static void set(struct writer *writer, json_t *object, const char *key, json_t *value)
{
    writer->failed |= json_object_set_new(object, key, value) != 0;
}

static void set_real(struct writer *writer, json_t *object, const char *key, float number)
{
    set(writer, object, key, nib_config_real(number));
}

static json_t *real_list(struct writer *writer, const float *numbers, uint32_t count)
{
    json_t *list = json_array();
    for (uint32_t i = 0; i < count; i++)
        writer->failed |= json_array_append_new(list, nib_config_real(numbers[i])) != 0;
    return list;
}

static void write_gate(struct writer *writer)
{
    static const char *const names[] = {[NIB_GATE_SILU] = "silu",
                                        [NIB_GATE_GELU_TANH] = "gelu_pytorch_tanh",
                                        [NIB_GATE_GELU] = "gelu"};
    const enum nib_gate_function gate = writer->config->model.gate;
    set(writer, writer->json, "hidden_act", json_string(names[gate]));
    if (gate != NIB_GATE_SILU) // Gemma's name of the key
        set(writer, writer->json, "hidden_activation", json_string(names[gate]));
}

/// Finds the parameters of Llama 3.1's scaling, of which GGUF files keep only what comes out: all
/// such models share all but the factor, which the slowest frequency tells.
static enum nib_status write_divisors(struct writer *writer, const struct nib_rope_config *rope,
                                      json_t *scaling, struct nib_error *err)
{
    static const double low = 1, high = 4, original = 8192, turn = 6.283185307179586;
    const uint32_t pairs = rope->dims / 2;
    const double factor = (double)rope->divisors[pairs - 1];
    for (uint32_t i = 0; i < pairs; i++) {
        const double turns = original * pow((double)rope->base, -2.0 * i / rope->dims) / turn;
        const double smooth = fmin(fmax((turns - low) / (high - low), 0), 1);
        const double expected = 1 / ((1 - smooth) / factor + smooth);
        if (rope->scaling != NIB_ROPE_SCALING_NONE ||
            fabs((double)rope->divisors[i] - expected) > 1e-4 * expected)
            return nib_fail(err, NIB_ERROR_UNSUPPORTED,
                            "the model's RoPE factors are not those of Llama 3.1; " REMEDY);
    }
    set(writer, scaling, "rope_type", json_string("llama3"));
    set_real(writer, scaling, "factor", (float)factor);
    set_real(writer, scaling, "low_freq_factor", (float)low);
    set_real(writer, scaling, "high_freq_factor", (float)high);
    set(writer, scaling, "original_max_position_embeddings", json_integer((json_int_t)original));
    return NIB_OK;
}

static void write_yarn(struct writer *writer, const struct nib_rope_config *rope, json_t *scaling)
{
    set_real(writer, scaling, "beta_fast", rope->beta_fast);
    set_real(writer, scaling, "beta_slow", rope->beta_slow);
    if (!rope->truncate)
        set(writer, scaling, "truncate", json_false());
}

static void write_longrope(struct writer *writer, const struct nib_rope_config *rope,
                           json_t *scaling)
{
    const uint32_t pairs = rope->dims / 2;
    set(writer, scaling, "short_factor", real_list(writer, rope->short_factors, pairs));
    set(writer, scaling, "long_factor", real_list(writer, rope->long_factors, pairs));
    if (rope->original_context) // at the top, too: there its class looks first
        set(writer, writer->json, "original_max_position_embeddings",
            json_integer(rope->original_context));
}

static void write_scaling(struct writer *writer, const struct nib_rope_config *rope,
                          json_t *scaling)
{
    static const char *const types[] = {[NIB_ROPE_SCALING_NONE] = "default",
                                        [NIB_ROPE_SCALING_LINEAR] = "linear",
                                        [NIB_ROPE_SCALING_LLAMA3] = "llama3",
                                        [NIB_ROPE_SCALING_YARN] = "yarn",
                                        [NIB_ROPE_SCALING_LONGROPE] = "longrope"};
    set(writer, scaling, "rope_type", json_string(types[rope->scaling]));
    if (rope->factor != 0)
        set_real(writer, scaling, "factor", rope->factor);
    else if (rope->original_context != 0 && rope->scaling == NIB_ROPE_SCALING_YARN)
        set_real(writer, scaling, "factor",
                 (float)writer->config->model.context / (float)rope->original_context);
    if (rope->original_context)
        set(writer, scaling, "original_max_position_embeddings",
            json_integer(rope->original_context));
    if (rope->attention_factor != 0)
        set_real(writer, scaling, "attention_factor", rope->attention_factor);
    if (rope->scaling == NIB_ROPE_SCALING_YARN)
        write_yarn(writer, rope, scaling);
    if (rope->scaling == NIB_ROPE_SCALING_LONGROPE)
        write_longrope(writer, rope, scaling);
}

/// Returns the least part of `whole` whose product with it is not under `count`, as readers round
/// down.
static double part_of(uint32_t count, uint32_t whole)
{
    const double part = (double)count / (double)whole;
    return part * (double)whole < (double)count ? nextafter(part, 1) : part;
}

/// Writes the keys of transformers 4, which transformers 5 reads as well.
static enum nib_status write_ropes(struct writer *writer, struct nib_error *err)
{
    const struct nib_model_config *model = &writer->config->model;
    const struct nib_rope_config *rope = &model->ropes[0];
    enum nib_status status = NIB_OK;
    set_real(writer, writer->json, "rope_theta", rope->base);
    if (rope->dims != model->key_dim)
        set(writer, writer->json, "partial_rotary_factor",
            json_real(part_of(rope->dims, model->key_dim)));
    if (writer->config->arch->window_rope_base != 0)
        set_real(writer, writer->json, "rope_local_base_freq", model->ropes[1].base);
    if (rope->scaling == NIB_ROPE_SCALING_NONE && !rope->divisors)
        return NIB_OK;
    json_t *scaling = json_object();
    if (rope->divisors)
        status = write_divisors(writer, rope, scaling, err);
    else
        write_scaling(writer, rope, scaling);
    set(writer, writer->json, "rope_scaling", scaling);
    return status;
}

static void write_layers(struct writer *writer)
{
    const struct nib_arch *arch = writer->config->arch;
    const struct nib_model_config *model = &writer->config->model;
    json_t *types = json_array(), *ropes = json_array();
    for (uint32_t i = 0; i < model->n_layers; i++) {
        const struct nib_layer_config *layer = &model->layers[i];
        const char *type = layer->window ? "sliding_attention" : "full_attention";
        writer->failed |= json_array_append_new(types, json_string(type)) != 0;
        writer->failed |= json_array_append_new(ropes, json_integer(layer->rope >= 0)) != 0;
    }
    const bool has_types = arch->window_rule != NIB_WINDOW_NONE && !arch->window_rope_plain;
    if (has_types || arch->window_rope_base != 0)
        set(writer, writer->json, "layer_types", types);
    else
        json_decref(types);
    if (arch->window_rule == NIB_WINDOW_FLAG || arch->window_rule == NIB_WINDOW_NO_ROPE)
        set(writer, writer->json, "use_sliding_window", json_boolean(model->sliding_window != 0));
    if (arch->no_rope_period != 0)
        set(writer, writer->json, "no_rope_layers", ropes);
    else
        json_decref(ropes);
}

/// What transformers' class of the architecture takes for granted.
static enum nib_status check(const struct nib_import_config *config, struct nib_error *err)
{
    const struct nib_arch *arch = config->arch;
    const struct nib_model_config *model = &config->model;
    const float scale = (float)(1 / sqrt((double)model->key_dim));
    const char *what = NULL;
    if (model->value_dim != model->key_dim)
        what = "heads of values of another size than those of keys";
    else if (arch->attention_multiplier == 0 && arch->query_scalar == 0 &&
             fabsf(model->attention_scale - scale) > 1e-6f * scale)
        what = "an attention scale of its own";
    else if (arch->attention_multiplier == 0 &&
             (model->logit_scale != 1 || model->residual_scale != 1))
        what = "scales of logits or residuals";
    else if (model->sliding_window != 0 && arch->window_rope_plain && arch->window_rope_base == 0)
        what = "layers with a window";
    else if (model->sliding_window != 0 && arch->window_rule == NIB_WINDOW_NONE)
        what = "layers with a window";
    if (!what)
        return NIB_OK;
    return nib_fail(err, NIB_ERROR_UNSUPPORTED, "transformers' %s knows no %s; " REMEDY,
                    arch->hf_class, what);
}

/// Writes the number whose power of −1/2 is the attention scale, a whole one in all models known,
/// which its class asks for.
static void write_query_scalar(struct writer *writer)
{
    const float scale = writer->config->model.attention_scale;
    const float scalar = 1 / (scale * scale), whole = roundf(scalar);
    set(writer, writer->json, "query_pre_attn_scalar",
        fabsf(scalar - whole) < 1e-5f * whole ? json_integer((json_int_t)whole)
                                              : nib_config_real(scalar));
}

enum nib_status nib_config_to_json(const struct nib_import_config *config, json_t **out_json,
                                   struct nib_error *err)
{
    enum nib_status status;
    const struct nib_arch *arch = config->arch;
    const struct nib_model_config *model = &config->model;
    struct writer writer = {.config = config, .json = json_object()};
    json_t *classes = json_array();
    *out_json = NULL;
    NIB_TRY(check(config, err));
    writer.failed |= json_array_append_new(classes, json_string(arch->hf_class)) != 0;
    set(&writer, writer.json, "architectures", json_incref(classes));
    set(&writer, writer.json, "model_type", json_string(arch->hf[0]));
    set(&writer, writer.json, "vocab_size", json_integer(model->vocabulary));
    writer.failed |= !nib_config_put_numbers(config, writer.json);
    write_gate(&writer);
    if (arch->query_scalar != 0)
        write_query_scalar(&writer);
    set(&writer, writer.json, "tie_word_embeddings", json_boolean(config->tied));
    NIB_TRY(write_ropes(&writer, err));
    write_layers(&writer);
    if (writer.failed)
        NIB_TRY(nib_fail_memory(err));
    *out_json = json_incref(writer.json);
fail:
    json_decref(classes);
    json_decref(writer.json);
    return status;
}
