#include "runtime/compress/plan.h"

#include "runtime/base/status.h"
#include "runtime/compress/mix.h"
#include "runtime/compress/preset.h"
#include <math.h>
#include <string.h>

#define MAX_WINDOWS 128u
#define DEFAULT_WINDOW 512u

bool nib_is_folder_container(enum nib_quantize_container container)
{
    return container != NIB_QUANTIZE_AS_GGUF;
}

const char *nib_quantize_method_name(enum nib_quantize_method method)
{
    static const char *const names[] = {"rtn",      "gptq", "awq", "smoothquant",
                                        "llm-int8", "nf4",  "fp4", "importance"};
    return names[method];
}

static bool ends_in(const char *text, const char *end)
{
    size_t size = strlen(text), end_size = strlen(end);
    return size >= end_size && strcmp(text + size - end_size, end) == 0;
}

static enum nib_quantize_container default_container(const char *path,
                                                     enum nib_quantize_method method)
{
    if (ends_in(path, ".gguf"))
        return NIB_QUANTIZE_AS_GGUF;
    switch (method) {
    case NIB_QUANTIZE_GPTQ:
        return NIB_QUANTIZE_AS_GPTQ;
    case NIB_QUANTIZE_AWQ:
        return NIB_QUANTIZE_AS_AWQ;
    case NIB_QUANTIZE_LLM_INT8:
    case NIB_QUANTIZE_NF4:
    case NIB_QUANTIZE_FP4:
        return NIB_QUANTIZE_AS_BITSANDBYTES;
    case NIB_QUANTIZE_IMPORTANCE:
        return NIB_QUANTIZE_AS_GGUF;
    case NIB_QUANTIZE_RTN:
    case NIB_QUANTIZE_SMOOTHQUANT:
        break;
    }
    return NIB_QUANTIZE_AS_COMPRESSED_TENSORS;
}

/// Returns the containers, as bits, that can hold what a method makes.
static uint32_t containers_of(const struct nib_quantize_params *p)
{
    const uint32_t bnb = 1u << NIB_QUANTIZE_AS_BITSANDBYTES, gguf = 1u << NIB_QUANTIZE_AS_GGUF,
                   plain = 1u << NIB_QUANTIZE_AS_SAFETENSORS,
                   compressed = 1u << NIB_QUANTIZE_AS_COMPRESSED_TENSORS,
                   gptq = 1u << NIB_QUANTIZE_AS_GPTQ, awq = 1u << NIB_QUANTIZE_AS_AWQ;
    switch (p->method) {
    case NIB_QUANTIZE_LLM_INT8:
    case NIB_QUANTIZE_NF4:
    case NIB_QUANTIZE_FP4:
        return bnb;
    case NIB_QUANTIZE_IMPORTANCE:
        return gguf;
    case NIB_QUANTIZE_SMOOTHQUANT:
        return compressed;
    case NIB_QUANTIZE_RTN:
        if (p->container == NIB_QUANTIZE_AS_SAFETENSORS)
            return plain;
        break;
    case NIB_QUANTIZE_GPTQ:
    case NIB_QUANTIZE_AWQ:
        break;
    }
    return p->activations == NIB_QUANTIZE_ACTIVATIONS_FLOAT ? gptq | awq | compressed | gguf
                                                            : compressed;
}

/// Fills in what the caller left open.
static void fill_defaults(struct nib_quantize_params *p, const char *path)
{
    const bool is_bytes =
        p->method == NIB_QUANTIZE_SMOOTHQUANT || p->method == NIB_QUANTIZE_LLM_INT8;
    if (p->activations == NIB_QUANTIZE_ACTIVATIONS_DEFAULT)
        p->activations = p->method == NIB_QUANTIZE_SMOOTHQUANT ? NIB_QUANTIZE_ACTIVATIONS_STATIC
                                                               : NIB_QUANTIZE_ACTIVATIONS_FLOAT;
    const bool has_codes = p->activations != NIB_QUANTIZE_ACTIVATIONS_FLOAT;
    if (p->bits == 0)
        p->bits = is_bytes || has_codes ? 8 : 4;
    if (p->container == NIB_QUANTIZE_AS_DEFAULT)
        p->container =
            has_codes ? NIB_QUANTIZE_AS_COMPRESSED_TENSORS : default_container(path, p->method);
    if (p->granularity == NIB_QUANTIZE_BY_DEFAULT)
        p->granularity = p->group != 0 || (p->bits < 8 && !has_codes) ? NIB_QUANTIZE_BY_GROUP
                                                                      : NIB_QUANTIZE_BY_CHANNEL;
    if (p->zero == NIB_QUANTIZE_ZERO_DEFAULT)
        p->zero = p->container == NIB_QUANTIZE_AS_AWQ || p->method == NIB_QUANTIZE_AWQ
                      ? NIB_QUANTIZE_ASYMMETRIC
                      : NIB_QUANTIZE_SYMMETRIC;
    if (p->range == NIB_QUANTIZE_RANGE_DEFAULT)
        p->range = p->method == NIB_QUANTIZE_AWQ || p->method == NIB_QUANTIZE_GPTQ
                       ? NIB_QUANTIZE_RANGE_MSE
                       : NIB_QUANTIZE_RANGE_MINMAX;
    if (p->percentile == 0)
        p->percentile = 99.9f;
    if (p->windows == 0)
        p->windows = MAX_WINDOWS;
    if (p->context == 0)
        p->context = DEFAULT_WINDOW;
    if (p->damping == 0)
        p->damping = 0.01f;
    if (p->outlier_threshold == 0)
        p->outlier_threshold = 6;
}

/// Callers of other languages may give any numbers.
static enum nib_status check_choices(const struct nib_quantize_params *p, struct nib_error *err)
{
    const struct {
        const char *what;
        uint32_t value, last;
    } choices[] = {
        {"method", (uint32_t)p->method, NIB_QUANTIZE_IMPORTANCE},
        {"container", (uint32_t)p->container, NIB_QUANTIZE_AS_SAFETENSORS},
        {"granularity", (uint32_t)p->granularity, NIB_QUANTIZE_BY_GROUP},
        {"activations", (uint32_t)p->activations, NIB_QUANTIZE_ACTIVATIONS_STATIC},
        {"range", (uint32_t)p->range, NIB_QUANTIZE_RANGE_PERCENTILE},
        {"activation_range", (uint32_t)p->activation_range, NIB_QUANTIZE_RANGE_PERCENTILE},
        {"zero", (uint32_t)p->zero, NIB_QUANTIZE_ASYMMETRIC},
    };
    for (size_t i = 0; i < sizeof choices / sizeof choices[0]; i++) {
        if (choices[i].value > choices[i].last)
            return nib_fail(err, NIB_ERROR_ARGUMENT, "there is no %s %u", choices[i].what,
                            (unsigned)choices[i].value);
    }
    return NIB_OK;
}

static enum nib_status check_numbers(const struct nib_quantize_params *p, struct nib_error *err)
{
    if (p->bits != 2 && p->bits != 3 && p->bits != 4 && p->bits != 8)
        return nib_fail(err, NIB_ERROR_ARGUMENT, "%u bits: codes have 2, 3, 4 or 8",
                        (unsigned)p->bits);
    if (!(p->percentile > 50 && p->percentile <= 100))
        return nib_fail(err, NIB_ERROR_ARGUMENT, "a percentile lies between 50 and 100");
    if (!(p->damping > 0 && p->damping <= 1))
        return nib_fail(err, NIB_ERROR_ARGUMENT, "damping lies between 0 and 1");
    if (!(p->smoothing >= 0 && p->smoothing <= 1))
        return nib_fail(err, NIB_ERROR_ARGUMENT, "smoothing lies between 0 and 1");
    if (p->context < 2)
        return nib_fail(err, NIB_ERROR_ARGUMENT, "a window has at least two tokens");
    return NIB_OK;
}

/// Refuses what the caller asked for, `given`, where a named format, or one with blocks, says it.
static enum nib_status check_given(const struct nib_quantize_params *given,
                                   const struct nib_quantize_params *p, struct nib_error *err)
{
    const bool has_grain = given->granularity != NIB_QUANTIZE_BY_DEFAULT &&
                           given->granularity != NIB_QUANTIZE_BY_GROUP;
    const bool says_codes = given->bits != 0 || given->zero != NIB_QUANTIZE_ZERO_DEFAULT ||
                            given->granularity != NIB_QUANTIZE_BY_DEFAULT;
    if (p->format && given->group != 0)
        return nib_fail(err, NIB_ERROR_ARGUMENT,
                        "format %s says what the group is; leave --group out, or give it with the "
                        "format, such as int4/64",
                        p->format);
    if (p->format && says_codes)
        return nib_fail(err, NIB_ERROR_ARGUMENT,
                        "format %s says bits, granularity and zero points; leave --bits, "
                        "--granularity, --sym and --asym out",
                        p->format);
    if (p->format)
        return NIB_OK;
    const bool is_book = p->method == NIB_QUANTIZE_NF4 || p->method == NIB_QUANTIZE_FP4;
    if (is_book && (p->bits != 4 || has_grain || p->zero != NIB_QUANTIZE_SYMMETRIC))
        return nib_fail(
            err, NIB_ERROR_ARGUMENT,
            "method %s has codes of 4 bits and groups of 64, without zero points; leave "
            "--bits, --granularity and --asym out",
            nib_quantize_method_name(p->method));
    if (p->container == NIB_QUANTIZE_AS_SAFETENSORS && (says_codes || given->group != 0))
        return nib_fail(
            err, NIB_ERROR_ARGUMENT,
            "a plain folder keeps floats; give --as compressed-tensors, or --format f16 "
            "alone");
    if (p->container != NIB_QUANTIZE_AS_GGUF)
        return NIB_OK;
    if (has_grain)
        return nib_fail(err, NIB_ERROR_ARGUMENT,
                        "formats of GGUF have groups; leave --granularity out, or give --as "
                        "compressed-tensors");
    if ((p->bits == 2 && given->zero == NIB_QUANTIZE_SYMMETRIC) ||
        (p->bits != 2 && p->bits != 4 && given->zero == NIB_QUANTIZE_ASYMMETRIC))
        return nib_fail(err, NIB_ERROR_ARGUMENT, "codes of %u bits in GGUF have %s; leave --%s out",
                        (unsigned)p->bits, p->bits == 2 ? "minima" : "no zero points",
                        p->bits == 2 ? "sym" : "asym");
    return NIB_OK;
}

/// Refuses what the container has no place for.
static enum nib_status check_container(const struct nib_quantize_params *p, struct nib_error *err)
{
    const bool has_codes = p->activations != NIB_QUANTIZE_ACTIVATIONS_FLOAT;
    if (!(containers_of(p) >> p->container & 1))
        return nib_fail(
            err, NIB_ERROR_ARGUMENT,
            "what method %s%s makes cannot be written in this container; leave --as out",
            nib_quantize_method_name(p->method), has_codes ? " with int8 activations" : "");
    if (p->container == NIB_QUANTIZE_AS_AWQ && (p->bits != 4 || p->zero != NIB_QUANTIZE_ASYMMETRIC))
        return nib_fail(
            err, NIB_ERROR_ARGUMENT,
            "awq folders hold asymmetric codes of 4 bits; give --as compressed-tensors");
    if (p->method == NIB_QUANTIZE_GPTQ && p->act_order && p->no_static_groups &&
        (p->container == NIB_QUANTIZE_AS_AWQ || p->container == NIB_QUANTIZE_AS_GGUF))
        return nib_fail(err, NIB_ERROR_ARGUMENT,
                        "%s have no place for an order of columns; leave --no-static-groups out",
                        p->container == NIB_QUANTIZE_AS_AWQ ? "awq folders" : "GGUF files");
    return NIB_OK;
}

static enum nib_status check_params(const struct nib_quantize_params *p, struct nib_error *err)
{
    enum nib_status status;
    const bool has_codes = p->activations != NIB_QUANTIZE_ACTIVATIONS_FLOAT;
    NIB_TRY(check_choices(p, err));
    NIB_TRY(check_numbers(p, err));
    NIB_TRY(check_container(p, err));
    if ((p->method == NIB_QUANTIZE_SMOOTHQUANT || p->method == NIB_QUANTIZE_LLM_INT8 ||
         has_codes) &&
        (p->bits != 8 || p->granularity == NIB_QUANTIZE_BY_GROUP ||
         p->zero == NIB_QUANTIZE_ASYMMETRIC))
        return nib_fail(
            err, NIB_ERROR_ARGUMENT,
            "int8 activations go with symmetric weights of 8 bits by channel or tensor");
    // AWQ sees each input once, before it scales it: the range of the scaled one is not known.
    if (p->method == NIB_QUANTIZE_AWQ && p->activations == NIB_QUANTIZE_ACTIVATIONS_STATIC)
        return nib_fail(err, NIB_ERROR_ARGUMENT,
                        "method awq finds no static ranges; give --activations dynamic or --method "
                        "smoothquant");
    if (p->granularity == NIB_QUANTIZE_BY_TENSOR && p->method == NIB_QUANTIZE_GPTQ)
        return nib_fail(err, NIB_ERROR_ARGUMENT, "gptq has a scale for each channel or group");
    if (p->granularity != NIB_QUANTIZE_BY_GROUP && p->group != 0)
        return nib_fail(err, NIB_ERROR_ARGUMENT, "--group goes with --granularity group alone");
fail:
    return status;
}

/// Returns the float format that tensors are kept in: the source's, or f16.
static enum nib_format_id kept_format(const struct nib_row_reader *reader)
{
    enum nib_format_id id = reader->format.id;
    return reader->format.code == NIB_CODE_FLOAT ? id : NIB_FORMAT_F16;
}

/// Returns the type that the container's tools give scales of a model whose floats are `kept`.
static enum nib_scale_type scale_type(enum nib_quantize_container container,
                                      enum nib_format_id kept)
{
    if (container == NIB_QUANTIZE_AS_BITSANDBYTES)
        return NIB_SCALE_F32;
    if (container == NIB_QUANTIZE_AS_COMPRESSED_TENSORS && kept == NIB_FORMAT_BF16)
        return NIB_SCALE_BF16;
    return NIB_SCALE_F16;
}

/// Returns the largest group of 128, 64 and 32 that divides the columns of all matrices, or 128.
static uint32_t common_group(const struct nib_compress_plan *plan)
{
    for (uint32_t group = 128; group >= 32; group /= 2) {
        bool divides = true;
        for (uint32_t i = 0; i < plan->n_entries; i++)
            divides &= !plan->entries[i].is_quantized || plan->entries[i].cols % group == 0;
        if (divides)
            return group;
    }
    return 128;
}

/// Writes the format that the parameters ask for; where they give no group, its own is 0.
static enum nib_status base_format(const struct nib_quantize_params *p,
                                   struct nib_mix_choice *out_choice, struct nib_error *err)
{
    struct nib_format *out = &out_choice->format;
    *out_choice = (struct nib_mix_choice){0};
    const struct nib_preset *preset = p->format ? nib_preset_find(p->format) : NULL;
    if (preset && p->container == NIB_QUANTIZE_AS_GGUF) {
        *out = *nib_format_get(preset->base);
        return NIB_OK;
    }
    if (p->format) {
        enum nib_status status = nib_mix_format(p->format, strlen(p->format), out_choice, err);
        if (status != NIB_OK)
            return status;
        const bool is_plain = out->code == NIB_CODE_FLOAT;
        const bool has_blocks = out->block_bytes != 0;
        if (out_choice->is_kept || (p->container == NIB_QUANTIZE_AS_SAFETENSORS
                                        ? !is_plain
                                        : has_blocks != (p->container == NIB_QUANTIZE_AS_GGUF)))
            return nib_fail(err, NIB_ERROR_ARGUMENT, "format %s has no place in this container",
                            p->format);
        return NIB_OK;
    }
    const bool zero = p->zero == NIB_QUANTIZE_ASYMMETRIC;
    enum nib_format_id id;
    if (p->method == NIB_QUANTIZE_NF4)
        id = NIB_FORMAT_NF4;
    else if (p->method == NIB_QUANTIZE_FP4)
        id = NIB_FORMAT_FP4;
    else if (p->container != NIB_QUANTIZE_AS_GGUF)
        id = p->bits == 8 ? (zero ? NIB_FORMAT_INT8_ZERO : NIB_FORMAT_INT8)
                          : (zero ? NIB_FORMAT_INT4_ZERO : NIB_FORMAT_INT4);
    else if (p->bits == 4)
        id = zero ? NIB_FORMAT_Q4_1 : NIB_FORMAT_Q4_0;
    else
        id = p->bits == 8 ? NIB_FORMAT_Q8_0 : p->bits == 3 ? NIB_FORMAT_Q3_K : NIB_FORMAT_Q2_K;
    *out = *nib_format_get(id);
    if (out->block_bytes == 0 && out->code == NIB_CODE_UNIFORM) {
        out->bits = p->bits;
        out->center = zero ? 0 : 1 << (p->bits - 1);
        if (p->granularity != NIB_QUANTIZE_BY_GROUP)
            out->group = 0;
        else
            out->group = p->group;
    } else if (p->group != 0 && p->group != out->group) {
        return nib_fail(err, NIB_ERROR_ARGUMENT, "format %s has groups of %u; leave --group out",
                        out->name, (unsigned)out->group);
    }
    return NIB_OK;
}

static enum nib_activation activation_of(const struct nib_quantize_params *p)
{
    if (p->method == NIB_QUANTIZE_LLM_INT8)
        return NIB_ACTIVATION_LLM_INT8;
    switch (p->activations) {
    case NIB_QUANTIZE_ACTIVATIONS_DYNAMIC:
        return NIB_ACTIVATION_INT8_TOKEN;
    case NIB_QUANTIZE_ACTIVATIONS_STATIC:
        return NIB_ACTIVATION_INT8_STATIC;
    case NIB_QUANTIZE_ACTIVATIONS_DEFAULT:
    case NIB_QUANTIZE_ACTIVATIONS_FLOAT:
        break;
    }
    return NIB_ACTIVATION_F32;
}

/// Returns whether GGUF has the rows of Q and K in pairs; architectures that it has no name for are
/// written as llama.
static bool is_paired(const struct nib_arch *arch)
{
    return arch->interleaved || !arch->gguf;
}

static enum nib_row_order row_order(const struct nib_compress_plan *plan, enum nib_role role)
{
    const bool is_folder = strcmp(nib_source_container(plan->source), "gguf") != 0;
    const bool to_folder = nib_is_folder_container(plan->params.container);
    const struct nib_model_config *config = nib_source_config(plan->source);
    // One head norm serves both numbers of a pair only where heads are not permuted.
    const bool has_heads = role == NIB_ROLE_Q || role == NIB_ROLE_K || role == NIB_ROLE_Q_BIAS ||
                           role == NIB_ROLE_K_BIAS;
    if (!has_heads || is_folder == to_folder || !is_paired(nib_source_arch(plan->source)) ||
        config->n_ropes == 0)
        return NIB_ROWS_AS_STORED;
    return is_folder ? NIB_ROWS_TO_PAIRS : NIB_ROWS_TO_HALVES;
}

/// Returns whether the method changes tensors of `role` that it does not quantize.
static bool is_absorbed(const struct nib_compress_plan *plan, enum nib_role role)
{
    const enum nib_quantize_method method = plan->params.method;
    return (method == NIB_QUANTIZE_AWQ || method == NIB_QUANTIZE_SMOOTHQUANT) &&
           nib_arch_in_layer(role);
}

/// Decides how a tensor that is not quantized is stored. GGUF's programs want vectors in f32.
static void keep_entry(const struct nib_compress_plan *plan, const struct nib_row_reader *reader,
                       struct nib_compress_entry *entry)
{
    const bool to_gguf = plan->params.container == NIB_QUANTIZE_AS_GGUF;
    const bool from_gguf = strcmp(nib_source_container(plan->source), "gguf") == 0;
    const bool is_plain = plan->params.container == NIB_QUANTIZE_AS_SAFETENSORS;
    entry->is_copied = to_gguf && from_gguf && !is_absorbed(plan, entry->role);
    if (entry->is_copied)
        entry->scheme.format = reader->format;
    else if (is_plain && plan->params.format)
        entry->scheme.format = *nib_format_find(plan->params.format);
    else if (to_gguf && !nib_role_is_matrix(entry->role))
        entry->scheme.format = *nib_format_get(NIB_FORMAT_F32);
    else if (!to_gguf && from_gguf && !nib_role_is_matrix(entry->role))
        // GGUF has vectors in f32; transformers' back ends want one type throughout the model, that
        // of the token embedding, which comes first.
        entry->scheme.format = plan->entries[0].scheme.format;
    else
        entry->scheme.format = *nib_format_get(kept_format(reader));
}

static bool has_tied_head(const struct nib_compress_plan *plan)
{
    return !nib_source_has(plan->source, NIB_ROLE_OUTPUT, 0);
}

/// Returns what GGUF stores a matrix as: the format that a rule or else a mix has for it, or one
/// that its rows have whole blocks of.
static struct nib_format gguf_format(const struct nib_compress_plan *plan,
                                     const struct nib_compress_entry *entry, bool is_ruled)
{
    const struct nib_format *format = &entry->scheme.format;
    const struct nib_preset *preset = is_ruled ? NULL : nib_preset_find(plan->params.format);
    if (preset)
        format = nib_preset_format(preset, entry->role, entry->layer,
                                   nib_source_config(plan->source)->n_layers, has_tied_head(plan));
    return format->block_bytes ? *nib_format_that_fits(format, entry->cols) : *format;
}

/// Returns what --mix says of a matrix, or NULL.
static const struct nib_mix_choice *find_choice(struct nib_compress_plan *plan, const char *name,
                                                enum nib_role role, uint32_t layer)
{
    char gguf[NIB_ARCH_NAME_SIZE];
    struct nib_mix_matrix matrix = {.role = role, .layer = layer, .names = {name, NULL}};
    if (nib_source_tensor_name(plan->source, NIB_CONTAINER_GGUF, role, layer, gguf))
        matrix.names[1] = gguf;
    return nib_mix_find(&plan->mix, &matrix);
}

/// Decides about one tensor.
static enum nib_status plan_entry(struct nib_compress_plan *plan, const struct nib_mix_choice *base,
                                  enum nib_role role, uint32_t layer, struct nib_error *err)
{
    const struct nib_quantize_params *p = &plan->params;
    const struct nib_format *format = &base->format;
    struct nib_row_reader reader;
    enum nib_status status = nib_source_reader(plan->source, role, layer, &reader, err);
    if (status != NIB_OK)
        return status;
    const bool is_matrix = nib_role_is_matrix(role);
    const struct nib_mix_choice *choice =
        is_matrix ? find_choice(plan, reader.name, role, layer) : NULL;
    const bool is_inner = role != NIB_ROLE_TOKEN_EMBEDDING && role != NIB_ROLE_OUTPUT;
    const bool is_wanted = is_matrix && p->container != NIB_QUANTIZE_AS_SAFETENSORS &&
                           (is_inner || p->container == NIB_QUANTIZE_AS_GGUF);
    struct nib_compress_entry *entry = &plan->entries[plan->n_entries++];
    *entry = (struct nib_compress_entry){
        .role = role,
        .layer = layer,
        .name = reader.name,
        .rows = reader.rows,
        .cols = reader.cols,
        .order = row_order(plan, role),
    };
    if (choice ? choice->is_kept : !is_wanted) {
        keep_entry(plan, &reader, entry);
        return NIB_OK;
    }
    entry->scheme.format = choice ? choice->format : *format;
    if (p->container == NIB_QUANTIZE_AS_GGUF)
        entry->scheme.format = gguf_format(plan, entry, choice != NULL);
    entry->is_quantized = entry->scheme.format.code != NIB_CODE_FLOAT;
    if (!entry->is_quantized)
        return NIB_OK;
    entry->scheme.range = p->range;
    const bool has_group = choice && choice->has_group;
    if (choice && !has_group && choice->format.block_bytes == 0)
        entry->scheme.format.group = format->group;
    entry->has_open_group = !has_group && !base->has_group &&
                            entry->scheme.format.block_bytes == 0 &&
                            entry->scheme.format.group == 0;
    if (entry->scheme.format.block_bytes == 0)
        entry->scheme.format.scale = scale_type(p->container, kept_format(&reader));
    entry->scheme.per_tensor = p->granularity == NIB_QUANTIZE_BY_TENSOR;
    entry->scheme.activation = activation_of(p);
    if (entry->scheme.activation == NIB_ACTIVATION_LLM_INT8)
        entry->scheme.outlier_threshold = p->outlier_threshold;
    entry->scheme.double_quantized =
        format->code == NIB_CODE_BOOK && !p->single_quantized && format->block_bytes == 0;
    return NIB_OK;
}

static enum nib_status plan_entries(struct nib_compress_plan *plan,
                                    const struct nib_mix_choice *base, struct nib_error *err)
{
    static const enum nib_role outer[] = {NIB_ROLE_ROPE_FREQUENCIES, NIB_ROLE_OUTPUT_NORM,
                                          NIB_ROLE_OUTPUT, NIB_ROLE_OUTPUT_BIAS};
    enum nib_status status;
    const uint32_t n_layers = nib_source_config(plan->source)->n_layers;
    size_t capacity = ((size_t)n_layers + 1) * NIB_ROLE_COUNT;
    plan->entries = nib_arena_array(&plan->arena, capacity, sizeof *plan->entries);
    if (!plan->entries)
        return nib_fail_memory(err);
    // A head's inputs are known behind the layers, so a tied one is put there, where GGUF does not
    // mind.
    const bool is_late = plan->params.container == NIB_QUANTIZE_AS_GGUF && has_tied_head(plan);
    if (!is_late)
        NIB_TRY(plan_entry(plan, base, NIB_ROLE_TOKEN_EMBEDDING, 0, err));
    for (uint32_t layer = 0; layer < n_layers; layer++) {
        for (enum nib_role role = 0; role < NIB_ROLE_COUNT; role++) {
            if (nib_arch_in_layer(role) && nib_source_has(plan->source, role, layer))
                NIB_TRY(plan_entry(plan, base, role, layer, err));
        }
    }
    for (size_t i = 0; i < sizeof outer / sizeof outer[0]; i++) {
        if (nib_source_has(plan->source, outer[i], 0))
            NIB_TRY(plan_entry(plan, base, outer[i], 0, err));
    }
    if (is_late)
        NIB_TRY(plan_entry(plan, base, NIB_ROLE_TOKEN_EMBEDDING, 0, err));
fail:
    return status;
}

enum nib_status nib_compress_plan_init(struct nib_compress_plan *plan,
                                       const struct nib_source *source, const char *path,
                                       const struct nib_quantize_params *params,
                                       struct nib_error *err)
{
    enum nib_status status;
    struct nib_mix_choice base;
    *plan = (struct nib_compress_plan){.source = source, .params = *params};
    fill_defaults(&plan->params, path);
    NIB_TRY(check_params(&plan->params, err));
    NIB_TRY(check_given(params, &plan->params, err));
    NIB_TRY(base_format(&plan->params, &base, err));
    if (plan->params.container == NIB_QUANTIZE_AS_GGUF && !plan->params.format)
        plan->params.format = base.format.name;
    NIB_TRY(nib_mix_parse(plan->params.mix, &plan->arena, &plan->mix, err));
    NIB_TRY(plan_entries(plan, &base, err));
    NIB_TRY(nib_mix_check_used(&plan->mix, err));
    if (plan->params.granularity == NIB_QUANTIZE_BY_GROUP && plan->params.group == 0 &&
        base.format.block_bytes == 0 && base.format.code == NIB_CODE_UNIFORM) {
        plan->params.group = common_group(plan);
        for (uint32_t i = 0; i < plan->n_entries; i++) {
            struct nib_compress_entry *entry = &plan->entries[i];
            if (entry->has_open_group)
                entry->scheme.format.group = plan->params.group;
        }
    }
fail:
    return status;
}

void nib_compress_plan_free(struct nib_compress_plan *plan)
{
    nib_arena_free(&plan->arena);
}
