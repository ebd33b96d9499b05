#include "runtime/vulkan/loss.h"

#include "runtime/base/status.h"

/// After which a step counts as hung. A driver on the CPU takes its time, and has no watchdog.
#define HUNG_NS 60000000000ull
#define HUNG_CPU_NS 3600000000000ull
/// For what has hung to end after all, before its memory is given up.
#define GRACE_NS 10000000000ull
/// Of a wait for which there was no memory.
#define MOST_TRIES 3

static uint64_t hang_ns(const struct nib_vk_device *device)
{
    if (device->hang_ms)
        return device->hang_ms * 1000000ull;
    return device->snapshot.is_software ? HUNG_CPU_NS : HUNG_NS;
}

enum nib_status nib_vk_device_check(struct nib_vk_device *device, VkResult result, const char *call,
                                    struct nib_error *err)
{
    if (result == VK_ERROR_DEVICE_LOST)
        atomic_store(&device->is_lost, true);
    return nib_vk_check(result, call, err);
}

enum nib_status nib_vk_check_alive(const struct nib_vk_device *device, struct nib_error *err)
{
    if (!atomic_load(&device->is_lost))
        return NIB_OK;
    return nib_fail(err, NIB_ERROR_DEVICE_LOST,
                    "%s was lost; open it anew, or use --device cpu, which does without it",
                    device->snapshot.name);
}

static VkResult wait(const struct nib_vk_device *device, const struct nib_vk_clock *clock,
                     uint64_t limit_ns)
{
    VkSemaphoreWaitInfo info = {.sType = VK_STRUCTURE_TYPE_SEMAPHORE_WAIT_INFO,
                                .semaphoreCount = 1,
                                .pSemaphores = &clock->semaphore,
                                .pValues = &clock->value};
    return device->table.WaitSemaphores(device->device, &info, limit_ns);
}

enum nib_status nib_vk_wait(struct nib_vk_device *device, const struct nib_vk_clock *clock,
                            struct nib_error *err)
{
    enum nib_status status = nib_vk_check_alive(device, err);
    if (status != NIB_OK)
        return status;
    VkResult result = wait(device, clock, hang_ns(device));
    if (result != VK_TIMEOUT)
        return nib_vk_device_check(device, result, "vkWaitSemaphores", err);
    atomic_store(&device->is_hung, true);
    atomic_store(&device->is_lost, true);
    return nib_fail(err, NIB_ERROR_DEVICE_LOST,
                    "%s has not finished a step in %.1f s; --device cpu does without it",
                    device->snapshot.name, (double)hang_ns(device) / 1e9);
}

bool nib_vk_is_idle(struct nib_vk_device *device, const struct nib_vk_clock *clock)
{
    if (!clock->semaphore || clock->value == 0)
        return true;
    for (int i = 0; i < MOST_TRIES; i++) {
        VkResult result =
            wait(device, clock, atomic_load(&device->is_hung) ? GRACE_NS : hang_ns(device));
        // Of a lost device everything may be destroyed.
        if (result == VK_SUCCESS || result == VK_ERROR_DEVICE_LOST)
            return true;
        if (result == VK_TIMEOUT)
            break;
    }
    atomic_store(&device->is_abandoned, true);
    return false;
}
