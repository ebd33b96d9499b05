#include "runtime/vulkan/quirks.h"

#define VENDOR_AMD 0x1002u
#define COOPERATIVE \
    (1u << NIB_VK_FAMILY_COOP8 | 1u << NIB_VK_FAMILY_COOP16 | 1u << NIB_VK_FAMILY_HALF)

struct quirk {
    VkDriverId driver;
    uint32_t families; ///< bits of those that are refused
    bool (*applies)(const struct nib_vk_snapshot *snapshot);
    const char *reason;
};

/// GPUs before RDNA 3 have no dot products of signed with unsigned bytes.
static bool is_before_rdna3(const struct nib_vk_snapshot *s)
{
    return !s->has_fast_mixed_dot;
}

static bool is_any(const struct nib_vk_snapshot *s)
{
    (void)s;
    return true;
}

static bool is_amd(const struct nib_vk_snapshot *s)
{
    return s->vendor_id == VENDOR_AMD;
}

/// Intel's drivers for Windows keep 14 bits for the last part of their version.
static bool is_before_101_8860(const struct nib_vk_snapshot *s)
{
    return s->driver_version < (101u << 14 | 8860u);
}

static const struct quirk quirks[] = {
    // Announced on GPUs that have no matrix units: llama.cpp takes them from RDNA 3 on alone.
    {VK_DRIVER_ID_AMD_PROPRIETARY, COOPERATIVE, is_before_rdna3,
     "this driver announces matrices in vain before RDNA 3"},
    {VK_DRIVER_ID_AMD_OPEN_SOURCE, COOPERATIVE, is_before_rdna3,
     "this driver announces matrices in vain before RDNA 3"},
    // https://github.com/ggml-org/llama.cpp/issues/22034
    {VK_DRIVER_ID_INTEL_PROPRIETARY_WINDOWS, COOPERATIVE, is_before_101_8860,
     "matrices lose the device before driver 101.8860"},
    // https://github.com/Tencent/ncnn/issues/6778
    {VK_DRIVER_ID_QUALCOMM_PROPRIETARY, 1u << NIB_VK_FAMILY_SUB, is_any,
     "this driver's shuffles are wrong"},
    // https://github.com/ggml-org/llama.cpp/issues/15846
    {VK_DRIVER_ID_MOLTENVK, 1u << NIB_VK_FAMILY_SUB, is_amd,
     "shuffles are wrong on AMD's GPUs of Macs"},
};

const char *nib_vk_quirk_find(const struct nib_vk_snapshot *snapshot, enum nib_vk_family family)
{
    for (uint32_t i = 0; i < sizeof quirks / sizeof quirks[0]; i++) {
        if (quirks[i].driver == snapshot->driver_id && quirks[i].families >> family & 1 &&
            quirks[i].applies(snapshot))
            return quirks[i].reason;
    }
    return NULL;
}

bool nib_vk_quirk_is_late(const struct nib_vk_snapshot *snapshot)
{
    // Matmuls of 4 x 4 took it more than 12 GiB.
    return snapshot->driver_id == VK_DRIVER_ID_GOOGLE_SWIFTSHADER;
}
