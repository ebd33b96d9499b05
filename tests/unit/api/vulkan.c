#include <criterion/criterion.h>
#include <nibble/vulkan.h>
#include <string.h>

Test(vulkan, attaching_is_refused_with_a_reason)
{
    struct nib_device *device = NULL;
    struct nib_error error;
    cr_assert_eq(nib_device_attach(NULL, &device, &error), NIB_ERROR_UNSUPPORTED);
    cr_assert_null(device);
    cr_assert_not_null(strstr(error.message, "Vulkan"));
    cr_assert_null(nib_vulkan_required_extensions()[0]);
    cr_assert_null(nib_vulkan_recommended_extensions()[0]);
    nib_vulkan_recommended_features(NULL, NULL);
    cr_assert_eq(nib_engine_synchronize(NULL, NULL, 0, NULL, 0, NULL), NIB_ERROR_STATE);
}
