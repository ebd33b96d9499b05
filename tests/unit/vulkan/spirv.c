// The shaders as built: what the least device must run keeps to its limits and features.
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/vulkan/constants.h"
#include "runtime/vulkan/shaders.h"
#include "shaders/shared/kernels.h"

#define MOST_BINDINGS 8
#define MOST_SHARED (16u << 10)
#define MOST_INVOCATIONS 128

// Numbers of the SPIR-V specification.
enum {
    OP_EXECUTION_MODE = 16,
    OP_CAPABILITY = 17,
    OP_TYPE_BOOL = 20,
    OP_TYPE_INT = 21,
    OP_TYPE_FLOAT = 22,
    OP_TYPE_VECTOR = 23,
    OP_TYPE_ARRAY = 28,
    OP_TYPE_STRUCT = 30,
    OP_TYPE_POINTER = 32,
    OP_CONSTANT = 43,
    OP_CONSTANT_COMPOSITE = 44,
    OP_SPEC_CONSTANT_TRUE = 48,
    OP_SPEC_CONSTANT_FALSE = 49,
    OP_SPEC_CONSTANT = 50,
    OP_SPEC_CONSTANT_COMPOSITE = 51,
    OP_SPEC_CONSTANT_OP = 52,
    OP_VARIABLE = 59,
    OP_DECORATE = 71,
    OP_I_ADD = 128,
    OP_I_SUB = 130,
    OP_I_MUL = 132,
    OP_U_DIV = 134,
    MODE_LOCAL_SIZE = 17,
    DECORATION_SPEC_ID = 1,
    DECORATION_BUILT_IN = 11,
    DECORATION_BINDING = 33,
    BUILT_IN_WORKGROUP_SIZE = 25,
    CLASS_WORKGROUP = 4,
    CLASS_STORAGE_BUFFER = 12,
    CAPABILITY_SHADER = 1,
};

/// What is known of one id.
struct id {
    uint32_t value; ///< of a constant
    uint32_t bytes; ///< of a type, or of what a pointer's type points to
    uint32_t spec;  ///< SpecId + 1; 0: none
    uint32_t binding;
    uint32_t parts[3]; ///< of a composite
};

struct usage {
    uint32_t bindings; ///< a bit each
    uint32_t shared;   ///< bytes
    uint32_t invocations;
    bool is_plain; ///< needs no capability beyond Shader
};

/// The constants that the device plan sets for devices that are no CPUs, or else the default.
static uint32_t spec_value(const char *name, uint32_t spec, uint32_t otherwise)
{
    bool is_matmul = strncmp(name, "matmul_", 7) == 0;
    if (is_matmul && (spec == NIB_SPEC_LANES || spec == NIB_SPEC_WIDTH))
        return spec == NIB_SPEC_WIDTH ? 8 : MOST_INVOCATIONS / 8;
    if (is_matmul && spec == NIB_SPEC_THREADS)
        return MOST_INVOCATIONS;
    if (strncmp(name, "attention", 9) == 0 && spec == NIB_ATTENTION_THREADS)
        return MOST_INVOCATIONS;
    return otherwise;
}

static uint32_t calculate(uint32_t op, uint32_t a, uint32_t b)
{
    switch (op) {
    case OP_I_ADD:
        return a + b;
    case OP_I_SUB:
        return a - b;
    case OP_I_MUL:
        return a * b;
    case OP_U_DIV:
        return b ? a / b : 0;
    default:
        return 0; // of no use to sizes
    }
}

static void take_type(struct id *ids, uint32_t op, uint32_t n, const uint32_t *w)
{
    struct id *type = &ids[w[0]];
    if (op == OP_TYPE_BOOL)
        type->bytes = 4;
    else if (op == OP_TYPE_INT || op == OP_TYPE_FLOAT)
        type->bytes = w[1] / 8;
    else if (op == OP_TYPE_VECTOR)
        type->bytes = ids[w[1]].bytes * w[2];
    else if (op == OP_TYPE_ARRAY)
        type->bytes = ids[w[1]].bytes * ids[w[2]].value;
    else if (op == OP_TYPE_POINTER)
        type->bytes = ids[w[2]].bytes;
    for (uint32_t i = 1; op == OP_TYPE_STRUCT && i < n; i++)
        type->bytes += ids[w[i]].bytes;
}

static void take_constant(const char *name, struct id *ids, uint32_t op, const uint32_t *w)
{
    struct id *id = &ids[w[1]];
    if (op == OP_CONSTANT)
        id->value = w[2];
    else if (op == OP_SPEC_CONSTANT)
        id->value = id->spec ? spec_value(name, id->spec - 1, w[2]) : w[2];
    else if (op == OP_SPEC_CONSTANT_OP)
        id->value = calculate(w[2], ids[w[3]].value, ids[w[4]].value);
    else
        memcpy(id->parts, w + 2, sizeof id->parts);
}

static struct usage measure(const struct nib_vk_shader *shader)
{
    struct usage usage = {.is_plain = true, .invocations = 1};
    struct id *ids = calloc(shader->words[3], sizeof *ids);
    cr_assert_not_null(ids);
    size_t n_words = *shader->size / 4;
    uint32_t size_id = 0;
    for (size_t at = 5; at < n_words; at += shader->words[at] >> 16) {
        uint32_t op = shader->words[at] & 0xffff, n = (shader->words[at] >> 16) - 1;
        const uint32_t *w = shader->words + at + 1;
        if (op == OP_CAPABILITY)
            usage.is_plain = usage.is_plain && w[0] <= CAPABILITY_SHADER;
        else if (op == OP_EXECUTION_MODE && w[1] == MODE_LOCAL_SIZE)
            usage.invocations = w[2] * w[3] * w[4];
        else if (op == OP_DECORATE && w[1] == DECORATION_SPEC_ID)
            ids[w[0]].spec = w[2] + 1;
        else if (op == OP_DECORATE && w[1] == DECORATION_BINDING)
            ids[w[0]].binding = w[2];
        else if (op == OP_DECORATE && w[1] == DECORATION_BUILT_IN &&
                 w[2] == BUILT_IN_WORKGROUP_SIZE)
            size_id = w[0];
        else if (op >= OP_TYPE_BOOL && op <= OP_TYPE_POINTER)
            take_type(ids, op, n, w);
        else if (op == OP_CONSTANT || op == OP_SPEC_CONSTANT ||
                 (op == OP_SPEC_CONSTANT_OP && n >= 5) ||
                 ((op == OP_SPEC_CONSTANT_COMPOSITE || op == OP_CONSTANT_COMPOSITE) && n == 5))
            take_constant(shader->name, ids, op, w);
        else if (op == OP_VARIABLE && w[2] == CLASS_WORKGROUP)
            usage.shared += ids[w[0]].bytes;
        else if (op == OP_VARIABLE && w[2] == CLASS_STORAGE_BUFFER)
            usage.bindings |= 1u << ids[w[1]].binding;
    }
    if (size_id) {
        usage.invocations = 1;
        for (uint32_t i = 0; i < 3; i++)
            usage.invocations *= ids[ids[size_id].parts[i]].value;
    }
    free(ids);
    return usage;
}

Test(vulkan_spirv, every_shader_keeps_to_the_least_limits)
{
    for (uint32_t i = 0; i < nib_vk_shader_count; i++) {
        const struct nib_vk_shader *shader = &nib_vk_shaders[i];
        if (*shader->size == 0)
            continue;
        struct usage usage = measure(shader);
        cr_expect(usage.bindings && usage.bindings < 1u << MOST_BINDINGS, "%s: bindings %x",
                  shader->name, usage.bindings);
        cr_expect(usage.shared <= MOST_SHARED, "%s: %u bytes of shared memory", shader->name,
                  usage.shared);
        cr_expect(usage.invocations > 1 && usage.invocations <= MOST_INVOCATIONS,
                  "%s: %u invocations", shader->name, usage.invocations);
        bool is_baseline =
            strncmp(shader->name, "matmul_dot", 10) != 0 &&
            strncmp(shader->name, "matmul_sub", 10) != 0 &&
            strncmp(shader->name, "matmul_coop", 11) != 0 &&
            strcmp(shader->name, "matmul_half") != 0 && strcmp(shader->name, "measure_dot") != 0 &&
            strcmp(shader->name, "attention_coop") != 0 &&
            strncmp(shader->name, "measure_coop", 12) != 0 && !strstr(shader->name, "_texel");
        cr_expect(!is_baseline || usage.is_plain, "%s needs more than the least device has",
                  shader->name);
    }
}

/// The measure itself: a shader known to share memory and to be sized by constants.
Test(vulkan_spirv, sizes_follow_constants)
{
    for (uint32_t i = 0; i < nib_vk_shader_count; i++) {
        if (strcmp(nib_vk_shaders[i].name, "matmul_4x8") != 0)
            continue;
        struct usage usage = measure(&nib_vk_shaders[i]);
        cr_expect_eq(usage.invocations, MOST_INVOCATIONS);
        cr_expect_eq(usage.shared, 8 * MOST_INVOCATIONS * sizeof(float) + 16 * sizeof(float));
        return;
    }
    cr_expect(false, "there is no matmul_4x8");
}

/// How many constants of each kind there are.
struct constants {
    uint32_t special; ///< or decorations of such
    uint32_t ops;     ///< of special ones
    uint32_t numbers; ///< special ones that are numbers
    uint32_t set;     ///< plain numbers of the value asked for
};

static struct constants count_constants(const uint32_t *words, size_t n_words, uint32_t value)
{
    struct constants n = {0};
    for (size_t i = 5; i < n_words; i += words[i] >> 16) {
        const uint32_t *w = words + i;
        uint32_t op = w[0] & 0xffff;
        n.special += op == OP_SPEC_CONSTANT || op == OP_SPEC_CONSTANT_TRUE ||
                     op == OP_SPEC_CONSTANT_FALSE ||
                     (op == OP_DECORATE && w[2] == DECORATION_SPEC_ID);
        n.ops += op == OP_SPEC_CONSTANT_OP;
        n.numbers += op == OP_SPEC_CONSTANT;
        n.set += op == OP_CONSTANT && w[3] == value;
    }
    return n;
}

Test(vulkan_spirv, constants_can_be_set_in_the_code)
{
    uint32_t values[NIB_SPECS];
    for (uint32_t i = 0; i < NIB_SPECS; i++)
        values[i] = 987654321;
    for (uint32_t i = 0; i < nib_vk_shader_count; i++) {
        const struct nib_vk_shader *shader = &nib_vk_shaders[i];
        if (*shader->size == 0)
            continue;
        size_t n_words = *shader->size / 4;
        struct constants before = count_constants(shader->words, n_words, values[0]);
        uint32_t *words = malloc(*shader->size);
        struct nib_vk_constant *ids = malloc(shader->words[3] * sizeof *ids);
        cr_assert(words && ids);
        memcpy(words, shader->words, *shader->size);
        size_t left = nib_vk_set_constants(words, n_words, values, NIB_SPECS, ids);
        struct constants after = count_constants(words, left, values[0]);
        cr_expect_eq(after.special, 0, "%s keeps %u", shader->name, after.special);
        // With these values some are divisions by 0.
        cr_expect(after.ops <= before.ops / 4, "%s: %u of %u", shader->name, after.ops, before.ops);
        cr_expect(before.set == 0 && after.set >= before.numbers, "%s: %u of %u", shader->name,
                  after.set, before.numbers);
        cr_expect(left <= n_words);
        // None is set: nothing changes.
        memcpy(words, shader->words, *shader->size);
        cr_expect_eq(nib_vk_set_constants(words, n_words, values, 0, ids), n_words, "%s",
                     shader->name);
        cr_expect_arr_eq(words, shader->words, *shader->size);
        free(words);
        free(ids);
    }
}
