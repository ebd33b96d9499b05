/// A model as the host holds it: a source that lives as long as anyone needs it.
#ifndef RUNTIME_ENGINE_SHARED_MODEL_H
#define RUNTIME_ENGINE_SHARED_MODEL_H

#include "runtime/import/source.h"
#include <stdatomic.h>

struct nib_model {
    struct nib_source *source;
    char *name;                  ///< the file's own name for it, or the path's last part
    _Atomic uint32_t references; ///< the opener's and one per engine
};

/// nib_model_open, with params of this version.
enum nib_status nib_shared_model_open(const char *path, const struct nib_model_params *params,
                                      struct nib_model **out_model, struct nib_error *err);

/// Adds and drops a reference; the last one closes the model. Thread-safety: safe.
void nib_model_retain(struct nib_model *model);
void nib_model_release(struct nib_model *model);

#endif
