#include "tools/nibble/sampling.h"
#include "tools/nibble/system.h"

/// Returns what the authors advise, or the program's defaults where they say nothing.
static struct nib_sampling advised(const struct nib_model *model)
{
    struct nib_generation_defaults own;
    nib_model_get_generation_defaults(model, &own);
    struct nib_sampling sampling = {.temperature = 0.8f, .top_p = 0.95f, .min_p = 0.05f};
    // Half of the authors' advice with half of ours would be neither.
    if (own.do_sample == 0)
        sampling = (struct nib_sampling){0};
    else if (own.temperature >= 0 || own.top_p >= 0 || own.min_p >= 0 || own.top_k >= 0)
        sampling = (struct nib_sampling){
            .temperature = own.temperature >= 0 ? own.temperature : 1.0f,
            .top_p = own.top_p >= 0 ? own.top_p : 0.0f,
            .min_p = own.min_p >= 0 ? own.min_p : 0.0f,
            .top_k = own.top_k >= 0 ? (uint32_t)own.top_k : 0,
        };
    if (own.repeat_penalty > 0)
        sampling.repeat_penalty = own.repeat_penalty;
    return sampling;
}

struct nib_sampling sampling_choose(const struct options *options, const struct nib_model *model)
{
    struct nib_sampling sampling = {0};
    if (!options->greedy)
        sampling = advised(model);
    if (options->temperature.given)
        sampling.temperature = (float)options->temperature.value;
    if (options->top_k.given)
        sampling.top_k = (uint32_t)options->top_k.value;
    if (options->top_p.given)
        sampling.top_p = (float)options->top_p.value;
    if (options->min_p.given)
        sampling.min_p = (float)options->min_p.value;
    if (options->repeat_penalty.given)
        sampling.repeat_penalty = (float)options->repeat_penalty.value;
    sampling.seed = options->seed.given ? options->seed.value : system_random();
    return sampling;
}
