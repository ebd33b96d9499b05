#define _GNU_SOURCE // RTLD_NODELETE
#include "tests/embed/host.h"

#include <criterion/criterion.h>
#include <dlfcn.h>
#include <string.h>

/// These two are read by the leak sanitizer. lavapipe 22.3 keeps the names of objects that go with
/// their pool. Whether all objects are gone is counted by the tests themselves.
const char *__lsan_default_suppressions(void);
const char *__lsan_default_suppressions(void)
{
    return "leak:libvulkan_lvp.so\n";
}
const char *__lsan_default_options(void);
const char *__lsan_default_options(void)
{
    return "print_suppressions=0";
}

#define CHECK(call) cr_assert_eq((call), VK_SUCCESS, "%s", #call)

static void lock_queue(void *user)
{
    struct host *host = user;
    pthread_mutex_lock(&host->queue_lock);
    atomic_store(&host->lock_owner, 1);
}

static void unlock_queue(void *user)
{
    struct host *host = user;
    atomic_store(&host->lock_owner, 0);
    pthread_mutex_unlock(&host->queue_lock);
}

void host_keep_driver(void)
{
    dlopen("libvulkan_lvp.so", RTLD_NOW | RTLD_NODELETE);
}

static void open_instance(struct host *host, const struct host_params *params)
{
    host_keep_driver();
    host->library = dlopen("libvulkan.so.1", RTLD_NOW | RTLD_LOCAL);
    if (!host->library)
        cr_skip_test("no Vulkan loader");
    *(void **)&host->get = dlsym(host->library, "vkGetInstanceProcAddr");
    PFN_vkCreateInstance create = (PFN_vkCreateInstance)host->get(NULL, "vkCreateInstance");
    if (params->has_names)
        host->instance_extensions[host->n_instance_extensions++] =
            VK_EXT_DEBUG_UTILS_EXTENSION_NAME;
    VkApplicationInfo application = {.sType = VK_STRUCTURE_TYPE_APPLICATION_INFO,
                                     .pApplicationName = "host",
                                     .apiVersion = host->api_version};
    VkInstanceCreateInfo info = {.sType = VK_STRUCTURE_TYPE_INSTANCE_CREATE_INFO,
                                 .pApplicationInfo = &application,
                                 .enabledExtensionCount = host->n_instance_extensions,
                                 .ppEnabledExtensionNames = host->instance_extensions};
    VkResult result = create(&info, NULL, &host->instance);
    if (result == VK_ERROR_INCOMPATIBLE_DRIVER)
        cr_skip_test("no Vulkan driver");
    CHECK(result);
#define X(name) host->name = (PFN_vk##name)host->get(host->instance, "vk" #name);
    HOST_INSTANCE_FUNCTIONS(X)
#undef X
}

/// Finds a queue family for graphics and compute.
static void choose_family(struct host *host)
{
    const VkQueueFlags wanted = VK_QUEUE_GRAPHICS_BIT | VK_QUEUE_COMPUTE_BIT;
    VkQueueFamilyProperties families[16];
    uint32_t n = 1, n_families = sizeof families / sizeof families[0];
    if (host->EnumeratePhysicalDevices(host->instance, &n, &host->physical) < 0 || n == 0)
        cr_skip_test("no Vulkan device");
    host->GetPhysicalDeviceQueueFamilyProperties(host->physical, &n_families, families);
    for (host->family = 0; host->family < n_families; host->family++) {
        if ((families[host->family].queueFlags & wanted) == wanted)
            return;
    }
    cr_skip_test("no queue for graphics and compute");
}

static void open_device(struct host *host, const struct host_params *params)
{
    const float priority = 1.0f;
    const char *const *required = nib_vulkan_required_extensions(host->api_version);
    for (uint32_t i = 0; required[i] && !params->lacks_extension; i++)
        host->device_extensions[host->n_device_extensions++] = required[i];
    host->timeline.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_TIMELINE_SEMAPHORE_FEATURES;
    host->features.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_FEATURES_2;
    host->features.pNext = &host->timeline;
    if (!params->lacks_feature)
        cr_assert_eq(nib_vulkan_required_features(&host->features, NULL), NIB_OK);
    VkDeviceQueueCreateInfo queue = {.sType = VK_STRUCTURE_TYPE_DEVICE_QUEUE_CREATE_INFO,
                                     .queueFamilyIndex = host->family,
                                     .queueCount = 1,
                                     .pQueuePriorities = &priority};
    // Without its extension the struct may not be given.
    bool has_struct = host->api_version >= VK_API_VERSION_1_2 || host->n_device_extensions > 0;
    VkPhysicalDeviceFeatures2 plain = {.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_FEATURES_2};
    VkDeviceCreateInfo info = {.sType = VK_STRUCTURE_TYPE_DEVICE_CREATE_INFO,
                               .pNext = has_struct ? &host->features : &plain,
                               .queueCreateInfoCount = 1,
                               .pQueueCreateInfos = &queue,
                               .enabledExtensionCount = host->n_device_extensions,
                               .ppEnabledExtensionNames = host->device_extensions};
    CHECK(host->CreateDevice(host->physical, &info, NULL, &host->device));
#define X(name) host->name = (PFN_vk##name)host->GetDeviceProcAddr(host->device, "vk" #name);
    HOST_DEVICE_FUNCTIONS(X)
#undef X
    host->GetDeviceQueue(host->device, host->family, 0, &host->queue);
}

static uint32_t find_memory(const struct host *host, uint32_t types, VkMemoryPropertyFlags wanted)
{
    VkPhysicalDeviceMemoryProperties memory;
    host->GetPhysicalDeviceMemoryProperties(host->physical, &memory);
    uint32_t i = 0;
    while (i < memory.memoryTypeCount &&
           !(types & 1u << i && (memory.memoryTypes[i].propertyFlags & wanted) == wanted))
        i++;
    cr_assert_lt(i, memory.memoryTypeCount);
    return i;
}

static VkDeviceMemory allocate(const struct host *host, const VkMemoryRequirements *needs,
                               VkMemoryPropertyFlags wanted)
{
    VkDeviceMemory memory;
    VkMemoryAllocateInfo info = {.sType = VK_STRUCTURE_TYPE_MEMORY_ALLOCATE_INFO,
                                 .allocationSize = needs->size,
                                 .memoryTypeIndex =
                                     find_memory(host, needs->memoryTypeBits, wanted)};
    CHECK(host->AllocateMemory(host->device, &info, NULL, &memory));
    return memory;
}

static void make_image(struct host *host)
{
    VkMemoryRequirements needs;
    VkImageCreateInfo image = {.sType = VK_STRUCTURE_TYPE_IMAGE_CREATE_INFO,
                               .imageType = VK_IMAGE_TYPE_2D,
                               .format = VK_FORMAT_R8G8B8A8_UNORM,
                               .extent = {HOST_SIDE, HOST_SIDE, 1},
                               .mipLevels = 1,
                               .arrayLayers = 1,
                               .samples = VK_SAMPLE_COUNT_1_BIT,
                               .usage = VK_IMAGE_USAGE_COLOR_ATTACHMENT_BIT |
                                        VK_IMAGE_USAGE_TRANSFER_SRC_BIT};
    CHECK(host->CreateImage(host->device, &image, NULL, &host->image));
    host->GetImageMemoryRequirements(host->device, host->image, &needs);
    host->image_memory = allocate(host, &needs, 0);
    CHECK(host->BindImageMemory(host->device, host->image, host->image_memory, 0));
    VkImageViewCreateInfo view = {.sType = VK_STRUCTURE_TYPE_IMAGE_VIEW_CREATE_INFO,
                                  .image = host->image,
                                  .viewType = VK_IMAGE_VIEW_TYPE_2D,
                                  .format = VK_FORMAT_R8G8B8A8_UNORM,
                                  .subresourceRange = {VK_IMAGE_ASPECT_COLOR_BIT, 0, 1, 0, 1}};
    CHECK(host->CreateImageView(host->device, &view, NULL, &host->view));

    VkBufferCreateInfo buffer = {.sType = VK_STRUCTURE_TYPE_BUFFER_CREATE_INFO,
                                 .size = (VkDeviceSize)HOST_SIDE * HOST_SIDE * 4,
                                 .usage = VK_BUFFER_USAGE_TRANSFER_DST_BIT};
    CHECK(host->CreateBuffer(host->device, &buffer, NULL, &host->pixels));
    host->GetBufferMemoryRequirements(host->device, host->pixels, &needs);
    host->pixels_memory = allocate(
        host, &needs, VK_MEMORY_PROPERTY_HOST_VISIBLE_BIT | VK_MEMORY_PROPERTY_HOST_COHERENT_BIT);
    CHECK(host->BindBufferMemory(host->device, host->pixels, host->pixels_memory, 0));
    void *mapped;
    CHECK(host->MapMemory(host->device, host->pixels_memory, 0, VK_WHOLE_SIZE, 0, &mapped));
    host->mapped = mapped;
}

static void make_pass(struct host *host)
{
    VkAttachmentDescription attachment = {.format = VK_FORMAT_R8G8B8A8_UNORM,
                                          .samples = VK_SAMPLE_COUNT_1_BIT,
                                          .loadOp = VK_ATTACHMENT_LOAD_OP_CLEAR,
                                          .storeOp = VK_ATTACHMENT_STORE_OP_STORE,
                                          .finalLayout = VK_IMAGE_LAYOUT_TRANSFER_SRC_OPTIMAL};
    VkAttachmentReference reference = {0, VK_IMAGE_LAYOUT_COLOR_ATTACHMENT_OPTIMAL};
    VkSubpassDescription subpass = {.colorAttachmentCount = 1, .pColorAttachments = &reference};
    const VkSubpassDependency dependencies[2] = {
        {.srcSubpass = VK_SUBPASS_EXTERNAL,
         .srcStageMask = VK_PIPELINE_STAGE_TRANSFER_BIT,
         .dstStageMask = VK_PIPELINE_STAGE_COLOR_ATTACHMENT_OUTPUT_BIT,
         .dstAccessMask = VK_ACCESS_COLOR_ATTACHMENT_WRITE_BIT},
        {.dstSubpass = VK_SUBPASS_EXTERNAL,
         .srcStageMask = VK_PIPELINE_STAGE_COLOR_ATTACHMENT_OUTPUT_BIT,
         .dstStageMask = VK_PIPELINE_STAGE_TRANSFER_BIT,
         .srcAccessMask = VK_ACCESS_COLOR_ATTACHMENT_WRITE_BIT,
         .dstAccessMask = VK_ACCESS_TRANSFER_READ_BIT}};
    VkRenderPassCreateInfo pass = {.sType = VK_STRUCTURE_TYPE_RENDER_PASS_CREATE_INFO,
                                   .attachmentCount = 1,
                                   .pAttachments = &attachment,
                                   .subpassCount = 1,
                                   .pSubpasses = &subpass,
                                   .dependencyCount = 2,
                                   .pDependencies = dependencies};
    CHECK(host->CreateRenderPass(host->device, &pass, NULL, &host->pass));
    VkFramebufferCreateInfo frame = {.sType = VK_STRUCTURE_TYPE_FRAMEBUFFER_CREATE_INFO,
                                     .renderPass = host->pass,
                                     .attachmentCount = 1,
                                     .pAttachments = &host->view,
                                     .width = HOST_SIDE,
                                     .height = HOST_SIDE,
                                     .layers = 1};
    CHECK(host->CreateFramebuffer(host->device, &frame, NULL, &host->frame));
}

static void make_commands(struct host *host)
{
    VkCommandPoolCreateInfo pool = {.sType = VK_STRUCTURE_TYPE_COMMAND_POOL_CREATE_INFO,
                                    .flags = VK_COMMAND_POOL_CREATE_RESET_COMMAND_BUFFER_BIT,
                                    .queueFamilyIndex = host->family};
    CHECK(host->CreateCommandPool(host->device, &pool, NULL, &host->pool));
    VkCommandBufferAllocateInfo buffer = {.sType = VK_STRUCTURE_TYPE_COMMAND_BUFFER_ALLOCATE_INFO,
                                          .commandPool = host->pool,
                                          .commandBufferCount = 1};
    CHECK(host->AllocateCommandBuffers(host->device, &buffer, &host->commands));
    VkFenceCreateInfo fence = {.sType = VK_STRUCTURE_TYPE_FENCE_CREATE_INFO};
    CHECK(host->CreateFence(host->device, &fence, NULL, &host->fence));
}

void host_open(struct host *host, const struct host_params *params)
{
    *host = (struct host){.api_version =
                              params->api_version ? params->api_version : VK_API_VERSION_1_2};
    pthread_mutex_init(&host->queue_lock, NULL);
    open_instance(host, params);
    choose_family(host);
    open_device(host, params);
    make_image(host);
    make_pass(host);
    make_commands(host);
}

void host_close(struct host *host)
{
    VkDevice d = host->device;
    CHECK(host->DeviceWaitIdle(d));
    host->DestroyFence(d, host->fence, NULL);
    host->DestroyCommandPool(d, host->pool, NULL);
    host->DestroyFramebuffer(d, host->frame, NULL);
    host->DestroyRenderPass(d, host->pass, NULL);
    host->DestroyBuffer(d, host->pixels, NULL);
    host->FreeMemory(d, host->pixels_memory, NULL);
    host->DestroyImageView(d, host->view, NULL);
    host->DestroyImage(d, host->image, NULL);
    host->FreeMemory(d, host->image_memory, NULL);
    host->DestroyDevice(d, NULL);
    host->DestroyInstance(host->instance, NULL);
    pthread_mutex_destroy(&host->queue_lock);
    dlclose(host->library);
}

struct nib_attach_params host_attach_params(struct host *host)
{
    return (struct nib_attach_params){.struct_size = sizeof(struct nib_attach_params),
                                      .get_instance_proc_addr = host->get,
                                      .api_version = host->api_version,
                                      .instance = host->instance,
                                      .physical_device = host->physical,
                                      .device = host->device,
                                      .queue_family = host->family,
                                      .queue = host->queue,
                                      .instance_extensions = host->instance_extensions,
                                      .n_instance_extensions = host->n_instance_extensions,
                                      .device_extensions = host->device_extensions,
                                      .n_device_extensions = host->n_device_extensions,
                                      .features = &host->features,
                                      .lock_queue = lock_queue,
                                      .unlock_queue = unlock_queue,
                                      .user = host};
}

/// The background and the square of a frame: 8 bits a channel, exact in UNORM.
static void choose_colors(uint32_t number, uint8_t background[4], uint8_t square[4])
{
    for (uint32_t c = 0; c < 4; c++) {
        background[c] = (uint8_t)(number * (3 + 2 * c) + 17 * c);
        square[c] = (uint8_t)~background[c];
    }
}

static VkClearValue clear_value(const uint8_t color[4])
{
    VkClearValue value;
    for (uint32_t c = 0; c < 4; c++)
        value.color.float32[c] = (float)color[c] / 255.0f;
    return value;
}

#define SQUARE_AT (HOST_SIDE / 4)
#define SQUARE_SIDE (HOST_SIDE / 2)

void host_record(const struct host *host, VkCommandBuffer commands, uint32_t number)
{
    uint8_t background[4], square[4];
    choose_colors(number, background, square);
    const VkClearValue value = clear_value(background);
    const VkClearAttachment attachment = {.aspectMask = VK_IMAGE_ASPECT_COLOR_BIT,
                                          .clearValue = clear_value(square)};
    const VkClearRect rect = {{{SQUARE_AT, SQUARE_AT}, {SQUARE_SIDE, SQUARE_SIDE}}, 0, 1};
    VkRenderPassBeginInfo pass = {.sType = VK_STRUCTURE_TYPE_RENDER_PASS_BEGIN_INFO,
                                  .renderPass = host->pass,
                                  .framebuffer = host->frame,
                                  .renderArea.extent = {HOST_SIDE, HOST_SIDE},
                                  .clearValueCount = 1,
                                  .pClearValues = &value};
    host->CmdBeginRenderPass(commands, &pass, VK_SUBPASS_CONTENTS_INLINE);
    host->CmdClearAttachments(commands, 1, &attachment, 1, &rect);
    host->CmdEndRenderPass(commands);
    const VkBufferImageCopy copy = {.imageSubresource = {VK_IMAGE_ASPECT_COLOR_BIT, 0, 0, 1},
                                    .imageExtent = {HOST_SIDE, HOST_SIDE, 1}};
    host->CmdCopyImageToBuffer(commands, host->image, VK_IMAGE_LAYOUT_TRANSFER_SRC_OPTIMAL,
                               host->pixels, 1, &copy);
    // For the reader, and for the next frame's copy.
    VkMemoryBarrier barrier = {.sType = VK_STRUCTURE_TYPE_MEMORY_BARRIER,
                               .srcAccessMask = VK_ACCESS_TRANSFER_WRITE_BIT,
                               .dstAccessMask =
                                   VK_ACCESS_HOST_READ_BIT | VK_ACCESS_TRANSFER_WRITE_BIT};
    host->CmdPipelineBarrier(commands, VK_PIPELINE_STAGE_TRANSFER_BIT,
                             VK_PIPELINE_STAGE_HOST_BIT | VK_PIPELINE_STAGE_TRANSFER_BIT, 0, 1,
                             &barrier, 0, NULL, 0, NULL);
}

bool host_check(const struct host *host, uint32_t number)
{
    uint8_t background[4], square[4];
    choose_colors(number, background, square);
    for (uint32_t y = 0; y < HOST_SIDE; y++) {
        for (uint32_t x = 0; x < HOST_SIDE; x++) {
            bool is_inside = x - SQUARE_AT < SQUARE_SIDE && y - SQUARE_AT < SQUARE_SIDE;
            const uint8_t *pixel = host->mapped + 4 * ((size_t)y * HOST_SIDE + x);
            if (memcmp(pixel, is_inside ? square : background, 4) != 0)
                return false;
        }
    }
    return true;
}

VkResult host_begin(const struct host *host, VkCommandBuffer commands)
{
    VkCommandBufferBeginInfo begin = {.sType = VK_STRUCTURE_TYPE_COMMAND_BUFFER_BEGIN_INFO};
    return host->BeginCommandBuffer(commands, &begin);
}

VkResult host_submit(struct host *host, const VkCommandBuffer *commands, uint32_t n)
{
    VkSubmitInfo info = {.sType = VK_STRUCTURE_TYPE_SUBMIT_INFO,
                         .commandBufferCount = n,
                         .pCommandBuffers = commands};
    pthread_mutex_lock(&host->queue_lock);
    VkResult result = host->QueueSubmit(host->queue, 1, &info, host->fence);
    pthread_mutex_unlock(&host->queue_lock);
    if (result == VK_SUCCESS)
        result = host->WaitForFences(host->device, 1, &host->fence, VK_TRUE, UINT64_MAX);
    return result == VK_SUCCESS ? host->ResetFences(host->device, 1, &host->fence) : result;
}

bool host_draw(struct host *host, uint32_t number)
{
    VkResult result = host_begin(host, host->commands);
    host_record(host, host->commands, number);
    if (result == VK_SUCCESS)
        result = host->EndCommandBuffer(host->commands);
    if (result == VK_SUCCESS)
        result = host_submit(host, &host->commands, 1);
    return result == VK_SUCCESS && host_check(host, number);
}

static void *draw(void *user)
{
    struct host *host = user;
    while (!atomic_load(&host->stops)) {
        uint32_t number = atomic_fetch_add(&host->n_frames, 1);
        if (!host_draw(host, number))
            atomic_fetch_add(&host->n_wrong, 1);
    }
    return NULL;
}

void host_start(struct host *host)
{
    atomic_store(&host->stops, false);
    cr_assert_eq(pthread_create(&host->thread, NULL, draw, host), 0);
}

void host_stop(struct host *host)
{
    atomic_store(&host->stops, true);
    pthread_join(host->thread, NULL);
    cr_assert_gt(atomic_load(&host->n_frames), 0);
    cr_assert_eq(atomic_load(&host->n_wrong), 0);
}
