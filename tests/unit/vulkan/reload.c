// Shaders from a folder: the same results as with those that are built in, edited ones between
// steps, and what cannot be compiled changes nothing.
#include "tests/support/folder.h"

#include <criterion/criterion.h>
#include <nibble/nibble.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MODEL NIB_TEST_DATA "/architectures/llama3-rope"
#define N_IDS 4

/// What the log has said.
static char last_line[1024];

static void run_command(const char *format, const char *argument)
{
    char command[1024];
    snprintf(command, sizeof command, format, argument, path_in_folder(NULL));
    cr_assert_eq(system(command), 0, "%s", command);
}

static void remember(void *user, enum nib_log_level level, const char *text)
{
    (void)user;
    (void)level;
    snprintf(last_line, sizeof last_line, "%s", text);
}

/// A session on a device whose shaders come from the copy.
struct rig {
    struct nib_device *device;
    struct nib_model *model;
    struct nib_engine *engine;
    struct nib_session *session;
};

static void open_rig(struct rig *rig, const char *shader_dir)
{
    struct nib_error error = {0};
    const struct nib_log log = {.write = remember, .level = NIB_LOG_WARNING};
    enum nib_status status =
        nib_device_open(nib_device_params(.log = log, .backend = NIB_BACKEND_VULKAN,
                                          .self_test = NIB_SELF_TEST_OFF, .shader_dir = shader_dir),
                        &rig->device, &error);
    if (status == NIB_ERROR_NOT_FOUND)
        cr_skip_test("no Vulkan device: %s", error.message);
    cr_assert_eq(status, NIB_OK, "%s", error.message);
    const struct nib_placement placement = {.device = rig->device, .n_segments = 5};
    cr_assert_eq(nib_model_open(MODEL, NULL, &rig->model, &error), NIB_OK, "%s", error.message);
    status = nib_engine_create(rig->model,
                               nib_engine_params(.placements = &placement, .n_placements = 1,
                                                 .context = 64, .max_rows = 4, .precise = true),
                               &rig->engine, &error);
    cr_assert_eq(status, NIB_OK, "%s", error.message);
    cr_assert_eq(nib_session_create(rig->engine, &rig->session, &error), NIB_OK);
}

static void close_rig(struct rig *rig)
{
    nib_session_destroy(&rig->session);
    nib_engine_destroy(&rig->engine);
    nib_model_destroy(&rig->model);
    nib_device_destroy(&rig->device);
}

static bool take_first(void *user, uint32_t position, const float *logits, uint32_t vocabulary)
{
    (void)position;
    (void)vocabulary;
    *(float *)user = logits[0];
    return true;
}

/// Returns the first logit after some tokens, computed anew.
static float logit_of(struct rig *rig)
{
    static const int32_t ids[N_IDS] = {1, 2, 3, 4};
    struct nib_error error = {0};
    float logit = 0;
    cr_assert_eq(nib_session_truncate(rig->session, 0, &error), NIB_OK, "%s", error.message);
    cr_assert_eq(nib_session_append(rig->session, ids, N_IDS, &error), NIB_OK);
    cr_assert_eq(nib_session_forward(rig->session, N_IDS - 1, take_first, &logit, &error), NIB_OK,
                 "%s", error.message);
    return logit;
}

/// Returns the token that the device draws then.
static int32_t token_of(struct rig *rig)
{
    struct nib_error error = {0};
    size_t count;
    logit_of(rig);
    cr_assert_eq(nib_session_generate(rig->session,
                                      nib_generate_params(.max_tokens = 1, .ignore_eos = true),
                                      NULL, &error),
                 NIB_OK, "%s", error.message);
    return nib_session_tokens(rig->session, &count)[N_IDS];
}

/// Makes the test's folder a copy of the shaders.
static void copy_shaders(void)
{
    make_folder();
    run_command("cp -r %s/. %s", NIB_SHADERS);
}

/// Waits until the log says what has become of an edit, and returns the result then.
static float logit_after_edit(struct rig *rig)
{
    float logit = 0;
    last_line[0] = '\0';
    while (!last_line[0]) {
        run_command("sleep %s", "0.3");
        logit = logit_of(rig);
    }
    return logit;
}

Test(vulkan_reload, edited_while_running, .init = copy_shaders, .fini = remove_folder)
{
    struct rig built_in, edited;
    open_rig(&built_in, NULL);
    open_rig(&edited, path_in_folder(NULL));
    float before = logit_of(&built_in), after = logit_of(&edited);
    cr_assert_float_eq(after, before, 1e-4f);

    run_command("sed -i 's/^void main()/uint broken = nothing;\\n&/%s' %s/gather.comp", "");
    after = logit_after_edit(&edited);
    cr_assert_float_eq(after, before, 1e-4f);
    cr_assert(strstr(last_line, "gather.comp:") && strstr(last_line, "'nothing'"), "%s", last_line);
    cr_assert_null(strchr(last_line, '\n'));

    run_command("cp %s/gather.comp %s/gather.comp", NIB_SHADERS);
    run_command("sed -i 's/= p.scale/= 2.0 * p.scale/%s' %s/embed.comp", "");
    after = logit_after_edit(&edited);
    cr_assert_float_neq(after, before, 1e-4f);
    cr_assert(strstr(last_line, "anew"), "%s", last_line);
    run_command("cp %s/embed.comp %s/embed.comp", NIB_SHADERS);
    after = logit_after_edit(&edited);
    cr_assert_float_eq(after, before, 1e-4f);

    close_rig(&edited);
    close_rig(&built_in);
}

/// Kernels that belong to no layer, which steps are drawn by.
Test(vulkan_reload, edited_draw, .init = copy_shaders, .fini = remove_folder)
{
    struct rig rig;
    open_rig(&rig, path_in_folder(NULL));
    const int32_t likeliest = token_of(&rig);
    cr_assert_eq(token_of(&rig), likeliest);
    run_command(
        "sed -i 's/if (other > key)/if (other < key || id == NIB_NONE)/%s' %s/draw_best.comp", "");
    logit_after_edit(&rig);
    cr_assert(strstr(last_line, "draw_best"), "%s", last_line);
    cr_assert_neq(token_of(&rig), likeliest);
    close_rig(&rig);
}

Test(vulkan_reload, a_folder_that_is_not_there)
{
    struct nib_device *device;
    struct nib_error error = {0};
    enum nib_status status =
        nib_device_open(nib_device_params(.backend = NIB_BACKEND_VULKAN, .shader_dir = "/nowhere"),
                        &device, &error);
    if (status == NIB_ERROR_NOT_FOUND)
        cr_skip_test("no Vulkan device: %s", error.message);
    cr_assert_eq(status, NIB_ERROR_IO);
    cr_assert(strstr(error.message, "/nowhere/"), "%s", error.message);
}
