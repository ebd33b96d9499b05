#include "runtime/import/source.h"

#include "runtime/base/status.h"
#include "runtime/formats/json.h"
#include "runtime/formats/safetensors.h"
#include "runtime/import/config_import.h"
#include "runtime/import/quantization.h"
#include "runtime/import/reader.h"
#include "runtime/import/source_parts.h"
#include "runtime/import/tokenizer_gguf.h"
#include "runtime/import/tokenizer_hf.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

/// The largest published vocabulary has 2^18 tokens.
enum { MAX_VOCABULARY = 1 << 24 };

struct nib_source {
    struct nib_arena arena;
    struct nib_log log;
    enum nib_container container;
    struct nib_gguf *gguf;               ///< owned, or NULL
    const struct nib_gguf *parsed_gguf;  ///< the same, or the caller's
    struct nib_safetensors *safetensors; ///< owned, or NULL
    const struct nib_tensor_directory *directory;
    struct nib_tokenizer *tokenizer; ///< or NULL
    struct nib_import_config config;
    const struct nib_arch_prefix *prefix;
    struct nib_quantization *method;         ///< of a quantized folder, or NULL
    const struct nib_tensor **tensors;       ///< [n_layers][NIB_ROLE_COUNT]; NULL: none
    const struct nib_row_reader **quantized; ///< the same, of matrices that are sets of tensors
    struct nib_generation_defaults defaults;
    const char *quantization;
    const char *path; ///< "" where there is none
    uint64_t file_bytes;
};

static const struct nib_tensor **slot(const struct nib_source *source, enum nib_role role,
                                      uint32_t layer)
{
    return &source->tensors[(size_t)layer * NIB_ROLE_COUNT + role];
}

static const struct nib_row_reader **quantized_slot(const struct nib_source *source,
                                                    enum nib_role role, uint32_t layer)
{
    return &source->quantized[(size_t)layer * NIB_ROLE_COUNT + role];
}

/// Looks up the tensor of `role`; `*out_name` is what it is called, or empty.
static const struct nib_tensor *find_tensor(const struct nib_source *source,
                                            const struct nib_arch_prefix *prefix,
                                            enum nib_role role, uint32_t layer,
                                            char out_name[NIB_ARCH_NAME_SIZE])
{
    out_name[0] = '\0';
    if (!nib_arch_tensor(source->config.arch, source->container, prefix, role, layer, out_name))
        return NULL;
    return nib_tensor_find(source->directory, out_name);
}

/// Finds out how tensors are prefixed, and the vocabulary, by the token embedding.
static enum nib_status find_embedding(struct nib_source *source, struct nib_error *err)
{
    char name[NIB_ARCH_NAME_SIZE];
    const struct nib_arch_prefix *prefix;
    for (uint32_t i = 0; (prefix = nib_arch_prefix(source->container, i)) != NULL; i++) {
        const struct nib_tensor *tensor =
            find_tensor(source, prefix, NIB_ROLE_TOKEN_EMBEDDING, 0, name);
        if (!tensor)
            continue;
        if (tensor->n_dims != 2 || tensor->dims[0] == 0 || tensor->dims[0] > MAX_VOCABULARY)
            return nib_fail(err, NIB_ERROR_FORMAT, "tensor '%s' has no row for each token", name);
        source->prefix = prefix;
        source->config.model.vocabulary = (uint32_t)tensor->dims[0];
        return NIB_OK;
    }
    prefix = nib_arch_prefix(source->container, 0);
    find_tensor(source, prefix, NIB_ROLE_TOKEN_EMBEDDING, 0, name);
    return nib_fail(err, NIB_ERROR_NOT_FOUND, "tensor '%s' is missing", name);
}

/// Enters the reader of a quantized matrix, and the tensor of its codes, where tensor `name` is
/// such a matrix.
static enum nib_status map_quantized(struct nib_source *source, enum nib_role role, uint32_t layer,
                                     const char *name, struct nib_error *err)
{
    static const char suffix[] = ".weight";
    const struct nib_row_reader **reader = quantized_slot(source, role, layer);
    char module[NIB_ARCH_NAME_SIZE];
    const size_t size = strlen(name);
    if (!source->method || !nib_role_is_matrix(role) || size < sizeof suffix ||
        strcmp(name + size - (sizeof suffix - 1), suffix) != 0)
        return NIB_OK;
    memcpy(module, name, size);
    module[size - (sizeof suffix - 1)] = '\0';
    enum nib_status status =
        nib_quantization_reader(source->method, source->directory, module,
                                nib_role_shape(&source->config.model, role), reader, err);
    if (status == NIB_OK && *reader)
        *slot(source, role, layer) = nib_tensor_find(source->directory, (*reader)->name);
    return status;
}

/// Enters `tensor` in the slot of `role` and checks it.
static enum nib_status map_tensor(struct nib_source *source, enum nib_role role, uint32_t layer,
                                  const struct nib_tensor *tensor, struct nib_error *err)
{
    struct nib_row_reader reader;
    *slot(source, role, layer) = tensor;
    const enum nib_status status = nib_reader_blocks(
        source->directory, tensor, nib_role_shape(&source->config.model, role), &reader, err);
    // A vector may lie in the file as a matrix of one row.
    if (status == NIB_OK && !nib_role_is_matrix(role) && reader.format.code != NIB_CODE_FLOAT)
        return nib_fail(err, NIB_ERROR_UNSUPPORTED,
                        "tensor '%s' has type %s, which no vector can have; take a file whose "
                        "norms and biases are f32, f16 or bf16",
                        tensor->name, nib_dtype_name(tensor->dtype));
    return status;
}

/// Does so with what the checkpoint has for `role`, a tensor or a set of tensors.
static enum nib_status map_role(struct nib_source *source, enum nib_role role, uint32_t layer,
                                struct nib_error *err)
{
    const struct nib_import_config *config = &source->config;
    char name[NIB_ARCH_NAME_SIZE];
    enum nib_need need = nib_role_need(&config->model, config->biased, role);
    if (need == NIB_NEED_NO || (role == NIB_ROLE_OUTPUT && config->tied) ||
        *slot(source, role, layer))
        return NIB_OK;
    const struct nib_tensor *tensor = find_tensor(source, source->prefix, role, layer, name);
    enum nib_status status = map_quantized(source, role, layer, name, err);
    if (status != NIB_OK || *quantized_slot(source, role, layer))
        return status;
    if (tensor)
        return map_tensor(source, role, layer, tensor, err);
    bool fused = nib_role_fused(role) != role && *slot(source, nib_role_fused(role), layer);
    bool tied = role == NIB_ROLE_OUTPUT && source->container == NIB_CONTAINER_GGUF;
    if (need == NIB_NEED_MUST || (need == NIB_NEED_UNFUSED && !fused) ||
        (role == NIB_ROLE_OUTPUT && !tied)) {
        if (name[0] == '\0')
            find_tensor(source, source->prefix, nib_role_fused(role), layer, name);
        return nib_fail(err, NIB_ERROR_NOT_FOUND, "tensor '%s' is missing", name);
    }
    return NIB_OK;
}

static enum nib_status map_tensors(struct nib_source *source, struct nib_error *err)
{
    enum nib_status status;
    // Fused matrices first: whether the others must be there depends on them.
    static const enum nib_role fused[] = {NIB_ROLE_QKV, NIB_ROLE_QKV_BIAS, NIB_ROLE_FFN_GATE_UP};
    const uint32_t n_layers = source->config.model.n_layers;
    NIB_TRY(find_embedding(source, err));
    source->tensors =
        nib_arena_array(&source->arena, (size_t)n_layers * NIB_ROLE_COUNT, sizeof *source->tensors);
    source->quantized = nib_arena_array(&source->arena, (size_t)n_layers * NIB_ROLE_COUNT,
                                        sizeof *source->quantized);
    if (!source->tensors || !source->quantized)
        return nib_fail_memory(err);
    for (uint32_t layer = 0; layer < n_layers; layer++) {
        for (size_t i = 0; i < sizeof fused / sizeof fused[0]; i++)
            NIB_TRY(map_role(source, fused[i], layer, err));
        for (enum nib_role role = 0; role < NIB_ROLE_COUNT; role++) {
            if (layer == 0 || nib_arch_in_layer(role))
                NIB_TRY(map_role(source, role, layer, err));
        }
    }
fail:
    return status;
}

/// Tells of tensors that nothing will read: the file may hold more than is known here.
static void report_unused(const struct nib_source *source)
{
    uint32_t n_used = source->method ? source->method->n_tensors : 0;
    uint32_t n_slots = source->config.model.n_layers * NIB_ROLE_COUNT;
    for (uint32_t i = 0; i < n_slots; i++)
        n_used += source->tensors[i] && !source->quantized[i];
    if (source->container == NIB_CONTAINER_GGUF) { // elsewhere the factors are no tensors
        const struct nib_rope_config *rope = &source->config.model.ropes[0];
        n_used +=
            (rope->divisors != NULL) + (rope->long_factors != NULL) + (rope->short_factors != NULL);
    }
    if (n_used < source->directory->n_tensors)
        nib_log_write(&source->log, NIB_LOG_INFO, "%" PRIu32 " of %" PRIu32 " tensors are not used",
                      source->directory->n_tensors - n_used, source->directory->n_tensors);
}

/// Finds the method, or the type that most bytes of matrices have.
static void find_quantization(struct nib_source *source)
{
    uint64_t bytes[NIB_DTYPE_COUNT] = {0};
    enum nib_dtype most = NIB_DTYPE_F32;
    if (source->method) {
        source->quantization = source->method->name;
        return;
    }
    for (uint32_t layer = 0; layer < source->config.model.n_layers; layer++) {
        for (enum nib_role role = 0; role < NIB_ROLE_COUNT; role++) {
            const struct nib_tensor *tensor = *slot(source, role, layer);
            if (tensor && nib_role_is_matrix(role))
                bytes[tensor->dtype] += tensor->size;
        }
    }
    for (enum nib_dtype dtype = 0; dtype < NIB_DTYPE_COUNT; dtype++) {
        if (bytes[dtype] > bytes[most])
            most = dtype;
    }
    source->quantization = nib_dtype_name(most);
}

/// Numbers of nib_generation_defaults and up to where they mean something.
static const struct advice {
    const char *keys[NIB_CONTAINER_COUNT];
    size_t offset;
    float most;
} advice[] = {
#define ADVICE(member, gguf, hf, most)                                     \
    {                                                                      \
        {gguf, hf}, offsetof(struct nib_generation_defaults, member), most \
    }
    ADVICE(temperature, "general.sampling.temp", "temperature", 1e6f),
    ADVICE(top_p, "general.sampling.top_p", "top_p", 1),
    ADVICE(min_p, "general.sampling.min_p", "min_p", 1),
    ADVICE(repeat_penalty, "general.sampling.penalty_repeat", "repetition_penalty", 1e6f),
#undef ADVICE
};
enum { N_ADVICE = sizeof advice / sizeof advice[0] };

static void set_default(struct nib_generation_defaults *defaults, const struct advice *item,
                        float number)
{
    if (number >= 0 && number <= item->most)
        *(float *)((char *)defaults + item->offset) = number;
}

static void read_sampling(const struct nib_gguf *gguf, struct nib_generation_defaults *defaults)
{
    for (size_t i = 0; i < N_ADVICE; i++) {
        float number;
        const char *key = advice[i].keys[NIB_CONTAINER_GGUF];
        if (nib_gguf_get_f32(nib_gguf_find(gguf, key), &number))
            set_default(defaults, &advice[i], number);
    }
    uint32_t top_k;
    if (nib_gguf_get_u32(nib_gguf_find(gguf, "general.sampling.top_k"), &top_k) &&
        top_k <= INT32_MAX)
        defaults->top_k = (int32_t)top_k;
}

static enum nib_status read_gguf(struct nib_source *source, const struct nib_gguf *gguf,
                                 struct nib_error *err)
{
    enum nib_status status;
    source->container = NIB_CONTAINER_GGUF;
    source->directory = &gguf->directory;
    source->parsed_gguf = gguf;
    NIB_TRY(nib_config_from_gguf(gguf, &source->arena, &source->config, err));
    NIB_TRY(map_tensors(source, err));
    source->config.tied = !*slot(source, NIB_ROLE_OUTPUT, 0);
    NIB_TRY(nib_tokenizer_from_gguf(gguf, &source->tokenizer, err));
    read_sampling(gguf, &source->defaults);
fail:
    return status;
}

static enum nib_status open_gguf(struct nib_source *source, const char *path, struct nib_error *err)
{
    enum nib_status status = nib_gguf_open(path, &source->gguf, err);
    if (status != NIB_OK)
        return status;
    return nib_fail_context(err, read_gguf(source, source->gguf, err), "%s", path);
}

static void read_generation_config(const json_t *json, struct nib_generation_defaults *defaults)
{
    uint32_t top_k;
    bool do_sample;
    for (size_t i = 0; i < N_ADVICE; i++) {
        float number;
        if (nib_json_get_f32(json, advice[i].keys[NIB_CONTAINER_HF], &number))
            set_default(defaults, &advice[i], number);
    }
    if (nib_json_get_u32(json, "top_k", &top_k) && top_k <= INT32_MAX)
        defaults->top_k = (int32_t)top_k;
    if (nib_json_get_bool(json, "do_sample", &do_sample))
        defaults->do_sample = do_sample;
}

static enum nib_status read_config(struct nib_source *source, const json_t *config,
                                   struct nib_error *err)
{
    source->container = NIB_CONTAINER_HF;
    enum nib_status status = nib_config_from_json(config, &source->arena, &source->config, err);
    if (status == NIB_OK)
        status = nib_quantization_parse(config, &source->arena, &source->method, err);
    return nib_fail_context(err, status, "config.json");
}

static enum nib_status open_folder(struct nib_source *source, const char *path,
                                   struct nib_error *err)
{
    enum nib_status status;
    json_t *config = NULL;
    json_t *generation = NULL;
    NIB_TRY(nib_json_open(path, "config.json", true, &config, err));
    NIB_TRY(nib_json_open(path, "generation_config.json", false, &generation, err));
    read_generation_config(generation, &source->defaults);
    NIB_TRY(nib_fail_context(err, read_config(source, config, err), "%s", path));
    NIB_TRY(nib_safetensors_open_folder(path, &source->safetensors, err));
    source->directory = &source->safetensors->directory;
    NIB_TRY(nib_fail_context(err, map_tensors(source, err), "%s", path));
    NIB_TRY(nib_tokenizer_from_folder(path, &source->tokenizer, err));
fail:
    json_decref(config);
    json_decref(generation);
    return status;
}

static struct nib_source *create_source(struct nib_error *err)
{
    struct nib_source *source = calloc(1, sizeof *source);
    if (!source) {
        nib_fail_memory(err);
        return NULL;
    }
    source->defaults = (struct nib_generation_defaults){-1, -1, -1, -1, -1, -1};
    source->path = "";
    return source;
}

/// Hands the source over where `status` is OK, and destroys it otherwise.
static enum nib_status finish_source(struct nib_source *source, enum nib_status status,
                                     struct nib_source **out_source)
{
    if (status != NIB_OK) {
        nib_source_destroy(&source);
        return status;
    }
    for (uint32_t i = 0; i < source->directory->n_maps; i++)
        source->file_bytes += source->directory->maps[i].size;
    find_quantization(source);
    report_unused(source);
    *out_source = source;
    return NIB_OK;
}

enum nib_status nib_source_from_gguf(const struct nib_gguf *gguf, struct nib_source **out_source,
                                     struct nib_error *err)
{
    *out_source = NULL;
    struct nib_source *source = create_source(err);
    if (!source)
        return NIB_ERROR_MEMORY;
    return finish_source(source, read_gguf(source, gguf, err), out_source);
}

enum nib_status nib_source_from_files(const json_t *config,
                                      const struct nib_tensor_directory *tensors,
                                      struct nib_source **out_source, struct nib_error *err)
{
    *out_source = NULL;
    struct nib_source *source = create_source(err);
    if (!source)
        return NIB_ERROR_MEMORY;
    source->directory = tensors;
    enum nib_status status = read_config(source, config, err);
    if (status == NIB_OK)
        status = map_tensors(source, err);
    return finish_source(source, status, out_source);
}

/// Tells the host once that all is read; it may still say no.
static enum nib_status report_progress(const char *path, const struct nib_progress *progress,
                                       uint64_t bytes, struct nib_error *err)
{
    if (progress->report && !progress->report(progress->user, "open model", bytes, bytes))
        return nib_fail(err, NIB_ERROR_CANCELLED, "%s: opening was cancelled", path);
    return NIB_OK;
}

enum nib_status nib_source_open(const char *path, const struct nib_model_params *params,
                                struct nib_source **out_source, struct nib_error *err)
{
    enum nib_status status;
    *out_source = NULL;
    struct nib_source *source = create_source(err);
    if (!source)
        return NIB_ERROR_MEMORY;
    if (params)
        source->log = params->log;

    enum nib_path_kind kind = nib_path_kind(path);
    source->path = nib_arena_text(&source->arena, path, strlen(path));
    if (!source->path)
        status = nib_fail_memory(err);
    else if (kind == NIB_PATH_FOLDER)
        status = open_folder(source, path, err);
    else if (kind == NIB_PATH_ABSENT)
        status = nib_fail(err, NIB_ERROR_NOT_FOUND, "%s: there is no such file or folder", path);
    else
        status = open_gguf(source, path, err);
    status = finish_source(source, status, out_source);
    if (status == NIB_OK && params)
        status = report_progress(path, &params->progress, (*out_source)->file_bytes, err);
    if (status != NIB_OK)
        nib_source_destroy(out_source);
    return status;
}

void nib_source_destroy(struct nib_source **source)
{
    struct nib_source *self = *source;
    *source = NULL;
    if (!self)
        return;
    nib_tokenizer_destroy(&self->tokenizer);
    nib_gguf_destroy(&self->gguf);
    nib_safetensors_destroy(&self->safetensors);
    nib_arena_free(&self->arena);
    free(self);
}

const struct nib_model_config *nib_source_config(const struct nib_source *source)
{
    return &source->config.model;
}

const struct nib_arch *nib_source_arch(const struct nib_source *source)
{
    return source->config.arch;
}

const char *nib_source_path(const struct nib_source *source)
{
    return source->path;
}

const struct nib_import_config *nib_source_import_config(const struct nib_source *source)
{
    return &source->config;
}

const struct nib_gguf *nib_source_gguf(const struct nib_source *source)
{
    return source->parsed_gguf;
}

const struct nib_tokenizer *nib_source_tokenizer(const struct nib_source *source)
{
    return source->tokenizer;
}

const struct nib_tensor_directory *nib_source_tensors(const struct nib_source *source)
{
    return source->directory;
}

void nib_source_generation_defaults(const struct nib_source *source,
                                    struct nib_generation_defaults *out_defaults)
{
    *out_defaults = source->defaults;
}

const char *nib_source_container(const struct nib_source *source)
{
    return source->container == NIB_CONTAINER_GGUF ? "gguf" : "safetensors";
}

const char *nib_source_quantization(const struct nib_source *source)
{
    return source->quantization;
}

uint64_t nib_source_file_bytes(const struct nib_source *source)
{
    return source->file_bytes;
}

bool nib_source_has(const struct nib_source *source, enum nib_role role, uint32_t layer)
{
    return layer < source->config.model.n_layers && *slot(source, role, layer) != NULL;
}

bool nib_source_tensor_name(const struct nib_source *source, enum nib_container container,
                            enum nib_role role, uint32_t layer, char out[NIB_ARCH_NAME_SIZE])
{
    const struct nib_arch_prefix *prefix =
        container == source->container ? source->prefix : nib_arch_prefix(container, 0);
    return nib_arch_tensor(source->config.arch, container, prefix, role, layer, out);
}

enum nib_status nib_source_reader(const struct nib_source *source, enum nib_role role,
                                  uint32_t layer, struct nib_row_reader *out_reader,
                                  struct nib_error *err)
{
    const struct nib_model_config *model = &source->config.model;
    *out_reader = (struct nib_row_reader){0};
    if (!nib_source_has(source, role, layer))
        return nib_fail(err, NIB_ERROR_NOT_FOUND, "there is no tensor '%s' of layer %" PRIu32,
                        nib_role_name(role), layer);
    if (*quantized_slot(source, role, layer)) {
        *out_reader = **quantized_slot(source, role, layer);
        return NIB_OK;
    }
    enum nib_status status = nib_reader_blocks(source->directory, *slot(source, role, layer),
                                               nib_role_shape(model, role), out_reader, err);
    if (status == NIB_OK && nib_role_is_norm(role) && model->norm_offset != 0)
        nib_reader_add_offset(out_reader, &model->norm_offset);
    return status;
}
