#include <stdlib.h>
#include <string.h>

#include "runtime/base/status.h"
#include "runtime/vulkan/device.h"

#if defined(_WIN32)
#define LOADER "vulkan-1.dll"
#elif defined(__APPLE__)
#define LOADER "libvulkan.1.dylib"
#else
#define LOADER "libvulkan.so.1"
#endif

static bool has_debug_utils(PFN_vkGetInstanceProcAddr get)
{
    PFN_vkEnumerateInstanceExtensionProperties enumerate =
        (PFN_vkEnumerateInstanceExtensionProperties)(void (*)(void))get(
            NULL, "vkEnumerateInstanceExtensionProperties");
    uint32_t n = 0;
    bool is_there = false;
    if (!enumerate || enumerate(NULL, &n, NULL) != VK_SUCCESS)
        return false;
    VkExtensionProperties *extensions = calloc(n + 1ull, sizeof *extensions);
    VkResult result = extensions ? enumerate(NULL, &n, extensions) : VK_ERROR_OUT_OF_HOST_MEMORY;
    for (uint32_t i = 0; result >= 0 && i < n; i++) {
        is_there =
            is_there || strcmp(extensions[i].extensionName, VK_EXT_DEBUG_UTILS_EXTENSION_NAME) == 0;
    }
    free(extensions);
    return is_there;
}

static enum nib_status create_instance(struct nib_vk_host *host, PFN_vkGetInstanceProcAddr get,
                                       struct nib_error *err)
{
    PFN_vkEnumerateInstanceVersion get_version =
        (PFN_vkEnumerateInstanceVersion)(void (*)(void))get(NULL, "vkEnumerateInstanceVersion");
    PFN_vkCreateInstance create =
        (PFN_vkCreateInstance)(void (*)(void))get(NULL, "vkCreateInstance");
    uint32_t version = VK_API_VERSION_1_0;
    if (!create || !get_version || get_version(&version) != VK_SUCCESS ||
        version < VK_API_VERSION_1_1)
        return nib_fail(err, NIB_ERROR_UNSUPPORTED, LOADER " is older than Vulkan 1.1");
    VkApplicationInfo application = {
        .sType = VK_STRUCTURE_TYPE_APPLICATION_INFO,
        .pEngineName = "nibble",
        .apiVersion = version < VK_API_VERSION_1_2 ? VK_API_VERSION_1_1 : VK_API_VERSION_1_2,
    };
    const char *const names = VK_EXT_DEBUG_UTILS_EXTENSION_NAME;
    bool has_names = has_debug_utils(get);
    VkInstanceCreateInfo info = {.sType = VK_STRUCTURE_TYPE_INSTANCE_CREATE_INFO,
                                 .pApplicationInfo = &application,
                                 .enabledExtensionCount = has_names,
                                 .ppEnabledExtensionNames = &names};
    VkResult result = create(&info, NULL, &host->instance);
    if (result == VK_SUCCESS && has_names)
        nib_vk_debug_load(get, host->instance, &host->debug);
    if (result == VK_ERROR_INCOMPATIBLE_DRIVER) {
        return nib_fail(err, NIB_ERROR_NOT_FOUND,
                        "no Vulkan driver is installed (on Debian: mesa-vulkan-drivers)");
    }
    return nib_vk_check(result, "vkCreateInstance", err);
}

enum nib_status nib_vk_host_open(struct nib_vk_host *out_host, struct nib_error *err)
{
    enum nib_status status = NIB_OK;
    struct nib_vk_host host = {0};
    status = nib_library_open(LOADER, &host.library, err);
    if (status != NIB_OK) {
        nib_fail_context(err, status, "no Vulkan loader (on Debian: libvulkan1)");
        goto fail;
    }
    PFN_vkGetInstanceProcAddr get =
        (PFN_vkGetInstanceProcAddr)nib_library_function(host.library, "vkGetInstanceProcAddr");
    if (!get) {
        status = nib_fail(err, NIB_ERROR_UNSUPPORTED, LOADER " exports no vkGetInstanceProcAddr");
        goto fail;
    }
    NIB_TRY(create_instance(&host, get, err));
    status = nib_vk_instance_table_load(get, host.instance, &host.table, err);
    if (status != NIB_OK) {
        host.instance = NULL;
        goto fail;
    }
    host.n_physical = sizeof host.physical / sizeof host.physical[0];
    VkResult result =
        host.table.EnumeratePhysicalDevices(host.instance, &host.n_physical, host.physical);
    if (result != VK_INCOMPLETE)
        NIB_TRY(nib_vk_check(result, "vkEnumeratePhysicalDevices", err));
    *out_host = host;
    return NIB_OK;

fail:
    nib_vk_host_close(&host);
    *out_host = (struct nib_vk_host){0};
    return status;
}

void nib_vk_host_close(struct nib_vk_host *host)
{
    if (host->instance)
        host->table.DestroyInstance(host->instance, NULL);

    nib_library_close(&host->library);
    *host = (struct nib_vk_host){0};
}
