// Segments recorded into command buffers of a host.
#include <criterion/criterion.h>
#include <string.h>

#include "rig.h"
#include "runtime/vulkan/instance.h"
#include "tests/unit/cpu/tiny_model.h"

#define N_ROWS 5

/// A command pool as a host has it, with a primary buffer and one secondary for each segment.
struct commands {
    VkCommandPool pool;
    VkCommandBuffer primary;
    VkCommandBuffer secondary[TINY_SEGMENTS];
};

static void make_commands(const struct nib_vk_device *d, struct commands *out)
{
    VkCommandPoolCreateInfo pool = {.sType = VK_STRUCTURE_TYPE_COMMAND_POOL_CREATE_INFO,
                                    .flags = VK_COMMAND_POOL_CREATE_RESET_COMMAND_BUFFER_BIT,
                                    .queueFamilyIndex = d->plan.queue_family};
    cr_assert_eq(d->table.CreateCommandPool(d->device, &pool, NULL, &out->pool), VK_SUCCESS);
    VkCommandBufferAllocateInfo info = {.sType = VK_STRUCTURE_TYPE_COMMAND_BUFFER_ALLOCATE_INFO,
                                        .commandPool = out->pool,
                                        .level = VK_COMMAND_BUFFER_LEVEL_PRIMARY,
                                        .commandBufferCount = 1};
    cr_assert_eq(d->table.AllocateCommandBuffers(d->device, &info, &out->primary), VK_SUCCESS);
    info.level = VK_COMMAND_BUFFER_LEVEL_SECONDARY;
    info.commandBufferCount = TINY_SEGMENTS;
    cr_assert_eq(d->table.AllocateCommandBuffers(d->device, &info, out->secondary), VK_SUCCESS);
}

static void begin(const struct nib_vk_device *d, VkCommandBuffer buffer)
{
    VkCommandBufferInheritanceInfo inherited = {
        .sType = VK_STRUCTURE_TYPE_COMMAND_BUFFER_INHERITANCE_INFO};
    VkCommandBufferBeginInfo info = {.sType = VK_STRUCTURE_TYPE_COMMAND_BUFFER_BEGIN_INFO,
                                     .pInheritanceInfo = &inherited};
    cr_assert_eq(d->table.BeginCommandBuffer(buffer, &info), VK_SUCCESS);
}

/// Runs the step that the device holds once more, by the host's buffer, and compares the logits.
static void run_again(struct nib_vk_instance *instance, VkCommandBuffer buffer, const float *logits)
{
    struct nib_vk_device *d = instance->device;
    float *readback = nib_vk_pool_mapped(&instance->logits_readback);
    size_t size = sizeof(float) * N_ROWS * TINY_VOCABULARY;
    memset(readback, 0xff, size);
    cr_assert_eq(nib_vk_submit(d, &instance->clock, &buffer, 1, NULL), NIB_OK);
    cr_assert_eq(nib_vk_wait(d, &instance->clock, NULL), NIB_OK);
    cr_assert_arr_eq(readback, logits, size);
}

Test(vulkan_record, segments_go_into_a_hosts_commands)
{
    void *device = rig_open(NULL);
    struct nib_vk_device *d = device;
    struct tiny_model m;
    struct tiny_instance t;
    struct commands commands;
    static float logits[N_ROWS * TINY_VOCABULARY];
    PFN_vkCmdExecuteCommands execute = (PFN_vkCmdExecuteCommands)d->host.table.GetDeviceProcAddr(
        d->device, "vkCmdExecuteCommands");
    tiny_model_init(&m, &(struct tiny_params){NIB_FORMAT_Q4_1, NIB_ACTIVATION_INT8_GROUP,
                                              NIB_KV_F16, NIB_KV_F16, false});
    tiny_open_on(&t, &m, &nib_vulkan_backend, device, 0, TINY_SEGMENTS);
    tiny_run_chunk(&t, 0, 0, N_ROWS, logits);
    make_commands(d, &commands);
    uint32_t bucket = nib_vk_bucket(N_ROWS);

    // All in one primary buffer, where a missing barrier would be seen by the validation layer.
    begin(d, commands.primary);
    for (uint32_t s = 0; s < TINY_SEGMENTS; s++)
        nib_vk_record(t.self, s, bucket, bucket, commands.primary);
    nib_vk_record_logits(t.self, bucket, commands.primary);
    cr_assert_eq(d->table.EndCommandBuffer(commands.primary), VK_SUCCESS);
    run_again(t.self, commands.primary, logits);
    run_again(t.self, commands.primary, logits);

    begin(d, commands.primary);
    for (uint32_t s = 0; s < TINY_SEGMENTS; s++) {
        begin(d, commands.secondary[s]);
        nib_vk_record(t.self, s, bucket, bucket, commands.secondary[s]);
        if (s + 1 == TINY_SEGMENTS)
            nib_vk_record_logits(t.self, bucket, commands.secondary[s]);
        cr_assert_eq(d->table.EndCommandBuffer(commands.secondary[s]), VK_SUCCESS);
    }
    execute(commands.primary, TINY_SEGMENTS, commands.secondary);
    cr_assert_eq(d->table.EndCommandBuffer(commands.primary), VK_SUCCESS);
    run_again(t.self, commands.primary, logits);

    d->table.DestroyCommandPool(d->device, commands.pool, NULL);
    tiny_close(&t);
    tiny_model_free(&m);
    rig_close(device);
}
