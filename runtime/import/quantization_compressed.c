#include "runtime/import/reader_planes.h"

#include "runtime/base/status.h"
#include "runtime/formats/json.h"

#include <string.h>

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

/// Steps that a pattern of a file may take on one name: names are short, good patterns take dozens.
#define MATCH_LIMIT 100000

static enum nib_status parse_int(const json_t *object, struct nib_error *err)
{
    struct nib_text type = {"int", 3};
    const enum nib_status status = nib_quantization_text(object, "type", &type, err);
    if (status != NIB_OK || nib_quantization_is(type, "int"))
        return status;
    return nib_quantization_unknown(object, "type", err);
}

static enum nib_status parse_weights(const json_t *weights, struct nib_quantization_scheme *scheme,
                                     struct nib_error *err)
{
    enum nib_status status;
    struct nib_text strategy = {NULL, 0};
    bool is_dynamic = false;
    if (!json_is_object(weights))
        NIB_TRY(nib_fail(err, NIB_ERROR_UNSUPPORTED,
                         "quantization_config: key 'weights' of 'config_groups' is missing"));
    scheme->symmetric = true;
    NIB_TRY(nib_quantization_bits(weights, "num_bits", &scheme->bits, err));
    NIB_TRY(parse_int(weights, err));
    NIB_TRY(nib_quantization_bool(weights, "symmetric", &scheme->symmetric, err));
    NIB_TRY(nib_quantization_bool(weights, "dynamic", &is_dynamic, err));
    if (is_dynamic)
        NIB_TRY(nib_quantization_unknown(weights, "dynamic", err));
    NIB_TRY(nib_quantization_group(weights, "group_size", &scheme->group, err));
    NIB_TRY(nib_quantization_text(weights, "strategy", &strategy, err));
    if (!strategy.ptr) {
        // A group_size of -1 stands for channels, none for the tensor.
        scheme->per_tensor = !json_is_number(json_object_get(weights, "group_size"));
    } else if (nib_quantization_is(strategy, "group")) {
        if (scheme->group == 0)
            NIB_TRY(nib_quantization_bad_key(weights, "group_size", err));
    } else {
        scheme->group = 0;
        scheme->per_tensor = nib_quantization_is(strategy, "tensor");
        if (!scheme->per_tensor && !nib_quantization_is(strategy, "channel"))
            NIB_TRY(nib_quantization_unknown(weights, "strategy", err));
    }
    if (scheme->per_tensor && !scheme->symmetric)
        NIB_TRY(nib_quantization_unknown(weights, "symmetric", err));
fail:
    return status;
}

static enum nib_status parse_activations(const json_t *input,
                                         struct nib_quantization_scheme *scheme,
                                         struct nib_error *err)
{
    enum nib_status status;
    uint32_t bits;
    bool is_symmetric = true;
    bool is_dynamic = false;
    struct nib_text strategy = {"tensor", 6};
    scheme->activation = NIB_ACTIVATION_F32;
    if (!input || json_is_null(input))
        return NIB_OK;
    if (!json_is_object(input))
        NIB_TRY(nib_fail(err, NIB_ERROR_FORMAT,
                         "quantization_config: key 'input_activations' is no object"));
    NIB_TRY(nib_quantization_bits(input, "num_bits", &bits, err));
    if (bits != 8)
        NIB_TRY(nib_quantization_unknown(input, "num_bits", err));
    NIB_TRY(parse_int(input, err));
    NIB_TRY(nib_quantization_bool(input, "symmetric", &is_symmetric, err));
    if (!is_symmetric)
        NIB_TRY(nib_quantization_unknown(input, "symmetric", err));
    NIB_TRY(nib_quantization_bool(input, "dynamic", &is_dynamic, err));
    NIB_TRY(nib_quantization_text(input, "strategy", &strategy, err));
    if (!nib_quantization_is(strategy, is_dynamic ? "token" : "tensor"))
        NIB_TRY(nib_quantization_unknown(input, "strategy", err));
    scheme->activation = is_dynamic ? NIB_ACTIVATION_INT8_TOKEN : NIB_ACTIVATION_INT8_STATIC;
fail:
    return status;
}

static enum nib_status parse_targets(const json_t *group, struct nib_arena *arena,
                                     struct nib_quantization_scheme *scheme, struct nib_error *err)
{
    const json_t *targets = json_object_get(group, "targets");
    const size_t n = json_array_size(targets);
    if (!json_is_array(targets) || n > UINT32_MAX)
        return nib_quantization_bad_key(group, "targets", err);
    scheme->targets = nib_arena_array(arena, n, sizeof *scheme->targets);
    if (!scheme->targets)
        return nib_fail_memory(err);
    for (size_t i = 0; i < n; i++) {
        const json_t *target = json_array_get(targets, i);
        if (!json_is_string(target))
            return nib_quantization_bad_key(group, "targets", err);
        scheme->targets[i] =
            nib_arena_text(arena, json_string_value(target), json_string_length(target));
        if (!scheme->targets[i])
            return nib_fail_memory(err);
    }
    scheme->n_targets = (uint32_t)n;
    return NIB_OK;
}

/// A group's own format goes before the whole file's.
static enum nib_status parse_format(const json_t *object, const json_t *group,
                                    struct nib_quantization_scheme *scheme, struct nib_error *err)
{
    const json_t *own = json_object_get(group, "format");
    const json_t *from = own && !json_is_null(own) ? group : object;
    struct nib_text format = {"", 0};
    const enum nib_status status = nib_quantization_text(from, "format", &format, err);
    if (status != NIB_OK)
        return status;
    scheme->packed = nib_quantization_is(format, "pack-quantized");
    if (!scheme->packed && !nib_quantization_is(format, "int-quantized") &&
        !nib_quantization_is(format, "naive-quantized"))
        return nib_quantization_unknown(from, "format", err);
    return NIB_OK;
}

enum nib_status nib_quantization_parse_compressed(const json_t *object,
                                                  struct nib_quantization *quantization,
                                                  struct nib_error *err)
{
    enum nib_status status;
    json_t *groups = json_object_get(object, "config_groups");
    struct nib_arena *arena = quantization->arena;
    quantization->method = NIB_QUANTIZATION_COMPRESSED;
    if (!json_is_object(groups) || json_object_size(groups) == 0)
        NIB_TRY(nib_quantization_bad_key(object, "config_groups", err));
    NIB_TRY(nib_quantization_refuse(object, "sparsity_config", err));
    NIB_TRY(nib_quantization_refuse(object, "transform_config", err));
    NIB_TRY(nib_quantization_refuse(object, "kv_cache_scheme", err));
    quantization->schemes =
        nib_arena_array(arena, json_object_size(groups), sizeof *quantization->schemes);
    if (!quantization->schemes)
        NIB_TRY(nib_fail_memory(err));
    quantization->n_schemes = 0;
    for (void *at = json_object_iter(groups); at; at = json_object_iter_next(groups, at)) {
        const json_t *group = json_object_iter_value(at);
        struct nib_quantization_scheme *scheme = &quantization->schemes[quantization->n_schemes++];
        NIB_TRY(parse_format(object, group, scheme, err));
        NIB_TRY(parse_weights(json_object_get(group, "weights"), scheme, err));
        NIB_TRY(parse_activations(json_object_get(group, "input_activations"), scheme, err));
        NIB_TRY(nib_quantization_refuse(group, "output_activations", err));
        NIB_TRY(parse_targets(group, arena, scheme, err));
    }
    static const char *const names[] = {[2] = "compressed-tensors-int2",
                                        [3] = "compressed-tensors-int3",
                                        [4] = "compressed-tensors-int4",
                                        [8] = "compressed-tensors-int8"};
    quantization->name = names[quantization->schemes[0].bits];
fail:
    return status;
}

/// Matches `pattern`, whose syntax is Python's, at the beginning of `name`.
static enum nib_status match_pattern(const char *pattern, const char *name, bool *out_matches,
                                     struct nib_error *err)
{
    int code;
    PCRE2_SIZE offset;
    enum nib_status status = NIB_OK;
    pcre2_match_data *data = NULL;
    pcre2_match_context *context = NULL;
    *out_matches = false;
    pcre2_code *compiled = pcre2_compile((PCRE2_SPTR)pattern, PCRE2_ZERO_TERMINATED,
                                         PCRE2_ANCHORED | PCRE2_UTF, &code, &offset, NULL);
    if (!compiled)
        NIB_TRY(nib_fail(err, NIB_ERROR_FORMAT,
                         "quantization_config: pattern '%s' of 'targets' is wrong at offset %zu",
                         pattern, (size_t)offset));
    data = pcre2_match_data_create(1, NULL);
    context = pcre2_match_context_create(NULL);
    if (!data || !context)
        NIB_TRY(nib_fail_memory(err));
    pcre2_set_match_limit(context, MATCH_LIMIT);
    code = pcre2_match(compiled, (PCRE2_SPTR)name, PCRE2_ZERO_TERMINATED, 0, 0, data, context);
    if (code < 0 && code != PCRE2_ERROR_NOMATCH)
        NIB_TRY(nib_fail(err, NIB_ERROR_FORMAT,
                         "quantization_config: pattern '%s' of 'targets' cannot be matched",
                         pattern));
    *out_matches = code >= 0;
fail:
    pcre2_match_context_free(context);
    pcre2_match_data_free(data);
    pcre2_code_free(compiled);
    return status;
}

/// How closely a target describes a module.
enum fit { FIT_NONE, FIT_CLASS, FIT_PATTERN, FIT_NAME };

static enum nib_status fit_target(const char *target, const char *module, enum fit *out_fit,
                                  struct nib_error *err)
{
    bool matches = false;
    *out_fit = FIT_NONE;
    if (strncmp(target, "re:", 3) == 0) {
        const enum nib_status status = match_pattern(target + 3, module, &matches, err);
        if (matches)
            *out_fit = FIT_PATTERN;
        return status;
    }
    if (strcmp(target, module) == 0)
        *out_fit = FIT_NAME;
    else if (strcmp(target, "Linear") == 0)
        *out_fit = FIT_CLASS;
    return NIB_OK;
}

enum nib_status nib_quantization_match(const struct nib_quantization *quantization,
                                       const char *module,
                                       const struct nib_quantization_scheme **out_scheme,
                                       struct nib_error *err)
{
    enum nib_status status = NIB_OK;
    enum fit best = FIT_NONE;
    *out_scheme = NULL;
    for (uint32_t s = 0; s < quantization->n_schemes; s++) {
        const struct nib_quantization_scheme *scheme = &quantization->schemes[s];
        for (uint32_t t = 0; t < scheme->n_targets; t++) {
            enum fit fit;
            NIB_TRY(fit_target(scheme->targets[t], module, &fit, err));
            if (fit > best) {
                best = fit;
                *out_scheme = scheme;
            }
        }
    }
fail:
    return status;
}
