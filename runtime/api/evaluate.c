#include <nibble/evaluate.h>

#include "runtime/base/params.h"
#include "runtime/base/status.h"
#include "runtime/evaluate/evaluate.h"

enum nib_status nib_evaluate(struct nib_engine *engine, const struct nib_evaluate_params *params,
                             struct nib_evaluation *out_evaluation, struct nib_error *err)
{
    *out_evaluation = (struct nib_evaluation){0};
    struct nib_evaluate_params current;
    enum nib_status status = nib_params_read(&current, sizeof current, params, err);
    if (status != NIB_OK)
        return status;
    if (!engine || (current.n_ids > 0 && !current.ids))
        return nib_fail(err, NIB_ERROR_ARGUMENT, "%s is NULL", engine ? "ids" : "engine");
    return nib_evaluation_run(engine, &current, out_evaluation, err);
}
