#include "runtime/vulkan/constants.h"

#include <stdlib.h>
#include <string.h>

#include "runtime/base/buffer.h"
#include "runtime/base/status.h"
#include "runtime/vulkan/loss.h"
#include "runtime/vulkan/pipeline_cache.h"
#include "runtime/vulkan/quirks.h"
#include "runtime/vulkan/reload.h"
#include "runtime/vulkan/self_test.h"

static enum nib_status create_device(struct nib_vk_device *d, struct nib_error *err)
{
    const float priority = 1.0f;
    VkDeviceQueueCreateInfo queue = {.sType = VK_STRUCTURE_TYPE_DEVICE_QUEUE_CREATE_INFO,
                                     .queueFamilyIndex = d->plan.queue_family,
                                     .queueCount = 1,
                                     .pQueuePriorities = &priority};
    VkPhysicalDeviceTimelineSemaphoreFeatures timeline = {
        .sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_TIMELINE_SEMAPHORE_FEATURES,
        .timelineSemaphore = VK_TRUE};
    VkPhysicalDeviceShaderIntegerDotProductFeatures dot = {
        .sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_SHADER_INTEGER_DOT_PRODUCT_FEATURES,
        .pNext = &timeline,
        .shaderIntegerDotProduct = VK_TRUE};
    const char *extensions[4];
    uint32_t n_extensions = 0;
    if (d->plan.needs_timeline_extension)
        extensions[n_extensions++] = VK_KHR_TIMELINE_SEMAPHORE_EXTENSION_NAME;
    if (d->plan.has_integer_dot)
        extensions[n_extensions++] = VK_KHR_SHADER_INTEGER_DOT_PRODUCT_EXTENSION_NAME;
    void *chain = d->plan.has_integer_dot ? (void *)&dot : (void *)&timeline;
    VkPhysicalDeviceSubgroupSizeControlFeatures sizes = {
        .sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_SUBGROUP_SIZE_CONTROL_FEATURES,
        .pNext = chain,
        .subgroupSizeControl = d->snapshot.subgroups.has_size_control,
        .computeFullSubgroups = d->snapshot.subgroups.has_full};
    if (d->plan.has_sizes && d->snapshot.subgroups.has_size_extension) {
        chain = &sizes;
        extensions[n_extensions++] = VK_EXT_SUBGROUP_SIZE_CONTROL_EXTENSION_NAME;
    }
    struct nib_vk_cooperative_features cooperative;
    if (d->plan.has_cooperative) {
        chain = nib_vk_cooperative_chain(&cooperative, &d->snapshot.cooperative, chain);
        nib_vk_cooperative_enable(&d->snapshot.cooperative, &cooperative);
        extensions[n_extensions++] = VK_KHR_COOPERATIVE_MATRIX_EXTENSION_NAME;
    }
    VkDeviceCreateInfo info = {.sType = VK_STRUCTURE_TYPE_DEVICE_CREATE_INFO,
                               .pNext = chain,
                               .queueCreateInfoCount = 1,
                               .pQueueCreateInfos = &queue,
                               .enabledExtensionCount = n_extensions,
                               .ppEnabledExtensionNames = extensions};
    enum nib_status status = nib_vk_check(
        d->host.table.CreateDevice(d->physical, &info, NULL, &d->device), "vkCreateDevice", err);
    if (status != NIB_OK)
        return status;
    return nib_vk_device_table_load(d->host.table.GetDeviceProcAddr, d->device, &d->table, err);
}

static enum nib_status create_layout(struct nib_vk_device *d, struct nib_error *err)
{
    enum nib_status status = NIB_OK;
    VkDescriptorSetLayoutBinding bindings[NIB_BINDINGS + NIB_TEXEL_BINDINGS];
    uint32_t count = NIB_BINDINGS + (d->plan.has_texels ? NIB_TEXEL_BINDINGS : 0);
    for (uint32_t i = 0; i < count; i++) {
        bindings[i] = (VkDescriptorSetLayoutBinding){
            .binding = i,
            .descriptorType = i < NIB_BINDINGS ? VK_DESCRIPTOR_TYPE_STORAGE_BUFFER
                                               : VK_DESCRIPTOR_TYPE_UNIFORM_TEXEL_BUFFER,
            .descriptorCount = 1,
            .stageFlags = VK_SHADER_STAGE_COMPUTE_BIT,
        };
    }
    VkDescriptorSetLayoutCreateInfo set = {.sType =
                                               VK_STRUCTURE_TYPE_DESCRIPTOR_SET_LAYOUT_CREATE_INFO,
                                           .bindingCount = count,
                                           .pBindings = bindings};
    NIB_TRY(nib_vk_check(d->table.CreateDescriptorSetLayout(d->device, &set, NULL, &d->set_layout),
                         "vkCreateDescriptorSetLayout", err));
    nib_vk_name(d, VK_OBJECT_TYPE_DESCRIPTOR_SET_LAYOUT, (uint64_t)d->set_layout, "bindings");
    VkPushConstantRange push = {.stageFlags = VK_SHADER_STAGE_COMPUTE_BIT, .size = 128};
    VkPipelineLayoutCreateInfo layout = {.sType = VK_STRUCTURE_TYPE_PIPELINE_LAYOUT_CREATE_INFO,
                                         .setLayoutCount = 1,
                                         .pSetLayouts = &d->set_layout,
                                         .pushConstantRangeCount = 1,
                                         .pPushConstantRanges = &push};
    NIB_TRY(nib_vk_check(d->table.CreatePipelineLayout(d->device, &layout, NULL, &d->layout),
                         "vkCreatePipelineLayout", err));
    nib_vk_name(d, VK_OBJECT_TYPE_PIPELINE_LAYOUT, (uint64_t)d->layout, "layout");
fail:
    return status;
}

static enum nib_status choose(struct nib_vk_device *d, const struct nib_device_params *params,
                              struct nib_error *err)
{
    enum nib_status status = nib_vk_host_open(&d->host, err);
    if (status != NIB_OK)
        return status;
    if (params->index >= d->host.n_physical) {
        return nib_fail(err, NIB_ERROR_NOT_FOUND,
                        "there is no Vulkan device %u, there are %u; 'nibble devices' lists them",
                        params->index, d->host.n_physical);
    }
    d->index = params->index;
    d->physical = d->host.physical[params->index];
    status = nib_vk_snapshot_take(&d->host.table, d->physical, &d->snapshot, err);
    if (status != NIB_OK)
        return status;
    if (params->vulkan_mask && strcmp(params->vulkan_mask, "baseline") != 0) {
        return nib_fail(err, NIB_ERROR_UNSUPPORTED, "Vulkan mask '%s'; the only one is 'baseline'",
                        params->vulkan_mask);
    }
    if (params->vulkan_mask)
        nib_vk_snapshot_cap(&d->snapshot);
    nib_vk_device_plan_make(&d->snapshot, &d->plan);
    if (!d->plan.is_usable) {
        return nib_fail(err, NIB_ERROR_UNSUPPORTED, "%s cannot be used: %s", d->snapshot.name,
                        d->plan.reason);
    }
    return params->vulkan_variant
               ? nib_vk_device_plan_force(&d->snapshot, params->vulkan_variant, &d->plan, err)
               : NIB_OK;
}

enum nib_status nib_vk_device_finish(struct nib_vk_device *device, const char *cache_dir,
                                     struct nib_error *err)
{
    enum nib_status status = NIB_OK;
    NIB_TRY(nib_mutex_create(&device->mutex, err));
    NIB_TRY(create_layout(device, err));
    NIB_TRY(nib_vk_pipeline_cache_open(device, cache_dir, err));
fail:
    return status;
}

enum nib_status nib_vk_device_open(const struct nib_device_params *params, void **out_device,
                                   struct nib_error *err)
{
    enum nib_status status = NIB_OK;
    *out_device = NULL;
    struct nib_vk_device *d = calloc(1, sizeof *d);
    if (!d)
        return nib_fail_memory(err);
    d->log = params->log;
    d->hang_ms = params->hang_ms;
    d->self_test = params->self_test;
    d->most_submit_ns = NIB_VK_SUBMIT_NS;
    NIB_TRY(nib_mutex_create(&d->queue_mutex, err));
    NIB_TRY(choose(d, params, err));
    NIB_TRY(create_device(d, err));
    d->debug = d->host.debug;
    d->table.GetDeviceQueue(d->device, d->plan.queue_family, 0, &d->queue);
    nib_vk_name(d, VK_OBJECT_TYPE_DEVICE, (uint64_t)(uintptr_t)d->device, "device");
    nib_vk_name(d, VK_OBJECT_TYPE_QUEUE, (uint64_t)(uintptr_t)d->queue, "queue");
    NIB_TRY(nib_vk_shaders_open(d, params->shader_dir, err));
    // What is kept is true of the shaders that are built in.
    NIB_TRY(nib_vk_device_finish(d, params->shader_dir ? NULL : params->cache_dir, err));
    *out_device = d;
    return NIB_OK;

fail:
    nib_vk_device_close(d);
    return status;
}

void nib_vk_device_close(void *device)
{
    struct nib_vk_device *d = device;
    if (!d)
        return;
    nib_vk_trust_close(d);
    bool is_abandoned = atomic_load(&d->is_abandoned);
    if (d->device && d->table.DestroyDevice && !is_abandoned) {
        if (d->n_pipelines > 0)
            nib_vk_pipeline_cache_save(d);
        nib_vk_shaders_close(d);
        for (size_t i = 0; i < d->n_pipelines; i++)
            d->table.DestroyPipeline(d->device, d->pipelines[i].pipeline, NULL);
        d->table.DestroyPipelineCache(d->device, d->cache, NULL);
        d->table.DestroyPipelineLayout(d->device, d->layout, NULL);
        d->table.DestroyDescriptorSetLayout(d->device, d->set_layout, NULL);
        if (!d->is_attached)
            d->table.DestroyDevice(d->device, NULL);
    }
    free(d->pipelines);
    free(d->cache_path);
    free(d->verdict_path);
    nib_mutex_destroy(&d->mutex);
    nib_mutex_destroy(&d->queue_mutex);
    if (!is_abandoned)
        nib_vk_host_close(&d->host);
    free(d);
}

/// Has the module made of a copy of the code with the kernel's constants in it.
static enum nib_status set_constants(const struct nib_vk_kernel *kernel,
                                     VkShaderModuleCreateInfo *info, uint32_t **out_memory,
                                     struct nib_error *err)
{
    uint32_t *words = malloc(info->codeSize);
    struct nib_vk_constant *ids = calloc(info->pCode[3], sizeof *ids);
    if (words && ids) {
        memcpy(words, info->pCode, info->codeSize);
        info->codeSize = sizeof *words * nib_vk_set_constants(words, info->codeSize / sizeof *words,
                                                              kernel->specs, NIB_SPECS, ids);
        info->pCode = words;
    }
    bool is_good = words && ids;
    free(ids);
    *out_memory = words;
    return is_good ? NIB_OK : nib_fail_memory(err);
}

static enum nib_status create_module(const struct nib_vk_device *d,
                                     const struct nib_vk_kernel *kernel, VkShaderModule *out_module,
                                     struct nib_error *err)
{
    const struct nib_vk_shader *shader = nib_vk_shader_find(kernel->shader);
    if (!shader) {
        return nib_fail(err, NIB_ERROR_UNSUPPORTED,
                        "this build has no shader %s: its compiler was too old", kernel->shader);
    }
    VkShaderModuleCreateInfo info = {.sType = VK_STRUCTURE_TYPE_SHADER_MODULE_CREATE_INFO};
    uint32_t *memory = NULL, *own = NULL;
    enum nib_status status =
        nib_vk_shader_words(d, shader, &info.pCode, &info.codeSize, &memory, err);
    if (status == NIB_OK && nib_vk_quirk_is_late(&d->snapshot))
        status = set_constants(kernel, &info, &own, err);
    if (status == NIB_OK)
        status = nib_vk_check(d->table.CreateShaderModule(d->device, &info, NULL, out_module),
                              "vkCreateShaderModule", err);
    free(own);
    free(memory);
    return status == NIB_OK ? NIB_OK : nib_fail_context(err, status, "shader %s", kernel->shader);
}

enum nib_status nib_vk_pipeline_create(const struct nib_vk_device *d,
                                       const struct nib_vk_kernel *kernel, VkPipeline *out_pipeline,
                                       struct nib_error *err)
{
    VkShaderModule module;
    enum nib_status status = create_module(d, kernel, &module, err);
    if (status != NIB_OK)
        return status;
    nib_vk_name(d, VK_OBJECT_TYPE_SHADER_MODULE, (uint64_t)module, "%s", kernel->shader);
    VkSpecializationMapEntry entries[NIB_SPECS];
    for (uint32_t i = 0; i < NIB_SPECS; i++)
        entries[i] = (VkSpecializationMapEntry){.constantID = i, .offset = 4 * i, .size = 4};
    VkSpecializationInfo specs = {.mapEntryCount = NIB_SPECS,
                                  .pMapEntries = entries,
                                  .dataSize = sizeof kernel->specs,
                                  .pData = kernel->specs};
    // A kernel that shares its work between subgroups must know their size.
    bool has_subgroups = kernel->specs[NIB_SPEC_SUBGROUP] > 0;
    VkPipelineShaderStageRequiredSubgroupSizeCreateInfo size = {
        .sType = VK_STRUCTURE_TYPE_PIPELINE_SHADER_STAGE_REQUIRED_SUBGROUP_SIZE_CREATE_INFO,
        .requiredSubgroupSize = kernel->specs[NIB_SPEC_SUBGROUP]};
    VkPipelineShaderStageCreateFlags full =
        VK_PIPELINE_SHADER_STAGE_CREATE_REQUIRE_FULL_SUBGROUPS_BIT;
    VkComputePipelineCreateInfo info = {
        .sType = VK_STRUCTURE_TYPE_COMPUTE_PIPELINE_CREATE_INFO,
        .stage = {.sType = VK_STRUCTURE_TYPE_PIPELINE_SHADER_STAGE_CREATE_INFO,
                  .pNext = has_subgroups && d->snapshot.subgroups.has_size_control ? &size : NULL,
                  .flags = has_subgroups && d->snapshot.subgroups.has_full ? full : 0,
                  .stage = VK_SHADER_STAGE_COMPUTE_BIT,
                  .module = module,
                  .pName = "main",
                  .pSpecializationInfo = &specs},
        .layout = d->layout,
    };
    VkResult result =
        d->table.CreateComputePipelines(d->device, d->cache, 1, &info, NULL, out_pipeline);
    d->table.DestroyShaderModule(d->device, module, NULL);
    status = nib_vk_check(result, "vkCreateComputePipelines", err);
    return status == NIB_OK ? NIB_OK : nib_fail_context(err, status, "shader %s", kernel->shader);
}

static enum nib_status find_or_create(struct nib_vk_device *d, const struct nib_vk_kernel *kernel,
                                      VkPipeline *out_pipeline, struct nib_error *err)
{
    for (size_t i = 0; i < d->n_pipelines; i++) {
        const struct nib_vk_kernel *made = &d->pipelines[i].kernel;
        if (strcmp(made->shader, kernel->shader) == 0 &&
            memcmp(made->specs, kernel->specs, sizeof made->specs) == 0) {
            *out_pipeline = d->pipelines[i].pipeline;
            return NIB_OK;
        }
    }
    void *array = d->pipelines;
    enum nib_status status = nib_array_reserve(&array, &d->pipelines_capacity, d->n_pipelines + 1,
                                               sizeof *d->pipelines, err);
    d->pipelines = array;
    if (status == NIB_OK)
        status = nib_vk_pipeline_create(d, kernel, out_pipeline, err);
    if (status != NIB_OK)
        return status;
    nib_vk_name(d, VK_OBJECT_TYPE_PIPELINE, (uint64_t)*out_pipeline, "%s", kernel->shader);
    d->pipelines[d->n_pipelines++] =
        (struct nib_vk_pipeline){.kernel = *kernel, .pipeline = *out_pipeline};
    return status;
}

enum nib_status nib_vk_device_pipeline(struct nib_vk_device *device,
                                       const struct nib_vk_kernel *kernel, VkPipeline *out_pipeline,
                                       struct nib_error *err)
{
    *out_pipeline = VK_NULL_HANDLE;
    nib_mutex_lock(device->mutex);
    enum nib_status status = find_or_create(device, kernel, out_pipeline, err);
    nib_mutex_unlock(device->mutex);
    return status;
}

enum nib_status nib_vk_commands_create(const struct nib_vk_device *device, const char *name,
                                       VkCommandPool *out_pool, VkCommandBuffer *out_buffer,
                                       struct nib_error *err)
{
    enum nib_status status = NIB_OK;
    VkCommandPoolCreateInfo pool = {.sType = VK_STRUCTURE_TYPE_COMMAND_POOL_CREATE_INFO,
                                    .flags = VK_COMMAND_POOL_CREATE_RESET_COMMAND_BUFFER_BIT,
                                    .queueFamilyIndex = device->plan.queue_family};
    NIB_TRY(nib_vk_check(device->table.CreateCommandPool(device->device, &pool, NULL, out_pool),
                         "vkCreateCommandPool", err));
    nib_vk_name(device, VK_OBJECT_TYPE_COMMAND_POOL, (uint64_t)*out_pool, "%s", name);
    VkCommandBufferAllocateInfo info = {.sType = VK_STRUCTURE_TYPE_COMMAND_BUFFER_ALLOCATE_INFO,
                                        .commandPool = *out_pool,
                                        .level = VK_COMMAND_BUFFER_LEVEL_PRIMARY,
                                        .commandBufferCount = 1};
    NIB_TRY(nib_vk_check(device->table.AllocateCommandBuffers(device->device, &info, out_buffer),
                         "vkAllocateCommandBuffers", err));
    nib_vk_name(device, VK_OBJECT_TYPE_COMMAND_BUFFER, (uint64_t)(uintptr_t)*out_buffer, "%s",
                name);
fail:
    return status;
}

enum nib_status nib_vk_clock_create(struct nib_vk_device *device, const char *name,
                                    struct nib_vk_clock *out_clock, struct nib_error *err)
{
    VkSemaphoreTypeCreateInfo type = {.sType = VK_STRUCTURE_TYPE_SEMAPHORE_TYPE_CREATE_INFO,
                                      .semaphoreType = VK_SEMAPHORE_TYPE_TIMELINE};
    VkSemaphoreCreateInfo info = {.sType = VK_STRUCTURE_TYPE_SEMAPHORE_CREATE_INFO, .pNext = &type};
    *out_clock = (struct nib_vk_clock){0};
    VkResult result =
        device->table.CreateSemaphore(device->device, &info, NULL, &out_clock->semaphore);
    if (result == VK_SUCCESS)
        nib_vk_name(device, VK_OBJECT_TYPE_SEMAPHORE, (uint64_t)out_clock->semaphore, "%s", name);
    return nib_vk_check(result, "vkCreateSemaphore", err);
}

void nib_vk_clock_destroy(struct nib_vk_device *device, struct nib_vk_clock *clock)
{
    if (clock->semaphore)
        device->table.DestroySemaphore(device->device, clock->semaphore, NULL);
    *clock = (struct nib_vk_clock){0};
}

enum nib_status nib_vk_queue_submit(struct nib_vk_device *device, const VkSubmitInfo *info,
                                    struct nib_error *err)
{
    enum nib_status status = nib_vk_check_alive(device, err);
    if (status != NIB_OK)
        return status;
    if (device->is_attached)
        device->lock_queue(device->lock_user);
    else
        nib_mutex_lock(device->queue_mutex);
    VkResult result = device->table.QueueSubmit(device->queue, 1, info, VK_NULL_HANDLE);
    if (device->is_attached)
        device->unlock_queue(device->lock_user);
    else
        nib_mutex_unlock(device->queue_mutex);
    return nib_vk_device_check(device, result, "vkQueueSubmit", err);
}

enum nib_status nib_vk_submit(struct nib_vk_device *device, struct nib_vk_clock *clock,
                              const VkCommandBuffer *buffers, uint32_t n_buffers,
                              struct nib_error *err)
{
    uint64_t value = clock->value + 1;
    VkTimelineSemaphoreSubmitInfo timeline = {.sType =
                                                  VK_STRUCTURE_TYPE_TIMELINE_SEMAPHORE_SUBMIT_INFO,
                                              .signalSemaphoreValueCount = 1,
                                              .pSignalSemaphoreValues = &value};
    VkSubmitInfo info = {.sType = VK_STRUCTURE_TYPE_SUBMIT_INFO,
                         .pNext = &timeline,
                         .commandBufferCount = n_buffers,
                         .pCommandBuffers = buffers,
                         .signalSemaphoreCount = 1,
                         .pSignalSemaphores = &clock->semaphore};
    enum nib_status status = nib_vk_queue_submit(device, &info, err);
    if (status == NIB_OK)
        clock->value = value;
    return status;
}
