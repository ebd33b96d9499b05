#include <nibble/engine.h>

#include "runtime/base/params.h"
#include "runtime/base/status.h"
#include "runtime/engine/engine.h"

enum nib_status nib_engine_create(struct nib_model *model, const struct nib_engine_params *params,
                                  struct nib_engine **out_engine, struct nib_error *err)
{
    *out_engine = NULL;
    struct nib_engine_params current;
    enum nib_status status = nib_params_read(&current, sizeof current, params, err);
    if (status != NIB_OK)
        return status;
    if (!model || (current.n_placements > 0 && !current.placements))
        return nib_fail(err, NIB_ERROR_ARGUMENT, "%s is NULL", model ? "placements" : "model");
    return nib_engine_build(model, &current, out_engine, err);
}
