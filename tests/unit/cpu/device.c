#include <criterion/criterion.h>
#include <string.h>

#include "runtime/cpu/cpu_backend.h"
#include "runtime/cpu/features.h"

Test(cpu_device, there_is_one)
{
    struct nib_device_info info;
    uint32_t count = 0;
    cr_assert_eq(nib_cpu_backend.device_list(NULL, 0, &count, NULL), NIB_OK);
    cr_assert_eq(count, 1);
    cr_assert_eq(nib_cpu_backend.device_list(&info, 1, &count, NULL), NIB_OK);
    cr_assert_eq(info.backend, NIB_BACKEND_CPU);
    cr_assert_eq(info.type, NIB_DEVICE_TYPE_CPU);
    cr_assert_gt(info.threads, 0);
    cr_assert_gt(strlen(info.name), 0);
    cr_assert_str_eq(nib_cpu_backend.name, "cpu");
}

Test(cpu_device, opens_with_defaults_and_a_mask)
{
    void *device;
    cr_assert_eq(nib_cpu_backend.device_open(nib_device_params(.threads = 0), &device, NULL),
                 NIB_OK);
    struct nib_device_info info;
    nib_cpu_backend.device_info(device, &info);
    cr_assert_eq(info.backend, NIB_BACKEND_CPU);
    nib_cpu_backend.device_close(device);
    cr_assert_eq(nib_cpu_backend.device_open(nib_device_params(.cpu_mask = "scalar", .threads = 3),
                                             &device, NULL),
                 NIB_OK);
    nib_cpu_backend.device_close(device);
    nib_cpu_backend.device_close(NULL);
}

Test(cpu_device, refuses_what_does_not_exist)
{
    void *device = &device;
    struct nib_error error;
    cr_assert_eq(nib_cpu_backend.device_open(nib_device_params(.index = 1), &device, &error),
                 NIB_ERROR_NOT_FOUND);
    cr_assert_null(device);
    cr_assert_eq(nib_cpu_backend.device_open(nib_device_params(.cpu_mask = "mmx"), &device, &error),
                 NIB_ERROR_UNSUPPORTED);
    cr_assert(strstr(error.message, "'mmx'") && strstr(error.message, "scalar"), "%s",
              error.message);
    cr_assert_eq(nib_cpu_backend.device_open(nib_device_params(.threads = 1025), &device, &error),
                 NIB_ERROR_ARGUMENT);
}

Test(cpu_device, features_are_cut_to_fit)
{
    char whole[512], cut[12], none[1];
    nib_cpu_features(whole, sizeof whole);
    nib_cpu_features(cut, sizeof cut);
    nib_cpu_features(none, sizeof none);
    nib_cpu_features(NULL, 0);
    cr_assert_lt(strlen(cut), sizeof cut);
    cr_assert_eq(none[0], '\0');
    cr_assert_null(strstr(whole, "  "));
}
