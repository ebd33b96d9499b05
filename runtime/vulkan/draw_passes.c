// Passes around the plan's ops: bringing a step into the step block, drawing tokens from logits.
#include <string.h>

#include "runtime/base/checked.h"
#include "runtime/base/status.h"
#include "runtime/vulkan/passes.h"

/// Passes that draw, in this order.
enum draw_pass { DRAW_BEST, DRAW_LEVELS, DRAW_LIST, DRAW_GREEDY, DRAW_SAMPLED, N_DRAW_PASSES };

/// Levels of a part and words of each, tokens of the list and words of each, as in lib/draw.glsl.
#define LEVEL_WORDS (6u * 3u)
#define LIST_WORDS (1u + 3u * NIB_DRAW_LIST)

uint32_t nib_vk_draw_count(void)
{
    return NIB_VK_SLOTS + N_DRAW_PASSES;
}

static uint32_t count_parts(const struct nib_vk_instance *instance)
{
    return (uint32_t)nib_ceil_div_u64(instance->plan->vocabulary, NIB_DRAW_PART);
}

static uint64_t line_words(const struct nib_vk_instance *instance)
{
    return (uint64_t)count_parts(instance) * (2 + LEVEL_WORDS) + LIST_WORDS;
}

uint64_t nib_vk_draw_scratch(const struct nib_vk_instance *instance)
{
    return instance->max_lines * line_words(instance);
}

static enum nib_status build_advance(struct builder *b, uint32_t slot, struct nib_error *err)
{
    struct nib_vk_instance *self = b->self;
    const struct nib_vk_range *from = &self->step_upload[slot];
    struct nib_vk_range rows = self->step; // what lies behind is copied meanwhile
    rows.size = sizeof(struct nib_step_header) + NIB_STEP_MAX_ROWS * sizeof(struct nib_step_row);
    const struct nib_advance_args args = {0}; // set when recording
    const struct pass_params params = {
        .name = "advance",
        .kernel.shader = "advance",
        .bind
            .range = {[NIB_BIND_IN] = from, [NIB_BIND_IN_2] = &self->drawn, [NIB_BIND_OUT] = &rows},
        .push = &args,
        .push_size = sizeof args,
        .groups = 1,
    };
    struct nib_vk_pass *pass;
    return nib_vk_pass_add(b, &params, &pass, err);
}

static enum nib_status build_draw(struct builder *b, enum draw_pass which, struct nib_error *err)
{
    static const char *const shaders[N_DRAW_PASSES] = {"draw_best", "draw_levels", "draw_list",
                                                       "draw", "draw"};
    struct nib_vk_instance *self = b->self;
    const struct nib_value *value = &b->plan->values[b->plan->logits_value];
    uint32_t n_parts = count_parts(self);
    const struct nib_draw_args args = {
        .logits_stride = value->width,
        .vocabulary = b->plan->vocabulary,
        .n_parts = n_parts,
        .max_lines = self->max_lines,
        .draws_at = self->step_layout.draws_at,
        .scratch_stride = (uint32_t)line_words(self),
        .levels_at = 2 * n_parts,
        .list_at = n_parts * (2 + LEVEL_WORDS),
    };
    const struct pass_params params = {
        .name = "draw",
        .kernel = {.shader = shaders[which],
                   .specs = {[NIB_DRAW_HAS_SAMPLING] = which == DRAW_SAMPLED}},
        .bind.range = {[NIB_BIND_IN] = &self->values[b->plan->logits_value],
                       [NIB_BIND_OUT] = &self->drawn,
                       [NIB_BIND_SUMS] = &self->drawn_readback,
                       [NIB_BIND_IN_2] = &self->draw_scratch,
                       [NIB_BIND_TABLE] = &self->draw_scratch},
        .push = &args,
        .push_size = sizeof args,
        .groups = which < DRAW_GREEDY ? n_parts : 1,
    };
    struct nib_vk_pass *pass;
    return nib_vk_pass_add(b, &params, &pass, err);
}

enum nib_status nib_vk_draw_build(struct nib_vk_instance *instance, struct nib_error *err)
{
    enum nib_status status = NIB_OK;
    struct nib_vk_segment own = {0};
    struct builder b = {.self = instance, .plan = instance->plan, .segment = &own};
    instance->n_passes = 0;
    instance->first_advance_pass = 0;
    for (uint32_t slot = 0; slot < NIB_VK_SLOTS; slot++)
        NIB_TRY(build_advance(&b, slot, err));
    instance->first_draw_pass = instance->n_passes;
    b.is_lines = true;
    bool is_trusted = !(instance->choices.distrusted & NIB_VK_KERNEL_DRAW);
    instance->has_draw = instance->draw_scratch.size > 0 && is_trusted;
    for (int i = 0; i < N_DRAW_PASSES && instance->has_draw; i++) {
        struct nib_error error = {0};
        status = build_draw(&b, (enum draw_pass)i, &error);
        if (status == NIB_ERROR_UNSUPPORTED) {
            nib_log_write(&instance->log, NIB_LOG_WARNING, "tokens are drawn on the host: %s",
                          error.message);
            instance->has_draw = false;
            status = NIB_OK;
        }
        if (status != NIB_OK && err)
            *err = error;
        if (status != NIB_OK)
            return status;
    }
    if (instance->has_draw)
        instance->kernels |= NIB_VK_KERNEL_DRAW;
fail:
    return status;
}

void nib_vk_record_rows(const struct nib_vk_instance *instance, VkCommandBuffer buffer,
                        uint32_t slot, uint32_t n_rows)
{
    struct nib_vk_pass pass = instance->passes[instance->first_advance_pass + slot];
    const struct nib_advance_args args = {n_rows};
    memcpy(pass.push, &args, sizeof args);
    nib_vk_record_pass(instance, buffer, &pass, 0);
}

void nib_vk_record_draw(const struct nib_vk_instance *instance, VkCommandBuffer buffer,
                        bool is_sampled, uint32_t line_bucket)
{
    const struct nib_vk_pass *passes = &instance->passes[instance->first_draw_pass];
    nib_vk_record_pass(instance, buffer, &passes[DRAW_BEST], line_bucket);
    nib_vk_record_barrier(instance, buffer);
    for (int i = DRAW_LEVELS; i <= DRAW_LIST && is_sampled; i++) {
        nib_vk_record_pass(instance, buffer, &passes[i], line_bucket);
        nib_vk_record_barrier(instance, buffer);
    }
    nib_vk_record_pass(instance, buffer, &passes[is_sampled ? DRAW_SAMPLED : DRAW_GREEDY],
                       line_bucket);
    nib_vk_barrier_all(instance->device, buffer);
}
