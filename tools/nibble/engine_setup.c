#include "tools/nibble/engine_setup.h"
#include "tools/nibble/message.h"
#include "tools/nibble/system.h"
#include <stdlib.h>

_Static_assert(NIB_SELF_TEST_CACHED == 0 && NIB_SELF_TEST_FULL == 1 && NIB_SELF_TEST_OFF == 2,
               "the table of flags lists the self-test's kinds in this order");

/// Measures a device whose profile is wanted. What fails without loss leaves a gap in the profile.
static enum nib_status measure(struct nib_device *device, struct nib_error *err)
{
    struct nib_device_limits limits;
    struct nib_error error;
    enum nib_status status = nib_device_measure(device, &limits, &error);
    if (status == NIB_OK)
        return NIB_OK;
    message_print("the device is not measured: %s", error.message);
    if (status != NIB_ERROR_DEVICE_LOST)
        return NIB_OK;
    *err = error;
    return status;
}

static enum nib_status open_device(const struct options *options, enum nib_backend_kind backend,
                                   uint32_t index, struct nib_device **out_device,
                                   struct nib_error *err)
{
    char *cache = backend == NIB_BACKEND_VULKAN ? system_user_path(SYSTEM_CACHE, "") : NULL;
    const struct nib_device_params *params =
        nib_device_params(.log = message_log(), .backend = backend, .index = index,
                          .threads = (uint32_t)options->threads.value,
                          .cpu_mask = options->cpu_mask, .vulkan_mask = options->vulkan_mask,
                          .self_test = (enum nib_self_test)options->self_test, .cache_dir = cache,
                          .shader_dir = options->shader_dir);
    enum nib_status status = nib_device_open(params, out_device, err);
    free(cache);
    if (status == NIB_OK && options->profile)
        status = measure(*out_device, err);
    if (status != NIB_OK)
        nib_device_destroy(out_device);
    return status;
}

/// How much a device is preferred; 0 for one that is never taken without being named. One that
/// cannot be used is taken where there is no better one, for the reason that opening it gives.
static int preference(const struct nib_device_info *info, bool automatic)
{
    int rank = automatic ? 0 : 1;
    if (info->backend != NIB_BACKEND_VULKAN)
        return 0;
    if (info->type == NIB_DEVICE_TYPE_VIRTUAL)
        rank = automatic ? 0 : 2;
    if (info->type == NIB_DEVICE_TYPE_INTEGRATED)
        rank = 3;
    if (info->type == NIB_DEVICE_TYPE_DISCRETE)
        rank = 4;
    return info->is_usable && rank > 0 ? rank + 4 : rank;
}

/// Devices that there is room for at first: listing them, which loads every driver, takes long.
#define USUAL_DEVICES 16

/// Finds the best Vulkan device, of two alike the one with more memory. `*out_found` is false where
/// there is none.
static enum nib_status find_gpu(bool automatic, struct option_device *out_device, bool *out_found,
                                struct nib_error *err)
{
    out_device->count = 1;
    uint32_t capacity = 0, count = USUAL_DEVICES;
    struct nib_device_info *infos = NULL;
    enum nib_status status = NIB_OK;
    *out_found = false;
    while (status == NIB_OK && count > capacity) {
        capacity = count;
        free(infos);
        infos = calloc(capacity, sizeof *infos);
        if (!infos)
            return fail_memory(err);
        status = nib_devices_list(infos, capacity, &count, err);
    }
    int best = 0;
    uint64_t most = 0;
    for (uint32_t i = 0; status == NIB_OK && i < count; i++) {
        int rank = preference(&infos[i], automatic);
        if (rank > best || (rank == best && rank > 0 && infos[i].memory_bytes > most)) {
            best = rank;
            most = infos[i].memory_bytes;
            out_device->indices[0] = infos[i].index;
            *out_found = true;
        }
    }
    free(infos);
    return status;
}

/// Opens a GPU, or leaves it out where it fails and others may do its work. `share` is its part of
/// the layers, where that matters.
static enum nib_status open_gpu(struct setup *setup, uint32_t index, float share,
                                struct nib_error *err)
{
    struct nib_error error;
    enum nib_status status =
        open_device(setup->options, NIB_BACKEND_VULKAN, index, &setup->gpus[setup->n_gpus], &error);
    bool is_failure = status == NIB_ERROR_DEVICE_LOST || status == NIB_ERROR_DEVICE_MEMORY ||
                      status == NIB_ERROR_MEMORY || status == NIB_ERROR_UNSUPPORTED;
    if (setup->fallback && is_failure) {
        message_print("%s; the model runs without it", error.message);
        setup->left_out = error;
        return NIB_OK;
    }
    if (status == NIB_OK)
        setup->shares[setup->n_gpus++] = share;
    else
        *err = error;
    return status;
}

static enum nib_status open_gpus(struct setup *setup, const struct option_device *devices,
                                 struct nib_error *err)
{
    const struct option_split *split = &setup->options->split;
    enum nib_status status = NIB_OK;
    for (uint32_t i = 0; i < devices->count && status == NIB_OK; i++)
        status = open_gpu(setup, devices->indices[i], split->count > 0 ? split->shares[i] : 1, err);
    return status;
}

enum nib_status setup_open(const struct options *options, struct setup *out_setup,
                           struct nib_error *err)
{
    enum nib_status status = NIB_OK;
    *out_setup = (struct setup){
        .options = options, .gpu_layers = GPU_LAYERS_AUTO, .check_progress.unit = PROGRESS_KERNELS};
    struct option_device devices = options->device;
    enum device_choice choice = devices.choice;
    bool gpu = choice == DEVICE_VULKAN_INDEX;
    // `auto` promises an answer, not a device.
    out_setup->fallback = options->fallback || choice == DEVICE_AUTO;
    if (choice == DEVICE_AUTO || choice == DEVICE_VULKAN)
        TRY(find_gpu(choice == DEVICE_AUTO, &devices, &gpu, err));

    const struct option_count *layers = &options->gpu_layers;
    out_setup->fit = layers->given && layers->value == GPU_LAYERS_AUTO;
    bool wants_gpu = layers->given && layers->value != GPU_LAYERS_AUTO && layers->value > 0;
    if (choice != DEVICE_CPU && layers->given && layers->value == 0)
        gpu = false;
    else if (choice == DEVICE_VULKAN)
        gpu = true; // where none is listed, opening it says why
    else if (wants_gpu && !gpu)
        TRY(fail_with(err, NIB_ERROR_NOT_FOUND,
                      "--gpu-layers %u: no GPU to run them on; 'nibble devices' lists the devices",
                      (unsigned)layers->value));

    if (gpu)
        TRY(open_gpus(out_setup, &devices, err));
    gpu = out_setup->n_gpus > 0;
    if (layers->given)
        out_setup->gpu_layers = (uint32_t)layers->value;
    if (!gpu || out_setup->gpu_layers != GPU_LAYERS_AUTO || out_setup->fallback || out_setup->fit)
        TRY(open_device(options, NIB_BACKEND_CPU, 0, &out_setup->cpu, err));
    return NIB_OK;

fail:
    setup_close(out_setup);
    return status;
}

void setup_close(struct setup *setup)
{
    while (setup->n_gpus > 0)
        nib_device_destroy(&setup->gpus[--setup->n_gpus]);
    nib_device_destroy(&setup->cpu);
}

enum nib_status model_open(const char *path, struct nib_model **out_model, struct nib_error *err)
{
    struct progress progress = {.unit = PROGRESS_BYTES};
    const struct nib_model_params *params =
        nib_model_params(.log = message_log(), .progress = progress_hook(&progress));
    enum nib_status status = nib_model_open(path, params, out_model, err);
    progress_end(&progress);
    return status;
}

/// Divides the segments between GPUs, which share theirs, and the CPU, and returns the number of
/// placements.
static uint32_t place(const struct setup *setup, uint32_t n_layers,
                      struct nib_placement out_placements[MAX_GPUS + 1])
{
    uint32_t n_segments = n_layers + 2; // embedding, layers, head
    uint32_t on_gpu = 0, count = 0;
    if (setup->n_gpus > 0)
        on_gpu = setup->gpu_layers >= n_layers ? n_segments : 1 + setup->gpu_layers;
    for (; count < setup->n_gpus; count++)
        out_placements[count] = (struct nib_placement){.device = setup->gpus[count]};
    if (on_gpu < n_segments)
        out_placements[count++] = (struct nib_placement){setup->cpu, on_gpu, n_segments - on_gpu};
    return count;
}

enum nib_status engine_create(struct nib_model *model, struct setup *setup, uint32_t context,
                              struct nib_engine **out_engine, struct nib_error *err)
{
    const struct options *options = setup->options;
    struct nib_model_info info;
    nib_model_get_info(model, &info);
    struct nib_placement placements[MAX_GPUS + 1];
    const struct nib_error *left_out = &setup->left_out;
    uint32_t n_placements = place(setup, info.layers, placements);
    const struct nib_engine_params *params =
        nib_engine_params(.log = message_log(), .progress = progress_hook(&setup->progress),
                          .check_progress = progress_hook(&setup->check_progress),
                          .placements = placements, .n_placements = n_placements,
                          .shares = options->split.count > 0 ? setup->shares : NULL,
                          .fallback_reason = left_out->status != NIB_OK ? left_out->message : NULL,
                          .context = context, .max_sessions = setup->max_sessions,
                          .key_format = options->kv.keys, .value_format = options->kv.values,
                          .kv_recent = options->kv.recent, .kv_first = options->kv.first,
                          .kv_transform = options->kv.transform, .precise = options->precise,
                          .fallback = setup->fallback, .profile = options->profile,
                          .fallback_device = setup->cpu, .fit = setup->fit);
    return nib_engine_create(model, params, out_engine, err);
}

enum nib_status engine_load(struct nib_engine *engine, struct setup *setup, struct nib_error *err)
{
    bool ready = false;
    enum nib_status status = nib_engine_prepare(engine, 0, &ready, err);
    progress_end(&setup->progress);
    progress_end(&setup->check_progress);
    return status;
}

enum nib_status session_open(struct nib_engine *engine, const struct options *options,
                             struct nib_session **out_session, struct nib_error *err)
{
    const char *path = options->save_session;
    const char *why = path ? system_why_not_writable(path) : NULL;
    if (why)
        return fail_with(err, NIB_ERROR_IO, "%s: cannot write: %s", path, why);
    if (options->session)
        return nib_session_load(engine, options->session, out_session, err);
    return nib_session_create(engine, out_session, err);
}
