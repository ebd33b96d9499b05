// What is left of a device of which a host has enabled a part.
#include <criterion/criterion.h>

#include "runtime/vulkan/attach.h"

/// A device that can do everything.
static struct nib_vk_snapshot make_able(void)
{
    return (struct nib_vk_snapshot){.api_version = VK_API_VERSION_1_3,
                                    .has_timeline_semaphore = true,
                                    .has_timeline_extension = true,
                                    .has_integer_dot = true,
                                    .has_integer_dot_extension = true,
                                    .has_fast_integer_dot = true,
                                    .max_storage_range = UINT32_MAX};
}

Test(vulkan_attach, reads_the_lists_and_the_chain)
{
    const char *const device[] = {"VK_KHR_swapchain", "VK_KHR_timeline_semaphore",
                                  "VK_KHR_shader_integer_dot_product"};
    const char *const instance[] = {"VK_KHR_surface", "VK_EXT_debug_utils"};
    VkPhysicalDeviceShaderIntegerDotProductFeatures dot = {
        .sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_SHADER_INTEGER_DOT_PRODUCT_FEATURES,
        .shaderIntegerDotProduct = VK_TRUE};
    VkPhysicalDeviceTimelineSemaphoreFeatures timeline = {
        .sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_TIMELINE_SEMAPHORE_FEATURES,
        .pNext = &dot,
        .timelineSemaphore = VK_TRUE};
    VkPhysicalDeviceFeatures2 features = {.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_FEATURES_2,
                                          .pNext = &timeline};
    struct nib_attach_params params = {.api_version = VK_API_VERSION_1_2,
                                       .queue_family = 3,
                                       .instance_extensions = instance,
                                       .n_instance_extensions = 2,
                                       .device_extensions = device,
                                       .n_device_extensions = 3,
                                       .features = &features};
    struct nib_vk_enabled enabled;
    nib_vk_enabled_read(&params, &enabled);
    cr_assert(enabled.has_timeline_semaphore && enabled.has_timeline_extension);
    cr_assert(enabled.has_integer_dot && enabled.has_integer_dot_extension);
    cr_assert(enabled.has_debug_utils);
    cr_assert_eq(enabled.queue_family, 3);
    timeline.timelineSemaphore = VK_FALSE;
    params.n_device_extensions = 1;
    params.n_instance_extensions = 1;
    nib_vk_enabled_read(&params, &enabled);
    cr_assert(!enabled.has_timeline_semaphore && !enabled.has_timeline_extension);
    cr_assert(enabled.has_integer_dot && !enabled.has_integer_dot_extension);
    cr_assert(!enabled.has_debug_utils);

    VkPhysicalDeviceCooperativeMatrixFeaturesKHR matrices = {
        .sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_COOPERATIVE_MATRIX_FEATURES_KHR,
        .cooperativeMatrix = VK_TRUE};
    VkPhysicalDeviceVulkan13Features v13 = {
        .sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_VULKAN_1_3_FEATURES,
        .shaderIntegerDotProduct = VK_TRUE};
    VkPhysicalDeviceVulkan12Features v12 = {
        .sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_VULKAN_1_2_FEATURES,
        .pNext = &v13,
        .timelineSemaphore = VK_TRUE,
        .shaderInt8 = VK_TRUE,
        .vulkanMemoryModel = VK_TRUE};
    features.pNext = &v12;
    v13.pNext = &matrices;
    nib_vk_enabled_read(&params, &enabled);
    cr_assert(enabled.cooperative.has_matrices && enabled.cooperative.has_bytes);
    cr_assert(!enabled.cooperative.has_extension && !enabled.cooperative.has_halves);
    v12.vulkanMemoryModel = VK_FALSE;
    nib_vk_enabled_read(&params, &enabled);
    cr_assert(!enabled.cooperative.has_matrices);
    cr_assert(enabled.has_timeline_semaphore && enabled.has_integer_dot);
    nib_vk_enabled_read(&(struct nib_attach_params){0}, &enabled);
    cr_assert(!enabled.has_timeline_semaphore && !enabled.has_integer_dot);
}

Test(vulkan_attach, nothing_is_used_that_was_not_enabled)
{
    struct nib_vk_snapshot s = make_able();
    struct nib_vk_enabled enabled = {.api_version = VK_API_VERSION_1_2,
                                     .has_timeline_semaphore = true,
                                     .has_integer_dot = true,
                                     .queue_family = 2};
    nib_vk_snapshot_limit(&enabled, &s);
    cr_assert(s.has_timeline_semaphore, "1.2 has it without the extension");
    cr_assert(!s.has_integer_dot && !s.has_fast_integer_dot, "1.2 has it as an extension alone");
    cr_assert_eq(s.api_version, VK_API_VERSION_1_2);
    cr_assert(s.has_host_family && s.host_family == 2);

    s = make_able();
    enabled.has_integer_dot_extension = true;
    nib_vk_snapshot_limit(&enabled, &s);
    cr_assert(s.has_integer_dot && s.has_fast_integer_dot);

    s = make_able();
    enabled = (struct nib_vk_enabled){.api_version = VK_API_VERSION_1_3, .has_integer_dot = true};
    nib_vk_snapshot_limit(&enabled, &s);
    cr_assert(s.has_integer_dot && !s.has_timeline_semaphore);

    s = make_able();
    enabled =
        (struct nib_vk_enabled){.api_version = VK_API_VERSION_1_1, .has_timeline_semaphore = true};
    nib_vk_snapshot_limit(&enabled, &s);
    cr_assert(!s.has_timeline_semaphore, "the feature is of no use without its extension");

    // Cooperative matrices need their extension and the memory model.
    const struct nib_vk_cooperative all = {
        .has_extension = true, .has_matrices = true, .has_bytes = true, .n_tiles = 1};
    s = make_able();
    s.cooperative = all;
    s.subgroups = (struct nib_vk_subgroups){.has_size_control = true, .has_full = true};
    enabled = (struct nib_vk_enabled){
        .api_version = VK_API_VERSION_1_2, .subgroups = s.subgroups, .cooperative = all};
    nib_vk_snapshot_limit(&enabled, &s);
    cr_assert(s.cooperative.has_matrices && s.cooperative.has_bytes && s.cooperative.n_tiles == 1);
    cr_assert(!s.subgroups.has_size_control && !s.subgroups.has_full,
              "1.2 has it as an extension alone");
    enabled.cooperative.has_matrices = false;
    nib_vk_snapshot_limit(&enabled, &s);
    cr_assert(!s.cooperative.has_extension && s.cooperative.n_tiles == 0);

    // What the device lacks cannot be enabled.
    s = (struct nib_vk_snapshot){.api_version = VK_API_VERSION_1_1};
    enabled = (struct nib_vk_enabled){.api_version = VK_API_VERSION_1_3,
                                      .has_timeline_semaphore = true,
                                      .has_timeline_extension = true,
                                      .has_integer_dot = true,
                                      .has_integer_dot_extension = true};
    nib_vk_snapshot_limit(&enabled, &s);
    cr_assert(!s.has_timeline_semaphore && !s.has_integer_dot);
    cr_assert_eq(s.api_version, VK_API_VERSION_1_1);
}
