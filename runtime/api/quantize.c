#include <nibble/quantize.h>

#include "runtime/base/params.h"
#include "runtime/base/status.h"
#include "runtime/compress/compress.h"
#include "runtime/engine/shared_model.h"

enum nib_status nib_quantize(struct nib_model *model, const char *path,
                             const struct nib_quantize_params *params,
                             struct nib_quantization_report *out_report, struct nib_error *err)
{
    struct nib_quantize_params current;
    *out_report = (struct nib_quantization_report){0};
    enum nib_status status = nib_params_read(&current, sizeof current, params, err);
    if (status != NIB_OK)
        return status;
    if (!model || !path || (current.n_calibration > 0 && !current.calibration))
        return nib_fail(err, NIB_ERROR_ARGUMENT, "%s is NULL",
                        !model  ? "model"
                        : !path ? "path"
                                : "calibration");
    return nib_compress_run(model->source, path, &current, out_report, err);
}
