#include <nibble/vulkan.h>

#include "runtime/base/params.h"
#include "runtime/base/status.h"
#include "runtime/engine/engine.h"
#include "runtime/engine/registry.h"
#include "runtime/vulkan/features.h"

enum nib_status nib_device_attach(const struct nib_attach_params *params,
                                  struct nib_device **out_device, struct nib_error *err)
{
    *out_device = NULL;
    struct nib_attach_params current;
    enum nib_status status = nib_params_read(&current, sizeof current, params, err);
    return status == NIB_OK ? nib_registry_attach(&current, out_device, err) : status;
}

const char *const *nib_vulkan_required_extensions(uint32_t api_version)
{
    static const char *const before_1_2[] = {VK_KHR_TIMELINE_SEMAPHORE_EXTENSION_NAME, NULL};
    return api_version < VK_API_VERSION_1_2 ? before_1_2 : before_1_2 + 1;
}

const char *const *nib_vulkan_recommended_extensions(uint32_t api_version)
{
    static const char *const before_1_3[] = {VK_KHR_SHADER_INTEGER_DOT_PRODUCT_EXTENSION_NAME,
                                             VK_EXT_SUBGROUP_SIZE_CONTROL_EXTENSION_NAME,
                                             VK_KHR_COOPERATIVE_MATRIX_EXTENSION_NAME, NULL};
    return api_version < VK_API_VERSION_1_3 ? before_1_3 : before_1_3 + 2;
}

enum nib_status nib_vulkan_required_features(VkPhysicalDeviceFeatures2 *features,
                                             struct nib_error *err)
{
    struct nib_vk_features used = nib_vk_features_find(features);
    if (!used.timeline_semaphore) {
        return nib_fail(err, NIB_ERROR_ARGUMENT,
                        "the chain of features has no "
                        "VkPhysicalDeviceTimelineSemaphoreFeatures or "
                        "VkPhysicalDeviceVulkan12Features; append one");
    }
    *used.timeline_semaphore = VK_TRUE;
    return NIB_OK;
}

void nib_vulkan_recommended_features(const VkPhysicalDeviceFeatures2 *supported,
                                     VkPhysicalDeviceFeatures2 *features)
{
    struct nib_vk_features has =
        nib_vk_features_find((VkPhysicalDeviceFeatures2 *)(uintptr_t)supported);
    struct nib_vk_features used = nib_vk_features_find(features);
    VkBool32 *const pairs[][2] = {
        {has.integer_dot, used.integer_dot},
        {has.cooperative_matrix, used.cooperative_matrix},
        {has.memory_model, used.memory_model},
        {has.float16, used.float16},
        {has.int8, used.int8},
        {has.size_control, used.size_control},
        {has.full_subgroups, used.full_subgroups},
    };
    for (uint32_t i = 0; i < sizeof pairs / sizeof pairs[0]; i++) {
        if (pairs[i][0] && pairs[i][1] && *pairs[i][0])
            *pairs[i][1] = VK_TRUE;
    }
}

enum nib_status nib_engine_synchronize(struct nib_engine *engine,
                                       const struct nib_timeline_point *waits, uint32_t n_waits,
                                       const struct nib_timeline_point *signals, uint32_t n_signals,
                                       struct nib_error *err)
{
    if (!engine || (n_waits && !waits) || (n_signals && !signals))
        return nib_fail(err, NIB_ERROR_ARGUMENT, "%s is NULL",
                        !engine               ? "engine"
                        : (n_waits && !waits) ? "waits"
                                              : "signals");
    enum nib_status status = nib_engine_require_idle(engine, err);
    if (status != NIB_OK)
        return status;
    const struct nib_step_points points = {
        .waits = waits, .n_waits = n_waits, .signals = signals, .n_signals = n_signals};
    return nib_engine_add_points(engine, &points, err);
}

enum nib_status nib_engine_begin_step(struct nib_engine *engine, uint32_t *out_segments,
                                      struct nib_error *err)
{
    if (out_segments)
        *out_segments = 0;
    if (!engine || !out_segments)
        return nib_fail(err, NIB_ERROR_ARGUMENT, "%s is NULL", engine ? "out_segments" : "engine");
    return nib_recording_begin(engine, out_segments, err);
}

enum nib_status nib_engine_record_segments(struct nib_engine *engine, VkCommandBuffer buffer,
                                           uint32_t n_segments, uint32_t *out_left,
                                           struct nib_error *err)
{
    if (out_left)
        *out_left = 0;
    if (!engine || !buffer || !out_left)
        return nib_fail(err, NIB_ERROR_ARGUMENT, "%s is NULL",
                        !engine   ? "engine"
                        : !buffer ? "buffer"
                                  : "out_left");
    return nib_recording_add(engine, buffer, n_segments, out_left, err);
}

enum nib_status nib_engine_end_step(struct nib_engine *engine, uint32_t *out_active,
                                    struct nib_error *err)
{
    uint32_t active = 0;
    if (out_active)
        *out_active = 0;
    if (!engine)
        return nib_fail(err, NIB_ERROR_ARGUMENT, "engine is NULL");
    enum nib_status status = nib_recording_end(engine, &active, err);
    if (out_active)
        *out_active = active;
    return status;
}

void nib_engine_drop_step(struct nib_engine *engine)
{
    if (engine)
        nib_recording_drop(engine);
}
