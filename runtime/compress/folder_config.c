#include "runtime/compress/folder.h"

#include "runtime/base/status.h"
#include "runtime/formats/json.h"
#include "runtime/import/source_parts.h"

#include <stdio.h>
#include <string.h>

// jansson frees what cannot be added and passes a NULL on as a failure: `failed` keeps it for one
// look at the end.

/// What is written.
struct writer {
    const struct nib_compress_plan *plan;
    bool failed;
};

static void set(struct writer *writer, json_t *object, const char *key, json_t *value)
{
    writer->failed |= json_object_set_new(object, key, value) != 0;
}

static void append(struct writer *writer, json_t *array, json_t *value)
{
    writer->failed |= json_array_append_new(array, value) != 0;
}

static json_t *module_json(const struct writer *writer, const struct nib_compress_entry *entry)
{
    char module[NIB_ARCH_NAME_SIZE];
    nib_folder_module(writer->plan, entry, module);
    return json_string(module);
}

/// Lists the modules within the layers that are not quantized.
static json_t *kept_modules(struct writer *writer)
{
    json_t *list = json_array();
    for (uint32_t i = 0; i < writer->plan->n_entries; i++) {
        const struct nib_compress_entry *entry = &writer->plan->entries[i];
        if (nib_folder_is_inner(entry) && !entry->is_quantized)
            append(writer, list, module_json(writer, entry));
    }
    return list;
}

/// Whether two matrices are described by the same words.
static bool is_same_scheme(const struct nib_compress_entry *a, const struct nib_compress_entry *b)
{
    return a->scheme.format.id == b->scheme.format.id &&
           a->scheme.format.bits == b->scheme.format.bits &&
           a->scheme.format.group == b->scheme.format.group &&
           a->scheme.activation == b->scheme.activation &&
           a->scheme.double_quantized == b->scheme.double_quantized;
}

/// Finds the first quantized matrix, NULL if there is none; all others must be quantized alike.
static enum nib_status find_only_scheme(const struct nib_compress_plan *plan,
                                        const struct nib_compress_entry **out_first,
                                        struct nib_error *err)
{
    *out_first = NULL;
    for (uint32_t i = 0; i < plan->n_entries; i++) {
        const struct nib_compress_entry *entry = &plan->entries[i];
        if (!entry->is_quantized)
            continue;
        if (!*out_first)
            *out_first = entry;
        if (!is_same_scheme(entry, *out_first))
            return nib_fail(err, NIB_ERROR_UNSUPPORTED,
                            "tensors '%s' and '%s' differ in format, which such a folder cannot "
                            "describe; give --as compressed-tensors",
                            (*out_first)->name, entry->name);
    }
    return NIB_OK;
}

static json_t *group_json(const struct nib_compress_entry *entry)
{
    const uint32_t group = entry->scheme.format.group;
    return json_integer(group != 0 ? (json_int_t)group : -1);
}

static bool has_zeros(const struct nib_compress_entry *entry)
{
    return entry->scheme.format.zero == NIB_ZERO_INTEGER;
}

static enum nib_status write_gptq(struct writer *writer, const struct nib_compress_entry *first,
                                  json_t *object, struct nib_error *err)
{
    const struct nib_quantize_params *params = &writer->plan->params;
    const struct nib_layout layout = nib_folder_layout(writer->plan, first);
    const char *format = layout.zero_minus_one ? "gptq" : "gptq_v2";
    const bool orders_columns = params->method == NIB_QUANTIZE_GPTQ && params->act_order;
    for (uint32_t i = 0; i < writer->plan->n_entries; i++) {
        const struct nib_compress_entry *entry = &writer->plan->entries[i];
        if (nib_folder_is_inner(entry) && !entry->is_quantized)
            return nib_fail(err, NIB_ERROR_UNSUPPORTED,
                            "tensor '%s' is kept, but in a GPTQ folder all matrices of the layers "
                            "are quantized; give --as compressed-tensors",
                            entry->name);
    }
    set(writer, object, "bits", json_integer(first->scheme.format.bits));
    set(writer, object, "checkpoint_format", json_string(format));
    set(writer, object, "desc_act", json_boolean(orders_columns && params->no_static_groups));
    set(writer, object, "group_size", group_json(first));
    set(writer, object, "lm_head", json_false());
    set(writer, object, "method", json_string("gptq"));
    set(writer, object, "pack_dtype", json_string("int32"));
    set(writer, object, "quant_method", json_string("gptq"));
    set(writer, object, "sym", json_boolean(!has_zeros(first)));
    return NIB_OK;
}

static void write_awq(struct writer *writer, const struct nib_compress_entry *first, json_t *object)
{
    json_t *kept = kept_modules(writer);
    set(writer, object, "bits", json_integer(4));
    set(writer, object, "group_size", group_json(first));
    set(writer, object, "modules_to_not_convert",
        json_array_size(kept) > 0 ? json_incref(kept) : json_null());
    set(writer, object, "quant_method", json_string("awq"));
    set(writer, object, "version", json_string("gemm"));
    set(writer, object, "zero_point", json_true());
    json_decref(kept);
}

static void write_bnb(struct writer *writer, const struct nib_compress_entry *first, json_t *object)
{
    const bool is_int8 = first->scheme.activation == NIB_ACTIVATION_LLM_INT8;
    const char *type = first->scheme.format.id == NIB_FORMAT_NF4 ? "nf4" : "fp4";
    const char *dtype = nib_folder_dtype(writer->plan);
    json_t *kept = kept_modules(writer);
    if (json_array_size(kept) > 0) // a list replaces transformers' own, which has the head
        append(writer, kept, json_string("lm_head"));
    set(writer, object, "load_in_4bit", json_boolean(!is_int8));
    set(writer, object, "load_in_8bit", json_boolean(is_int8));
    set(writer, object, "llm_int8_enable_fp32_cpu_offload", json_false());
    set(writer, object, "llm_int8_has_fp16_weight", json_false());
    set(writer, object, "llm_int8_skip_modules",
        json_array_size(kept) > 0 ? json_incref(kept) : json_null());
    set(writer, object, "llm_int8_threshold",
        nib_config_real(is_int8 ? first->scheme.outlier_threshold : 6));
    set(writer, object, "bnb_4bit_compute_dtype", json_string(is_int8 ? "float32" : dtype));
    set(writer, object, "bnb_4bit_quant_storage", json_string("uint8"));
    set(writer, object, "bnb_4bit_quant_type", json_string(is_int8 ? "fp4" : type));
    set(writer, object, "bnb_4bit_use_double_quant", json_boolean(first->scheme.double_quantized));
    set(writer, object, "quant_method", json_string("bitsandbytes"));
    json_decref(kept);
}

/// What compressed-tensors says of weights and of activations alike.
static json_t *arguments(struct writer *writer, uint32_t bits, const char *strategy)
{
    json_t *object = json_object();
    set(writer, object, "actorder", json_null());
    set(writer, object, "block_structure", json_null());
    set(writer, object, "dynamic", json_false());
    set(writer, object, "group_size", json_null());
    set(writer, object, "num_bits", json_integer(bits));
    set(writer, object, "observer", json_string("minmax"));
    set(writer, object, "observer_kwargs", json_object());
    set(writer, object, "strategy", json_string(strategy));
    set(writer, object, "symmetric", json_true());
    set(writer, object, "type", json_string("int"));
    return object;
}

static json_t *weight_arguments(struct writer *writer, const struct nib_compress_entry *entry)
{
    const uint32_t group = entry->scheme.format.group;
    json_t *object = arguments(writer, entry->scheme.format.bits, group != 0 ? "group" : "channel");
    if (group != 0)
        set(writer, object, "group_size", json_integer(group));
    if (nib_folder_layout(writer->plan, entry).group_index)
        set(writer, object, "actorder", json_string("group"));
    set(writer, object, "symmetric", json_boolean(!has_zeros(entry)));
    return object;
}

static json_t *input_arguments(struct writer *writer, const struct nib_compress_entry *entry)
{
    json_t *object;
    switch (entry->scheme.activation) {
    case NIB_ACTIVATION_INT8_TOKEN:
        object = arguments(writer, 8, "token");
        set(writer, object, "dynamic", json_true());
        set(writer, object, "observer", json_null());
        return object;
    case NIB_ACTIVATION_INT8_STATIC:
        return arguments(writer, 8, "tensor");
    default:
        return json_null();
    }
}

static const char *compressed_format(const struct writer *writer,
                                     const struct nib_compress_entry *entry)
{
    return nib_folder_layout(writer->plan, entry).kind == NIB_LAYOUT_COMPRESSED_INT
               ? "int-quantized"
               : "pack-quantized";
}

/// Lists the modules that are quantized as `first` is; the only scheme is for all of a class.
static json_t *targets(struct writer *writer, const struct nib_compress_entry *first, bool is_only)
{
    json_t *list = json_array();
    if (is_only) {
        append(writer, list, json_string("Linear"));
        return list;
    }
    for (uint32_t i = 0; i < writer->plan->n_entries; i++) {
        const struct nib_compress_entry *entry = &writer->plan->entries[i];
        if (entry->is_quantized && is_same_scheme(entry, first))
            append(writer, list, module_json(writer, entry));
    }
    return list;
}

/// Returns the first matrix that is quantized as `entry` is.
static const struct nib_compress_entry *first_alike(const struct nib_compress_plan *plan,
                                                    const struct nib_compress_entry *entry)
{
    const struct nib_compress_entry *first = plan->entries;
    while (!first->is_quantized || !is_same_scheme(first, entry))
        first++;
    return first;
}

static json_t *config_group(struct writer *writer, const struct nib_compress_entry *first,
                            bool is_only)
{
    json_t *group = json_object();
    set(writer, group, "format", json_string(compressed_format(writer, first)));
    set(writer, group, "input_activations", input_arguments(writer, first));
    set(writer, group, "output_activations", json_null());
    set(writer, group, "targets", targets(writer, first, is_only));
    set(writer, group, "weights", weight_arguments(writer, first));
    return group;
}

static void write_compressed(struct writer *writer, const struct nib_compress_entry *first,
                             bool is_only, json_t *object)
{
    const struct nib_compress_plan *plan = writer->plan;
    json_t *groups = json_object(), *ignored = kept_modules(writer);
    const char *format = compressed_format(writer, first);
    bool has_head = false;
    uint32_t n = 0;
    for (uint32_t i = 0; i < plan->n_entries; i++) {
        const struct nib_compress_entry *entry = &plan->entries[i];
        if (!entry->is_quantized)
            continue;
        has_head |= entry->role == NIB_ROLE_OUTPUT;
        if (first_alike(plan, entry) != entry)
            continue;
        char name[24];
        snprintf(name, sizeof name, "group_%u", (unsigned)n++);
        set(writer, groups, name, config_group(writer, entry, is_only));
        if (strcmp(compressed_format(writer, entry), format) != 0)
            format = "mixed-precision";
    }
    if (!has_head)
        append(writer, ignored, json_string("lm_head"));
    set(writer, object, "config_groups", groups);
    set(writer, object, "format", json_string(format));
    set(writer, object, "global_compression_ratio", json_null());
    set(writer, object, "ignore", ignored);
    set(writer, object, "kv_cache_scheme", json_null());
    set(writer, object, "quant_method", json_string("compressed-tensors"));
    set(writer, object, "quantization_status", json_string("compressed"));
}

enum nib_status nib_folder_quantization(const struct nib_compress_plan *plan,
                                        json_t **out_quantization, struct nib_error *err)
{
    struct writer writer = {.plan = plan};
    const struct nib_compress_entry *first;
    json_t *object = json_object();
    // compressed-tensors describes matrices one by one, so that several schemes are no error.
    const bool has_groups = plan->params.container == NIB_QUANTIZE_AS_COMPRESSED_TENSORS;
    enum nib_status status = find_only_scheme(plan, &first, has_groups ? NULL : err);
    const bool is_only = status == NIB_OK;
    *out_quantization = NULL;
    NIB_TRY(has_groups ? NIB_OK : status);
    if (!first) {
        json_decref(object);
        *out_quantization = json_null();
        return NIB_OK;
    }
    switch (plan->params.container) {
    case NIB_QUANTIZE_AS_GPTQ:
        NIB_TRY(write_gptq(&writer, first, object, err));
        break;
    case NIB_QUANTIZE_AS_AWQ:
        write_awq(&writer, first, object);
        break;
    case NIB_QUANTIZE_AS_BITSANDBYTES:
        write_bnb(&writer, first, object);
        break;
    default:
        write_compressed(&writer, first, is_only, object);
        break;
    }
    if (writer.failed)
        NIB_TRY(nib_fail_memory(err));
    *out_quantization = object;
    return NIB_OK;
fail:
    json_decref(object);
    return status;
}

/// Reads the source folder's own config.json; of an image-and-text model, the part about text.
static enum nib_status read_config(const struct nib_compress_plan *plan, json_t **out_config,
                                   struct nib_error *err)
{
    struct writer writer = {.plan = plan};
    json_t *config;
    const enum nib_status status =
        nib_json_open_exact(nib_source_path(plan->source), "config.json", &config, err);
    *out_config = NULL;
    if (status != NIB_OK)
        return status;
    json_t *text = json_object_get(config, "text_config");
    if (json_is_object(text)) {
        json_t *classes = json_array();
        append(&writer, classes, json_string(nib_source_arch(plan->source)->hf_class));
        set(&writer, text, "architectures", classes);
        json_incref(text);
        json_decref(config);
        config = text;
    }
    json_object_del(config, "quantization_config");
    json_object_del(config, "compression_config");
    *out_config = config;
    return writer.failed ? nib_fail_memory(err) : NIB_OK;
}

/// Writes which linear layers have biases. A class of transformers gives one to all of a kind.
static enum nib_status set_biases(struct writer *writer, json_t *config, struct nib_error *err)
{
    const struct nib_source *source = writer->plan->source;
    const bool has_q = nib_source_has(source, NIB_ROLE_Q_BIAS, 0);
    const bool has_out = nib_source_has(source, NIB_ROLE_ATTENTION_OUT_BIAS, 0);
    const bool has_down = nib_source_has(source, NIB_ROLE_FFN_DOWN_BIAS, 0);
    if (nib_source_arch(source)->qkv_bias ? has_out : has_q != has_out)
        return nib_fail(err, NIB_ERROR_UNSUPPORTED,
                        "transformers' %s has no such biases; take the model's own Hugging Face "
                        "folder as the source",
                        nib_source_arch(source)->hf_class);
    if (has_q && has_out)
        set(writer, config, "attention_bias", json_true());
    if (has_down)
        set(writer, config, "mlp_bias", json_true());
    return NIB_OK;
}

/// Makes what a GGUF file says in another way.
static enum nib_status make_config(const struct nib_compress_plan *plan, json_t **out_config,
                                   struct nib_error *err)
{
    struct writer writer = {.plan = plan};
    struct nib_tokenizer_info info = {.bos = -1, .eos = -1};
    enum nib_status status =
        nib_config_to_json(nib_source_import_config(plan->source), out_config, err);
    if (status != NIB_OK)
        return status;
    if (nib_source_tokenizer(plan->source))
        nib_tokenizer_get_info(nib_source_tokenizer(plan->source), &info);
    if (info.bos >= 0)
        set(&writer, *out_config, "bos_token_id", json_integer(info.bos));
    if (info.eos >= 0)
        set(&writer, *out_config, "eos_token_id", json_integer(info.eos));
    status = set_biases(&writer, *out_config, err);
    if (status == NIB_OK && writer.failed)
        status = nib_fail_memory(err);
    return status;
}

enum nib_status nib_folder_config(const struct nib_compress_plan *plan, json_t **out_config,
                                  struct nib_error *err)
{
    enum nib_status status;
    struct writer writer = {.plan = plan};
    json_t *config = NULL, *quantization = NULL;
    *out_config = NULL;
    if (nib_source_gguf(plan->source))
        NIB_TRY(make_config(plan, &config, err));
    else
        NIB_TRY(read_config(plan, &config, err));
    NIB_TRY(nib_folder_quantization(plan, &quantization, err));
    if (!json_is_null(quantization))
        set(&writer, config, "quantization_config", json_incref(quantization));
    const char *key = json_object_get(config, "dtype") ? "dtype" : "torch_dtype";
    set(&writer, config, key, json_string(nib_folder_dtype(plan)));
    if (writer.failed)
        NIB_TRY(nib_fail_memory(err));
    *out_config = json_incref(config);
fail:
    json_decref(config);
    json_decref(quantization);
    return status;
}
