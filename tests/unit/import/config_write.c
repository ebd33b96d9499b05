// Configurations of GGUF files, written as config.json and read again.
#include "runtime/import/config_import.h"
#include "tests/unit/import/tiny.h"

#include <criterion/criterion.h>
#include <math.h>
#include <string.h>

static struct nib_arena arena;
static struct nib_import_config config, again;
static struct nib_error error;
static struct tiny tiny;

static void free_arena(void)
{
    nib_arena_free(&arena);
}
TestSuite(config_write, .fini = free_arena);

#define expect_near(a, b) cr_expect_float_eq((double)(a), (double)(b), 1e-6 * fabs((double)(b)))

static void read_tiny(void)
{
    struct nib_buffer file;
    struct nib_gguf *gguf;
    tiny_end(&tiny, &file);
    cr_assert_eq(nib_gguf_parse((uint8_t *)file.data, file.size, "tiny", &gguf, &error), NIB_OK,
                 "%s", error.message);
    cr_assert_eq(nib_config_from_gguf(gguf, &arena, &config, &error), NIB_OK, "%s", error.message);
    config.model.vocabulary = TINY_VOCABULARY;
    nib_gguf_destroy(&gguf);
    nib_buffer_free(&file);
}

static void expect_same_rope(const struct nib_rope_config *a, const struct nib_rope_config *b)
{
    cr_expect_eq(a->base, b->base);
    cr_expect_eq(a->dims, b->dims);
    cr_expect_eq(a->scaling, b->scaling);
    cr_expect_eq(a->attention_factor, b->attention_factor);
    if (a->scaling != NIB_ROPE_SCALING_NONE) {
        cr_expect_eq(a->original_context, b->original_context);
        expect_near(a->beta_fast, b->beta_fast);
    }
    for (uint32_t i = 0; a->long_factors && i < a->dims / 2; i++) {
        cr_expect_eq(a->long_factors[i], b->long_factors[i]);
        cr_expect_eq(a->short_factors[i], b->short_factors[i]);
    }
}

/// Reads the tiny file, writes it and reads that.
static json_t *write_and_read(void)
{
    json_t *json;
    uint32_t vocabulary = 0;
    read_tiny();
    cr_assert_eq(nib_config_to_json(&config, &json, &error), NIB_OK, "%s", error.message);
    cr_assert_eq(nib_config_from_json(json, &arena, &again, &error), NIB_OK, "%s", error.message);
    const struct nib_model_config *a = &config.model, *b = &again.model;
    const char *name = a->architecture;
    cr_expect_eq(again.arch, config.arch);
    cr_expect_eq(again.tied, config.tied);
    cr_expect(json_is_integer(json_object_get(json, "vocab_size")));
    vocabulary = (uint32_t)json_integer_value(json_object_get(json, "vocab_size"));
    cr_expect_eq(vocabulary, TINY_VOCABULARY);
    cr_expect(a->n_layers == b->n_layers && a->hidden_size == b->hidden_size &&
                  a->ffn_size == b->ffn_size && a->n_heads == b->n_heads &&
                  a->n_kv_heads == b->n_kv_heads && a->key_dim == b->key_dim &&
                  a->value_dim == b->value_dim && a->context == b->context,
              "%s", name);
    cr_expect_eq(a->norm_epsilon, b->norm_epsilon, "%s", name);
    cr_expect_eq(a->gate, b->gate, "%s", name);
    expect_near(b->attention_scale, a->attention_scale);
    expect_near(b->embedding_scale, a->embedding_scale);
    expect_near(b->residual_scale, a->residual_scale);
    expect_near(b->logit_scale, a->logit_scale);
    cr_expect_eq(a->attention_softcap, b->attention_softcap, "%s", name);
    cr_expect_eq(a->logit_softcap, b->logit_softcap, "%s", name);
    expect_same_rope(&a->ropes[0], &b->ropes[0]);
    for (uint32_t i = 0; i < a->n_layers; i++) {
        cr_expect_eq(a->layers[i].window, b->layers[i].window, "%s", name);
        cr_expect_eq(a->layers[i].rope >= 0, b->layers[i].rope >= 0, "%s", name);
    }
    return json;
}

Test(config_write, every_architecture)
{
    for (uint32_t i = 0; i < n_tiny_kinds; i++) {
        tiny_begin(&tiny, tiny_kinds[i].arch, NULL);
        json_t *json = write_and_read();
        const json_t *class = json_array_get(json_object_get(json, "architectures"), 0);
        cr_expect(strstr(json_string_value(class), "ForCausalLM"));
        json_decref(json);
    }
}

Test(config_write, windows_and_scales)
{
    tiny_begin(&tiny, "gemma2", NULL);
    tiny_u32(&tiny, "attention.sliding_window", 16);
    json_decref(write_and_read());
    cr_expect(again.model.layers[0].window == 16 && again.model.layers[1].window == 0);

    tiny_begin(&tiny, "gemma3", NULL);
    tiny_u32(&tiny, "attention.sliding_window", 16);
    tiny_u32(&tiny, "attention.sliding_window_pattern", 2);
    tiny_text(&tiny, "rope.scaling.type", "linear");
    tiny_f32(&tiny, "rope.scaling.factor", 8);
    json_decref(write_and_read());
    cr_expect_eq(again.model.ropes[1].scaling, NIB_ROPE_SCALING_NONE);
    expect_near(again.model.ropes[1].base, 1e4);

    tiny_begin(&tiny, "granite", NULL);
    tiny_f32(&tiny, "attention.scale", 0.02f);
    tiny_f32(&tiny, "embedding_scale", 6);
    tiny_f32(&tiny, "residual_scale", 0.3f);
    tiny_f32(&tiny, "logit_scale", 4);
    json_decref(write_and_read());

    tiny_begin(&tiny, "phi3", NULL);
    tiny_u32(&tiny, "attention.sliding_window", 16);
    tiny_u32(&tiny, "rope.dimension_count", 2);
    json_decref(write_and_read());
    cr_expect_eq(again.model.layers[1].window, 16);
}

/// Readers multiply and round down.
Test(config_write, parts_of_heads_that_are_rotated)
{
    json_t *json;
    tiny_begin(&tiny, "phi3", NULL);
    read_tiny();
    for (uint32_t head = 48; head <= 112; head += 16) {
        config.model.key_dim = config.model.value_dim = head;
        config.model.attention_scale = (float)(1 / sqrt(head));
        for (uint32_t dims = 2; dims < head; dims += 2) {
            config.model.ropes[0].dims = dims;
            cr_assert_eq(nib_config_to_json(&config, &json, &error), NIB_OK, "%s", error.message);
            cr_assert_eq(nib_config_from_json(json, &arena, &again, &error), NIB_OK, "%u of %u: %s",
                         dims, head, error.message);
            cr_expect_eq(again.model.ropes[0].dims, dims, "%u of %u", dims, head);
            json_decref(json);
        }
    }
}

/// A whole number where its class insists on one.
Test(config_write, query_scalar)
{
    tiny_begin(&tiny, "gemma3", NULL);
    json_t *json = write_and_read();
    cr_expect_eq(json_integer_value(json_object_get(json, "query_pre_attn_scalar")), 4);
    json_decref(json);
}

Test(config_write, rope_scaling)
{
    tiny_begin(&tiny, "qwen2", NULL);
    tiny_text(&tiny, "rope.scaling.type", "yarn");
    tiny_f32(&tiny, "rope.scaling.factor", 4);
    tiny_u32(&tiny, "rope.scaling.original_context_length", 16);
    tiny_f32(&tiny, "rope.scaling.yarn_beta_fast", 20);
    json_decref(write_and_read());
    cr_expect_eq(again.model.ropes[0].factor, 4);

    tiny_begin(&tiny, "phi3", NULL);
    tiny_tensor(&tiny, "rope_factors_long.weight", 0, TINY_HEAD_DIM / 2);
    tiny_tensor(&tiny, "rope_factors_short.weight", 0, TINY_HEAD_DIM / 2);
    tiny_f32(&tiny, "rope.scaling.attn_factor", 1.19f);
    tiny_u32(&tiny, "rope.scaling.original_context_length", 32);
    json_decref(write_and_read());
    cr_expect_eq(again.model.ropes[0].scaling, NIB_ROPE_SCALING_LONGROPE);
}

/// GGUF files of Llama 3.1 keep factors alone, of which the parameters are found again.
Test(config_write, llama3_factors)
{
    static float divisors[TINY_HEAD_DIM / 2];
    json_t *json;
    tiny_begin(&tiny, "llama", NULL);
    tiny_f32(&tiny, "rope.freq_base", 5e5f);
    read_tiny();
    // Pair 0 turns often enough to stay; pair 1 is between, at 8192 / 707.1 / 2π turns.
    const double smooth = (8192 / sqrt(5e5) / 6.283185307179586 - 1) / 3;
    divisors[0] = 1;
    divisors[1] = (float)(1 / ((1 - smooth) / 32 + smooth));
    config.model.ropes[0].divisors = divisors;
    cr_expect_eq(nib_config_to_json(&config, &json, &error), NIB_ERROR_UNSUPPORTED,
                 "the last pair is no factor of a whole model's");
    cr_expect(strstr(error.message, "Llama 3.1"), "%s", error.message);

    // With a longer head the last pair has the whole factor.
    static float all[32];
    struct nib_rope_config *rope = &config.model.ropes[0];
    rope->dims = config.model.key_dim = config.model.value_dim = 64;
    config.model.attention_scale = 0.125f;
    for (uint32_t i = 0; i < 32; i++) {
        const double turns = 8192 * pow(5e5, -2.0 * i / 64) / 6.283185307179586;
        const double s = fmin(fmax((turns - 1) / 3, 0), 1);
        all[i] = (float)(1 / ((1 - s) / 32 + s));
    }
    rope->divisors = all;
    cr_assert_eq(nib_config_to_json(&config, &json, &error), NIB_OK, "%s", error.message);
    cr_assert_eq(nib_config_from_json(json, &arena, &again, &error), NIB_OK, "%s", error.message);
    cr_expect_eq(again.model.ropes[0].scaling, NIB_ROPE_SCALING_LLAMA3);
    cr_expect_eq(again.model.ropes[0].factor, 32);
    cr_expect_eq(again.model.ropes[0].original_context, 8192);
    cr_expect_eq(again.model.ropes[0].high_frequency_factor, 4);
    json_decref(json);
}

static void expect_refused(const char *words)
{
    json_t *json;
    read_tiny();
    cr_expect_eq(nib_config_to_json(&config, &json, &error), NIB_ERROR_UNSUPPORTED);
    cr_expect(strstr(error.message, words), "%s", error.message);
    cr_expect_null(json);
}

Test(config_write, what_no_class_has)
{
    tiny_begin(&tiny, "llama", NULL);
    tiny_u32(&tiny, "attention.value_length", 8);
    expect_refused("heads of values");
    tiny_begin(&tiny, "llama", NULL);
    tiny_f32(&tiny, "attention.scale", 0.3f);
    expect_refused("an attention scale");
    tiny_begin(&tiny, "llama", NULL);
    tiny_f32(&tiny, "logit_scale", 2);
    expect_refused("scales of logits");
    tiny_begin(&tiny, "olmo2", NULL);
    tiny_u32(&tiny, "attention.sliding_window", 16);
    expect_refused("a window");
}
