#include <criterion/criterion.h>
#include <nibble/vulkan.h>
#include <string.h>

static bool is_listed(const char *const *list, const char *name)
{
    while (*list && strcmp(*list, name) != 0)
        list++;
    return *list != NULL;
}

Test(vulkan, extensions_that_later_versions_contain_are_not_asked_for)
{
    cr_assert(is_listed(nib_vulkan_required_extensions(VK_API_VERSION_1_1),
                        VK_KHR_TIMELINE_SEMAPHORE_EXTENSION_NAME));
    cr_assert_null(nib_vulkan_required_extensions(VK_API_VERSION_1_2)[0]);
    cr_assert(is_listed(nib_vulkan_recommended_extensions(VK_API_VERSION_1_2),
                        VK_KHR_SHADER_INTEGER_DOT_PRODUCT_EXTENSION_NAME));
    cr_assert_not(is_listed(nib_vulkan_recommended_extensions(VK_API_VERSION_1_3),
                            VK_KHR_SHADER_INTEGER_DOT_PRODUCT_EXTENSION_NAME));
    cr_assert(is_listed(nib_vulkan_recommended_extensions(VK_API_VERSION_1_3),
                        "VK_KHR_cooperative_matrix"));
}

/// Both chains of features that a host may have.
Test(vulkan, features_are_set_in_the_hosts_chain)
{
    VkPhysicalDeviceShaderIntegerDotProductFeatures dot = {
        .sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_SHADER_INTEGER_DOT_PRODUCT_FEATURES};
    VkPhysicalDeviceShaderFloat16Int8Features types = {
        .sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_SHADER_FLOAT16_INT8_FEATURES, .pNext = &dot};
    VkPhysicalDeviceTimelineSemaphoreFeatures timeline = {
        .sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_TIMELINE_SEMAPHORE_FEATURES, .pNext = &types};
    VkPhysicalDeviceFeatures2 apart = {.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_FEATURES_2,
                                       .pNext = &timeline};
    VkPhysicalDeviceVulkan13Features v13 = {
        .sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_VULKAN_1_3_FEATURES};
    VkPhysicalDeviceVulkan12Features v12 = {
        .sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_VULKAN_1_2_FEATURES, .pNext = &v13};
    VkPhysicalDeviceFeatures2 whole = {.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_FEATURES_2,
                                       .pNext = &v12};
    cr_assert_eq(nib_vulkan_required_features(&apart, NULL), NIB_OK);
    cr_assert_eq(nib_vulkan_required_features(&whole, NULL), NIB_OK);
    cr_assert(timeline.timelineSemaphore && v12.timelineSemaphore);
    cr_assert(!dot.shaderIntegerDotProduct && !v13.shaderIntegerDotProduct);

    // Only what the device has is recommended.
    nib_vulkan_recommended_features(&whole, &apart);
    cr_assert_not(dot.shaderIntegerDotProduct);
    v13.shaderIntegerDotProduct = VK_TRUE;
    v13.subgroupSizeControl = VK_TRUE;
    v12.shaderFloat16 = VK_TRUE;
    nib_vulkan_recommended_features(&whole, &apart);
    cr_assert(dot.shaderIntegerDotProduct);
    cr_assert(types.shaderFloat16 && !types.shaderInt8);

    VkPhysicalDeviceFeatures2 bare = {.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_FEATURES_2};
    struct nib_error error;
    nib_vulkan_recommended_features(&whole, &bare);
    cr_assert_eq(nib_vulkan_required_features(&bare, &error), NIB_ERROR_ARGUMENT);
    cr_assert_not_null(strstr(error.message, "VkPhysicalDeviceVulkan12Features"));
}
