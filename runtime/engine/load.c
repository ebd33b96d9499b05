#include "runtime/base/os.h"
#include "runtime/base/status.h"
#include "runtime/engine/placement.h"

/// Returns the weight whose bytes weight `w` uses.
static uint32_t root_of(const struct nib_plan *plan, uint32_t w)
{
    uint32_t shared = plan->weights[w].shared_with;
    return shared == NIB_NO_WEIGHT ? w : shared;
}

/// Returns whether a segment of `part` uses the bytes of weight `root`.
static bool part_uses(const struct nib_plan *plan, const struct nib_part *part, uint32_t root)
{
    for (uint32_t w = root; w < plan->n_weights; w++) {
        uint32_t segment = plan->weights[w].segment;
        if (root_of(plan, w) == root && segment >= part->first_segment &&
            segment - part->first_segment < part->n_segments)
            return true;
    }
    return false;
}

/// Returns whether the part still needs weight `w` itself.
static bool is_missing(const struct nib_plan *plan, const struct nib_part *part, uint32_t w)
{
    return plan->weights[w].shared_with == NIB_NO_WEIGHT && w >= part->n_offered &&
           part_uses(plan, part, w);
}

uint64_t nib_load_total(const struct nib_engine *engine)
{
    const struct nib_plan *plan = engine->plan;
    uint64_t total = 0;
    for (uint32_t w = 0; w < plan->n_weights; w++) {
        for (uint32_t i = 0; i < engine->n_parts; i++)
            total += is_missing(plan, &engine->parts[i], w) ? plan->weights[w].bytes : 0;
    }
    return total;
}

void nib_load_restart(struct nib_engine *engine)
{
    struct nib_load *load = &engine->load;
    load->next_weight = 0;
    load->next_part = 0;
    load->done_bytes = 0;
    load->reported_bytes = 0;
    load->ready = false;
    load->meter.total = nib_load_total(engine);
    load->meter.next_ns = 0;
    load->n_checked = 0;
    load->n_checks = 0;
    load->reported_checks = 0;
    load->check_meter.next_ns = 0;
}

/// Asks the system to read the weight's mapped rows, so that they are there when they are used.
static void will_need(const struct nib_source *source, const struct nib_row_reader *reader)
{
    const struct nib_tensor_directory *tensors = nib_source_tensors(source);
    uint64_t row_bytes;
    if (!reader->raw || !nib_format_row_bytes(&reader->format, reader->cols, &row_bytes))
        return;
    for (uint32_t i = 0; i < tensors->n_maps; i++) {
        const struct nib_file_map *map = &tensors->maps[i];
        if (reader->raw < map->data || reader->raw >= map->data + map->size)
            continue;
        nib_file_map_will_need(map, (size_t)(reader->raw - map->data),
                               (size_t)(row_bytes * reader->rows));
        return;
    }
}

/// Packs the next weight for the next placement that uses it.
static enum nib_status load_next(struct nib_engine *engine, struct nib_error *err)
{
    struct nib_load *load = &engine->load;
    const struct nib_plan *plan = engine->plan;
    const struct nib_weight *weight = &plan->weights[load->next_weight];
    struct nib_part *part = &engine->parts[load->next_part];
    if (is_missing(plan, part, load->next_weight)) {
        const struct nib_source *source = engine->model->source;
        struct nib_row_reader reader;
        enum nib_status status =
            nib_source_reader(source, weight->role, weight->layer, &reader, err);
        if (status != NIB_OK)
            return status;
        will_need(source, &reader);
        status = part->device->backend->pack(part->instance, load->next_weight, &reader, err);
        if (nib_part_result(engine, part, status) != NIB_OK)
            return nib_fail_context(err, status, "%s", reader.name);
        load->done_bytes += weight->bytes;
    }
    if (part->n_offered <= load->next_weight)
        part->n_offered = load->next_weight + 1;
    if (++load->next_part == engine->n_parts) {
        load->next_part = 0;
        load->next_weight++;
    }
    return NIB_OK;
}

/// Adds up what the placements have checked.
static void count_checks(struct nib_engine *engine)
{
    struct nib_load *load = &engine->load;
    load->n_checked = 0;
    load->n_checks = 0;
    for (uint32_t i = 0; i < engine->n_parts; i++) {
        const struct nib_part *part = &engine->parts[i];
        uint32_t done, total;
        if (!part->device->backend->checks)
            continue;
        part->device->backend->checks(part->instance, &done, &total);
        load->n_checked += done;
        load->n_checks += total;
    }
}

/// Lets the placements make kernels ready, a piece of them.
static enum nib_status make_ready(struct nib_engine *engine, bool *out_ready, struct nib_error *err)
{
    *out_ready = true;
    for (uint32_t i = 0; i < engine->n_parts && *out_ready; i++) {
        const struct nib_part *part = &engine->parts[i];
        const struct nib_backend *backend = part->device->backend;
        if (!backend->ready)
            continue;
        enum nib_status status = backend->ready(part->instance, 1, out_ready, err);
        if (nib_part_result(engine, part, status) != NIB_OK) {
            *out_ready = false;
            return status;
        }
    }
    count_checks(engine);
    return NIB_OK;
}

enum nib_status nib_load_piece(struct nib_engine *engine, bool *out_done, struct nib_error *err)
{
    *out_done = false;
    if (engine->load.next_weight < engine->plan->n_weights)
        return load_next(engine, err);
    return make_ready(engine, out_done, err);
}
