// The plan of made-up devices.
#include <criterion/criterion.h>
#include <string.h>

#include "runtime/vulkan/variants.h"

/// A discrete device with a small window of memory that the host sees.
static struct nib_vk_snapshot make_discrete(void)
{
    struct nib_vk_snapshot s = {
        .name = "Made-up 9000",
        .api_version = VK_API_VERSION_1_2,
        .type = VK_PHYSICAL_DEVICE_TYPE_DISCRETE_GPU,
        .has_timeline_semaphore = true,
        .max_storage_range = UINT32_MAX,
        .max_storage_buffers = 1000,
        .max_push_constants = 256,
        .max_invocations = 1024,
        .max_shared_memory = 65536,
        .max_workgroups = 65535,
        .storage_alignment = 4,
        .max_allocation = 4ull << 30,
        .subgroup_size = 64,
        .n_families = 2,
        .families = {{.queueFlags = VK_QUEUE_GRAPHICS_BIT | VK_QUEUE_COMPUTE_BIT, .queueCount = 1},
                     {.queueFlags = VK_QUEUE_COMPUTE_BIT, .queueCount = 4}},
        .memory = {.memoryTypeCount = 4,
                   .memoryTypes = {{VK_MEMORY_PROPERTY_DEVICE_LOCAL_BIT, 0},
                                   {VK_MEMORY_PROPERTY_HOST_VISIBLE_BIT |
                                        VK_MEMORY_PROPERTY_HOST_COHERENT_BIT,
                                    1},
                                   {VK_MEMORY_PROPERTY_DEVICE_LOCAL_BIT |
                                        VK_MEMORY_PROPERTY_HOST_VISIBLE_BIT |
                                        VK_MEMORY_PROPERTY_HOST_COHERENT_BIT,
                                    2},
                                   {VK_MEMORY_PROPERTY_HOST_VISIBLE_BIT |
                                        VK_MEMORY_PROPERTY_HOST_COHERENT_BIT |
                                        VK_MEMORY_PROPERTY_HOST_CACHED_BIT,
                                    1}},
                   .memoryHeapCount = 3,
                   .memoryHeaps = {{8ull << 30, VK_MEMORY_HEAP_DEVICE_LOCAL_BIT},
                                   {16ull << 30, 0},
                                   {256ull << 20, VK_MEMORY_HEAP_DEVICE_LOCAL_BIT}}},
    };
    return s;
}

Test(vulkan_device_plan, a_hosts_queue_is_taken_as_it_is)
{
    struct nib_vk_snapshot s = make_discrete();
    struct nib_vk_device_plan plan;
    s.has_host_family = true;
    nib_vk_device_plan_make(&s, &plan);
    cr_assert(plan.is_usable && plan.queue_family == 0);
    s.families[0].queueFlags = VK_QUEUE_GRAPHICS_BIT;
    nib_vk_device_plan_make(&s, &plan);
    cr_assert_not(plan.is_usable);
    cr_assert_not_null(strstr(plan.reason, "queue"));
}

Test(vulkan_device_plan, discrete)
{
    struct nib_vk_snapshot s = make_discrete();
    struct nib_vk_device_plan plan;
    nib_vk_device_plan_make(&s, &plan);
    cr_assert(plan.is_usable, "%s", plan.reason);
    cr_assert_eq(plan.queue_family, 1, "the one for compute alone");
    cr_assert_eq(plan.device_memory_type, 0, "not the window");
    cr_assert_eq(plan.upload_memory_type, 1);
    cr_assert_eq(plan.readback_memory_type, 3);
    cr_assert(!plan.is_direct);
    cr_assert_eq(plan.memory_bytes, (8ull << 30) / 10 * 9);
    s.has_memory_budget = true;
    s.budget[0] = 1ull << 30;
    nib_vk_device_plan_make(&s, &plan);
    cr_assert_eq(plan.memory_bytes, 1ull << 30);
    cr_assert_eq(nib_vk_memory_budget(&s, 0, 7ull << 30), (8ull << 30) / 10 * 9 - (7ull << 30));
    cr_assert_eq(nib_vk_memory_budget(&s, 0, 8ull << 30), 0);
}

Test(vulkan_device_plan, unified)
{
    struct nib_vk_snapshot s = make_discrete();
    struct nib_vk_device_plan plan;
    s.type = VK_PHYSICAL_DEVICE_TYPE_INTEGRATED_GPU;
    s.api_version = VK_API_VERSION_1_1;
    s.has_timeline_extension = true;
    s.memory.memoryTypeCount = 1;
    s.memory.memoryTypes[0].propertyFlags =
        VK_MEMORY_PROPERTY_DEVICE_LOCAL_BIT | VK_MEMORY_PROPERTY_HOST_VISIBLE_BIT |
        VK_MEMORY_PROPERTY_HOST_COHERENT_BIT | VK_MEMORY_PROPERTY_HOST_CACHED_BIT;
    s.n_families = 1;
    nib_vk_device_plan_make(&s, &plan);
    cr_assert(plan.is_usable, "%s", plan.reason);
    cr_assert(plan.is_direct);
    cr_assert(plan.needs_timeline_extension);
    cr_assert_eq(plan.readback_memory_type, 0);
}

Test(vulkan_device_plan, the_least_device_is_enough)
{
    struct nib_vk_snapshot s = make_discrete();
    struct nib_vk_device_plan plan;
    nib_vk_snapshot_cap(&s);
    s.storage_alignment = 256;
    cr_assert_eq(s.max_storage_range, 128u << 20);
    nib_vk_device_plan_make(&s, &plan);
    cr_assert(plan.is_usable, "%s", plan.reason);
}

Test(vulkan_device_plan, says_what_is_missing)
{
    struct nib_vk_device_plan plan;
    struct nib_device_info info;
#define EXPECT(change, text)                                                                  \
    do {                                                                                      \
        struct nib_vk_snapshot s = make_discrete();                                           \
        change;                                                                               \
        nib_vk_device_plan_make(&s, &plan);                                                   \
        cr_expect(!plan.is_usable && strstr(plan.reason, text), "%s: %s", text, plan.reason); \
        nib_vk_describe(&s, &plan, &info);                                                    \
        cr_expect(!info.is_usable, "auto must not take it");                                  \
    } while (0)
    EXPECT(s.api_version = VK_API_VERSION_1_0, "Vulkan 1.1");
    EXPECT(s.has_timeline_semaphore = false, "timeline");
    EXPECT(s.max_storage_range = 1u << 20, "128 MiB");
    EXPECT(s.max_storage_buffers = 4, "8 storage buffers");
    EXPECT(s.max_push_constants = 64, "push constants");
    EXPECT(s.max_invocations = 64, "128 invocations");
    EXPECT(s.max_shared_memory = 8192, "shared memory");
    EXPECT(s.storage_alignment = 1024, "256 bytes");
    EXPECT(s.families[0].queueFlags = s.families[1].queueFlags = VK_QUEUE_TRANSFER_BIT, "queue");
    EXPECT(s.memory.memoryTypeCount = 1, "memory");
#undef EXPECT
}

static enum nib_vk_family choose(const struct nib_vk_snapshot *s, struct nib_vk_matmul_need need)
{
    struct nib_vk_device_plan plan;
    nib_vk_device_plan_make(s, &plan);
    cr_assert(plan.is_usable, "%s", plan.reason);
    const struct nib_vk_choices choices = {0};
    return nib_vk_family_choose(&plan, &choices, &need);
}

Test(vulkan_device_plan, matmuls_of_gpus)
{
    struct nib_vk_snapshot s = make_discrete();
    const struct nib_vk_matmul_need codes = {.bits = 4, .has_codes = true, .may_be_single = true};
    const struct nib_vk_matmul_need floats = {.bits = 4};
    cr_assert_eq(choose(&s, codes), NIB_VK_FAMILY_WIDE);
    s.has_integer_dot = true;
    cr_assert_eq(choose(&s, codes), NIB_VK_FAMILY_WIDE, "not accelerated");
    s.has_fast_integer_dot = true;
    cr_assert_eq(choose(&s, codes), NIB_VK_FAMILY_DOT);
    cr_assert_eq(choose(&s, floats), NIB_VK_FAMILY_WIDE);
    nib_vk_snapshot_cap(&s);
    cr_assert_eq(choose(&s, codes), NIB_VK_FAMILY_WIDE, "capped");
}

/// The same with cooperative matrices as a GPU of AMD's has them.
static struct nib_vk_snapshot make_cooperative(void)
{
    struct nib_vk_snapshot s = make_discrete();
    s.has_integer_dot = s.has_fast_integer_dot = s.has_fast_mixed_dot = true;
    s.subgroups = (struct nib_vk_subgroups){.has_size_control = true, .least = 32, .greatest = 64};
    s.cooperative = (struct nib_vk_cooperative){
        .has_extension = true,
        .has_matrices = true,
        .has_bytes = true,
        .has_halves = true,
        .n_tiles = 2,
        .tiles = {{16, 16, 16, NIB_VK_ELEMENT_BYTE}, {16, 16, 16, NIB_VK_ELEMENT_HALF}}};
    return s;
}

Test(vulkan_device_plan, cooperative_matrices_multiply_codes)
{
    struct nib_vk_snapshot s = make_cooperative();
    struct nib_vk_matmul_need need = {.bits = 4, .has_codes = true, .has_halves = true};
    struct nib_vk_device_plan plan;
    if (nib_vk_family_missing(&s, NIB_VK_FAMILY_COOP8))
        cr_skip_test("%s", nib_vk_family_missing(&s, NIB_VK_FAMILY_COOP8));
    nib_vk_device_plan_make(&s, &plan);
    cr_assert(plan.has_cooperative);
    cr_assert_eq(plan.cooperative_subgroup, 32);
    cr_assert_eq(choose(&s, need), NIB_VK_FAMILY_COOP8);
    const struct nib_vk_choices choices = {0};
    cr_assert_eq(nib_vk_family_few(&plan, &choices, true), NIB_VK_FAMILY_DOT);
    need.has_outliers = true;
    cr_assert_eq(choose(&s, need), NIB_VK_FAMILY_DOT);
    need = (struct nib_vk_matmul_need){.bits = 4};
    cr_assert_eq(choose(&s, need), NIB_VK_FAMILY_WIDE, "numbers need fp32");

    // Tiles that take a whole granule at once are not for groups of half of one.
    s.cooperative.tiles[0].k = 32;
    need = (struct nib_vk_matmul_need){.bits = 4, .has_codes = true};
    cr_assert_eq(choose(&s, need), NIB_VK_FAMILY_COOP8);
    need.has_halves = true;
    cr_assert_eq(choose(&s, need), NIB_VK_FAMILY_COOP16);
    s.cooperative.has_bytes = s.cooperative.has_halves = false;
    cr_assert_eq(choose(&s, need), NIB_VK_FAMILY_DOT);
    s = make_cooperative();
    nib_vk_snapshot_cap(&s);
    cr_assert_eq(choose(&s, need), NIB_VK_FAMILY_WIDE, "capped");
    nib_vk_device_plan_make(&s, &plan);
    cr_assert_not(plan.has_cooperative);
}

Test(vulkan_device_plan, cooperative_matrices_multiply_numbers)
{
    struct nib_vk_snapshot s = make_cooperative();
    struct nib_vk_matmul_need need = {.bits = 4, .has_codes = true, .has_groups = true};
    struct nib_vk_device_plan plan;
    if (nib_vk_family_missing(&s, NIB_VK_FAMILY_HALF))
        cr_skip_test("%s", nib_vk_family_missing(&s, NIB_VK_FAMILY_HALF));
    cr_assert_eq(choose(&s, need), NIB_VK_FAMILY_HALF);
    need.has_codes = false;
    cr_assert_eq(choose(&s, need), NIB_VK_FAMILY_HALF);
    nib_vk_device_plan_make(&s, &plan);
    const struct nib_vk_choices choices = {0};
    cr_assert_eq(nib_vk_family_few(&plan, &choices, false), NIB_VK_FAMILY_WIDE);
    need.bits = 16;
    cr_assert_eq(choose(&s, need), NIB_VK_FAMILY_WIDE);
}

Test(vulkan_device_plan, prompts_get_attention_by_halves_with_their_matmuls)
{
    struct nib_vk_snapshot s = make_cooperative();
    struct nib_vk_device_plan plan;
    if (nib_vk_family_missing(&s, NIB_VK_FAMILY_HALF))
        cr_skip_test("%s", nib_vk_family_missing(&s, NIB_VK_FAMILY_HALF));
    nib_vk_device_plan_make(&s, &plan);
    cr_assert(plan.has_attention_coop);
    // A driver of the CPU has it where they are forced.
    struct nib_error error;
    s.type = VK_PHYSICAL_DEVICE_TYPE_CPU;
    nib_vk_device_plan_make(&s, &plan);
    cr_assert(!plan.has_attention_coop);
    cr_assert_eq(nib_vk_device_plan_force(&s, "half", &plan, &error), NIB_OK, "%s", error.message);
    cr_assert(plan.has_attention_coop);
    nib_vk_snapshot_cap(&s);
    nib_vk_device_plan_make(&s, &plan);
    cr_assert(!plan.has_attention_coop);
}

Test(vulkan_device_plan, blocks_fill_the_device)
{
    struct nib_vk_snapshot s = make_cooperative();
    struct nib_vk_matmul_blocks blocks;
    s.max_invocations = 1024;
    s.max_shared_memory = 48 << 10;
    nib_vk_matmul_blocks_find(&s, &blocks);
    cr_assert_geq(blocks.n, 2);
    for (uint32_t i = 0; i < blocks.n; i++) {
        const struct nib_vk_matmul_block *b = &blocks.each[i];
        uint32_t n = b->threads / 32, down = b->rows / b->across, beside = b->cols * b->across / n;
        cr_expect_eq(down % b->tile.m + beside % b->tile.n, 0);
        cr_expect_eq(n % b->across, 0);
    }
    const struct nib_vk_matmul_block *large = nib_vk_matmul_block_choose(&blocks, 16384, 512);
    cr_expect_eq(large, &blocks.each[0]);
    cr_expect_eq(nib_vk_matmul_block_choose(&blocks, 64, 512), &blocks.each[blocks.n - 1]);
    cr_expect_leq(nib_vk_matmul_block_choose(&blocks, 1 << 20, 64)->cols, 64);
    // The least workgroup and little memory make small ones.
    s.max_invocations = 128;
    s.max_shared_memory = 20 << 10;
    nib_vk_matmul_blocks_find(&s, &blocks);
    cr_assert_geq(blocks.n, 1);
    for (uint32_t i = 0; i < blocks.n; i++)
        cr_expect_eq(blocks.each[i].threads, 128);
    s.cooperative.n_tiles = 1;
    nib_vk_matmul_blocks_find(&s, &blocks);
    cr_assert_eq(blocks.n, 0, "the tile is one of bytes");
}

Test(vulkan_device_plan, few_rows_are_summed_by_shuffles)
{
    struct nib_vk_snapshot s = make_cooperative();
    const struct nib_vk_matmul_need need = {.bits = 4, .has_codes = true};
    struct nib_vk_device_plan plan;
    s.cooperative = (struct nib_vk_cooperative){0};
    s.has_shuffles = true;
    cr_assert_eq(choose(&s, need), NIB_VK_FAMILY_DOT, "subgroups may have gaps");
    s.subgroups.has_full = true;
    cr_assert_eq(choose(&s, need), NIB_VK_FAMILY_SUB);
    nib_vk_device_plan_make(&s, &plan);
    cr_assert_eq(plan.matmul_subgroup, 64, "the usual one");
    struct nib_vk_choices choices = {0};
    cr_assert_eq(nib_vk_family_few(&plan, &choices, true), NIB_VK_FAMILY_SUB);
    choices.distrusted = 1u << NIB_VK_FAMILY_SUB;
    cr_assert_eq(nib_vk_family_few(&plan, &choices, true), NIB_VK_FAMILY_DOT);
    s.vendor_id = NIB_VK_VENDOR_INTEL;
    s.subgroups.least = 8;
    cr_assert_eq(nib_vk_matmul_subgroup(&s), 16);
    s.driver_id = VK_DRIVER_ID_QUALCOMM_PROPRIETARY;
    cr_assert_eq(choose(&s, need), NIB_VK_FAMILY_DOT);
    s.driver_id = VK_DRIVER_ID_MESA_TURNIP;
    s.subgroups.has_size_control = false;
    s.subgroup_size = 128;
    cr_assert_eq(choose(&s, need), NIB_VK_FAMILY_DOT, "too large");
}

Test(vulkan_device_plan, tiles_fit_a_workgroups_block)
{
    struct nib_vk_snapshot s = make_cooperative();
    struct nib_vk_cooperative *c = &s.cooperative;
    cr_assert_eq(nib_vk_tile_choose(&s, NIB_VK_ELEMENT_BYTE, 1).m, 16);
    c->tiles[0].m = 24;
    cr_assert_eq(nib_vk_tile_choose(&s, NIB_VK_ELEMENT_BYTE, 1).m, 0, "blocks have 128 rows");
    c->tiles[0] = (struct nib_vk_tile){16, 8, 16, NIB_VK_ELEMENT_BYTE};
    c->tiles[c->n_tiles++] = (struct nib_vk_tile){16, 16, 32, NIB_VK_ELEMENT_BYTE};
    cr_assert_eq(nib_vk_tile_choose(&s, NIB_VK_ELEMENT_BYTE, 1).k, 32, "the largest");
    cr_assert_eq(nib_vk_tile_choose(&s, NIB_VK_ELEMENT_BYTE, 2).n, 8);

    // Intel's smallest subgroups; those of a driver that lets nobody choose.
    s.vendor_id = NIB_VK_VENDOR_INTEL;
    s.subgroups.least = 16;
    cr_assert_eq(nib_vk_tile_subgroup(&s), 16);
    cr_assert_eq(nib_vk_tile_choose(&s, NIB_VK_ELEMENT_HALF, 1).m, 0, "8 · 256 results at once");
    c->tiles[1].m = 8;
    cr_assert_eq(nib_vk_tile_choose(&s, NIB_VK_ELEMENT_HALF, 1).m, 8);
    s.subgroups.has_size_control = false;
    cr_assert_eq(nib_vk_tile_subgroup(&s), s.subgroup_size);
}

Test(vulkan_device_plan, drivers_that_announce_in_vain_are_refused)
{
    struct nib_vk_snapshot s = make_cooperative();
    struct nib_vk_device_plan plan;
    struct nib_error error;
    if (nib_vk_family_missing(&s, NIB_VK_FAMILY_COOP8))
        cr_skip_test("%s", nib_vk_family_missing(&s, NIB_VK_FAMILY_COOP8));
    s.driver_id = VK_DRIVER_ID_AMD_PROPRIETARY;
    cr_assert_null(nib_vk_family_missing(&s, NIB_VK_FAMILY_COOP8));
    s.has_fast_mixed_dot = false;
    cr_assert_not_null(strstr(nib_vk_family_missing(&s, NIB_VK_FAMILY_COOP8), "RDNA 3"));
    nib_vk_device_plan_make(&s, &plan);
    cr_assert_not(plan.has_cooperative);
    cr_assert_eq(nib_vk_device_plan_force(&s, "coop16", &plan, &error), NIB_ERROR_UNSUPPORTED);
    s.driver_id = VK_DRIVER_ID_INTEL_PROPRIETARY_WINDOWS;
    s.driver_version = 101u << 14 | 8859u;
    cr_assert_not_null(nib_vk_family_missing(&s, NIB_VK_FAMILY_COOP16));
    s.driver_version++;
    cr_assert_null(nib_vk_family_missing(&s, NIB_VK_FAMILY_COOP16));
}

Test(vulkan_device_plan, matmuls_of_drivers_on_the_cpu)
{
    struct nib_vk_snapshot s = make_discrete();
    s.type = VK_PHYSICAL_DEVICE_TYPE_CPU;
    s.max_storage_range = 128u << 20;
    s.max_texels = 128u << 20;
    s.subgroup_size = 8;
    s.has_shuffles = true;
    struct nib_vk_matmul_need need = {.bits = 4, .has_codes = true, .may_be_single = true};
    cr_assert_eq(choose(&s, need), NIB_VK_FAMILY_SINGLE);
    need.may_be_single = false;
    cr_assert_eq(choose(&s, need), NIB_VK_FAMILY_TEXEL);
    need.bits = 6;
    cr_assert_eq(choose(&s, need), NIB_VK_FAMILY_TALL);
    need = (struct nib_vk_matmul_need){.bits = 8, .has_codes = true, .has_outliers = true};
    cr_assert_eq(choose(&s, need), NIB_VK_FAMILY_TALL);
    need.has_outliers = false;
    s.max_texels = 65536;
    cr_assert_eq(choose(&s, need), NIB_VK_FAMILY_TALL, "texel buffers too small");
    s.max_texels = 128u << 20;
    s.has_shuffles = false;
    cr_assert_eq(choose(&s, need), NIB_VK_FAMILY_TALL, "no shuffles");
    s.subgroup_size = 4;
    cr_assert_eq(choose(&s, need), NIB_VK_FAMILY_WIDE, "SwiftShader");
}

Test(vulkan_device_plan, a_forced_variant_goes_first_where_it_serves)
{
    struct nib_vk_snapshot s = make_discrete();
    struct nib_vk_device_plan plan;
    struct nib_error error;
    nib_vk_device_plan_make(&s, &plan);
    cr_assert_eq(nib_vk_device_plan_force(&s, "tall", &plan, &error), NIB_OK);
    const struct nib_vk_matmul_need need = {.bits = 4, .has_codes = true};
    const struct nib_vk_choices choices = {.is_forced = plan.is_forced,
                                           .forced_family = plan.forced_family};
    cr_assert_eq(nib_vk_family_choose(&plan, &choices, &need), NIB_VK_FAMILY_TALL);
    cr_assert_eq(nib_vk_device_plan_force(&s, "dot", &plan, &error), NIB_ERROR_UNSUPPORTED);
    cr_assert_str_eq(error.message,
                     "Made-up 9000 cannot run the Vulkan variant dot: no integer dot "
                     "products");
    cr_assert_eq(nib_vk_device_plan_force(&s, "odd", &plan, &error), NIB_ERROR_UNSUPPORTED);
    s.has_integer_dot = true;
    cr_assert_eq(nib_vk_device_plan_force(&s, "dot", &plan, &error), NIB_OK);
    cr_assert(plan.has_integer_dot, "the feature gets enabled");
    const struct nib_vk_matmul_need floats = {.bits = 4};
    const struct nib_vk_choices dot = {.is_forced = true, .forced_family = plan.forced_family};
    cr_assert_eq(nib_vk_family_choose(&plan, &dot, &need), NIB_VK_FAMILY_DOT);
    cr_assert_eq(nib_vk_family_choose(&plan, &dot, &floats), NIB_VK_FAMILY_WIDE);
}

Test(vulkan_device_plan, distrusted_kernels_are_replaced)
{
    struct nib_vk_snapshot s = make_discrete();
    s.has_integer_dot = s.has_fast_integer_dot = true;
    struct nib_vk_device_plan plan;
    struct nib_vk_choices choices = {0};
    const struct nib_vk_matmul_need need = {.bits = 4, .has_codes = true};
    nib_vk_device_plan_make(&s, &plan);
    cr_assert_eq(nib_vk_family_choose(&plan, &choices, &need), NIB_VK_FAMILY_DOT);
    choices.distrusted |= 1u << NIB_VK_FAMILY_DOT;
    cr_assert_eq(nib_vk_family_choose(&plan, &choices, &need), NIB_VK_FAMILY_WIDE);
    choices.distrusted |= 1u << NIB_VK_FAMILY_WIDE;
    cr_assert_eq(nib_vk_family_choose(&plan, &choices, &need), NIB_VK_FAMILY_TALL);
    choices.distrusted |= 1u << NIB_VK_FAMILY_TALL;
    cr_assert_eq(nib_vk_family_choose(&plan, &choices, &need), NIB_VK_FAMILY_WIDE, "none is left");
    choices = (struct nib_vk_choices){.is_forced = true,
                                      .forced_family = NIB_VK_FAMILY_DOT,
                                      .distrusted = 1u << NIB_VK_FAMILY_DOT};
    cr_assert_eq(nib_vk_family_choose(&plan, &choices, &need), NIB_VK_FAMILY_WIDE);
}
