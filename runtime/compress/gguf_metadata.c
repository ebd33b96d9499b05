#include "runtime/compress/gguf_metadata.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/base/status.h"
#include "runtime/import/config_import.h"
#include "runtime/import/source_parts.h"
#include "runtime/import/tokenizer_gguf.h"
#include "runtime/import/tokenizer_hf.h"
#include "runtime/model/model.h"

#define FILE_TYPE_KEY "general.file_type"
#define VERSION_KEY "general.quantization_version"

/// Version of the block formats, GGML_QNT_VERSION of ggml.h.
enum { QUANTIZATION_VERSION = 2 };

/// Numbers of general.file_type, enum llama_ftype of llama.h: the format of most weights.
static const struct {
    enum nib_format_id format;
    uint32_t file_type;
} file_types[] = {
    {NIB_FORMAT_F32, 0},     {NIB_FORMAT_F16, 1},     {NIB_FORMAT_Q4_0, 2},  {NIB_FORMAT_Q4_1, 3},
    {NIB_FORMAT_Q8_0, 7},    {NIB_FORMAT_Q5_0, 8},    {NIB_FORMAT_Q5_1, 9},  {NIB_FORMAT_Q2_K, 10},
    {NIB_FORMAT_Q3_K, 12},   {NIB_FORMAT_Q4_K, 15},   {NIB_FORMAT_Q5_K, 17}, {NIB_FORMAT_Q6_K, 18},
    {NIB_FORMAT_IQ4_NL, 25}, {NIB_FORMAT_IQ4_XS, 30}, {NIB_FORMAT_BF16, 32}, {NIB_FORMAT_MXFP4, 38},
};

static uint32_t file_type(const struct nib_compress_plan *plan)
{
    uint64_t weights[NIB_FORMAT_COUNT] = {0};
    size_t most = 0;
    for (uint32_t i = 0; i < plan->n_entries; i++) {
        const struct nib_compress_entry *entry = &plan->entries[i];
        if (nib_role_is_matrix(entry->role))
            weights[entry->scheme.format.id] += entry->rows * entry->cols;
    }
    for (size_t i = 1; i < sizeof file_types / sizeof file_types[0]; i++) {
        if (weights[file_types[i].format] > weights[file_types[most].format])
            most = i;
    }
    return file_types[most].file_type;
}

static bool begins_with(struct nib_text text, const char *start)
{
    size_t size = strlen(start);
    return text.size >= size && memcmp(text.ptr, start, size) == 0;
}

/// Returns whether a key of the source says something of the file, or of how it was quantized,
/// that does not hold for the output.
static bool is_replaced(struct nib_text key)
{
    static const char *const starts[] = {FILE_TYPE_KEY, VERSION_KEY, "split.", "quantize.",
                                         "general.alignment"};
    for (size_t i = 0; i < sizeof starts / sizeof starts[0]; i++) {
        if (begins_with(key, starts[i]))
            return true;
    }
    return false;
}

static enum nib_status copy_values(const struct nib_gguf *gguf, struct nib_gguf_writer *writer,
                                   struct nib_error *err)
{
    enum nib_status status = NIB_OK;
    for (uint32_t i = 0; i < gguf->n_values; i++) {
        if (!is_replaced(gguf->values[i].key))
            NIB_TRY(nib_gguf_writer_add_value(writer, &gguf->values[i], err));
    }
fail:
    return status;
}

/// Where a folder's vocabulary goes.
struct from_folder {
    const struct nib_compress_plan *plan;
    struct nib_gguf_writer *writer;
    bool written;
};

/// Adds what the ggml project's tools say of the calibration.
static enum nib_status write_calibration(const struct nib_compress_plan *plan,
                                         struct nib_gguf_writer *writer, struct nib_error *err)
{
    enum nib_status status;
    const struct nib_quantize_params *params = &plan->params;
    uint64_t windows = params->n_calibration / params->context;
    uint32_t n_entries = 0;
    if (windows == 0 || params->method == NIB_QUANTIZE_RTN)
        return NIB_OK;
    for (uint32_t i = 0; i < plan->n_entries; i++)
        n_entries += plan->entries[i].is_quantized;
    NIB_TRY(nib_gguf_writer_add_u32(writer, "quantize.imatrix.entries_count", n_entries, err));
    NIB_TRY(nib_gguf_writer_add_u32(
        writer, "quantize.imatrix.chunks_count",
        (uint32_t)(windows < params->windows ? windows : params->windows), err));
fail:
    return status;
}

static enum nib_status write_vocab(void *user, const struct nib_vocab *vocab, struct nib_error *err)
{
    struct from_folder *from = user;
    const struct nib_source *source = from->plan->source;
    from->written = true;
    const enum nib_status status =
        nib_vocab_to_gguf(vocab, nib_source_config(source)->vocabulary, from->writer, err);
    if (status == NIB_OK)
        nib_vocab_report_gguf(vocab, nib_config_gguf_name(nib_source_arch(source)),
                              &from->plan->params.log);
    return status;
}

/// Makes the keys of a folder's configuration and tokenizer.
static enum nib_status make_values(const struct nib_compress_plan *plan,
                                   struct nib_gguf_writer *writer, struct nib_error *err)
{
    enum nib_status status;
    const struct nib_model_config *config = nib_source_config(plan->source);
    struct from_folder from = {plan, writer, false};
    NIB_TRY(nib_config_to_gguf(nib_source_arch(plan->source), config, writer, err));
    NIB_TRY(nib_vocab_from_folder(nib_source_path(plan->source), write_vocab, &from, err));
    if (!from.written)
        NIB_TRY(nib_gguf_writer_add_text(writer, "tokenizer.ggml.model",
                                         (struct nib_text){"no_vocab", strlen("no_vocab")}, err));
fail:
    return status;
}

enum nib_status nib_gguf_metadata_write(const struct nib_compress_plan *plan,
                                        struct nib_gguf_writer *writer, struct nib_error *err)
{
    enum nib_status status;
    const struct nib_gguf *gguf = nib_source_gguf(plan->source);
    NIB_TRY(gguf ? copy_values(gguf, writer, err) : make_values(plan, writer, err));
    NIB_TRY(nib_gguf_writer_add_u32(writer, FILE_TYPE_KEY, file_type(plan), err));
    NIB_TRY(nib_gguf_writer_add_u32(writer, VERSION_KEY, QUANTIZATION_VERSION, err));
    NIB_TRY(write_calibration(plan, writer, err));
fail:
    return status;
}

static uint32_t n_pairs(const struct nib_rope_config *rope)
{
    return rope->dims / 2;
}

enum nib_status nib_gguf_factors(const struct nib_compress_plan *plan, uint32_t index,
                                 const char **out_name, float **out_factors, uint32_t *out_count,
                                 struct nib_error *err)
{
    const struct nib_model_config *config = nib_source_config(plan->source);
    const struct nib_rope_config *rope = &config->ropes[0];
    const bool longrope = rope->scaling == NIB_ROPE_SCALING_LONGROPE;
    *out_count = 0;
    *out_factors = NULL;
    if (nib_source_gguf(plan->source) || config->n_ropes == 0 || index > longrope ||
        (!longrope && rope->scaling != NIB_ROPE_SCALING_LLAMA3))
        return NIB_OK;
    float *factors = calloc((size_t)n_pairs(rope) + 1, sizeof *factors);
    if (!factors)
        return nib_fail_memory(err);
    if (longrope) {
        *out_name = index == 0 ? "rope_factors_long.weight" : "rope_factors_short.weight";
        memcpy(factors, index == 0 ? rope->long_factors : rope->short_factors,
               n_pairs(rope) * sizeof *factors);
    } else {
        *out_name = "rope_freqs.weight";
        float magnitude;
        nib_rope_frequencies(rope, config->context, config->context, factors, &magnitude);
        for (uint32_t j = 0; j < n_pairs(rope); j++) {
            double plain = pow((double)rope->base, -2.0 * j / rope->dims);
            factors[j] = (float)(plain / (double)factors[j]);
        }
    }
    *out_factors = factors;
    *out_count = n_pairs(rope);
    return NIB_OK;
}
