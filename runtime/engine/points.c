// Timeline points of a host that owns a device.
#include "runtime/base/status.h"
#include "runtime/engine/placement.h"

enum nib_status nib_engine_add_points(struct nib_engine *engine,
                                      const struct nib_step_points *points, struct nib_error *err)
{
    struct nib_error refusal;
    for (uint32_t first = 0; first < engine->n_parts; first++) {
        const struct nib_part *part = &engine->parts[first];
        const struct nib_backend *backend = part->device->backend;
        const struct nib_step_points waits = {.waits = points->waits, .n_waits = points->n_waits};
        const struct nib_step_points signals = {.signals = points->signals,
                                                .n_signals = points->n_signals};
        enum nib_status status = backend->synchronize
                                     ? backend->synchronize(part->instance, &waits, &refusal)
                                     : NIB_ERROR_STATE;
        if (status == NIB_ERROR_STATE)
            continue;
        if (status != NIB_OK)
            return nib_fail(err, status, "%s", refusal.message);
        uint32_t last = engine->n_parts - 1;
        while (engine->parts[last].device != part->device)
            last--;
        return backend->synchronize(engine->parts[last].instance, &signals, err);
    }
    return nib_fail(err, NIB_ERROR_STATE,
                    "no placement of the engine is on a device of nib_device_attach");
}

enum nib_status nib_step_end(struct nib_engine *engine, struct nib_error *err)
{
    enum nib_status status = NIB_OK;
    for (uint32_t i = 0; i < engine->n_parts && status == NIB_OK; i++) {
        const struct nib_part *part = &engine->parts[i];
        if (part->device->backend->end_step)
            status =
                nib_part_result(engine, part, part->device->backend->end_step(part->instance, err));
    }
    return status;
}

uint32_t nib_step_most_rows(const struct nib_engine *engine)
{
    uint32_t most = engine->plan->max_rows;
    // Where results depend on the cuts, these must not depend on time.
    for (uint32_t i = 0; i < engine->n_parts && !engine->is_chunked; i++) {
        const struct nib_part *part = &engine->parts[i];
        if (!part->device->backend->most_rows)
            continue;
        uint32_t rows = part->device->backend->most_rows(part->instance);
        most = rows < most ? rows : most;
    }
    return most;
}
