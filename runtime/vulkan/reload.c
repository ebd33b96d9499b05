#include "runtime/vulkan/reload.h"

#include <stdlib.h>
#include <string.h>

#include "runtime/base/buffer.h"
#include "runtime/base/status.h"

#ifdef NIB_RUNTIME_COMPILE
#include "runtime/vulkan/compile.h"

/// Nobody saves a file more often.
#define LOOK_NS 200000000u

/// Shaders from a folder.
struct nib_vk_shader_folder {
    char *path;
    uint64_t next_ns;    ///< of the next look
    uint32_t generation; ///< grows with each look that found a change
    VkPipeline *old;     ///< pipelines that were replaced, and
    size_t *places;      ///< their numbers among the device's
    size_t n_old;
    size_t old_capacity;
    size_t places_capacity;
};

enum nib_status nib_vk_shaders_open(struct nib_vk_device *device, const char *folder,
                                    struct nib_error *err)
{
    if (!folder)
        return NIB_OK;
    device->folder = calloc(1, sizeof *device->folder);
    size_t size = strlen(folder) + 1;
    if (device->folder)
        device->folder->path = malloc(size);
    if (!device->folder || !device->folder->path)
        return nib_fail_memory(err);
    memcpy(device->folder->path, folder, size);
    uint64_t hash;
    return nib_vk_source_hash(folder, &nib_vk_shaders[0], &hash, err);
}

void nib_vk_shaders_close(struct nib_vk_device *device)
{
    struct nib_vk_shader_folder *folder = device->folder;
    if (!folder)
        return;
    for (size_t i = 0; i < folder->n_old; i++)
        device->table.DestroyPipeline(device->device, folder->old[i], NULL);
    free(folder->old);
    free(folder->places);
    free(folder->path);
    free(folder);
    device->folder = NULL;
}

enum nib_status nib_vk_shader_words(const struct nib_vk_device *device,
                                    const struct nib_vk_shader *shader, const uint32_t **out_words,
                                    size_t *out_size, uint32_t **out_memory, struct nib_error *err)
{
    *out_memory = NULL;
    *out_words = shader->words;
    *out_size = *shader->size;
    if (!device->folder)
        return NIB_OK;
    enum nib_status status =
        nib_vk_compile(device->folder->path, shader, out_memory, out_size, err);
    *out_words = *out_memory;
    return status;
}

/// Keeps what place `place` of the device's pipelines held.
static enum nib_status retire(struct nib_vk_shader_folder *folder, VkPipeline pipeline,
                              size_t place, struct nib_error *err)
{
    void *old = folder->old, *places = folder->places;
    enum nib_status status =
        nib_array_reserve(&old, &folder->old_capacity, folder->n_old + 1, sizeof *folder->old, err);
    folder->old = old;
    if (status == NIB_OK)
        status = nib_array_reserve(&places, &folder->places_capacity, folder->n_old + 1,
                                   sizeof *folder->places, err);
    folder->places = places;
    if (status != NIB_OK)
        return status;
    folder->old[folder->n_old] = pipeline;
    folder->places[folder->n_old++] = place;
    return NIB_OK;
}

/// Replaces pipeline `i` of the device if its source has changed since it was last looked at.
static enum nib_status look(struct nib_vk_device *d, size_t i, struct nib_error *err)
{
    struct nib_vk_pipeline *entry = &d->pipelines[i];
    const struct nib_vk_shader *shader = nib_vk_shader_find(entry->kernel.shader);
    struct nib_error error;
    VkPipeline pipeline;
    uint64_t hash;
    // A file that is being written may be away for a moment.
    if (nib_vk_source_hash(d->folder->path, shader, &hash, &error) != NIB_OK ||
        hash == entry->source_hash)
        return NIB_OK;
    bool is_first = entry->source_hash == 0;
    entry->source_hash = hash;
    if (is_first)
        return NIB_OK;
    if (nib_vk_pipeline_create(d, &entry->kernel, &pipeline, &error) != NIB_OK) {
        nib_log_write(&d->log, NIB_LOG_WARNING, "the kernel stays as it was: %s", error.message);
        return NIB_OK;
    }
    enum nib_status status = retire(d->folder, entry->pipeline, i, err);
    if (status != NIB_OK) {
        d->table.DestroyPipeline(d->device, pipeline, NULL);
        return status;
    }
    entry->pipeline = pipeline;
    d->folder->generation++;
    nib_log_write(&d->log, NIB_LOG_WARNING, "kernel %s was compiled anew", entry->kernel.shader);
    return NIB_OK;
}

/// Returns what has taken the place of a pipeline.
static VkPipeline current(const struct nib_vk_device *d, VkPipeline pipeline)
{
    for (size_t i = 0; i < d->folder->n_old; i++) {
        if (d->folder->old[i] == pipeline)
            return d->pipelines[d->folder->places[i]].pipeline;
    }
    return pipeline;
}

static void take_pipelines(struct nib_vk_instance *instance)
{
    for (uint32_t p = 0; p < instance->n_passes; p++) {
        VkPipeline *pipelines = instance->passes[p].pipelines;
        for (uint32_t c = 0; c < NIB_VK_MAX_BUCKETS; c++)
            pipelines[c] = current(instance->device, pipelines[c]);
    }
}

enum nib_status nib_vk_reload(struct nib_vk_instance *instance, struct nib_error *err)
{
    struct nib_vk_device *d = instance->device;
    enum nib_status status = NIB_OK;
    uint64_t now = nib_clock_ns();
    if (!d->folder)
        return NIB_OK;
    nib_mutex_lock(d->mutex);
    bool is_time = now >= d->folder->next_ns;
    for (size_t i = 0; i < d->n_pipelines && is_time && status == NIB_OK; i++)
        status = look(d, i, err);
    if (is_time)
        d->folder->next_ns = nib_clock_ns() + LOOK_NS;
    bool has_changed = instance->generation != d->folder->generation;
    if (has_changed && status == NIB_OK)
        status = nib_vk_wait(d, &instance->clock, err); // for what runs the old ones
    has_changed = has_changed && status == NIB_OK;
    uint32_t generation = d->folder->generation;
    if (has_changed)
        take_pipelines(instance);
    nib_mutex_unlock(d->mutex);
    if (has_changed)
        status = nib_vk_record_copies(instance, err);
    for (uint32_t s = 0; s < instance->n_ready && has_changed && status == NIB_OK; s++)
        status = nib_vk_record_segment(instance, s, err);
    if (status == NIB_OK)
        instance->generation = generation;
    return status;
}

#else

enum nib_status nib_vk_shaders_open(struct nib_vk_device *device, const char *folder,
                                    struct nib_error *err)
{
    (void)device;
    return folder ? nib_fail(err, NIB_ERROR_UNSUPPORTED,
                             "%s: this build compiles no shaders; configure it with "
                             "-DNIB_RUNTIME_COMPILE=ON",
                             folder)
                  : NIB_OK;
}

void nib_vk_shaders_close(struct nib_vk_device *device)
{
    (void)device;
}

enum nib_status nib_vk_shader_words(const struct nib_vk_device *device,
                                    const struct nib_vk_shader *shader, const uint32_t **out_words,
                                    size_t *out_size, uint32_t **out_memory, struct nib_error *err)
{
    (void)device;
    (void)err;
    *out_words = shader->words;
    *out_size = *shader->size;
    *out_memory = NULL;
    return NIB_OK;
}

enum nib_status nib_vk_reload(struct nib_vk_instance *instance, struct nib_error *err)
{
    (void)instance;
    (void)err;
    return NIB_OK;
}

#endif
