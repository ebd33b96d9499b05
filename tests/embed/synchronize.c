#define _GNU_SOURCE // usleep
// Steps between timeline points of the host.
#include <criterion/criterion.h>
#include <nibble/nibble.h>
#include <unistd.h>

#include "tests/embed/watch.h"

/// A host, and an engine on its device with a session that has a prompt.
struct rig {
    struct host host;
    struct nib_model *model;
    struct nib_engine *engine;
    struct nib_session *session;
    VkSemaphore semaphore;
    PFN_vkSignalSemaphore signal;
    PFN_vkGetSemaphoreCounterValue get_value;
};
static struct rig rig;

static void rig_open(void)
{
    struct nib_device *device = NULL;
    struct nib_model_info info;
    struct nib_error error;
    const int32_t prompt[] = {1, 2, 3, 4, 5};
    host_open(&rig.host, &(struct host_params){0});
    cr_assert_eq(nib_model_open(NIB_TEST_DATA "/architectures/qwen3", NULL, &rig.model, &error),
                 NIB_OK);
    nib_model_get_info(rig.model, &info);
    struct nib_attach_params params = host_attach_params(&rig.host);
    params.get_instance_proc_addr = watch_begin(&rig.host);
    params.submit_ns = 1; // a layer for each submission
    cr_assert_eq(nib_device_attach(&params, &device, &error), NIB_OK, "%s", error.message);
    const struct nib_placement whole = {.device = device, .n_segments = info.layers + 2};
    cr_assert_eq(nib_engine_create(
                     rig.model,
                     nib_engine_params(.placements = &whole, .n_placements = 1, .context = 128),
                     &rig.engine, &error),
                 NIB_OK, "%s", error.message);
    nib_device_destroy(&device);
    cr_assert_eq(nib_session_create(rig.engine, &rig.session, NULL), NIB_OK);
    cr_assert_eq(nib_session_append(rig.session, prompt, 5, NULL), NIB_OK);
    cr_assert_eq(nib_session_begin(
                     rig.session, nib_generate_params(.max_tokens = 100, .ignore_eos = true), NULL),
                 NIB_OK);

    VkSemaphoreTypeCreateInfo type = {.sType = VK_STRUCTURE_TYPE_SEMAPHORE_TYPE_CREATE_INFO,
                                      .semaphoreType = VK_SEMAPHORE_TYPE_TIMELINE};
    VkSemaphoreCreateInfo semaphore = {.sType = VK_STRUCTURE_TYPE_SEMAPHORE_CREATE_INFO,
                                       .pNext = &type};
    cr_assert_eq(rig.host.CreateSemaphore(rig.host.device, &semaphore, NULL, &rig.semaphore),
                 VK_SUCCESS);
    rig.signal =
        (PFN_vkSignalSemaphore)rig.host.GetDeviceProcAddr(rig.host.device, "vkSignalSemaphore");
    rig.get_value = (PFN_vkGetSemaphoreCounterValue)rig.host.GetDeviceProcAddr(
        rig.host.device, "vkGetSemaphoreCounterValue");
}

static void rig_close(void)
{
    nib_session_destroy(&rig.session);
    nib_engine_destroy(&rig.engine);
    nib_model_destroy(&rig.model);
    watch_end();
    rig.host.DestroySemaphore(rig.host.device, rig.semaphore, NULL);
    host_close(&rig.host);
}

static uint64_t value(void)
{
    uint64_t now = 0;
    cr_assert_eq(rig.get_value(rig.host.device, rig.semaphore, &now), VK_SUCCESS);
    return now;
}

static void step(void)
{
    uint32_t active = 0;
    struct nib_error error;
    cr_assert_eq(nib_engine_step(rig.engine, &active, &error), NIB_OK, "%s", error.message);
}

/// Waits for what the device does soon.
static void expect_value(uint64_t expected)
{
    for (int i = 0; i < 10000 && value() < expected; i++)
        usleep(1000);
    cr_assert_eq(value(), expected);
}

static void synchronize(uint64_t wait, uint64_t signal)
{
    const struct nib_timeline_point waits = {rig.semaphore, wait};
    const struct nib_timeline_point signals = {rig.semaphore, signal};
    struct nib_error error;
    cr_assert_eq(nib_engine_synchronize(rig.engine, &waits, wait > 0, &signals, signal > 0, &error),
                 NIB_OK, "%s", error.message);
}

/// The host's part of a frame, a little later and on another thread.
static void *signal_later(void *user)
{
    (void)user;
    usleep(50000);
    VkSemaphoreSignalInfo info = {
        .sType = VK_STRUCTURE_TYPE_SEMAPHORE_SIGNAL_INFO, .semaphore = rig.semaphore, .value = 7};
    cr_assert_eq(value(), 0);
    cr_assert_eq(rig.signal(rig.host.device, &info), VK_SUCCESS);
    return NULL;
}

// A suite of its own: the validation layer takes a wait for a signal that the host gives later for
// an error of its own now and then.
Test(waiting, a_step_waits_for_the_host)
{
    pthread_t thread;
    rig_open();
    step(); // loads
    synchronize(7, 8);
    cr_assert_eq(pthread_create(&thread, NULL, signal_later, NULL), 0);
    step();
    pthread_join(thread, NULL);
    expect_value(8);
    rig_close();
}

/// The host's part of a frame: a submission that signals.
static void submit_signal(uint64_t signal_value)
{
    VkTimelineSemaphoreSubmitInfo timeline = {.sType =
                                                  VK_STRUCTURE_TYPE_TIMELINE_SEMAPHORE_SUBMIT_INFO,
                                              .signalSemaphoreValueCount = 1,
                                              .pSignalSemaphoreValues = &signal_value};
    VkSubmitInfo info = {.sType = VK_STRUCTURE_TYPE_SUBMIT_INFO,
                         .pNext = &timeline,
                         .signalSemaphoreCount = 1,
                         .pSignalSemaphores = &rig.semaphore};
    pthread_mutex_lock(&rig.host.queue_lock);
    cr_assert_eq(rig.host.QueueSubmit(rig.host.queue, 1, &info, VK_NULL_HANDLE), VK_SUCCESS);
    pthread_mutex_unlock(&rig.host.queue_lock);
}

Test(synchronize, a_step_stands_between_points)
{
    rig_open();
    step();
    submit_signal(1);
    synchronize(1, 2);
    step();
    expect_value(2);
    // A point holds for one step, and those of several calls add up.
    step();
    cr_assert_eq(value(), 2);
    synchronize(2, 0);
    synchronize(0, 3);
    step();
    expect_value(3);
    rig_close();
}

Test(synchronize, signals_come_without_work_too)
{
    uint32_t active = 1;
    rig_open();
    step();
    nib_session_cancel(rig.session);
    cr_assert_eq(nib_engine_step(rig.engine, &active, NULL), NIB_OK);
    cr_assert_eq(active, 0);
    synchronize(0, 3);
    cr_assert_eq(nib_engine_step(rig.engine, &active, NULL), NIB_OK);
    expect_value(3);
    rig_close();
}

Test(synchronize, submissions_are_short)
{
    rig_open();
    step();
    step();
    struct nib_engine_info info;
    nib_engine_get_info(rig.engine, &info);
    uint32_t before = watch.submits;
    step();
    // Every layer has one of its own, and so have the embedding, the head and the step's upload.
    cr_assert_geq(watch.submits - before, info.n_segments + 1);
    rig_close();
}

Test(synchronize, needs_an_attached_device)
{
    struct nib_model *model = NULL;
    struct nib_engine *engine = NULL;
    struct nib_error error;
    const struct nib_timeline_point point = {.value = 1};
    cr_assert_eq(nib_model_open(NIB_TEST_DATA "/architectures/qwen3", NULL, &model, &error),
                 NIB_OK);
    cr_assert_eq(nib_engine_create(model, NULL, &engine, &error), NIB_OK);
    cr_assert_eq(nib_engine_synchronize(engine, &point, 1, NULL, 0, &error), NIB_ERROR_STATE);
    cr_assert_eq(nib_engine_synchronize(engine, NULL, 1, NULL, 0, &error), NIB_ERROR_ARGUMENT);
    cr_assert_eq(nib_engine_synchronize(engine, NULL, 0, NULL, 1, &error), NIB_ERROR_ARGUMENT);
    cr_assert_eq(nib_engine_synchronize(NULL, NULL, 0, NULL, 0, &error), NIB_ERROR_ARGUMENT);
    nib_engine_destroy(&engine);
    nib_model_destroy(&model);
}
