// Every barrier between dispatches is needed: the validation layer, which the program is run under,
// reports what is read too early where one is left out.
#define _POSIX_C_SOURCE 200809L // dup
#include "tests/support/folder.h"
#include "tests/support/vulkan_fault.h"

#include <criterion/criterion.h>
#include <fcntl.h>
#include <nibble/nibble.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MODEL NIB_TEST_DATA "/architectures/smollm3"
#define MAX_OUTPUT 65536

TestSuite(vulkan_barriers, .init = make_folder, .fini = remove_folder);

/// Runs a few steps of one row each, so that what is recorded is run.
static void run_steps(void)
{
    struct nib_error err;
    struct nib_device *device = NULL;
    struct nib_model *model = NULL;
    struct nib_engine *engine = NULL;
    struct nib_session *session = NULL;
    struct nib_model_info info;
    const char *number = getenv("NIB_TEST_VULKAN");
    const int32_t prompt[] = {1, 7, 3};
    cr_assert_eq(
        nib_device_open(nib_device_params(.backend = NIB_BACKEND_VULKAN,
                                          .self_test = NIB_SELF_TEST_OFF,
                                          .index = number ? (uint32_t)strtoul(number, NULL, 10) : 0,
                                          .cache_dir = path_in_folder(".")),
                        &device, &err),
        NIB_OK, "%s", err.message);
    cr_assert_eq(nib_model_open(MODEL, NULL, &model, &err), NIB_OK, "%s", err.message);
    nib_model_get_info(model, &info);
    const struct nib_placement placement = {device, 0, info.layers + 2};
    cr_assert_eq(nib_engine_create(model,
                                   nib_engine_params(.placements = &placement, .n_placements = 1,
                                                     .context = 64, .max_rows = 1),
                                   &engine, &err),
                 NIB_OK, "%s", err.message);
    cr_assert_eq(nib_session_create(engine, &session, &err), NIB_OK);
    cr_assert_eq(nib_session_append(session, prompt, 3, &err), NIB_OK);
    cr_assert_eq(nib_session_generate(
                     session, nib_generate_params(.max_tokens = 2, .ignore_eos = true), NULL, &err),
                 NIB_OK, "%s", err.message);
    nib_session_destroy(&session);
    nib_engine_destroy(&engine);
    nib_model_destroy(&model);
    nib_device_destroy(&device);
}

/// Runs steps without barrier `n`, and returns whether the layer, which writes to the standard
/// output, has reported a hazard.
static bool is_reported(uint32_t n)
{
    static char output[MAX_OUTPUT];
    int kept = dup(STDOUT_FILENO);
    int file = open(path_in_folder("messages"), O_RDWR | O_CREAT | O_TRUNC, 0600);
    cr_assert(kept >= 0 && file >= 0);
    fflush(stdout);
    dup2(file, STDOUT_FILENO);
    vulkan_fault_drop_barrier(n);
    run_steps();
    fflush(stdout);
    dup2(kept, STDOUT_FILENO);
    ssize_t size = pread(file, output, sizeof output - 1, 0);
    close(kept);
    close(file);
    cr_assert_geq(size, 0);
    output[size] = '\0';
    return strstr(output, "SYNC-HAZARD") != NULL;
}

Test(vulkan_barriers, each_is_needed)
{
    cr_assert(!is_reported(UINT32_MAX), "there is a hazard with all barriers");
    uint32_t count = vulkan_fault_barriers();
    cr_assert_gt(count, 20);
    for (uint32_t n = 0; n < count; n++) {
        bool is_seen = is_reported(n);
        const char *label = vulkan_fault_dropped_before();
        // The layer takes what a kernel changes in place for written alone, and says nothing of a
        // write behind a write. Such kernels are tested by value.
        cr_assert(is_seen || strstr(label, ", rope"), "barrier %u, before %s", n, label);
    }
}
