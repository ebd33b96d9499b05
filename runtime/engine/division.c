#include "runtime/engine/division.h"

#include "runtime/base/status.h"
#include <math.h>

/// Bytes that segments [first, end) take on a device of their own.
static double bytes_of(const struct nib_engine *engine, uint32_t first, uint32_t end)
{
    const struct nib_plan *plan = engine->plan;
    double bytes = 0;
    for (uint32_t w = 0; w < plan->n_weights; w++) {
        if (plan->weights[w].segment >= first && plan->weights[w].segment < end)
            bytes += (double)plan->weights[w].bytes;
    }
    for (uint32_t s = first; s < end; s++) {
        if (plan->segments[s].kind != NIB_SEGMENT_LAYER)
            continue;
        const struct nib_kv_layer *layer = &plan->kv_layers[plan->segments[s].layer];
        uint32_t n_pages = nib_plan_pages(plan, layer->kv_class, engine->max_sessions);
        bytes += (double)n_pages * (double)nib_kv_page_bytes(layer);
        if (nib_plan_keeps_f16(plan)) {
            n_pages = nib_plan_pages(plan, plan->n_kv_classes - 1, engine->max_sessions);
            bytes += (double)n_pages * (double)nib_kv_recent_bytes(layer);
        }
    }
    return bytes;
}

/// What a device can still take; at least 1.
static double memory_left(const struct nib_device *device)
{
    const struct nib_backend *backend = device->backend;
    struct nib_device_info info = {0};
    backend->device_info(device->impl, &info);
    uint64_t bytes = backend->memory_left ? backend->memory_left(device->impl) : info.memory_bytes;
    return fmax((double)bytes, 1.0);
}

static double share_of(const struct nib_engine *engine, const float *shares, uint32_t part)
{
    return shares ? (double)shares[part] : memory_left(engine->parts[part].device);
}

/// Placements [first, end) of the engine and segments [next, last) that they divide.
struct division {
    uint32_t first, end;
    uint32_t next, last;
};

/// Returns the cut between segments [low, high] before which the bytes from division->next on are
/// nearest to `wanted`.
static uint32_t nearest_cut(const struct nib_engine *engine, const struct division *division,
                            uint32_t low, uint32_t high, double wanted)
{
    double bytes = bytes_of(engine, division->next, low);
    while (low < high) {
        double more = bytes + bytes_of(engine, low, low + 1);
        if (more - wanted > wanted - bytes)
            break;
        bytes = more;
        low++;
    }
    return low;
}

static enum nib_status divide(struct nib_engine *engine, const struct division *division,
                              const float *shares, struct nib_error *err)
{
    const struct nib_segment *segments = engine->plan->segments;
    uint32_t count = division->end - division->first, low = division->next, high = division->last;
    while (low < high && segments[low].kind != NIB_SEGMENT_LAYER)
        low++;
    while (high > low && segments[high - 1].kind != NIB_SEGMENT_LAYER)
        high--;
    if (high - low < count)
        return nib_fail(err, NIB_ERROR_ARGUMENT,
                        "%u devices cannot divide %u layers: each needs one at least", count,
                        high - low);
    double all = 0, before = 0;
    for (uint32_t i = division->first; i < division->end; i++) {
        double share = share_of(engine, shares, i);
        if (!(share > 0) || isinf(share))
            return nib_fail(err, NIB_ERROR_ARGUMENT, "the share of placement %u is %g", i, share);
        all += share;
    }
    double bytes = bytes_of(engine, division->next, division->last);
    uint32_t next = division->next;
    for (uint32_t i = division->first; i < division->end; i++) {
        struct nib_part *part = &engine->parts[i];
        before += share_of(engine, shares, i);
        low++;
        part->first_segment = next;
        next = i + 1 == division->end
                   ? division->last
                   : nearest_cut(engine, division, low, high - (division->end - i - 1),
                                 bytes * before / all);
        part->n_segments = next - part->first_segment;
        low = next;
    }
    return NIB_OK;
}

enum nib_status nib_placements_divide(struct nib_engine *engine, const float *shares,
                                      struct nib_error *err)
{
    struct division division = {.last = 0};
    enum nib_status status = NIB_OK;
    for (uint32_t i = 0; i < engine->n_parts && status == NIB_OK; i = division.end) {
        const struct nib_part *part = &engine->parts[i];
        division.first = division.end = i;
        while (division.end < engine->n_parts && engine->parts[division.end].n_segments == 0)
            division.end++;
        if (division.end == i) {
            division.next = part->first_segment + part->n_segments;
            division.end++;
            continue;
        }
        division.last = division.end < engine->n_parts ? engine->parts[division.end].first_segment
                                                       : engine->plan->n_segments;
        if (division.last > engine->plan->n_segments || division.last <= division.next)
            return nib_fail(err, NIB_ERROR_ARGUMENT,
                            "placement %u has no segments: there are none from %u on before the "
                            "next placement",
                            i, division.next);
        status = divide(engine, &division, shares, err);
        division.next = division.last;
    }
    return status;
}
