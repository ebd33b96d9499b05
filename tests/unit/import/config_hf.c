#include "runtime/formats/json.h"
#include "runtime/import/config_import.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

static struct nib_arena arena;
static struct nib_import_config config;
static struct nib_error error;

static void free_arena(void)
{
    nib_arena_free(&arena);
}
TestSuite(config_hf, .fini = free_arena);

static enum nib_status read_text(const char *text)
{
    json_t *json;
    cr_assert_eq(nib_json_parse(text, strlen(text), "config.json", &json, &error), NIB_OK, "%s",
                 error.message);
    enum nib_status status = nib_config_from_json(json, &arena, &config, &error);
    json_decref(json);
    return status;
}

static void read_ok(const char *text)
{
    enum nib_status status = read_text(text);
    cr_assert_eq(status, NIB_OK, "%s", error.message);
}

/// Reads a configuration of the given type, the sizes below and `more`, which begins with a comma.
#define SIZES                                                               \
    "\"hidden_size\":96,\"intermediate_size\":192,\"num_hidden_layers\":4," \
    "\"num_attention_heads\":3,\"num_key_value_heads\":1,\"max_position_embeddings\":512"
#define CONFIG(type, more) "{\"model_type\":\"" type "\"," SIZES more "}"

#define expect_near(a, b) cr_expect_float_eq((double)(a), (double)(b), 1e-6 * fabs((double)(b)))

Test(config_hf, llama_defaults)
{
    read_ok(CONFIG("llama", ""));
    const struct nib_model_config *m = &config.model;
    cr_expect_str_eq(m->architecture, "llama");
    cr_expect(m->n_layers == 4 && m->hidden_size == 96 && m->ffn_size == 192);
    cr_expect(m->n_heads == 3 && m->n_kv_heads == 1 && m->key_dim == 32 && m->value_dim == 32);
    cr_expect(m->pre_norm && !m->post_norm && m->qk_norm == NIB_QK_NORM_NONE);
    cr_expect(m->gate == NIB_GATE_SILU && !config.tied && m->sliding_window == 0);
    cr_expect(m->n_ropes == 1 && m->ropes[0].dims == 32 && !m->ropes[0].interleaved);
    expect_near(m->ropes[0].base, 10000);
    expect_near(m->attention_scale, 1 / sqrt(32));
    expect_near(m->norm_epsilon, 1e-6);
    for (uint32_t i = 0; i < 4; i++)
        cr_expect(m->layers[i].window == 0 && m->layers[i].rope == 0);
}

Test(config_hf, sizes_that_null_or_nothing_leaves_to_others)
{
    read_ok("{\"model_type\":\"llama\",\"hidden_size\":64,\"intermediate_size\":1,"
            "\"num_hidden_layers\":1,\"num_attention_heads\":4,\"num_key_value_heads\":null,"
            "\"head_dim\":null,\"max_position_embeddings\":2,\"rope_scaling\":null}");
    cr_expect(config.model.n_kv_heads == 4 && config.model.key_dim == 16);
}

Test(config_hf, llama3_scaling_of_either_version)
{
    static const char *const texts[] = {
        CONFIG("llama", ",\"rope_theta\":5e5,\"rope_scaling\":{\"factor\":8.0,"
                        "\"low_freq_factor\":1.0,\"high_freq_factor\":4.0,"
                        "\"original_max_position_embeddings\":64,\"rope_type\":\"llama3\"}"),
        CONFIG("llama", ",\"rope_parameters\":{\"rope_theta\":5e5,\"factor\":8.0,"
                        "\"low_freq_factor\":1.0,\"high_freq_factor\":4.0,"
                        "\"original_max_position_embeddings\":64,\"rope_type\":\"llama3\"}"),
    };
    for (size_t i = 0; i < 2; i++) {
        read_ok(texts[i]);
        const struct nib_rope_config *rope = &config.model.ropes[0];
        cr_expect_eq(rope->scaling, NIB_ROPE_SCALING_LLAMA3);
        expect_near(rope->base, 5e5);
        expect_near(rope->factor, 8);
        expect_near(rope->high_frequency_factor, 4);
        cr_expect_eq(rope->original_context, 64);
    }
}

Test(config_hf, yarn)
{
    read_ok(CONFIG("qwen2",
                   ",\"rope_scaling\":{\"type\":\"yarn\",\"factor\":4.0,\"truncate\":false,"
                   "\"original_max_position_embeddings\":128,\"beta_fast\":16,"
                   "\"mscale\":1.0,\"mscale_all_dim\":0.5}"));
    const struct nib_rope_config *rope = &config.model.ropes[0];
    cr_expect_eq(rope->scaling, NIB_ROPE_SCALING_YARN);
    cr_expect(rope->original_context == 128 && !rope->truncate);
    expect_near(rope->beta_fast, 16);
    expect_near(rope->beta_slow, 1);
    expect_near(rope->mscale_all_dims, 0.5);
    cr_expect_eq(rope->attention_factor, 0);
}

Test(config_hf, long_rope_with_its_context_outside)
{
    read_ok(CONFIG("phi3", ",\"partial_rotary_factor\":0.25,\"sliding_window\":100,"
                           "\"original_max_position_embeddings\":128,\"rope_scaling\":"
                           "{\"type\":\"su\",\"short_factor\":[1,2,3,4],"
                           "\"long_factor\":[5,6,7,8.5]}"));
    const struct nib_rope_config *rope = &config.model.ropes[0];
    cr_expect(rope->scaling == NIB_ROPE_SCALING_LONGROPE && rope->dims == 8);
    cr_expect(rope->original_context == 128 && rope->factor == 0);
    cr_expect(rope->short_factors[3] == 4 && rope->long_factors[3] == 8.5f);
    for (uint32_t i = 0; i < 4; i++)
        cr_expect_eq(config.model.layers[i].window, 100);
}

/// What says nothing outside does not take the place of what is inside.
Test(config_hf, scaling_with_no_context_outside)
{
    static const char *const outside[] = {"null", "0", "256"};
    for (uint32_t i = 0; i < 3; i++) {
        char text[600];
        snprintf(text, sizeof text,
                 CONFIG("llama", ",\"original_max_position_embeddings\":%s,\"rope_scaling\":"
                                 "{\"type\":\"yarn\",\"factor\":4.0,"
                                 "\"original_max_position_embeddings\":128}"),
                 outside[i]);
        read_ok(text);
        cr_expect_eq(config.model.ropes[0].original_context, i == 2 ? 256 : 128, "%s", outside[i]);
    }
}

Test(config_hf, part_of_a_head_that_is_rotated)
{
    read_ok(CONFIG("llama", ",\"head_dim\":80,\"partial_rotary_factor\":0.9"));
    cr_expect_eq(config.model.ropes[0].dims, 72);
    read_ok(CONFIG("llama", ",\"head_dim\":80,\"rope_parameters\":{\"rope_type\":\"default\","
                            "\"partial_rotary_factor\":0.6}"));
    cr_expect_eq(config.model.ropes[0].dims, 48);
    read_ok(CONFIG("llama", ",\"head_dim\":64,\"partial_rotary_factor\":0.48"));
    cr_expect_eq(config.model.ropes[0].dims, 30);
}

Test(config_hf, mistral_has_a_window_unless_null)
{
    read_ok(CONFIG("mistral", ""));
    cr_expect_eq(config.model.layers[3].window, 4096);
    read_ok(CONFIG("mistral", ",\"sliding_window\":null"));
    cr_expect(config.model.layers[3].window == 0 && config.model.sliding_window == 0);
}

Test(config_hf, qwen_windows_need_the_flag)
{
    const char *flagged = CONFIG("qwen2", ",\"use_sliding_window\":true,\"sliding_window\":7,"
                                          "\"max_window_layers\":3");
    read_ok(flagged);
    cr_expect(config.model.layers[2].window == 0 && config.model.layers[3].window == 7);
    read_ok(CONFIG("qwen3", ",\"head_dim\":64,\"sliding_window\":7,\"max_window_layers\":3"));
    cr_expect(config.model.layers[3].window == 0 && config.model.key_dim == 64);
    read_ok(CONFIG("qwen2", ",\"use_sliding_window\":true,\"sliding_window\":7,\"layer_types\":["
                            "\"sliding_attention\",\"full_attention\",\"full_attention\","
                            "\"full_attention\"]"));
    cr_expect(config.model.layers[0].window == 7 && config.model.layers[3].window == 0);
}

Test(config_hf, smollm3_leaves_rope_out)
{
    read_ok(CONFIG("smollm3", ""));
    cr_expect(config.model.layers[2].rope == 0 && config.model.layers[3].rope == -1);
    cr_expect(config.tied);
    read_ok(CONFIG("smollm3", ",\"no_rope_layers\":[0,1,1,1],\"tie_word_embeddings\":false"));
    cr_expect(config.model.layers[0].rope == -1 && config.model.layers[3].rope == 0);
    cr_expect(!config.tied);
    read_ok(CONFIG("smollm3", ",\"no_rope_layer_interval\":2"));
    cr_expect(config.model.layers[1].rope == -1 && config.model.layers[2].rope == 0);
}

Test(config_hf, gemma2)
{
    read_ok(CONFIG("gemma2", ",\"query_pre_attn_scalar\":48,\"sliding_window\":16,"
                             "\"hidden_act\":\"gelu\",\"final_logit_softcapping\":null"));
    const struct nib_model_config *m = &config.model;
    cr_expect(m->post_norm && m->norm_offset == 1 && m->key_dim == 256 && config.tied);
    cr_expect(m->attention_softcap == 50 && m->logit_softcap == 0);
    cr_expect_eq(m->gate, NIB_GATE_GELU);
    expect_near(m->attention_scale, 1 / sqrt(48));
    expect_near(m->embedding_scale, sqrt(96));
    cr_expect(m->layers[0].window == 16 && m->layers[1].window == 0 && m->n_ropes == 1);
}

Test(config_hf, gemma3_inside_a_model_of_images)
{
    read_ok("{\"model_type\":\"gemma3\",\"text_config\":{\"model_type\":\"gemma3_text\","
            "\"hidden_size\":2560,\"intermediate_size\":10240,\"num_hidden_layers\":34,"
            "\"rope_scaling\":{\"factor\":8.0,\"rope_type\":\"linear\"},"
            "\"sliding_window\":1024},\"vision_config\":{}}");
    const struct nib_model_config *m = &config.model;
    cr_expect(m->n_heads == 8 && m->n_kv_heads == 4 && m->key_dim == 256 && m->context == 131072);
    cr_expect(m->gate == NIB_GATE_GELU_TANH && m->qk_norm == NIB_QK_NORM_HEAD);
    cr_expect(m->n_ropes == 2 && m->ropes[0].scaling == NIB_ROPE_SCALING_LINEAR);
    cr_expect_eq(m->ropes[1].scaling, NIB_ROPE_SCALING_NONE);
    expect_near(m->ropes[0].base, 1e6);
    expect_near(m->ropes[1].base, 1e4);
    cr_expect(m->layers[4].window == 1024 && m->layers[4].rope == 1);
    cr_expect(m->layers[5].window == 0 && m->layers[5].rope == 0);
    expect_near(m->attention_scale, 1.0 / 16);
}

Test(config_hf, gemma3_with_rope_for_each_type)
{
    read_ok(CONFIG("gemma3_text",
                   ",\"rope_parameters\":{\"full_attention\":{\"rope_type\":\"linear\","
                   "\"factor\":2,\"rope_theta\":5e5},\"sliding_attention\":"
                   "{\"rope_type\":\"default\",\"rope_theta\":2e4}},\"sliding_window\":8,"
                   "\"layer_types\":[\"full_attention\",\"sliding_attention\","
                   "\"sliding_attention\",\"full_attention\"]"));
    const struct nib_model_config *m = &config.model;
    expect_near(m->ropes[0].base, 5e5);
    expect_near(m->ropes[0].factor, 2);
    expect_near(m->ropes[1].base, 2e4);
    cr_expect(m->layers[0].rope == 0 && m->layers[1].rope == 1 && m->layers[1].window == 8);
}

Test(config_hf, granite_multipliers)
{
    read_ok(CONFIG("granite", ",\"embedding_multiplier\":6,\"residual_multiplier\":0.3,"
                              "\"logits_scaling\":4,\"attention_multiplier\":0.02"));
    const struct nib_model_config *m = &config.model;
    expect_near(m->embedding_scale, 6);
    expect_near(m->residual_scale, 0.3);
    expect_near(m->logit_scale, 0.25);
    expect_near(m->attention_scale, 0.02);
}

Test(config_hf, biases_that_must_be_there)
{
    read_ok(CONFIG("llama", ""));
    cr_expect(!config.biased);
    read_ok(CONFIG("llama", ",\"attention_bias\":true"));
    cr_expect(config.biased);
    read_ok(CONFIG("qwen2", ",\"attention_bias\":false"));
    cr_expect(config.biased);
}

Test(config_hf, olmo2_norms_outputs)
{
    read_ok(CONFIG("olmo2", ""));
    cr_expect(!config.model.pre_norm && config.model.post_norm);
    cr_expect_eq(config.model.qk_norm, NIB_QK_NORM_ROW);
}

struct wrong {
    const char *text;
    enum nib_status status;
    const char *names; ///< what the message must name
};

Test(config_hf, wrong_files)
{
#define LLAMA(more) CONFIG("llama", more)
    static const struct wrong wrong[] = {
        {"[]", NIB_ERROR_FORMAT, "object"},
        {"{}", NIB_ERROR_FORMAT, "model_type"},
        {"{\"model_type\":3}", NIB_ERROR_FORMAT, "model_type"},
        {CONFIG("mamba", ""), NIB_ERROR_UNSUPPORTED, "'mamba' is none of llama, smollm3"},
        {"{\"model_type\":\"llama\"}", NIB_ERROR_FORMAT, "'num_hidden_layers' is missing"},
        {LLAMA(",\"head_dim\":0"), NIB_ERROR_FORMAT, "head_dim"},
        {LLAMA(",\"head_dim\":33"), NIB_ERROR_FORMAT, "33"},
        {LLAMA(",\"head_dim\":1e300"), NIB_ERROR_FORMAT, "head_dim"},
        {LLAMA(",\"head_dim\":32.5"), NIB_ERROR_FORMAT, "head_dim"},
        {LLAMA(",\"head_dim\":\"32\""), NIB_ERROR_FORMAT, "head_dim"},
        {LLAMA(",\"head_dim\":-4"), NIB_ERROR_FORMAT, "head_dim"},
        {LLAMA(",\"rms_norm_eps\":2"), NIB_ERROR_FORMAT, "rms_norm_eps"},
        {LLAMA(",\"hidden_act\":\"relu\""), NIB_ERROR_UNSUPPORTED, "relu"},
        {LLAMA(",\"rope_theta\":1"), NIB_ERROR_FORMAT, "rope_theta"},
        {LLAMA(",\"rope_scaling\":{\"type\":\"warp\"}"), NIB_ERROR_UNSUPPORTED, "warp"},
        {LLAMA(",\"rope_scaling\":{\"type\":\"linear\"}"), NIB_ERROR_FORMAT, "factor"},
        {LLAMA(",\"rope_scaling\":{\"type\":\"llama3\",\"factor\":2}"), NIB_ERROR_FORMAT,
         "high_freq_factor"},
        {LLAMA(",\"rope_scaling\":{\"type\":\"longrope\"}"), NIB_ERROR_FORMAT, "short_factor"},
        {LLAMA(",\"rope_scaling\":{\"type\":\"longrope\",\"short_factor\":[0,1,1,1,1,1,1,1,1,1,"
               "1,1,1,1,1,1]}"),
         NIB_ERROR_FORMAT, "short_factor"},
        {LLAMA(",\"partial_rotary_factor\":0.01"), NIB_ERROR_FORMAT, "0 dimensions"},
        {CONFIG("granite", ",\"logits_scaling\":0"), NIB_ERROR_FORMAT, "logits_scaling"},
        {CONFIG("mistral", ",\"layer_types\":[\"full_attention\"]"), NIB_ERROR_FORMAT,
         "layer_types"},
        {CONFIG("mistral", ",\"layer_types\":[\"a\",\"b\",\"c\",\"d\"]"), NIB_ERROR_UNSUPPORTED,
         "'a'"},
        {CONFIG("smollm3", ",\"no_rope_layers\":[1]"), NIB_ERROR_FORMAT, "no_rope_layers"},
        {CONFIG("gemma3", ",\"sliding_window_pattern\":0"), NIB_ERROR_FORMAT,
         "sliding_window_pattern"},
        {CONFIG("gemma3", ",\"use_bidirectional_attention\":true"), NIB_ERROR_UNSUPPORTED,
         "use_bidirectional_attention"},
        {"{\"model_type\":\"llama\",\"hidden_size\":96,\"intermediate_size\":192,"
         "\"num_hidden_layers\":4,\"num_attention_heads\":3,\"num_key_value_heads\":2,"
         "\"max_position_embeddings\":512}",
         NIB_ERROR_FORMAT, "3 heads"},
        {"{\"model_type\":\"llama\",\"hidden_size\":96,\"intermediate_size\":192,"
         "\"num_hidden_layers\":4,\"num_attention_heads\":4096,\"head_dim\":4096,"
         "\"max_position_embeddings\":512}",
         NIB_ERROR_FORMAT, "4096 heads"},
        {"{\"model_type\":\"llama\",\"num_hidden_layers\":1025}", NIB_ERROR_FORMAT,
         "num_hidden_layers"},
    };
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        enum nib_status status = read_text(wrong[i].text);
        cr_expect_eq(status, wrong[i].status, "case %zu: %d %s", i, status, error.message);
        cr_expect(strstr(error.message, wrong[i].names), "case %zu: %s", i, error.message);
    }
}
