#include <criterion/criterion.h>
#include <nibble/nibble.h>
#include <string.h>

Test(device, the_cpu_is_always_there)
{
    struct nib_device_info infos[2];
    uint32_t count = 0;
    cr_assert_eq(nib_devices_list(NULL, 0, &count, NULL), NIB_OK);
    cr_assert_geq(count, 1);
    cr_assert_eq(nib_devices_list(infos, 1, &count, NULL), NIB_OK);
    cr_assert_eq(infos[0].backend, NIB_BACKEND_CPU);
    cr_assert_gt(infos[0].threads, 0);
    cr_assert_gt(strlen(infos[0].name), 0);
}

Test(device, describes_what_was_opened)
{
    struct nib_device *device = NULL;
    struct nib_device_info info;
    cr_assert_eq(nib_device_open(nib_device_params(.threads = 3), &device, NULL), NIB_OK);
    nib_device_get_info(device, &info);
    cr_assert_eq(info.backend, NIB_BACKEND_CPU);
    cr_assert_gt(info.threads, 0);
    nib_device_destroy(&device);
    cr_assert_null(device);
}

Test(device, refuses_what_it_does_not_know)
{
    struct nib_device *device = NULL;
    cr_assert_eq(nib_device_open(nib_device_params(.cpu_mask = "abacus"), &device, NULL),
                 NIB_ERROR_UNSUPPORTED);
    cr_assert_eq(nib_device_open(nib_device_params(.threads = 5000), &device, NULL),
                 NIB_ERROR_ARGUMENT);
    struct nib_error error;
    cr_assert_eq(
        nib_device_open(nib_device_params(.backend = (enum nib_backend_kind)7), &device, &error),
        NIB_ERROR_ARGUMENT);
    cr_assert(strstr(error.message, "backend 7"), "%s", error.message);
    cr_assert_null(device);
}
