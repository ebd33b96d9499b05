#include "runtime/engine/shared_model.h"

#include "runtime/base/status.h"
#include <stdlib.h>
#include <string.h>

static char *copy_text(const char *text, size_t size)
{
    char *copy = malloc(size + 1);
    if (copy) {
        memcpy(copy, text, size);
        copy[size] = '\0';
    }
    return copy;
}

/// Returns a copy of the path's last part, or NULL where memory has run out.
static char *last_part(const char *path)
{
    size_t end = strlen(path);
    while (end > 1 && (path[end - 1] == '/' || path[end - 1] == '\\'))
        end--;
    size_t first = end;
    while (first > 0 && path[first - 1] != '/' && path[first - 1] != '\\')
        first--;
    return copy_text(path + first, end - first);
}

enum nib_status nib_shared_model_open(const char *path, const struct nib_model_params *params,
                                      struct nib_model **out_model, struct nib_error *err)
{
    enum nib_status status = NIB_OK;
    *out_model = NULL;
    struct nib_model *model = calloc(1, sizeof *model);
    if (!model)
        return nib_fail_memory(err);
    atomic_init(&model->references, 1);
    NIB_TRY(nib_source_open(path, params, &model->source, err));
    const char *own_name = nib_source_config(model->source)->name;
    model->name = own_name[0] ? copy_text(own_name, strlen(own_name)) : last_part(path);
    if (!model->name)
        NIB_TRY(nib_fail_memory(err));
    *out_model = model;
    return NIB_OK;

fail:
    nib_model_release(model);
    return status;
}

void nib_model_retain(struct nib_model *model)
{
    atomic_fetch_add_explicit(&model->references, 1, memory_order_relaxed);
}

void nib_model_release(struct nib_model *model)
{
    if (atomic_fetch_sub_explicit(&model->references, 1, memory_order_acq_rel) != 1)
        return;
    nib_source_destroy(&model->source);
    free(model->name);
    free(model);
}
