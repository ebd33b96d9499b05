#include "runtime/import/config_import.h"

#include "runtime/base/status.h"
#include "runtime/formats/json.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

static enum nib_status find_number(const void *file, const char *key, enum nib_found *out_found,
                                   double *out_number, struct nib_error *err)
{
    const json_t *value = json_object_get(file, key);
    *out_found = !value ? NIB_ABSENT : json_is_null(value) ? NIB_NULL : NIB_NUMBER;
    *out_number = json_number_value(value);
    if (value && !json_is_null(value) && !json_is_number(value))
        return nib_fail(err, NIB_ERROR_FORMAT, "key '%s' is no number", key);
    return NIB_OK;
}

static struct nib_number_file numbers_of(const json_t *object)
{
    return (struct nib_number_file){NIB_CONTAINER_HF, object, find_number};
}

/// Returns whether member `key` is the text `name`.
static bool is_text(const json_t *object, const char *key, const char *name)
{
    struct nib_text text;
    return nib_json_get_text(object, key, &text) && text.size == strlen(name) &&
           memcmp(text.ptr, name, text.size) == 0;
}

static enum nib_status unsupported_text(const char *what, const json_t *object, const char *key,
                                        struct nib_error *err)
{
    struct nib_text text = {NULL, 0};
    nib_json_get_text(object, key, &text);
    return nib_fail(err, NIB_ERROR_UNSUPPORTED, "%s '%.*s' is not known (key '%s')", what,
                    text.size < 64 ? (int)text.size : 64, text.ptr ? text.ptr : "", key);
}

static enum nib_status read_gate(const json_t *json, enum nib_gate_function *gate,
                                 struct nib_error *err)
{
    static const struct {
        const char *name;
        enum nib_gate_function gate;
    } gates[] = {
        {"silu", NIB_GATE_SILU},
        {"swish", NIB_GATE_SILU},
        {"gelu_pytorch_tanh", NIB_GATE_GELU_TANH},
        {"gelu_new", NIB_GATE_GELU_TANH},
        {"gelu", NIB_GATE_GELU},
    };
    // Gemma 2 has both keys and heeds the first.
    const char *key = "hidden_activation";
    struct nib_text text;
    if (!nib_json_get_text(json, key, &text))
        key = "hidden_act";
    if (!nib_json_get_text(json, key, &text))
        return NIB_OK;
    for (size_t i = 0; i < sizeof gates / sizeof gates[0]; i++) {
        if (is_text(json, key, gates[i].name)) {
            *gate = gates[i].gate;
            return NIB_OK;
        }
    }
    return unsupported_text("activation function", json, key, err);
}

/// Copies an array of `count` positive numbers.
static enum nib_status read_factors(const json_t *object, const char *key, uint32_t count,
                                    struct nib_arena *arena, const float **out_factors,
                                    struct nib_error *err)
{
    const json_t *array = json_object_get(object, key);
    if (!json_is_array(array) || json_array_size(array) != count)
        return nib_fail(err, NIB_ERROR_FORMAT, "key '%s' is no list of %" PRIu32 " numbers", key,
                        count);
    float *factors = nib_arena_array(arena, count, sizeof *factors);
    if (!factors)
        return nib_fail_memory(err);
    for (uint32_t i = 0; i < count; i++) {
        factors[i] = (float)json_number_value(json_array_get(array, i));
        if (!(factors[i] > 0 && factors[i] <= (float)NIB_ROPE_LIMIT))
            return nib_fail(err, NIB_ERROR_FORMAT, "number %" PRIu32 " of '%s' is %g", i, key,
                            (double)factors[i]);
    }
    *out_factors = factors;
    return NIB_OK;
}

/// What one RoPE is read from.
struct rope_source {
    const json_t *json;   ///< the configuration
    const json_t *object; ///< rope_parameters, rope_scaling or a part of them; NULL: none
    bool part;            ///< `object` is for one type of layer
    float base;           ///< where there is no rope_theta
    struct nib_arena *arena;
};

static enum nib_status read_scaling_type(const struct rope_source *source,
                                         enum nib_rope_scaling *out_scaling, struct nib_error *err)
{
    static const struct {
        const char *name;
        enum nib_rope_scaling scaling;
    } types[] = {
        {"default", NIB_ROPE_SCALING_NONE},
        {"linear", NIB_ROPE_SCALING_LINEAR},
        {"llama3", NIB_ROPE_SCALING_LLAMA3},
        {"yarn", NIB_ROPE_SCALING_YARN},
        {"longrope", NIB_ROPE_SCALING_LONGROPE},
        {"su", NIB_ROPE_SCALING_LONGROPE},
        // Stretches nothing up to max_position_embeddings, beyond which no context goes.
        {"dynamic", NIB_ROPE_SCALING_NONE},
    };
    *out_scaling = NIB_ROPE_SCALING_NONE;
    struct nib_text text;
    const char *key = "rope_type";
    if (!nib_json_get_text(source->object, key, &text))
        key = "type"; // its name before transformers 4.43
    if (!nib_json_get_text(source->object, key, &text))
        return NIB_OK;
    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++) {
        if (is_text(source->object, key, types[i].name)) {
            *out_scaling = types[i].scaling;
            // Early Phi-3 files call their long-rope "yarn".
            if (json_is_array(json_object_get(source->object, "long_factor")))
                *out_scaling = NIB_ROPE_SCALING_LONGROPE;
            return NIB_OK;
        }
    }
    return unsupported_text("RoPE scaling", source->object, key, err);
}

static enum nib_status read_scaling(const struct rope_source *source, struct nib_rope_config *rope,
                                    struct nib_error *err)
{
    enum nib_status status;
    const double limit = NIB_ROPE_LIMIT;
    const struct nib_number_file numbers = numbers_of(source->object);
    const struct nib_number_file outer = numbers_of(source->json);
    const char *original = "original_max_position_embeddings";
    uint32_t outer_context = 0;
    NIB_TRY(read_scaling_type(source, &rope->scaling, err));
    if (rope->scaling == NIB_ROPE_SCALING_NONE)
        return NIB_OK;

    NIB_TRY(nib_config_number(&numbers, "factor", 0, limit, &rope->factor, err));
    NIB_TRY(nib_config_count(&numbers, original, 0, INT32_MAX, &rope->original_context, err));
    if (!source->part)
        NIB_TRY(nib_config_count(&outer, original, 0, INT32_MAX, &outer_context, err));
    if (outer_context != 0)
        rope->original_context = outer_context;
    NIB_TRY(nib_config_number(&numbers, "low_freq_factor", 1e-6, limit, &rope->low_frequency_factor,
                              err));
    NIB_TRY(nib_config_number(&numbers, "high_freq_factor", 1e-6, limit,
                              &rope->high_frequency_factor, err));
    NIB_TRY(
        nib_config_number(&numbers, "attention_factor", 0, limit, &rope->attention_factor, err));
    rope->beta_fast = 32;
    rope->beta_slow = 1;
    rope->truncate = true;
    NIB_TRY(nib_config_number(&numbers, "beta_fast", 1e-6, limit, &rope->beta_fast, err));
    NIB_TRY(nib_config_number(&numbers, "beta_slow", 1e-6, limit, &rope->beta_slow, err));
    NIB_TRY(nib_config_number(&numbers, "mscale", 0, 1e3, &rope->mscale, err));
    NIB_TRY(nib_config_number(&numbers, "mscale_all_dim", 0, 1e3, &rope->mscale_all_dims, err));
    nib_json_get_bool(source->object, "truncate", &rope->truncate);
    if (rope->scaling == NIB_ROPE_SCALING_LONGROPE) {
        NIB_TRY(read_factors(source->object, "short_factor", rope->dims / 2, source->arena,
                             &rope->short_factors, err));
        NIB_TRY(read_factors(source->object, "long_factor", rope->dims / 2, source->arena,
                             &rope->long_factors, err));
    }
fail:
    return status;
}

/// Reads the part of a head that is rotated. It stays a double: its product with the head's size is
/// rounded down, as in Python, and 0.9 of 80 must be 72.
static enum nib_status read_rotated(const json_t *object, double *out_rotated,
                                    struct nib_error *err)
{
    const char *key = "partial_rotary_factor";
    const struct nib_number_file numbers = numbers_of(object);
    float checked;
    const enum nib_status status = nib_config_number(&numbers, key, 1e-6, 1, &checked, err);
    const json_t *number = json_object_get(object, key);
    if (status == NIB_OK && json_is_number(number))
        *out_rotated = json_number_value(number);
    return status;
}

static enum nib_status read_rope(const struct rope_source *source,
                                 const struct nib_model_config *model, struct nib_rope_config *rope,
                                 struct nib_error *err)
{
    enum nib_status status;
    const struct nib_number_file numbers = numbers_of(source->object);
    double rotated = 1;
    *rope = (struct nib_rope_config){.base = source->base};
    NIB_TRY(nib_config_number(&numbers, "rope_theta", 1.001, NIB_ROPE_LIMIT, &rope->base, err));
    NIB_TRY(read_rotated(source->json, &rotated, err));
    NIB_TRY(read_rotated(source->object, &rotated, err));
    rope->dims = (uint32_t)((double)model->key_dim * rotated);
    NIB_TRY(read_scaling(source, rope, err));
    NIB_TRY(nib_config_check_rope(rope, model, err));
fail:
    return status;
}

/// Reads ropes[0], that of layers without a window, and ropes[1] where those with one have another.
/// transformers 4 has rope_theta, rope_scaling and rope_local_base_freq at the top, transformers 5
/// one object rope_parameters, or one in it for each type of layer.
static enum nib_status read_ropes(const json_t *json, const struct nib_arch *arch,
                                  struct nib_model_config *model, struct nib_arena *arena,
                                  struct nib_error *err)
{
    enum nib_status status;
    const struct nib_number_file outer = numbers_of(json);
    const json_t *object = json_object_get(json, "rope_scaling");
    if (!json_is_object(object) || json_object_size(object) == 0)
        object = json_object_get(json, "rope_parameters");
    const json_t *full = json_object_get(object, "full_attention");
    const json_t *window = json_object_get(object, "sliding_attention");
    bool parts = json_is_object(full) || json_is_object(window);

    struct rope_source source = {
        .json = json,
        .object = parts ? full : object,
        .part = parts,
        .base = arch->rope_base,
        .arena = arena,
    };
    NIB_TRY(nib_config_number(&outer, "rope_theta", 1.001, NIB_ROPE_LIMIT, &source.base, err));
    NIB_TRY(read_rope(&source, model, &model->ropes[0], err));

    if (!parts && arch->window_rope_base == 0)
        return NIB_OK;
    model->n_ropes = 2;
    source.object = parts ? window : NULL;
    source.part = true;
    if (arch->window_rope_base != 0)
        source.base = arch->window_rope_base;
    NIB_TRY(nib_config_number(&outer, "rope_local_base_freq", 1.001, NIB_ROPE_LIMIT, &source.base,
                              err));
    NIB_TRY(read_rope(&source, model, &model->ropes[1], err));
fail:
    return status;
}

/// Reads layer_types into flags, one a layer; NULL where there is no such key.
static enum nib_status read_layer_types(const json_t *json, uint32_t n_layers,
                                        struct nib_arena *arena, const bool **out_has_window,
                                        struct nib_error *err)
{
    const json_t *types = json_object_get(json, "layer_types");
    if (!types || json_is_null(types))
        return NIB_OK;
    if (json_array_size(types) < n_layers)
        return nib_fail(err, NIB_ERROR_FORMAT, "key 'layer_types' is no list of %" PRIu32 " texts",
                        n_layers);
    bool *flags = nib_arena_array(arena, n_layers, sizeof *flags);
    if (!flags)
        return nib_fail_memory(err);
    for (uint32_t i = 0; i < n_layers; i++) {
        const char *type = json_string_value(json_array_get(types, i));
        flags[i] = type && strcmp(type, "sliding_attention") == 0;
        if (!flags[i] && (!type || strcmp(type, "full_attention") != 0))
            return nib_fail(err, NIB_ERROR_UNSUPPORTED,
                            "layer %" PRIu32 " has type '%.64s', which is not known "
                            "(key 'layer_types')",
                            i, type ? type : "");
    }
    *out_has_window = flags;
    return NIB_OK;
}

/// Reads no_rope_layers, whose 0 stands for a layer without RoPE.
static enum nib_status read_no_rope_layers(const json_t *json, uint32_t n_layers,
                                           struct nib_arena *arena, const bool **out_has_rope,
                                           struct nib_error *err)
{
    const json_t *list = json_object_get(json, "no_rope_layers");
    if (!list || json_is_null(list))
        return NIB_OK;
    if (json_array_size(list) < n_layers)
        return nib_fail(err, NIB_ERROR_FORMAT,
                        "key 'no_rope_layers' is no list of %" PRIu32 " numbers", n_layers);
    bool *flags = nib_arena_array(arena, n_layers, sizeof *flags);
    if (!flags)
        return nib_fail_memory(err);
    for (uint32_t i = 0; i < n_layers; i++)
        flags[i] = json_number_value(json_array_get(list, i)) != 0;
    *out_has_rope = flags;
    return NIB_OK;
}

static enum nib_status read_layers(const json_t *json, struct nib_import_config *config,
                                   struct nib_arena *arena, struct nib_error *err)
{
    enum nib_status status;
    const struct nib_arch *arch = config->arch;
    struct nib_model_config *model = &config->model;
    const struct nib_number_file numbers = numbers_of(json);
    struct nib_layer_rules rules = {
        .first_window_layer = 28, // transformers' default of max_window_layers
        .window_period = arch->window_period,
        .no_rope_period = arch->no_rope_period,
    };
    nib_json_get_bool(json, "use_sliding_window", &rules.use_window);
    NIB_TRY(nib_config_count(&numbers, "max_window_layers", 0, INT32_MAX, &rules.first_window_layer,
                             err));
    if (arch->window_rule == NIB_WINDOW_PERIOD)
        NIB_TRY(nib_config_count(&numbers, "sliding_window_pattern", 1, INT32_MAX,
                                 &rules.window_period, err));
    if (arch->no_rope_period != 0) {
        NIB_TRY(nib_config_count(&numbers, "no_rope_layer_interval", 1, INT32_MAX,
                                 &rules.no_rope_period, err));
        NIB_TRY(read_no_rope_layers(json, model->n_layers, arena, &rules.has_rope, err));
    }
    bool flagged = arch->window_rule == NIB_WINDOW_FLAG || arch->window_rule == NIB_WINDOW_NO_ROPE;
    if (flagged && !rules.use_window)
        model->sliding_window = 0;
    if (arch->window_rule != NIB_WINDOW_NONE)
        NIB_TRY(read_layer_types(json, model->n_layers, arena, &rules.has_window, err));
    NIB_TRY(nib_config_end(config, &rules, arena, err));
fail:
    return status;
}

static enum nib_status find_arch(const json_t *json, const json_t *text_config,
                                 const struct nib_arch **out_arch, struct nib_error *err)
{
    struct nib_text name;
    if (!nib_json_get_text(text_config, "model_type", &name) &&
        !nib_json_get_text(json, "model_type", &name))
        return nib_fail(err, NIB_ERROR_FORMAT, "key 'model_type' is missing");
    *out_arch = nib_arch_find(NIB_CONTAINER_HF, name);
    if (*out_arch)
        return NIB_OK;
    char known[256];
    nib_arch_list(NIB_CONTAINER_HF, known, sizeof known);
    return nib_fail(err, NIB_ERROR_UNSUPPORTED, "architecture '%.*s' is none of %s",
                    name.size < 64 ? (int)name.size : 64, name.ptr, known);
}

enum nib_status nib_config_from_json(const json_t *json, struct nib_arena *arena,
                                     struct nib_import_config *out_config, struct nib_error *err)
{
    enum nib_status status;
    struct nib_model_config *model = &out_config->model;
    const struct nib_arch *arch;
    *out_config = (struct nib_import_config){0};
    if (!json_is_object(json))
        return nib_fail(err, NIB_ERROR_FORMAT, "config.json is no object");
    // Models of images and text keep the language model's keys in an object of their own.
    const json_t *text = json_object_get(json, "text_config");
    if (!json_is_object(text))
        text = json;
    NIB_TRY(find_arch(json, text, &arch, err));

    const struct nib_number_file numbers = numbers_of(text);
    NIB_TRY(nib_config_begin(arch, &numbers, out_config, err));
    NIB_TRY(read_gate(text, &model->gate, err));
    nib_json_get_bool(json, "tie_word_embeddings", &out_config->tied);
    nib_json_get_bool(text, "tie_word_embeddings", &out_config->tied);
    if (!arch->qkv_bias)
        nib_json_get_bool(text, "attention_bias", &out_config->biased);
    bool bidirectional = false;
    nib_json_get_bool(text, "use_bidirectional_attention", &bidirectional);
    if (bidirectional)
        return nib_fail(err, NIB_ERROR_UNSUPPORTED,
                        "attention looks ahead (key 'use_bidirectional_attention')");

    if (arch->query_scalar != 0) {
        float scalar = arch->query_scalar;
        NIB_TRY(nib_config_number(&numbers, "query_pre_attn_scalar", 1e-6, 1e6, &scalar, err));
        model->attention_scale = (float)(1 / sqrt((double)scalar));
    }
    NIB_TRY(read_ropes(text, arch, model, arena, err));
    NIB_TRY(read_layers(text, out_config, arena, err));
fail:
    return status;
}
