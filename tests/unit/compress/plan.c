// What parameters come to: formats of single matrices, and what does not go together.
#include "runtime/compress/plan.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

#define BASE NIB_TEST_DATA "/checkpoints/base"

static struct nib_error error;
static struct nib_source *source;

static void set_up(void)
{
    cr_assert_eq(nib_source_open(BASE, NULL, &source, &error), NIB_OK, "%s", error.message);
}

static void tear_down(void)
{
    nib_source_destroy(&source);
}

TestSuite(plan, .init = set_up, .fini = tear_down);

static const struct nib_compress_entry *entry_of(const struct nib_compress_plan *plan,
                                                 enum nib_role role, uint32_t layer)
{
    for (uint32_t i = 0; i < plan->n_entries; i++) {
        if (plan->entries[i].role == role && plan->entries[i].layer == layer)
            return &plan->entries[i];
    }
    cr_assert(false, "no %s in layer %u", nib_role_name(role), (unsigned)layer);
    return NULL;
}

static const struct nib_format *format_of(const struct nib_compress_plan *plan, enum nib_role role,
                                          uint32_t layer)
{
    return &entry_of(plan, role, layer)->scheme.format;
}

static struct nib_compress_plan plan_of(struct nib_quantize_params params)
{
    struct nib_compress_plan plan;
    cr_assert_eq(nib_compress_plan_init(&plan, source, "out", &params, &error), NIB_OK, "%s",
                 error.message);
    return plan;
}

static void expect_refused(struct nib_quantize_params params, const char *words)
{
    struct nib_compress_plan plan;
    cr_expect_eq(nib_compress_plan_init(&plan, source, "out", &params, &error), NIB_ERROR_ARGUMENT,
                 "%s", words);
    cr_expect(strstr(error.message, words), "%s instead of %s", error.message, words);
    nib_compress_plan_free(&plan);
}

Test(plan, layers_of_rules_hold_neither_embedding_nor_head)
{
    struct nib_compress_plan plan = plan_of((struct nib_quantize_params){
        .container = NIB_QUANTIZE_AS_GGUF, .format = "q4_0", .mix = "*=q4_0,*@0-1=q8_0"});
    cr_expect_eq(format_of(&plan, NIB_ROLE_Q, 0)->id, NIB_FORMAT_Q8_0);
    cr_expect_eq(format_of(&plan, NIB_ROLE_FFN_DOWN, 1)->id, NIB_FORMAT_Q8_0);
    cr_expect_eq(format_of(&plan, NIB_ROLE_Q, 2)->id, NIB_FORMAT_Q4_0);
    cr_expect_eq(format_of(&plan, NIB_ROLE_TOKEN_EMBEDDING, 0)->id, NIB_FORMAT_Q4_0);
    cr_expect_eq(format_of(&plan, NIB_ROLE_OUTPUT, 0)->id, NIB_FORMAT_Q4_0);
    nib_compress_plan_free(&plan);
    expect_refused((struct nib_quantize_params){.container = NIB_QUANTIZE_AS_GGUF,
                                                .format = "q4_0",
                                                .mix = "output@0=q8_0"},
                   "'output@0=q8_0' fits no matrix");
}

Test(plan, a_group_of_zero_is_the_row)
{
    struct nib_quantize_params params = {.container = NIB_QUANTIZE_AS_COMPRESSED_TENSORS,
                                         .mix = "ffn_down=int4/0,ffn_up=int8,q=int4/64"};
    struct nib_compress_plan plan = plan_of(params);
    cr_expect_eq(format_of(&plan, NIB_ROLE_FFN_DOWN, 0)->group, 0);
    cr_expect_eq(format_of(&plan, NIB_ROLE_FFN_UP, 0)->group, 128);
    cr_expect_eq(format_of(&plan, NIB_ROLE_Q, 0)->group, 64);
    cr_expect_eq(format_of(&plan, NIB_ROLE_K, 0)->group, 128);
    nib_compress_plan_free(&plan);

    params.format = "int4/0";
    params.mix = "ffn_up=int8,q=int4/64";
    plan = plan_of(params);
    cr_expect_eq(format_of(&plan, NIB_ROLE_FFN_DOWN, 0)->group, 0);
    cr_expect_eq(format_of(&plan, NIB_ROLE_FFN_UP, 0)->group, 0);
    cr_expect_eq(format_of(&plan, NIB_ROLE_Q, 0)->group, 64);
    nib_compress_plan_free(&plan);
}

Test(plan, an_order_of_columns_needs_a_place)
{
    struct nib_quantize_params params = {
        .method = NIB_QUANTIZE_GPTQ, .act_order = true, .no_static_groups = true};
    static const enum nib_quantize_container without[] = {NIB_QUANTIZE_AS_GGUF,
                                                          NIB_QUANTIZE_AS_AWQ};
    for (size_t i = 0; i < sizeof without / sizeof without[0]; i++) {
        params.container = without[i];
        params.no_static_groups = true;
        expect_refused(params, "leave --no-static-groups out");
        params.no_static_groups = false;
        struct nib_compress_plan plan = plan_of(params);
        nib_compress_plan_free(&plan);
    }
}

Test(plan, scaled_inputs_have_no_static_range_but_in_smoothquant)
{
    expect_refused((struct nib_quantize_params){.method = NIB_QUANTIZE_AWQ,
                                                .activations = NIB_QUANTIZE_ACTIVATIONS_STATIC,
                                                .zero = NIB_QUANTIZE_SYMMETRIC},
                   "give --activations dynamic");
}

Test(plan, a_format_has_its_group)
{
    expect_refused((struct nib_quantize_params){.format = "int4", .group = 64}, "int4/64");
}

/// What a format says itself is not ignored where the caller says something else.
Test(plan, a_format_says_all)
{
    static const struct nib_quantize_params with_format[] = {
        {.format = "int4", .granularity = NIB_QUANTIZE_BY_TENSOR},
        {.format = "int4", .bits = 8},
        {.format = "int4", .zero = NIB_QUANTIZE_ASYMMETRIC},
    };
    for (size_t i = 0; i < sizeof with_format / sizeof with_format[0]; i++)
        expect_refused(with_format[i], "format int4 says");
    expect_refused((struct nib_quantize_params){.method = NIB_QUANTIZE_NF4, .bits = 8}, "nf4 has");
    expect_refused(
        (struct nib_quantize_params){.container = NIB_QUANTIZE_AS_SAFETENSORS, .bits = 3},
        "keeps floats");
    static const struct nib_quantize_params in_gguf[] = {
        {.bits = 8, .zero = NIB_QUANTIZE_ASYMMETRIC},
        {.bits = 3, .zero = NIB_QUANTIZE_ASYMMETRIC},
        {.bits = 2, .zero = NIB_QUANTIZE_SYMMETRIC},
        {.bits = 8, .granularity = NIB_QUANTIZE_BY_CHANNEL},
        {.granularity = NIB_QUANTIZE_BY_TENSOR},
    };
    for (size_t i = 0; i < sizeof in_gguf / sizeof in_gguf[0]; i++) {
        struct nib_quantize_params params = in_gguf[i];
        params.container = NIB_QUANTIZE_AS_GGUF;
        expect_refused(params, "GGUF");
    }
}

/// Numbers that are no value of their enum.
Test(plan, choices_that_there_are_not)
{
    expect_refused((struct nib_quantize_params){.method = (enum nib_quantize_method)8}, "method 8");
    expect_refused((struct nib_quantize_params){.method = (enum nib_quantize_method) - 1},
                   "method");
    expect_refused((struct nib_quantize_params){.container = (enum nib_quantize_container)40},
                   "container 40");
    expect_refused((struct nib_quantize_params){.granularity = (enum nib_quantize_granularity)4},
                   "granularity 4");
    expect_refused((struct nib_quantize_params){.activations = (enum nib_quantize_activations)4},
                   "activations 4");
    expect_refused((struct nib_quantize_params){.range = (enum nib_quantize_range)4}, "range 4");
    expect_refused((struct nib_quantize_params){.activation_range = (enum nib_quantize_range)4},
                   "activation_range 4");
    expect_refused((struct nib_quantize_params){.zero = (enum nib_quantize_zero)3}, "zero 3");
}
