#include "runtime/import/quantization.h"

#include "runtime/base/status.h"
#include "runtime/formats/json.h"
#include "runtime/import/reader_planes.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

/// What a user can do about a checkpoint that cannot run.
#define REMEDY "take a GGUF file or an unquantized folder of the model"
/// Values in messages are cut to this.
enum { VALUE_SIZE = 64 };

enum nib_status nib_quantization_bad_key(const json_t *object, const char *key,
                                         struct nib_error *err)
{
    if (!json_object_get(object, key))
        return nib_fail(err, NIB_ERROR_FORMAT, "quantization_config: key '%s' is missing", key);
    return nib_fail(err, NIB_ERROR_FORMAT,
                    "quantization_config: key '%s' has a value that it cannot have", key);
}

enum nib_status nib_quantization_unknown(const json_t *object, const char *key,
                                         struct nib_error *err)
{
    char value[VALUE_SIZE] = "more than nothing";
    const json_t *member = json_object_get(object, key);
    if (json_is_string(member))
        snprintf(value, sizeof value, "'%s'", json_string_value(member));
    else if (json_is_number(member))
        snprintf(value, sizeof value, "%g", json_number_value(member));
    else if (json_is_boolean(member))
        snprintf(value, sizeof value, "%s", json_is_true(member) ? "true" : "false");
    else if (!member || json_is_null(member))
        snprintf(value, sizeof value, "%s", "not given");
    return nib_fail(err, NIB_ERROR_UNSUPPORTED,
                    "quantization_config: key '%s' is %s, which cannot run; " REMEDY, key, value);
}

static bool is_absent(const json_t *member)
{
    return !member || json_is_null(member);
}

enum nib_status nib_quantization_bool(const json_t *object, const char *key, bool *out,
                                      struct nib_error *err)
{
    if (is_absent(json_object_get(object, key)) || nib_json_get_bool(object, key, out))
        return NIB_OK;
    return nib_quantization_bad_key(object, key, err);
}

enum nib_status nib_quantization_text(const json_t *object, const char *key, struct nib_text *out,
                                      struct nib_error *err)
{
    if (is_absent(json_object_get(object, key)) || nib_json_get_text(object, key, out))
        return NIB_OK;
    return nib_quantization_bad_key(object, key, err);
}

enum nib_status nib_quantization_group(const json_t *object, const char *key, uint32_t *out,
                                       struct nib_error *err)
{
    const json_t *member = json_object_get(object, key);
    uint32_t group;
    if (is_absent(member))
        return NIB_OK;
    if (json_is_number(member) && json_number_value(member) == -1)
        *out = 0;
    else if (nib_json_get_u32(object, key, &group) && group > 0 && group <= INT32_MAX)
        *out = group;
    else
        return nib_quantization_bad_key(object, key, err);
    return NIB_OK;
}

enum nib_status nib_quantization_bits(const json_t *object, const char *key, uint32_t *out,
                                      struct nib_error *err)
{
    if (!nib_json_get_u32(object, key, out))
        return nib_quantization_bad_key(object, key, err);
    const bool is_known = *out == 2 || *out == 3 || *out == 4 || *out == 8;
    return is_known ? NIB_OK : nib_quantization_unknown(object, key, err);
}

bool nib_quantization_is(struct nib_text text, const char *word)
{
    if (text.size != strlen(word))
        return false;
    for (size_t i = 0; i < text.size; i++) {
        const char c = text.ptr[i];
        if ((c >= 'A' && c <= 'Z' ? c - 'A' + 'a' : c) != word[i])
            return false;
    }
    return true;
}

enum nib_status nib_quantization_refuse(const json_t *object, const char *key,
                                        struct nib_error *err)
{
    const json_t *member = json_object_get(object, key);
    if (is_absent(member) || (json_is_object(member) && json_object_size(member) == 0))
        return NIB_OK;
    return nib_quantization_unknown(object, key, err);
}

/// Fails where `key` is there and is not `word`.
static enum nib_status require(const json_t *object, const char *key, const char *word,
                               struct nib_error *err)
{
    struct nib_text text = {word, strlen(word)};
    const enum nib_status status = nib_quantization_text(object, key, &text, err);
    if (status != NIB_OK || nib_quantization_is(text, word))
        return status;
    return nib_quantization_unknown(object, key, err);
}

static enum nib_status parse_gptq(const json_t *object, struct nib_quantization *quantization,
                                  struct nib_error *err)
{
    enum nib_status status;
    struct nib_quantization_scheme *scheme = quantization->schemes;
    const char *key = json_object_get(object, "checkpoint_format") ? "checkpoint_format" : "format";
    struct nib_text format = {"gptq", 4};
    bool act_order = false; // g_idx tells more exactly
    quantization->method = NIB_QUANTIZATION_GPTQ;
    scheme->symmetric = true;
    NIB_TRY(nib_quantization_bits(object, "bits", &scheme->bits, err));
    if (!json_object_get(object, "group_size"))
        NIB_TRY(nib_quantization_bad_key(object, "group_size", err));
    NIB_TRY(nib_quantization_group(object, "group_size", &scheme->group, err));
    NIB_TRY(nib_quantization_bool(object, "sym", &scheme->symmetric, err));
    NIB_TRY(nib_quantization_bool(object, "desc_act", &act_order, err));
    NIB_TRY(nib_quantization_text(object, key, &format, err));
    quantization->zero_minus_one = nib_quantization_is(format, "gptq");
    if (!quantization->zero_minus_one && !nib_quantization_is(format, "gptq_v2"))
        NIB_TRY(nib_quantization_unknown(object, key, err));
    NIB_TRY(require(object, "pack_dtype", "int32", err));
    NIB_TRY(nib_quantization_refuse(object, "dynamic", err));
    NIB_TRY(nib_quantization_refuse(object, "adapter", err));
    static const char *const names[] = {
        [2] = "gptq-int2", [3] = "gptq-int3", [4] = "gptq-int4", [8] = "gptq-int8"};
    quantization->name = names[scheme->bits];
fail:
    return status;
}

static enum nib_status parse_awq(const json_t *object, struct nib_quantization *quantization,
                                 struct nib_error *err)
{
    enum nib_status status;
    struct nib_quantization_scheme *scheme = quantization->schemes;
    struct nib_text version = {"gemm", 4};
    bool has_zero = true;
    quantization->method = NIB_QUANTIZATION_AWQ;
    quantization->name = "awq-int4";
    NIB_TRY(nib_quantization_bits(object, "bits", &scheme->bits, err));
    if (scheme->bits != 4)
        NIB_TRY(nib_quantization_unknown(object, "bits", err));
    scheme->group = 128;
    NIB_TRY(nib_quantization_group(object, "group_size", &scheme->group, err));
    NIB_TRY(nib_quantization_bool(object, "zero_point", &has_zero, err));
    if (!has_zero)
        NIB_TRY(nib_quantization_unknown(object, "zero_point", err));
    NIB_TRY(require(object, "backend", "autoawq", err));
    NIB_TRY(nib_quantization_text(object, "version", &version, err));
    quantization->gemv = nib_quantization_is(version, "gemv");
    if (!quantization->gemv && !nib_quantization_is(version, "gemm"))
        NIB_TRY(nib_quantization_unknown(object, "version", err));
fail:
    return status;
}

static enum nib_status parse_bnb(const json_t *object, struct nib_quantization *quantization,
                                 struct nib_error *err)
{
    enum nib_status status;
    bool load_4bit = false, load_8bit = false, keeps_fp16 = false;
    struct nib_text type = {"fp4", 3};
    NIB_TRY(nib_quantization_bool(object, "load_in_4bit", &load_4bit, err));
    NIB_TRY(nib_quantization_bool(object, "load_in_8bit", &load_8bit, err));
    if (load_4bit == load_8bit)
        NIB_TRY(nib_fail(err, NIB_ERROR_FORMAT,
                         "quantization_config: one of 'load_in_4bit' and 'load_in_8bit' must be "
                         "true"));
    if (load_4bit) {
        quantization->method = NIB_QUANTIZATION_BNB_4BIT;
        quantization->schemes->bits = 4;
        NIB_TRY(nib_quantization_text(object, "bnb_4bit_quant_type", &type, err));
        quantization->name = nib_quantization_is(type, "nf4") ? "bnb-nf4" : "bnb-fp4";
        if (!nib_quantization_is(type, "nf4") && !nib_quantization_is(type, "fp4"))
            NIB_TRY(nib_quantization_unknown(object, "bnb_4bit_quant_type", err));
        return NIB_OK;
    }
    quantization->method = NIB_QUANTIZATION_BNB_INT8;
    quantization->name = "bnb-int8";
    quantization->schemes->bits = 8;
    quantization->outlier_threshold = 6;
    if (!is_absent(json_object_get(object, "llm_int8_threshold")) &&
        !(nib_json_get_f32(object, "llm_int8_threshold", &quantization->outlier_threshold) &&
          quantization->outlier_threshold >= 0))
        NIB_TRY(nib_quantization_bad_key(object, "llm_int8_threshold", err));
    NIB_TRY(nib_quantization_bool(object, "llm_int8_has_fp16_weight", &keeps_fp16, err));
    if (keeps_fp16)
        NIB_TRY(nib_quantization_unknown(object, "llm_int8_has_fp16_weight", err));
fail:
    return status;
}

static enum nib_status parse_method(const json_t *object, struct nib_quantization *quantization,
                                    struct nib_error *err)
{
    struct nib_text method = {"", 0};
    // transformers before 4.35 named no method, and knew only this one.
    if (json_object_get(object, "load_in_8bit") || json_object_get(object, "load_in_4bit"))
        method = (struct nib_text){"bitsandbytes", 12};
    enum nib_status status = nib_quantization_text(object, "quant_method", &method, err);
    if (status != NIB_OK)
        return status;
    if (nib_quantization_is(method, "gptq"))
        return parse_gptq(object, quantization, err);
    if (nib_quantization_is(method, "awq"))
        return parse_awq(object, quantization, err);
    if (nib_quantization_is(method, "bitsandbytes"))
        return parse_bnb(object, quantization, err);
    if (nib_quantization_is(method, "compressed-tensors"))
        return nib_quantization_parse_compressed(object, quantization, err);
    return nib_quantization_unknown(object, "quant_method", err);
}

/// Looks for the object; the older name is compressed-tensors' before it was in transformers.
static const json_t *find_object(const json_t *config)
{
    static const char *const keys[] = {"quantization_config", "compression_config"};
    const json_t *const places[] = {config, json_object_get(config, "text_config")};
    for (size_t p = 0; p < 2; p++) {
        for (size_t k = 0; k < 2; k++) {
            const json_t *object = json_object_get(places[p], keys[k]);
            if (!is_absent(object))
                return object;
        }
    }
    return NULL;
}

enum nib_status nib_quantization_parse(const json_t *config, struct nib_arena *arena,
                                       struct nib_quantization **out_quantization,
                                       struct nib_error *err)
{
    enum nib_status status;
    *out_quantization = NULL;
    const json_t *object = find_object(config);
    if (!object)
        return NIB_OK;
    if (!json_is_object(object))
        return nib_fail(err, NIB_ERROR_FORMAT, "key 'quantization_config' is no object");
    struct nib_quantization *quantization = nib_arena_alloc(arena, sizeof *quantization);
    if (!quantization)
        return nib_fail_memory(err);
    quantization->arena = arena;
    quantization->n_schemes = 1;
    quantization->schemes = nib_arena_alloc(arena, sizeof *quantization->schemes);
    if (!quantization->schemes)
        return nib_fail_memory(err);
    NIB_TRY(parse_method(object, quantization, err));
    *out_quantization = quantization;
fail:
    return status;
}

enum nib_status nib_quantization_reader(struct nib_quantization *quantization,
                                        const struct nib_tensor_directory *directory,
                                        const char *module, struct nib_shape shape,
                                        const struct nib_row_reader **out_reader,
                                        struct nib_error *err)
{
    static nib_matrix_reader_fn *const readers[] = {
        [NIB_QUANTIZATION_GPTQ] = nib_reader_gptq,
        [NIB_QUANTIZATION_AWQ] = nib_reader_awq,
        [NIB_QUANTIZATION_BNB_4BIT] = nib_reader_bnb_4bit,
        [NIB_QUANTIZATION_BNB_INT8] = nib_reader_bnb_int8,
        [NIB_QUANTIZATION_COMPRESSED] = nib_reader_compressed,
    };
    const struct nib_matrix_query query = {quantization, directory, module, shape};
    return readers[quantization->method](&query, out_reader, err);
}
