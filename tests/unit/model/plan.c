#include "runtime/model/model.h"
#include "runtime/ops/step.h"
#include "tests/support/alloc_fail.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

static struct nib_error error;
static struct nib_source *source;
static struct nib_plan *plan;

static void tear_down(void)
{
    nib_plan_destroy(&plan);
    nib_source_destroy(&source);
}
TestSuite(plan, .fini = tear_down);

static void open_fixture(const char *name)
{
    char path[400];
    nib_source_destroy(&source);
    snprintf(path, sizeof path, "%s/%s", NIB_TEST_DATA, name);
    cr_assert_eq(nib_source_open(path, NULL, &source, &error), NIB_OK, "%s", error.message);
}

static void open_folder(const char *architecture)
{
    char name[100];
    snprintf(name, sizeof name, "architectures/%s", architecture);
    open_fixture(name);
}

static void make(const struct nib_plan_params *params)
{
    nib_plan_destroy(&plan);
    cr_assert_eq(nib_plan_create(source, params, &plan, &error), NIB_OK, "%s", error.message);
    cr_assert_eq(nib_plan_validate(plan, &error), NIB_OK, "%s", error.message);
}

/// Makes the plan of a fixture with every default.
static void make_default(const char *architecture)
{
    const struct nib_plan_params params = {0};
    open_folder(architecture);
    make(&params);
}

/// Writes the names of a segment's ops, separated by blanks.
static const char *ops_of(uint32_t segment)
{
    static char text[600];
    const struct nib_segment *s = &plan->segments[segment];
    text[0] = '\0';
    for (uint32_t i = s->first_op; i < s->first_op + s->n_ops; i++) {
        size_t used = strlen(text);
        snprintf(text + used, sizeof text - used, "%s%s", used ? " " : "",
                 nib_op_name(plan->ops[i].kind));
    }
    return text;
}

static const struct nib_op *find_op(uint32_t segment, enum nib_op_kind kind)
{
    const struct nib_segment *s = &plan->segments[segment];
    for (uint32_t i = s->first_op; i < s->first_op + s->n_ops; i++) {
        if (plan->ops[i].kind == kind)
            return &plan->ops[i];
    }
    cr_assert_fail("segment %u has no %s", segment, nib_op_name(kind));
    return NULL;
}

static const struct nib_op *last_op(void)
{
    return &plan->ops[plan->n_ops - 1];
}

#define QKV "matmul matmul matmul "
#define ROPES "rope rope "
#define ATTEND "kv_store attention matmul "
#define FFN "matmul matmul activate matmul "

/// The last layer's FFN is the head's, unless layers are to be whole.
Test(plan, layers_of_each_architecture)
{
    static const struct {
        const char *folder;
        const char *attention;
        const char *ffn;
        const char *end; ///< of the head
    } cases[] = {
        {"llama3-rope", "norm " QKV ROPES ATTEND "add", "norm " FFN "add", "norm matmul"},
        {"smollm3", "norm " QKV ROPES ATTEND "add", "norm " FFN "add", "norm matmul"},
        {"mistral-window", "norm " QKV ROPES ATTEND "add", "norm " FFN "add", "norm matmul"},
        {"qwen2", "norm " QKV ROPES ATTEND "add", "norm " FFN "add", "norm matmul"},
        {"qwen3", "norm " QKV "norm norm " ROPES ATTEND "add", "norm " FFN "add", "norm matmul"},
        {"gemma2", "norm " QKV ROPES ATTEND "norm add", "norm " FFN "norm add",
         "norm matmul softcap"},
        {"gemma3", "norm " QKV "norm norm " ROPES ATTEND "norm add", "norm " FFN "norm add",
         "norm matmul"},
        {"phi3", "norm matmul " ROPES ATTEND "add", "norm matmul activate matmul add",
         "norm matmul"},
        {"olmo2", QKV "norm norm " ROPES ATTEND "norm add", FFN "norm add", "norm matmul"},
        {"granite", "norm " QKV ROPES ATTEND "add", "norm " FFN "add", "norm matmul scale"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char layer[256], head[256];
        snprintf(layer, sizeof layer, "%s %s", cases[i].attention, cases[i].ffn);
        snprintf(head, sizeof head, "gather %s %s", cases[i].ffn, cases[i].end);
        make_default(cases[i].folder);
        cr_expect_str_eq(ops_of(0), "embed");
        cr_expect_str_eq(ops_of(2), layer, "%s: %s", cases[i].folder, ops_of(2));
        cr_expect_str_eq(ops_of(3), cases[i].attention, "%s: %s", cases[i].folder, ops_of(3));
        cr_expect_str_eq(ops_of(4), head, "%s: %s", cases[i].folder, ops_of(4));
        cr_expect(plan->n_segments == 5 && plan->n_kv_layers == 3 && plan->vocabulary == 320);
        cr_expect(plan->context == 512 && plan->max_rows == NIB_STEP_MAX_ROWS);
        cr_expect_eq(plan->key_format, NIB_KV_F16);

        make(&(struct nib_plan_params){.whole_layers = true});
        snprintf(head, sizeof head, "gather %s", cases[i].end);
        cr_expect_str_eq(ops_of(3), layer, "%s: %s", cases[i].folder, ops_of(3));
        cr_expect_str_eq(ops_of(4), head, "%s: %s", cases[i].folder, ops_of(4));
    }
}

/// LLM_INT8 finds its outliers in all rows of a sequence.
Test(plan, a_last_layer_that_needs_all_rows_is_whole)
{
    open_fixture("checkpoints/bnb-int8");
    make(&(struct nib_plan_params){0});
    cr_expect_str_eq(ops_of(plan->n_segments - 1), "gather norm matmul");
    open_fixture("checkpoints/bnb-nf4");
    make(&(struct nib_plan_params){0});
    cr_expect_str_eq(ops_of(plan->n_segments - 1), "gather norm " FFN "add norm matmul");
}

Test(plan, numbers_that_make_an_architecture)
{
    make_default("granite");
    cr_expect_float_eq(find_op(0, NIB_OP_EMBED)->embed.scale, 6, 1e-6f);
    cr_expect_float_eq(find_op(1, NIB_OP_ADD)->add.scale, 0.3f, 1e-6f);
    cr_expect_float_eq(find_op(1, NIB_OP_ATTENTION)->attention.scale, 0.02f, 1e-6f);
    cr_expect_float_eq(find_op(4, NIB_OP_SCALE)->scale.factor, 0.25f, 1e-6f);
    make_default("gemma2");
    cr_expect_float_eq(find_op(0, NIB_OP_EMBED)->embed.scale, sqrtf(96), 1e-5f);
    cr_expect_eq(find_op(1, NIB_OP_ATTENTION)->attention.softcap, 50);
    cr_expect_eq(find_op(4, NIB_OP_SOFTCAP)->softcap.cap, 30);
    cr_expect_eq(find_op(1, NIB_OP_ACTIVATE)->activate.function, NIB_GATE_GELU_TANH);
    make_default("olmo2");
    cr_expect_eq(find_op(1, NIB_OP_MATMUL)->matmul.in.value, NIB_VALUE_HIDDEN);
    cr_expect_eq(find_op(1, NIB_OP_NORM)->norm.n_groups, 1);
    make_default("qwen3");
    cr_expect_eq(plan->ops[plan->segments[1].first_op + 4].norm.n_groups, 3);
    make_default("qwen2");
    cr_expect_neq(find_op(1, NIB_OP_MATMUL)->matmul.bias, NIB_NO_WEIGHT);
}

Test(plan, fused_matrices_are_viewed_in_parts)
{
    make_default("phi3");
    const struct nib_op *store = find_op(1, NIB_OP_KV_STORE);
    cr_expect(store->kv_store.key.offset == 96 && store->kv_store.key.width == 32);
    cr_expect(store->kv_store.value.offset == 128 && store->kv_store.value.width == 32);
    const struct nib_op *activate = find_op(1, NIB_OP_ACTIVATE);
    cr_expect(activate->activate.gate.offset == 0 && activate->activate.up.offset == 192);
}

Test(plan, tied_head_shares_the_embedding)
{
    make_default("gemma3");
    const struct nib_weight *head = &plan->weights[last_op()->matmul.weight];
    cr_expect(head->role == NIB_ROLE_TOKEN_EMBEDDING && head->shared_with == 0);
    cr_expect_eq(head->segment, 4);
    make_default("qwen3");
    head = &plan->weights[last_op()->matmul.weight];
    cr_expect(head->role == NIB_ROLE_OUTPUT && head->shared_with == NIB_NO_WEIGHT);
    cr_expect_eq(head->bytes, 320 * 96 * 2);
}

Test(plan, windows_are_a_class_of_their_own)
{
    make_default("gemma3");
    cr_expect_eq(plan->n_kv_classes, 2);
    cr_expect(plan->kv_layers[0].window == 16 && plan->kv_layers[0].kv_class == 1);
    cr_expect(plan->kv_layers[2].window == 0 && plan->kv_layers[2].kv_class == 0);
    cr_expect(find_op(1, NIB_OP_ROPE)->rope.table == 1 && find_op(3, NIB_OP_ROPE)->rope.table == 0);
    make_default("mistral-window");
    cr_expect_eq(plan->n_kv_classes, 1);
    cr_expect(plan->kv_layers[2].window == 16 && plan->kv_layers[2].kv_class == 0);
}

Test(plan, pages)
{
    struct nib_plan_params params = {.context = 500, .max_rows = 64};
    open_folder("gemma3");
    make(&params);
    cr_expect_eq(nib_plan_pages(plan, 0, 1), 16);
    // A page that 15 tokens of the window lie in, and three that 64 new tokens touch at most.
    cr_expect_eq(nib_plan_pages(plan, 1, 1), 4);
    cr_expect_eq(nib_plan_pages(plan, 1, 3), 12);
    uint64_t page = 2 * 32 * 64 * 2;
    cr_expect_eq(nib_plan_kv_bytes(plan, 1, false), (16 + 2 * 4) * page);
    params.key_format = NIB_KV_F32;
    make(&params);
    cr_expect_eq(nib_plan_kv_bytes(plan, 1, true), (16 + 2 * 4) * page * 3 / 2);
    params.context = 40;
    make(&params);
    cr_expect_eq(nib_plan_pages(plan, 1, 1), 2);
}

/// What is not transformed in any case is the same cache, whatever was asked for.
Test(plan, only_codes_can_be_plain)
{
    struct nib_plan_params params = {.key_format = NIB_KV_I4_CHANNEL,
                                     .value_format = NIB_KV_F16,
                                     .plain_keys = true,
                                     .plain_values = true};
    open_folder("qwen3");
    make(&params);
    cr_expect(plan->kv_layers[0].plain_keys == 0 && plan->kv_layers[0].plain_values == 0);
    params.key_format = NIB_KV_F16;
    params.value_format = NIB_KV_I8;
    make(&params);
    cr_expect(plan->kv_layers[0].plain_keys == 0 && plan->kv_layers[0].plain_values == 1);
    params.key_format = NIB_KV_I4;
    params.value_format = NIB_KV_F32;
    make(&params);
    cr_expect(plan->kv_layers[0].plain_keys == 1 && plan->kv_layers[0].plain_values == 0);
}

Test(plan, formats_of_the_cache_exist)
{
    struct nib_plan *none = NULL;
    open_folder("qwen3");
    cr_expect_eq(nib_plan_create(source,
                                 &(struct nib_plan_params){.key_format = (enum nib_kv_format)9},
                                 &none, &error),
                 NIB_ERROR_ARGUMENT);
    cr_expect(strstr(error.message, "format 9"), "%s", error.message);
    cr_expect_eq(nib_plan_create(source,
                                 &(struct nib_plan_params){.value_format = (enum nib_kv_format)6},
                                 &none, &error),
                 NIB_ERROR_ARGUMENT);
    cr_expect(strstr(error.message, "format 6"), "%s", error.message);
}

Test(plan, the_cache_of_some_layers)
{
    const struct nib_plan_params params = {.key_format = NIB_KV_I4, .value_format = NIB_KV_I4};
    open_folder("gemma3");
    make(&params);
    uint64_t sum = 0;
    for (uint32_t i = 0; i < plan->n_kv_layers; i++)
        sum += nib_plan_layers_kv_bytes(plan, (struct nib_layer_range){i, 1}, 3, true);
    cr_expect_eq(sum, nib_plan_kv_bytes(plan, 3, true));
    cr_expect_eq(nib_plan_layers_kv_bytes(plan, (struct nib_layer_range){0, 0}, 3, true), 0);
}

Test(plan, a_steps_newest_tokens)
{
    struct nib_plan_params params = {.key_format = NIB_KV_I4, .value_format = NIB_KV_I4};
    open_folder("qwen3");
    make(&params);
    cr_assert_eq(plan->recent_pages, NIB_KV_RECENT_I4 / NIB_KV_PAGE_TOKENS);
    // On the CPU all layers take turns with the pages that each has on a GPU.
    uint64_t pages = nib_plan_step_pages(plan) * nib_kv_recent_bytes(&plan->kv_layers[0]);
    cr_expect_eq(nib_plan_kv_bytes(plan, 1, true),
                 nib_plan_kv_bytes(plan, 1, false) + (plan->n_kv_layers - 1) * pages);
    params.recent_tokens = NIB_KV_RECENT_NONE;
    make(&params);
    cr_expect_eq(nib_plan_kv_bytes(plan, 1, true), nib_plan_kv_bytes(plan, 1, false));
    // Channels are packed from them, whatever the model.
    open_folder("gemma3");
    make(&(struct nib_plan_params){.key_format = NIB_KV_I4_CHANNEL});
    cr_assert_eq(plan->recent_pages, NIB_KV_RECENT_I4 / NIB_KV_PAGE_TOKENS);
}

Test(plan, first_tokens)
{
    struct nib_plan_params params = {
        .key_format = NIB_KV_I8, .value_format = NIB_KV_I8, .first_tokens = 64};
    open_folder("qwen3");
    make(&params);
    uint32_t c = plan->n_kv_classes - 1;
    cr_assert(c == 1 && plan->first_pages == 2 && plan->recent_pages == 0);
    cr_expect(nib_plan_step_pages(plan) == 0 && nib_plan_pages(plan, c, 3) == 6);
    uint64_t own = 2 * plan->n_kv_layers * nib_kv_recent_bytes(&plan->kv_layers[0]);
    uint64_t bytes = nib_plan_kv_bytes(plan, 1, false);
    cr_expect_eq(nib_plan_kv_bytes(plan, 1, true), bytes);
    params.first_tokens = 0;
    make(&params);
    cr_expect_eq(nib_plan_kv_bytes(plan, 1, false) + own, bytes);
    params.first_tokens = 32;
    params.recent_tokens = 96;
    make(&params);
    cr_expect_eq(nib_plan_pages(plan, 1, 2), 2 * (2 * 3 + 1) + nib_plan_step_pages(plan));
}

Test(plan, pages_hold_any_window)
{
    const struct nib_plan_params params = {.max_rows = 32};
    open_folder("gemma3");
    make(&params);
    struct nib_kv_layer *layer = (struct nib_kv_layer *)&plan->kv_layers[0];
    plan->n_kv_layers = 1;
    for (uint32_t window = 1; window < 100; window++) {
        uint32_t most = 0;
        layer->window = window;
        for (uint32_t n = 128; n < 200; n++) {
            // What the page that row n is in sees stays.
            uint32_t first =
                (n / NIB_KV_PAGE_TOKENS * NIB_KV_PAGE_TOKENS - window + 1) / NIB_KV_PAGE_TOKENS;
            uint32_t last = (n + 32 - 1) / NIB_KV_PAGE_TOKENS;
            most = last - first + 1 > most ? last - first + 1 : most;
        }
        cr_expect_eq(nib_plan_pages(plan, 1, 1), most, "window %u", window);
    }
}

Test(plan, rope_tables)
{
    make_default("gemma3");
    cr_expect(plan->n_ropes == 2 && plan->ropes[1].dims == 64 && plan->ropes[1].magnitude == 1);
    cr_expect_float_eq((double)plan->ropes[0].frequency[31], pow(1e6, -31.0 / 32), 1e-12);
    cr_expect_float_eq((double)plan->ropes[1].frequency[31], pow(1e4, -31.0 / 32), 1e-11);
}

Test(plan, wrong_parameters)
{
    static const struct {
        struct nib_plan_params params;
        enum nib_status status;
        const char *names;
    } wrong[] = {
        {{.context = 513}, NIB_ERROR_ARGUMENT, "513"},
        {{.max_rows = 3}, NIB_ERROR_ARGUMENT, "3 rows"},
        {{.max_rows = 1024}, NIB_ERROR_ARGUMENT, "1024 rows"},
        {{.value_format = NIB_KV_I4_CHANNEL}, NIB_ERROR_ARGUMENT, "k=i4c,v=i4"},
        {{.key_format = NIB_KV_I4_CHANNEL, .recent_tokens = NIB_KV_RECENT_NONE},
         NIB_ERROR_ARGUMENT,
         "recent=64"},
        {{.key_format = NIB_KV_I8, .first_tokens = 40}, NIB_ERROR_ARGUMENT, "40 first tokens"},
        {{.key_format = NIB_KV_I8, .first_tokens = 288}, NIB_ERROR_ARGUMENT, "up to 256"},
        {{.first_tokens = 32}, NIB_ERROR_ARGUMENT, "i8 and i4"},
    };
    open_folder("qwen2");
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        cr_expect_eq(nib_plan_create(source, &wrong[i].params, &plan, &error), wrong[i].status,
                     "case %zu", i);
        cr_expect_null(plan);
        cr_expect(strstr(error.message, wrong[i].names), "%s", error.message);
    }
}

Test(plan, every_allocation_may_fail)
{
    const struct nib_plan_params params = {0};
    open_folder("gemma3");
    for (uint32_t n = 0;; n++) {
        alloc_fail_after(n);
        enum nib_status status = nib_plan_create(source, &params, &plan, &error);
        bool failed = alloc_fail_off();
        nib_plan_destroy(&plan);
        if (!failed)
            break;
        cr_assert_eq(status, NIB_ERROR_MEMORY);
    }
}

Test(plan, memory_as_predicted)
{
    struct nib_memory memory;
    struct nib_memory_params params = {.struct_size = sizeof params};
    open_folder("qwen3");
    cr_assert_eq(nib_plan_predict_memory(source, &params, NULL, &memory, &error), NIB_OK);
    uint64_t matrices = 0, vectors = 0;
    const struct nib_tensor_directory *tensors = nib_source_tensors(source);
    for (uint32_t i = 0; i < tensors->n_tensors; i++) {
        if (tensors->tensors[i].n_dims == 2)
            matrices += tensors->tensors[i].size;
        else
            vectors += tensors->tensors[i].size / 2;
    }
    cr_expect_eq(memory.weights_bytes, matrices + 4 * vectors);
    cr_expect_eq(memory.kv_bytes, 3 * 16 * 2 * 32 * 64 * 2);
    cr_expect_eq(memory.total_bytes, memory.weights_bytes + memory.kv_bytes + memory.scratch_bytes);

    params.weight_format = "int4";
    params.max_sessions = 3;
    cr_assert_eq(nib_plan_predict_memory(source, &params, NULL, &memory, &error), NIB_OK);
    cr_expect_eq(memory.weights_bytes, matrices / 2 * 18 / 32 + 4 * vectors);
    cr_expect_eq(memory.kv_bytes, 3 * 3 * 16 * 2 * 32 * 64 * 2);
    params.weight_format = "int5";
    cr_expect_eq(nib_plan_predict_memory(source, &params, NULL, &memory, &error),
                 NIB_ERROR_NOT_FOUND);
}
