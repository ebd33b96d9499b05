#include <nibble/model.h>

#include "runtime/base/params.h"
#include "runtime/base/status.h"
#include "runtime/engine/registry.h"
#include "runtime/engine/shared_model.h"
#include "runtime/model/model.h"

enum nib_status nib_model_open(const char *path, const struct nib_model_params *params,
                               struct nib_model **out_model, struct nib_error *err)
{
    *out_model = NULL;
    struct nib_model_params current;
    enum nib_status status = nib_params_read(&current, sizeof current, params, err);
    if (status != NIB_OK)
        return status;
    if (!path)
        return nib_fail(err, NIB_ERROR_ARGUMENT, "path is NULL");
    return nib_shared_model_open(path, &current, out_model, err);
}

void nib_model_destroy(struct nib_model **model)
{
    if (!model || !*model)
        return;
    nib_model_release(*model);
    *model = NULL;
}

/// Returns the number of weights of `role` in `layer`.
static uint64_t count_role(const struct nib_source *source, enum nib_role role, uint32_t layer)
{
    struct nib_row_reader reader;
    if (!nib_source_has(source, role, layer) ||
        nib_source_reader(source, role, layer, &reader, NULL) != NIB_OK)
        return 0;
    return reader.rows * reader.cols;
}

static uint64_t count_parameters(const struct nib_source *source)
{
    uint32_t n_layers = nib_source_config(source)->n_layers;
    uint64_t count = 0;
    for (int r = 0; r < NIB_ROLE_COUNT; r++) {
        enum nib_role role = (enum nib_role)r;
        if (role == NIB_ROLE_ROPE_FREQUENCIES)
            continue;
        bool in_layers = role >= NIB_ROLE_ATTENTION_NORM && role <= NIB_ROLE_FFN_POST_NORM;
        for (uint32_t layer = 0; layer < (in_layers ? n_layers : 1); layer++)
            count += count_role(source, role, layer);
    }
    return count;
}

void nib_model_get_info(const struct nib_model *model, struct nib_model_info *out_info)
{
    const struct nib_source *source = model->source;
    const struct nib_model_config *config = nib_source_config(source);
    const struct nib_tensor_directory *tensors = nib_source_tensors(source);
    uint64_t weight_bytes = 0;
    for (uint32_t i = 0; i < tensors->n_tensors; i++)
        weight_bytes += tensors->tensors[i].size;
    *out_info = (struct nib_model_info){
        .name = model->name,
        .architecture = config->architecture,
        .container = nib_source_container(source),
        .quantization = nib_source_quantization(source),
        .parameters = count_parameters(source),
        .file_bytes = nib_source_file_bytes(source),
        .weight_bytes = weight_bytes,
        .layers = config->n_layers,
        .hidden_size = config->hidden_size,
        .ffn_size = config->ffn_size,
        .heads = config->n_heads,
        .kv_heads = config->n_kv_heads,
        .head_dim = config->key_dim,
        .vocabulary = config->vocabulary,
        .context = config->context,
        .sliding_window = config->sliding_window,
        .has_tokenizer = nib_source_tokenizer(source) != NULL,
    };
}

uint32_t nib_model_tensor_count(const struct nib_model *model)
{
    return nib_source_tensors(model->source)->n_tensors;
}

void nib_model_get_tensor(const struct nib_model *model, uint32_t index,
                          struct nib_tensor_info *out_info)
{
    *out_info = (struct nib_tensor_info){.name = "", .format = ""};
    const struct nib_tensor_directory *tensors = nib_source_tensors(model->source);
    if (index >= tensors->n_tensors)
        return;
    const struct nib_tensor *tensor = &tensors->tensors[index];
    out_info->name = tensor->name;
    out_info->format = nib_dtype_name(tensor->dtype);
    out_info->n_dims = tensor->n_dims;
    for (uint32_t i = 0; i < 4; i++)
        out_info->dims[i] = tensor->dims[i];
    out_info->size_bytes = tensor->size;
}

const struct nib_tokenizer *nib_model_tokenizer(const struct nib_model *model)
{
    return nib_source_tokenizer(model->source);
}

void nib_model_get_generation_defaults(const struct nib_model *model,
                                       struct nib_generation_defaults *out_defaults)
{
    nib_source_generation_defaults(model->source, out_defaults);
}

enum nib_status nib_model_predict_memory(const struct nib_model *model,
                                         const struct nib_memory_params *params,
                                         struct nib_memory *out_memory, struct nib_error *err)
{
    *out_memory = (struct nib_memory){0};
    struct nib_memory_params current;
    enum nib_status status = nib_params_read(&current, sizeof current, params, err);
    if (status != NIB_OK)
        return status;
    const struct nib_backend *backend =
        nib_registry_find(current.on_vulkan ? NIB_BACKEND_VULKAN : NIB_BACKEND_CPU);
    return nib_plan_predict_memory(model->source, &current, backend, out_memory, err);
}
