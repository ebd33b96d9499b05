#include <math.h>
#include <string.h>

#include "runtime/base/os.h"
#include "runtime/base/status.h"
#include "runtime/vulkan/profile.h"
#include "runtime/vulkan/reload.h"

/// Cosines and sines of every table's angles, as the CPU backend has them.
static void write_angles(const struct nib_vk_instance *instance, const struct nib_step *step,
                         float *out)
{
    for (uint32_t t = 0; t < instance->plan->n_ropes; t++) {
        const struct nib_rope_table *table = &instance->plan->ropes[t];
        uint32_t half = table->dims / 2;
        for (uint32_t r = 0; r < step->header.n_used_rows; r++) {
            float *cosine = out + (size_t)r * table->dims, *sine = cosine + half;
            float position = (float)step->rows[r].position;
            for (uint32_t j = 0; j < half; j++) {
                float angle = position * table->frequency[j];
                cosine[j] = cosf(angle) * table->magnitude;
                sine[j] = sinf(angle) * table->magnitude;
            }
        }
        out += (size_t)instance->max_rows * table->dims;
    }
}

static enum nib_status check_step(const struct nib_vk_instance *instance,
                                  const struct nib_step *step, struct nib_error *err)
{
    const struct nib_step_header *h = &step->header;
    uint64_t per_sequence = (uint64_t)h->page_table_stride * instance->plan->n_kv_classes;
    bool is_good = h->n_used_rows > 0 && h->n_used_rows <= instance->max_rows &&
                   h->n_sequences <= instance->max_sequences &&
                   h->n_logits <= instance->max_lines && (!step->draws || instance->has_draw);
    for (uint32_t i = 0; is_good && i < h->n_sequences; i++)
        is_good = step->sequences[i].page_table + per_sequence <= instance->step_layout.n_tables;
    return is_good ? NIB_OK
                   : nib_fail(err, NIB_ERROR_ARGUMENT,
                              "a step of %u rows, %u sequences, %u logits is larger than the "
                              "device's instance was made for",
                              h->n_used_rows, h->n_sequences, h->n_logits);
}

/// Writes the step into the memory of a slot, which its recorded advance reads.
static void write_step(const struct nib_vk_instance *instance, const struct nib_step *step,
                       uint32_t n_rows, uint32_t slot)
{
    const struct nib_vk_step_layout *l = &instance->step_layout;
    uint8_t *to = nib_vk_pool_mapped(&instance->step_upload[slot]);
    struct nib_step_header header = step->header;
    header.n_rows = n_rows;
    header.slot = slot;
    memcpy(to, &header, sizeof header);
    uint8_t *rows = to + sizeof header;
    memcpy(rows, step->rows, header.n_used_rows * sizeof *step->rows);
    const struct nib_step_row padding = {.sequence = NIB_NONE, .logit_row = NIB_NONE};
    for (uint32_t r = header.n_used_rows; r < n_rows; r++)
        memcpy(rows + r * sizeof padding, &padding, sizeof padding);
    uint8_t *rest = rows + NIB_STEP_MAX_ROWS * sizeof padding;
    memcpy(rest + 4ull * l->sequences_at, step->sequences,
           header.n_sequences * sizeof *step->sequences);
    uint64_t per_sequence = (uint64_t)header.page_table_stride * instance->plan->n_kv_classes;
    for (uint32_t i = 0; i < header.n_sequences; i++) {
        uint32_t at = step->sequences[i].page_table;
        memcpy(rest + 4ull * (l->tables_at + at), step->page_tables + at, 4 * per_sequence);
    }
    if (step->draws)
        memcpy(rest + 4ull * l->draws_at, step->draws, header.n_logits * sizeof *step->draws);
    write_angles(instance, step, (float *)(void *)(rest + 4ull * l->angles_at));
}

void nib_vk_count_segment(struct nib_vk_instance *instance, uint32_t segment, uint32_t row_bucket,
                          uint32_t line_bucket)
{
    const struct nib_vk_segment *s = &instance->segments[segment];
    for (uint32_t i = 0; i < s->n_passes; i++) {
        const struct nib_vk_pass *pass = &instance->passes[s->first_pass + i];
        instance->n_dispatches += pass->height[pass->is_lines ? line_bucket : row_bucket] > 0;
    }
}

void nib_vk_count_draw(struct nib_vk_instance *instance, bool is_sampled)
{
    instance->n_dispatches += is_sampled ? 4 : 2;
}

bool nib_vk_is_sampled(const struct nib_step *step)
{
    for (uint32_t i = 0; step->draws && i < step->header.n_logits; i++) {
        if (step->draws[i].inverse_temperature != 0)
            return true;
    }
    return false;
}

/// Returns the command buffer of a segment for the step, and adds up its dispatches.
static VkCommandBuffer segment_command(struct nib_vk_instance *instance, uint32_t segment,
                                       uint32_t row_bucket, const struct nib_step *step)
{
    const struct nib_vk_segment *s = &instance->segments[segment];
    uint32_t lines = nib_vk_bucket(instance->max_lines) + 1;
    uint32_t line_bucket = nib_vk_bucket(step->header.n_logits ? step->header.n_logits : 1);
    nib_vk_count_segment(instance, segment, row_bucket, line_bucket);
    if (!s->has_lines)
        return instance->commands[s->first_command + row_bucket];
    return instance->commands[s->first_command + row_bucket * lines + line_bucket];
}

/// Submissions of a step to a host's queue that are under way at once: one that runs, and one that
/// keeps the device busy until the next. The host's own come between them.
#define MOST_IN_FLIGHT 2

/// Waits until no more than MOST_IN_FLIGHT - 1 of the `n` submissions of this step are under way.
static enum nib_status let_host_in(struct nib_vk_instance *instance, uint32_t n,
                                   struct nib_error *err)
{
    struct nib_vk_clock behind = instance->clock;
    if (!instance->device->is_attached || n < MOST_IN_FLIGHT)
        return NIB_OK;
    behind.value -= MOST_IN_FLIGHT - 1;
    return nib_vk_wait(instance->device, &behind, err);
}

/// Submits the batch, cut into pieces that should take no longer than the device's most_submit_ns
/// each. Once there is a piece, `flight` is under way.
static enum nib_status submit(struct nib_vk_instance *instance, uint32_t n, uint32_t n_rows,
                              struct nib_vk_flight *flight, struct nib_error *err)
{
    uint64_t each_ns = instance->row_ns * n_rows;
    // Before the first measurement the device may be slow.
    uint64_t most = each_ns ? instance->device->most_submit_ns / each_ns : n_rows > 8 ? 1 : 8;
    most = most < 1 ? 1 : most;
    flight->submit_ns = nib_clock_ns();
    flight->work = n * n_rows;
    for (uint32_t done = 0, pieces = 0; done < n; pieces++) {
        uint32_t count = n - done < most ? n - done : (uint32_t)most;
        enum nib_status status = let_host_in(instance, pieces, err);
        if (status == NIB_OK)
            status = nib_vk_submit_waiting(instance, instance->batch + done, count, err);
        if (status != NIB_OK)
            return status;
        instance->n_flights += pieces == 0;
        flight->value = instance->clock.value;
        done += count;
    }
    return NIB_OK;
}

/// Waits until there is a slot for the step, and nothing under way unless it takes tokens from it.
static enum nib_status take_slot(struct nib_vk_instance *instance, const struct nib_step *step,
                                 uint32_t *out_slot, struct nib_error *err)
{
    bool follows = step->draws && step->rows[0].token & NIB_STEP_DRAWN;
    enum nib_status status = NIB_OK;
    if (!follows)
        status = nib_vk_instance_wait(instance, err);
    else if (instance->n_flights == NIB_VK_SLOTS)
        status = nib_vk_wait_oldest(instance, err);
    *out_slot = (instance->first_flight + instance->n_flights) % NIB_VK_SLOTS;
    return status;
}

/// Appends what the head's lines become: tokens, or logits that are read back.
static void add_lines_command(struct nib_vk_instance *instance, const struct nib_step *step,
                              uint32_t *n)
{
    uint32_t bucket = nib_vk_bucket(step->header.n_logits ? step->header.n_logits : 1);
    uint32_t lines = nib_vk_bucket(instance->max_lines) + 1;
    bool is_sampled = nib_vk_is_sampled(step);
    uint32_t command = step->draws ? instance->first_draw_command + (is_sampled ? lines : 0)
                                   : instance->first_logits_command;
    if (step->draws)
        nib_vk_count_draw(instance, is_sampled);
    instance->batch[(*n)++] = instance->commands[command + bucket];
}

enum nib_status nib_vk_run_begin(struct nib_vk_instance *instance, uint32_t first, uint32_t last,
                                 const struct nib_step *step, uint32_t *out_slot,
                                 struct nib_error *err)
{
    enum nib_status status = NIB_OK;
    bool ready = instance->is_ready;
    if (!ready)
        NIB_TRY(nib_vk_instance_ready(instance, 0, &ready, err));
    NIB_TRY(nib_vk_reload(instance, err));
    NIB_TRY(check_step(instance, step, err));
    NIB_TRY(take_slot(instance, step, out_slot, err));
    struct nib_vk_flight *flight = &instance->flights[*out_slot];
    *flight = (struct nib_vk_flight){.first = first - instance->first_segment,
                                     .last = last - instance->first_segment,
                                     .n_rows = step->header.n_used_rows,
                                     .n_lines = step->header.n_logits};
    bool has_lines = false;
    for (uint32_t s = flight->first; s <= flight->last; s++)
        has_lines = has_lines || instance->segments[s].has_lines;
    flight->logits = has_lines && !step->draws ? step->logits : NULL;
    flight->drawn = has_lines && step->draws ? step->drawn : NULL;
    uint64_t start_ns = nib_clock_ns();
    write_step(instance, step, 1u << nib_vk_bucket(flight->n_rows), *out_slot);
    instance->host_ns += nib_clock_ns() - start_ns;
fail:
    return status;
}

enum nib_status nib_vk_run(void *self, uint32_t first, uint32_t last, const struct nib_step *step,
                           const float *hidden_in, float *hidden_out, struct nib_error *err)
{
    enum nib_status status = NIB_OK;
    struct nib_vk_instance *instance = self;
    uint32_t slot, n = 0;
    NIB_TRY(nib_vk_run_begin(instance, first, last, step, &slot, err));
    uint64_t start_ns = nib_clock_ns();
    uint32_t bucket = nib_vk_bucket(step->header.n_used_rows);
    uint32_t buckets = nib_vk_bucket(instance->max_rows) + 1;
    struct nib_vk_flight *flight = &instance->flights[slot];
    flight->hidden = hidden_out;
    instance->batch[n++] =
        instance->commands[instance->first_step_command + slot * buckets + bucket];
    if (hidden_in) {
        memcpy(nib_vk_pool_mapped(&instance->hidden_upload), hidden_in,
               (size_t)flight->n_rows * instance->plan->hidden_size * sizeof(float));
        instance->batch[n++] = instance->commands[instance->first_hidden_in_command + bucket];
    }
    for (uint32_t s = flight->first; s <= flight->last; s++)
        instance->batch[n++] = segment_command(instance, s, bucket, step);
    if (flight->logits || flight->drawn)
        add_lines_command(instance, step, &n);
    if (hidden_out)
        instance->batch[n++] = instance->commands[instance->first_hidden_out_command + bucket];
    NIB_TRY(submit(instance, n, 1u << bucket, flight, err));
    instance->host_ns += nib_clock_ns() - start_ns;
fail:
    return status;
}

/// Brings what a run wrote to where the engine wants it.
static void read_back(const struct nib_vk_instance *instance, const struct nib_vk_flight *flight,
                      uint32_t slot)
{
    const struct nib_plan *plan = instance->plan;
    if (flight->logits) {
        memcpy(flight->logits, nib_vk_pool_mapped(&instance->logits_readback),
               (size_t)flight->n_lines * plan->vocabulary * sizeof(float));
    }
    if (flight->drawn) {
        const uint32_t *drawn = nib_vk_pool_mapped(&instance->drawn_readback);
        memcpy(flight->drawn, drawn + (size_t)slot * instance->max_lines,
               flight->n_lines * sizeof *drawn);
    }
    if (flight->hidden) {
        memcpy(flight->hidden, nib_vk_pool_mapped(&instance->hidden_readback),
               (size_t)flight->n_rows * plan->hidden_size * sizeof(float));
    }
}

enum nib_status nib_vk_run_end(struct nib_vk_instance *instance, uint32_t slot,
                               struct nib_error *err)
{
    const struct nib_vk_flight *flight = &instance->flights[slot];
    for (uint32_t i = flight->first; i <= flight->last; i++) {
        enum nib_status status = nib_vk_profile_collect(instance, &instance->segments[i], err);
        if (status != NIB_OK)
            return status;
    }
    read_back(instance, flight, slot);
    return NIB_OK;
}

enum nib_status nib_vk_wait_oldest(void *self, struct nib_error *err)
{
    struct nib_vk_instance *instance = self;
    uint32_t slot = instance->first_flight;
    const struct nib_vk_flight *flight = &instance->flights[slot];
    if (instance->n_flights == 0)
        return NIB_OK;
    struct nib_vk_clock done = {instance->clock.semaphore, flight->value};
    enum nib_status status = nib_vk_wait(instance->device, &done, err);
    if (status != NIB_OK)
        return status;
    instance->first_flight = (slot + 1) % NIB_VK_SLOTS;
    instance->n_flights--;
    // A run begins when the one before is done.
    uint64_t begin_ns =
        flight->submit_ns > instance->idle_ns ? flight->submit_ns : instance->idle_ns;
    instance->idle_ns = nib_clock_ns();
    instance->row_ns = (instance->idle_ns - begin_ns) / flight->work + 1;
    return nib_vk_run_end(instance, slot, err);
}

enum nib_status nib_vk_instance_wait(struct nib_vk_instance *instance, struct nib_error *err)
{
    enum nib_status status = NIB_OK;
    while (instance->n_flights > 0 && status == NIB_OK)
        status = nib_vk_wait_oldest(instance, err);
    return status;
}
