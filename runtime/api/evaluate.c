#include <nibble/evaluate.h>

#include "runtime/base/params.h"
#include "runtime/base/status.h"
#include "runtime/evaluate/evaluate.h"

/// Brings the params to this version. Errors: argument.
static enum nib_status read_params(struct nib_evaluate_params *out_current,
                                   const struct nib_evaluate_params *params, struct nib_error *err)
{
    enum nib_status status = nib_params_read(out_current, sizeof *out_current, params, err);
    if (status == NIB_OK && out_current->n_ids > 0 && !out_current->ids)
        return nib_fail(err, NIB_ERROR_ARGUMENT, "ids is NULL");
    return status;
}

enum nib_status nib_evaluate(struct nib_engine *engine, const struct nib_evaluate_params *params,
                             struct nib_evaluation *out_evaluation, struct nib_error *err)
{
    *out_evaluation = (struct nib_evaluation){0};
    struct nib_evaluate_params current;
    enum nib_status status = read_params(&current, params, err);
    if (status != NIB_OK)
        return status;
    if (!engine)
        return nib_fail(err, NIB_ERROR_ARGUMENT, "engine is NULL");
    return nib_evaluation_run(engine, &current, out_evaluation, err);
}

enum nib_status nib_logits_writer_note_windows(struct nib_logits_writer *writer,
                                               const struct nib_evaluate_params *params,
                                               struct nib_error *err)
{
    struct nib_evaluate_params current;
    enum nib_status status = read_params(&current, params, err);
    return status == NIB_OK ? nib_logits_note_windows(writer, &current, err) : status;
}

enum nib_status nib_logits_reader_check_windows(const struct nib_logits_reader *reader,
                                                const struct nib_evaluate_params *params,
                                                struct nib_error *err)
{
    struct nib_evaluate_params current;
    enum nib_status status = read_params(&current, params, err);
    return status == NIB_OK ? nib_logits_check_windows(reader, &current, err) : status;
}
