#include <nibble/vulkan.h>

#include "runtime/base/status.h"

static const char *const none[] = {NULL};

enum nib_status nib_device_attach(const struct nib_attach_params *params,
                                  struct nib_device **out_device, struct nib_error *err)
{
    (void)params;
    *out_device = NULL;
    return nib_fail(err, NIB_ERROR_UNSUPPORTED,
                    "the Vulkan backend cannot use a VkDevice of the host's yet; open one with "
                    "nib_device_open");
}

const char *const *nib_vulkan_required_extensions(void)
{
    return none;
}

const char *const *nib_vulkan_recommended_extensions(void)
{
    return none;
}

void nib_vulkan_recommended_features(const VkPhysicalDeviceFeatures2 *supported,
                                     VkPhysicalDeviceFeatures2 *features)
{
    (void)supported;
    (void)features;
}

enum nib_status nib_engine_synchronize(struct nib_engine *engine,
                                       const struct nib_timeline_point *waits, uint32_t n_waits,
                                       const struct nib_timeline_point *signals, uint32_t n_signals,
                                       struct nib_error *err)
{
    (void)engine;
    (void)waits;
    (void)n_waits;
    (void)signals;
    (void)n_signals;
    return nib_fail(err, NIB_ERROR_STATE, "no placement of the engine is an attached device");
}
