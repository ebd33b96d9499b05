#include "runtime/import/config_import.h"
#include "tests/unit/import/tiny.h"

#include <criterion/criterion.h>
#include <math.h>
#include <string.h>

static struct nib_arena arena;
static struct nib_import_config config;
static struct nib_error error;
static struct tiny tiny;

static void free_arena(void)
{
    nib_arena_free(&arena);
}
TestSuite(config_gguf, .fini = free_arena);

#define expect_near(a, b) cr_expect_float_eq((double)(a), (double)(b), 1e-6 * fabs((double)(b)))

/// Ends the tiny file and reads it.
static enum nib_status read_tiny(void)
{
    struct nib_buffer file;
    struct nib_gguf *gguf;
    tiny_end(&tiny, &file);
    cr_assert_eq(nib_gguf_parse((uint8_t *)file.data, file.size, "tiny", &gguf, &error), NIB_OK,
                 "%s", error.message);
    enum nib_status status = nib_config_from_gguf(gguf, &arena, &config, &error);
    nib_gguf_destroy(&gguf);
    nib_buffer_free(&file);
    return status;
}

static void read_ok(void)
{
    enum nib_status status = read_tiny();
    cr_assert_eq(status, NIB_OK, "%s", error.message);
}

Test(config_gguf, what_each_architecture_says_by_itself)
{
    static const char *const interleaved = "llama smollm3 granite";
    for (uint32_t i = 0; i < n_tiny_kinds; i++) {
        const struct tiny_kind *kind = &tiny_kinds[i];
        tiny_begin(&tiny, kind->arch, NULL);
        read_ok();
        const struct nib_model_config *m = &config.model;
        cr_expect_str_eq(m->architecture, kind->arch);
        cr_expect(m->n_layers == TINY_LAYERS && m->key_dim == TINY_HEAD_DIM &&
                  m->n_kv_heads == TINY_KV_HEADS && m->context == TINY_CONTEXT);
        cr_expect_eq(m->norm_offset, 0, "norm weights are whole in GGUF files");
        cr_expect_eq(m->ropes[0].interleaved, strstr(interleaved, kind->arch) != NULL, "%s",
                     kind->arch);
        cr_expect_eq(m->post_norm, kind->post_norm);
        cr_expect_eq(m->pre_norm, !kind->no_pre_norm);
        cr_expect_eq((uint32_t)m->qk_norm, kind->qk_norm);
        expect_near(m->attention_scale, 0.5);
        cr_expect(!config.tied);
    }
}

Test(config_gguf, every_key)
{
    tiny_begin(&tiny, "granite", "attention.head_count_kv");
    tiny_u32(&tiny, "attention.key_length", 6);
    tiny_u32(&tiny, "attention.value_length", 8);
    tiny_u32(&tiny, "rope.dimension_count", 4);
    tiny_f32(&tiny, "rope.freq_base", 5e5f);
    tiny_f32(&tiny, "attention.layer_norm_rms_epsilon", 1e-5f);
    tiny_f32(&tiny, "attention.scale", 0.02f);
    tiny_f32(&tiny, "embedding_scale", 6);
    tiny_f32(&tiny, "residual_scale", 0.3f);
    tiny_f32(&tiny, "logit_scale", 4);
    read_ok();
    const struct nib_model_config *m = &config.model;
    cr_expect(m->n_kv_heads == TINY_HEADS && m->key_dim == 6 && m->value_dim == 8);
    cr_expect_eq(m->ropes[0].dims, 4);
    expect_near(m->ropes[0].base, 5e5);
    expect_near(m->norm_epsilon, 1e-5);
    expect_near(m->attention_scale, 0.02);
    expect_near(m->embedding_scale, 6);
    expect_near(m->residual_scale, 0.3);
    expect_near(m->logit_scale, 0.25);
}

Test(config_gguf, windows)
{
    tiny_begin(&tiny, "gemma2", NULL);
    read_ok();
    cr_expect(config.model.layers[0].window == 4096 && config.model.layers[1].window == 0);
    cr_expect(config.model.attention_softcap == 50 && config.model.logit_softcap == 30);

    tiny_begin(&tiny, "gemma3", NULL);
    tiny_u32(&tiny, "attention.sliding_window", 16);
    read_ok();
    cr_expect(config.model.layers[1].window == 16 && config.model.layers[1].rope == 1);
    expect_near(config.model.ropes[0].base, 1e6);
    expect_near(config.model.ropes[1].base, 1e4);

    tiny_begin(&tiny, "gemma3", NULL);
    tiny_u32(&tiny, "attention.sliding_window", 16);
    tiny_u32(&tiny, "attention.sliding_window_pattern", 2);
    read_ok();
    cr_expect(config.model.layers[0].window == 16 && config.model.layers[1].window == 0);

    tiny_begin(&tiny, "olmo2", NULL);
    tiny_u32(&tiny, "attention.sliding_window", 16);
    tiny_flags(&tiny, "attention.sliding_window_pattern", (bool[]){false, true}, 2);
    read_ok();
    cr_expect(config.model.layers[0].window == 0 && config.model.layers[0].rope == 0);
    cr_expect(config.model.layers[1].window == 16 && config.model.layers[1].rope == 1);

    tiny_begin(&tiny, "qwen2", NULL);
    tiny_u32(&tiny, "attention.sliding_window", 16);
    read_ok();
    cr_expect(config.model.layers[0].window == 0 && config.model.sliding_window == 0);
}

Test(config_gguf, gemmas_of_27b_scale_attention_by_width)
{
    static const char *const names[] = {"gemma2", "gemma3"};
    for (uint32_t i = 0; i < 2; i++) {
        tiny_begin(&tiny, names[i], "block_count");
        tiny.without = NULL;
        tiny_u32(&tiny, "block_count", i == 0 ? 46 : 62);
        tiny_u32(&tiny, "attention.key_length", 16);
        read_ok();
        expect_near(config.model.attention_scale, 1 / sqrt(TINY_HIDDEN / TINY_HEADS));
    }
}

Test(config_gguf, rope_scaling)
{
    tiny_begin(&tiny, "qwen2", NULL);
    tiny_text(&tiny, "rope.scaling.type", "yarn");
    tiny_f32(&tiny, "rope.scaling.factor", 4);
    tiny_u32(&tiny, "rope.scaling.original_context_length", 16);
    read_ok();
    cr_expect_eq(config.model.ropes[0].scaling, NIB_ROPE_SCALING_YARN);
    cr_expect(config.model.ropes[0].original_context == 16 && config.model.ropes[0].truncate);
    expect_near(config.model.ropes[0].beta_fast, 32);

    tiny_begin(&tiny, "gemma3", NULL);
    tiny_text(&tiny, "rope.scaling.type", "linear");
    tiny_f32(&tiny, "rope.scaling.factor", 8);
    read_ok();
    cr_expect_eq(config.model.ropes[0].scaling, NIB_ROPE_SCALING_LINEAR);
    cr_expect_eq(config.model.ropes[1].scaling, NIB_ROPE_SCALING_NONE);

    tiny_begin(&tiny, "llama", NULL);
    tiny_f32(&tiny, "rope.scale_linear", 2);
    read_ok();
    cr_expect_eq(config.model.ropes[0].scaling, NIB_ROPE_SCALING_LINEAR);

    tiny_begin(&tiny, "llama", NULL);
    tiny_text(&tiny, "rope.scaling.type", "none");
    tiny_f32(&tiny, "rope.scaling.factor", 2);
    read_ok();
    cr_expect_eq(config.model.ropes[0].scaling, NIB_ROPE_SCALING_NONE);
}

Test(config_gguf, rope_factors_in_tensors)
{
    tiny_begin(&tiny, "llama", NULL);
    tiny_tensor(&tiny, "rope_freqs.weight", 0, TINY_HEAD_DIM / 2);
    read_ok();
    cr_assert_not_null(config.model.ropes[0].divisors);
    cr_expect_eq(config.model.ropes[0].divisors[1], 0.5f);

    tiny_begin(&tiny, "phi3", NULL);
    tiny_tensor(&tiny, "rope_factors_long.weight", 0, TINY_HEAD_DIM / 2);
    tiny_tensor(&tiny, "rope_factors_short.weight", 0, TINY_HEAD_DIM / 2);
    tiny_f32(&tiny, "rope.scaling.attn_factor", 1.19f);
    tiny_u32(&tiny, "rope.scaling.original_context_length", 32);
    read_ok();
    cr_expect_eq(config.model.ropes[0].scaling, NIB_ROPE_SCALING_LONGROPE);
    cr_expect_eq(config.model.ropes[0].long_factors[1], 0.5f);
    expect_near(config.model.ropes[0].attention_factor, 1.19);
}

/// Expects that the file made so far is refused in words that hold `names`.
static void expect_refusal(enum nib_status expected, const char *names)
{
    enum nib_status status = read_tiny();
    cr_expect_eq(status, expected, "%d instead of %d: %s", status, expected, error.message);
    cr_expect(strstr(error.message, names), "%s", error.message);
}

Test(config_gguf, missing_keys)
{
    static const char *const keys[] = {"architecture",         "block_count",
                                       "embedding_length",     "feed_forward_length",
                                       "attention.head_count", "context_length"};
    for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++) {
        tiny_begin(&tiny, "llama", keys[i]);
        expect_refusal(NIB_ERROR_FORMAT, keys[i]);
    }
}

Test(config_gguf, wrong_numbers)
{
    static const struct {
        const char *key;
        float value;
    } wrong[] = {
        {"block_count", 0},
        {"block_count", 1025},
        {"block_count", 1.5f},
        {"embedding_length", 2e6f},
        {"attention.head_count", INFINITY},
        {"attention.head_count", NAN},
        {"context_length", -1},
        {"attention.head_count_kv", 5000},
    };
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        tiny_begin(&tiny, "llama", wrong[i].key);
        tiny.without = NULL;
        tiny_f32(&tiny, wrong[i].key, wrong[i].value);
        expect_refusal(NIB_ERROR_FORMAT, wrong[i].key);
    }
}

Test(config_gguf, other_wrong_files)
{
    tiny_begin(&tiny, "mamba", NULL);
    expect_refusal(NIB_ERROR_UNSUPPORTED, "'mamba' is none of llama, smollm3, qwen2");
    tiny_begin(&tiny, "llama", "block_count");
    tiny.without = NULL;
    tiny_text(&tiny, "block_count", "2");
    expect_refusal(NIB_ERROR_FORMAT, "block_count");
    tiny_begin(&tiny, "llama", NULL);
    tiny_u32(&tiny, "expert_count", 8);
    expect_refusal(NIB_ERROR_UNSUPPORTED, "8 experts");
    tiny_begin(&tiny, "llama", NULL);
    tiny_text(&tiny, "rope.scaling.type", "warp");
    expect_refusal(NIB_ERROR_UNSUPPORTED, "warp");
    tiny_begin(&tiny, "llama", NULL);
    tiny_u32(&tiny, "rope.dimension_count", 3);
    expect_refusal(NIB_ERROR_FORMAT, "3 dimensions");
    tiny_begin(&tiny, "llama", NULL);
    tiny_tensor(&tiny, "rope_freqs.weight", 0, 3);
    expect_refusal(NIB_ERROR_FORMAT, "rope_freqs.weight");
    tiny_begin(&tiny, "phi3", NULL);
    tiny_tensor(&tiny, "rope_factors_long.weight", 0, TINY_HEAD_DIM / 2);
    expect_refusal(NIB_ERROR_FORMAT, "rope_factors_short.weight");
    tiny_begin(&tiny, "gemma3", NULL);
    tiny_flags(&tiny, "attention.sliding_window_pattern", (bool[]){true}, 1);
    expect_refusal(NIB_ERROR_FORMAT, "sliding_window_pattern");
}
