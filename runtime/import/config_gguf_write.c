// The inverse of config_gguf.c.
#include "runtime/import/config_import.h"

#include "runtime/base/status.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/// Where keys go; they lie under the architecture's name.
struct target {
    struct nib_gguf_writer *writer;
    const char *arch;
};

static enum nib_status write_number(void *user, const char *key, bool whole, double number,
                                    struct nib_error *err)
{
    const struct target *target = user;
    char full[96];
    snprintf(full, sizeof full, "%s.%s", target->arch, key);
    if (whole)
        return nib_gguf_writer_add_u32(target->writer, full, (uint32_t)number, err);
    return nib_gguf_writer_add_f32(target->writer, full, (float)number, err);
}

static enum nib_status write_text(const struct target *target, const char *key, const char *text,
                                  struct nib_error *err)
{
    char full[96];
    snprintf(full, sizeof full, "%s.%s", target->arch, key);
    const struct nib_text value = {text, strlen(text)};
    return nib_gguf_writer_add_text(target->writer, full, value, err);
}

/// Llama 3's scaling has no keys: its frequencies are a vector beside the weights.
static enum nib_status write_scaling(struct target *target, const struct nib_rope_config *rope,
                                     struct nib_error *err)
{
    enum nib_status status = NIB_OK;
    const bool yarn = rope->scaling == NIB_ROPE_SCALING_YARN;
    const bool longrope = rope->scaling == NIB_ROPE_SCALING_LONGROPE;
    if (rope->scaling == NIB_ROPE_SCALING_NONE || rope->scaling == NIB_ROPE_SCALING_LLAMA3)
        return NIB_OK;
    if (rope->mscale != 0 || rope->mscale_all_dims != 0 || (yarn && !rope->truncate))
        return nib_fail(err, NIB_ERROR_UNSUPPORTED,
                        "GGUF has no keys for this variant of YaRN's RoPE scaling");
    NIB_TRY(write_text(target, "rope.scaling.type",
                       yarn       ? "yarn"
                       : longrope ? "longrope"
                                  : "linear",
                       err));
    if (rope->factor != 0)
        NIB_TRY(write_number(target, "rope.scaling.factor", false, (double)rope->factor, err));
    if (rope->original_context != 0)
        NIB_TRY(write_number(target, "rope.scaling.original_context_length", true,
                             rope->original_context, err));
    if (rope->attention_factor != 0)
        NIB_TRY(write_number(target, "rope.scaling.attn_factor", false,
                             (double)rope->attention_factor, err));
    if (yarn) {
        NIB_TRY(write_number(target, "rope.scaling.yarn_beta_fast", false, (double)rope->beta_fast,
                             err));
        NIB_TRY(write_number(target, "rope.scaling.yarn_beta_slow", false, (double)rope->beta_slow,
                             err));
    }
fail:
    return status;
}

static enum nib_status write_ropes(struct target *target, const struct nib_model_config *model,
                                   struct nib_error *err)
{
    enum nib_status status = NIB_OK;
    const struct nib_rope_config *rope = &model->ropes[0];
    if (model->n_ropes == 0)
        return NIB_OK;
    NIB_TRY(write_number(target, "rope.dimension_count", true, rope->dims, err));
    NIB_TRY(write_number(target, "rope.freq_base", false, (double)rope->base, err));
    NIB_TRY(write_scaling(target, rope, err));
    if (model->n_ropes == 2)
        NIB_TRY(
            write_number(target, "rope.freq_base_swa", false, (double)model->ropes[1].base, err));
fail:
    return status;
}

/// Writes which layers have a window, where that is not the architecture's rule.
static enum nib_status write_windows(struct target *target, const struct nib_arch *arch,
                                     const struct nib_model_config *model, struct nib_error *err)
{
    static const char key[] = "attention.sliding_window_pattern";
    char full[96];
    bool is_usual = true;
    uint8_t *flags = malloc(model->n_layers);
    if (!flags)
        return nib_fail_memory(err);
    for (uint32_t i = 0; i < model->n_layers; i++) {
        bool usual = arch->window_rule == NIB_WINDOW_ALL ||
                     (arch->window_rule == NIB_WINDOW_PERIOD && (i + 1) % arch->window_period != 0);
        flags[i] = model->layers[i].window != 0;
        is_usual &= flags[i] == usual;
    }
    enum nib_status status = NIB_OK;
    if (model->sliding_window != 0 && !arch->gguf)
        status = nib_fail(err, NIB_ERROR_UNSUPPORTED,
                          "GGUF has no architecture of this kind with a sliding window");
    else if (model->sliding_window != 0 && !is_usual) {
        snprintf(full, sizeof full, "%s.%s", target->arch, key);
        const struct nib_gguf_value value = {
            .key = {full, strlen(full)},
            .type = NIB_GGUF_ARRAY,
            .element_type = NIB_GGUF_BOOL,
            .count = model->n_layers,
            .data = flags,
            .size = model->n_layers,
        };
        status = nib_gguf_writer_add_value(target->writer, &value, err);
    }
    free(flags);
    return status;
}

/// Refuses layers without RoPE that the architecture's rule does not say.
static enum nib_status check_layers(const struct nib_arch *arch,
                                    const struct nib_model_config *model, struct nib_error *err)
{
    for (uint32_t i = 0; i < model->n_layers; i++) {
        bool usual = arch->no_rope_period == 0 || (i + 1) % arch->no_rope_period != 0;
        if ((model->layers[i].rope >= 0) != usual)
            return nib_fail(err, NIB_ERROR_UNSUPPORTED,
                            "GGUF cannot tell that layer %u has %s positions", (unsigned)i,
                            usual ? "no" : "rotary");
    }
    return NIB_OK;
}

const char *nib_config_gguf_name(const struct nib_arch *arch)
{
    return arch->gguf ? arch->gguf : "llama";
}

enum nib_status nib_config_to_gguf(const struct nib_arch *arch,
                                   const struct nib_model_config *model,
                                   struct nib_gguf_writer *writer, struct nib_error *err)
{
    enum nib_status status;
    struct target target = {writer, nib_config_gguf_name(arch)};
    const struct nib_text name = {target.arch, strlen(target.arch)};
    NIB_TRY(check_layers(arch, model, err));
    NIB_TRY(nib_gguf_writer_add_text(writer, "general.architecture", name, err));
    if (model->name[0] != '\0')
        NIB_TRY(nib_gguf_writer_add_text(writer, "general.name",
                                         (struct nib_text){model->name, strlen(model->name)}, err));
    NIB_TRY(nib_config_visit_numbers(arch, NIB_CONTAINER_GGUF, model, write_number, &target, err));
    NIB_TRY(write_number(&target, "vocab_size", true, model->vocabulary, err));
    NIB_TRY(write_ropes(&target, model, err));
    NIB_TRY(write_windows(&target, arch, model, err));
fail:
    return status;
}
