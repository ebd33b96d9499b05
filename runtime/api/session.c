#include <nibble/session.h>

#include "runtime/base/params.h"
#include "runtime/base/status.h"
#include "runtime/engine/engine.h"

static enum nib_status read_params(const struct nib_session *session,
                                   const struct nib_generate_params *params,
                                   struct nib_generate_params *out_current, struct nib_error *err)
{
    enum nib_status status = nib_params_read(out_current, sizeof *out_current, params, err);
    if (status != NIB_OK)
        return status;
    if (!session || (out_current->n_stops > 0 && !out_current->stops) ||
        (out_current->n_biases > 0 && !out_current->biases))
        return nib_fail(err, NIB_ERROR_ARGUMENT, "%s is NULL", session ? "a list" : "session");
    return NIB_OK;
}

enum nib_status nib_session_begin(struct nib_session *session,
                                  const struct nib_generate_params *params, struct nib_error *err)
{
    struct nib_generate_params current;
    enum nib_status status = read_params(session, params, &current, err);
    return status == NIB_OK ? nib_generator_begin(session, &current, err) : status;
}

enum nib_status nib_session_generate(struct nib_session *session,
                                     const struct nib_generate_params *params,
                                     struct nib_generation *out_generation, struct nib_error *err)
{
    if (out_generation)
        *out_generation = (struct nib_generation){0};
    struct nib_generate_params current;
    enum nib_status status = read_params(session, params, &current, err);
    if (status != NIB_OK)
        return status;
    return nib_generator_run(session, &current, out_generation, err);
}
