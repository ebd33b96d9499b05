// Kernels that compute wrong results are found before a model uses them, and replaced.
#ifdef __linux__
#define _GNU_SOURCE // RTLD_NODELETE
#include <dlfcn.h>
#endif

#include "runtime/vulkan/shaders.h"
#include "tests/support/folder.h"
#include "tests/support/vulkan_fault.h"

#include <criterion/criterion.h>
#include <nibble/nibble.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MODEL NIB_TEST_DATA "/checkpoints/gptq-int4-g32-sym"
#define N_TOKENS 24

TestSuite(vulkan_trust, .init = make_folder, .fini = remove_folder);

/// What a model said, and what ran.
struct said {
    enum nib_status status;
    struct nib_error error;
    int32_t tokens[N_TOKENS];
    uint32_t gpu_layers;
    uint32_t n_replaced;
    char replaced[64]; ///< the first
    uint32_t n_fallbacks;
};

/// Breaks the shader of that name from now on; NULL: none.
static void break_shader(const char *name)
{
    const uint32_t *words = NULL;
    for (uint32_t i = 0; name && i < nib_vk_shader_count; i++) {
        if (strcmp(nib_vk_shaders[i].name, name) == 0)
            words = nib_vk_shaders[i].words;
    }
    cr_assert(words || !name);
    vulkan_fault_break_shader(words);
}

static enum nib_status open_device(enum nib_self_test self_test, const char *variant,
                                   struct nib_device **out, struct nib_error *err)
{
    const char *number = getenv("NIB_TEST_VULKAN");
    uint32_t index = number ? (uint32_t)strtoul(number, NULL, 10) : 0;
#ifdef __linux__
    // What lavapipe keeps would count as a leak once its code is gone.
    dlopen("libvulkan_lvp.so", RTLD_NOW | RTLD_NODELETE);
#endif
    return nib_device_open(nib_device_params(.backend = NIB_BACKEND_VULKAN, .index = index,
                                             .self_test = self_test, .vulkan_variant = variant,
                                             .cache_dir = path_in_folder(".")),
                           out, err);
}

static void speak(struct nib_engine *engine, struct said *said)
{
    struct nib_session *session = NULL;
    const int32_t prompt[] = {1, 7, 3, 9, 4};
    size_t n;
    said->status = nib_session_create(engine, &session, &said->error);
    if (said->status == NIB_OK)
        said->status = nib_session_append(session, prompt, 5, &said->error);
    if (said->status == NIB_OK)
        said->status = nib_session_generate(
            session, nib_generate_params(.max_tokens = N_TOKENS, .ignore_eos = true), NULL,
            &said->error);
    if (said->status == NIB_OK) {
        const int32_t *tokens = nib_session_tokens(session, &n);
        cr_assert_eq(n, 5 + N_TOKENS);
        memcpy(said->tokens, tokens + 5, sizeof said->tokens);
    }
    nib_session_destroy(&session);
}

/// Lets the model speak on the device.
static struct said hear(enum nib_self_test self_test, const char *variant, bool fallback)
{
    struct said said = {0};
    struct nib_device *device = NULL;
    struct nib_model *model = NULL;
    struct nib_engine *engine = NULL;
    struct nib_model_info info;
    said.status = open_device(self_test, variant, &device, &said.error);
    if (said.status == NIB_ERROR_NOT_FOUND || (said.status == NIB_ERROR_UNSUPPORTED && variant))
        cr_skip_test("%s", said.error.message);
    cr_assert_eq(said.status, NIB_OK, "%s", said.error.message);
    cr_assert_eq(nib_model_open(MODEL, NULL, &model, &said.error), NIB_OK);
    nib_model_get_info(model, &info);
    const struct nib_placement placement = {device, 0, info.layers + 2};
    cr_assert_eq(
        nib_engine_create(model,
                          nib_engine_params(.placements = &placement, .n_placements = 1,
                                            .context = 64, .max_rows = 32, .fallback = fallback),
                          &engine, &said.error),
        NIB_OK, "%s", said.error.message);
    speak(engine, &said);
    struct nib_engine_info done;
    nib_engine_get_info(engine, &done);
    said.gpu_layers = done.execution.gpu_layers;
    said.n_replaced = done.execution.n_replaced;
    said.n_fallbacks = done.execution.n_fallbacks;
    if (said.n_replaced > 0)
        snprintf(said.replaced, sizeof said.replaced, "%s", done.execution.replaced[0]);
    nib_engine_destroy(&engine);
    nib_model_destroy(&model);
    nib_device_destroy(&device);
    return said;
}

static bool says_the_same(const struct said *a, const struct said *b)
{
    cr_assert_eq(a->status, NIB_OK, "%s", a->error.message);
    cr_assert_eq(b->status, NIB_OK, "%s", b->error.message);
    return memcmp(a->tokens, b->tokens, sizeof a->tokens) == 0;
}

static void expect_replaced(const struct said *said, const char *name)
{
    cr_assert_eq(said->n_replaced, 1, "%u replaced, %s first", said->n_replaced, said->replaced);
    cr_assert_str_eq(said->replaced, name);
    cr_assert_eq(said->n_fallbacks, 0);
}

Test(vulkan_trust, good_kernels_stay)
{
    struct said without = hear(NIB_SELF_TEST_OFF, NULL, false);
    struct said with = hear(NIB_SELF_TEST_CACHED, NULL, false);
    cr_assert(says_the_same(&without, &with));
    cr_assert_eq(with.n_replaced + with.n_fallbacks, 0);
}

/// A broken shader of a variant, which is forced so that it is the one that would be used.
static void check_broken(const char *variant, const char *shader, const char *name)
{
    struct said good = hear(NIB_SELF_TEST_OFF, NULL, false);
    break_shader(shader);
    struct said broken = hear(NIB_SELF_TEST_OFF, variant, false);
    cr_assert(!says_the_same(&good, &broken), "breaking the shader changes nothing");
    struct said mended = hear(NIB_SELF_TEST_CACHED, variant, false);
    cr_assert(says_the_same(&good, &mended));
    expect_replaced(&mended, name);
}

Test(vulkan_trust, a_broken_kernel_for_single_rows_is_replaced)
{
    check_broken("single", "matmul_texel_single", "matmul single");
}

Test(vulkan_trust, a_broken_kernel_for_many_rows_is_replaced)
{
    check_broken("tall", "matmul_8x2", "matmul tall");
}

Test(vulkan_trust, a_broken_kernel_of_gpus_is_replaced)
{
    check_broken("dot", "matmul_dot_2x1", "matmul dot");
}

/// Of many rows at once, more than this model's steps have: the self-test alone sees it, and the
/// kernels for few rows beside it stay.
Test(vulkan_trust, a_broken_kernel_of_cooperative_matrices_is_replaced)
{
    struct said good = hear(NIB_SELF_TEST_OFF, "coop8", false);
    break_shader("matmul_coop8");
    struct said mended = hear(NIB_SELF_TEST_CACHED, "coop8", false);
    cr_assert(says_the_same(&good, &mended));
    expect_replaced(&mended, "matmul coop8");
}

/// Of prompts; what turns and stores single rows is checked with it, and distrusted with it. What
/// multiplies cooperative matrices beside it stays.
Test(vulkan_trust, broken_attention_by_cooperative_matrices_is_replaced)
{
    struct said good = hear(NIB_SELF_TEST_OFF, "half", false);
    break_shader("attention_coop");
    struct said mended = hear(NIB_SELF_TEST_CACHED, "half", false);
    cr_assert(says_the_same(&good, &mended));
    cr_assert_eq(mended.n_replaced, 2);
    cr_assert_str_eq(mended.replaced, "attention coop");
    cr_assert_eq(mended.n_fallbacks, 0);
}

/// What turns and stores single rows is distrusted before it.
Test(vulkan_trust, broken_attention_is_replaced)
{
    struct said good = hear(NIB_SELF_TEST_OFF, NULL, false);
    break_shader("attention_texel");
    struct said mended = hear(NIB_SELF_TEST_CACHED, NULL, false);
    cr_assert(says_the_same(&good, &mended));
    if (mended.n_replaced > 0) { // the device may read through storage buffers anyway
        cr_assert_eq(mended.n_replaced, 2);
        cr_assert_str_eq(mended.replaced, "attention texel");
    }
}

Test(vulkan_trust, broken_attention_of_single_rows_is_replaced)
{
    struct said good = hear(NIB_SELF_TEST_OFF, NULL, false);
    break_shader("attention_own_texel");
    struct said mended = hear(NIB_SELF_TEST_CACHED, NULL, false);
    cr_assert(says_the_same(&good, &mended));
    if (mended.n_replaced == 0) { // the device reads through storage buffers
        break_shader("attention_own");
        mended = hear(NIB_SELF_TEST_FULL, NULL, false);
        cr_assert(says_the_same(&good, &mended));
    }
    expect_replaced(&mended, "attention own");
}

/// The shader takes products for sums, so that weights are others.
Test(vulkan_trust, broken_drawing_is_left_to_the_host)
{
    struct said good = hear(NIB_SELF_TEST_OFF, NULL, false);
    break_shader("draw_levels");
    struct said mended = hear(NIB_SELF_TEST_CACHED, NULL, false);
    cr_assert(says_the_same(&good, &mended));
    expect_replaced(&mended, "draw");
}

Test(vulkan_trust, verdicts_are_kept)
{
    break_shader("matmul_8x2");
    struct said said = hear(NIB_SELF_TEST_CACHED, "tall", false);
    expect_replaced(&said, "matmul tall");
    // The driver has been mended, but nobody has looked again.
    break_shader(NULL);
    said = hear(NIB_SELF_TEST_CACHED, "tall", false);
    expect_replaced(&said, "matmul tall");
    said = hear(NIB_SELF_TEST_FULL, "tall", false);
    cr_assert_eq(said.n_replaced, 0);
    said = hear(NIB_SELF_TEST_CACHED, "tall", false);
    cr_assert_eq(said.n_replaced, 0);
    // What has passed is not looked at again either.
    break_shader("matmul_8x2");
    said = hear(NIB_SELF_TEST_CACHED, "tall", false);
    cr_assert_eq(said.n_replaced, 0);
}

/// Changes a byte of every file in the folder.
static void damage_files(void)
{
    char command[600];
    snprintf(command, sizeof command,
             "cd '%s' && for f in kernels-*; do printf X | dd of=\"$f\" bs=1 seek=33 conv=notrunc "
             "2>/dev/null; done",
             path_in_folder("."));
    cr_assert_eq(system(command), 0);
}

Test(vulkan_trust, damaged_verdicts_are_ignored)
{
    struct said said = hear(NIB_SELF_TEST_CACHED, "tall", false);
    cr_assert_eq(said.n_replaced, 0);
    damage_files();
    break_shader("matmul_8x2");
    said = hear(NIB_SELF_TEST_CACHED, "tall", false);
    expect_replaced(&said, "matmul tall");
}

Test(vulkan_trust, a_kernel_that_nothing_replaces_is_an_error)
{
    struct said good = hear(NIB_SELF_TEST_OFF, NULL, false);
    break_shader("norm");
    struct said said = hear(NIB_SELF_TEST_CACHED, NULL, false);
    cr_assert_eq(said.status, NIB_ERROR_UNSUPPORTED);
    cr_assert(strstr(said.error.message, "computes wrong results"), "%s", said.error.message);
    said = hear(NIB_SELF_TEST_CACHED, NULL, true);
    cr_assert_eq(said.gpu_layers, 0);
    cr_assert_eq(said.n_fallbacks, 1);
    cr_assert(says_the_same(&good, &said));
}
