// `quantization_config` and sets of tensors, right and wrong: what cannot run is named.
#include "runtime/import/quantization.h"

#include "runtime/base/bytes.h"
#include "tests/support/alloc_fail.h"
#include "tests/unit/import/parts.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct nib_error error;

/// Parses a whole config.json, with ' in place of ".
static enum nib_status parse(const char *text, struct nib_arena *arena,
                             struct nib_quantization **out_quantization)
{
    json_t *config = parts_json(text);
    error = (struct nib_error){0};
    enum nib_status status = nib_quantization_parse(config, arena, out_quantization, &error);
    json_decref(config);
    return status;
}

#define CONFIG(text) "{'quantization_config':" text "}"
#define GPTQ(more) CONFIG("{'quant_method':'gptq'" more "}")
#define AWQ(more) CONFIG("{'quant_method':'awq'" more "}")
#define BNB(more) CONFIG("{'quant_method':'bitsandbytes'" more "}")
#define COMPRESSED(group, more) \
    CONFIG("{'quant_method':'compressed-tensors','config_groups':{'g':{" group "}}" more "}")
#define W8 "'targets':['Linear'],'weights':{'num_bits':8,'strategy':'channel'}"
#define PACKED ",'format':'pack-quantized'"
#define BYTES ",'format':'int-quantized'"

Test(quantization, absent)
{
    static const char *const texts[] = {"{}", CONFIG("null"), "{'text_config':{}}", "[]"};
    struct nib_arena arena = {0};
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        struct nib_quantization *quantization;
        cr_expect_eq(parse(texts[i], &arena, &quantization), NIB_OK, "%s", error.message);
        cr_expect_null(quantization);
    }
    nib_arena_free(&arena);
}

Test(quantization, names)
{
    static const struct {
        const char *text;
        const char *name;
    } cases[] = {
        {GPTQ(",'bits':4,'group_size':128"), "gptq-int4"},
        {GPTQ(",'bits':8,'group_size':-1,'checkpoint_format':'gptq_v2','dynamic':{}"), "gptq-int8"},
        {GPTQ(",'bits':3,'group_size':128"), "gptq-int3"},
        {GPTQ(",'bits':2,'group_size':64"), "gptq-int2"},
        {AWQ(",'bits':4"), "awq-int4"},
        {AWQ(",'bits':4,'version':'GEMV','group_size':64,'backend':'autoawq'"), "awq-int4"},
        {BNB(",'load_in_4bit':true,'load_in_8bit':false"), "bnb-fp4"},
        {BNB(",'load_in_4bit':true,'bnb_4bit_quant_type':'nf4'"), "bnb-nf4"},
        {CONFIG("{'load_in_8bit':true,'llm_int8_threshold':0}"), "bnb-int8"},
        {COMPRESSED(W8, PACKED), "compressed-tensors-int8"},
        {COMPRESSED(W8 ",'format':'naive-quantized'", PACKED), "compressed-tensors-int8"},
        {"{'compression_config':{'quant_method':'compressed-tensors','format':'int-quantized',"
         "'config_groups':{'g':{" W8 "}}}}",
         "compressed-tensors-int8"},
        {"{'text_config':" GPTQ(",'bits':4,'group_size':128") "}", "gptq-int4"},
    };
    struct nib_arena arena = {0};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct nib_quantization *quantization;
        cr_assert_eq(parse(cases[i].text, &arena, &quantization), NIB_OK, "case %zu: %s", i,
                     error.message);
        cr_assert_not_null(quantization);
        cr_expect_str_eq(quantization->name, cases[i].name);
    }
    nib_arena_free(&arena);
}

Test(quantization, what_cannot_run_is_named)
{
    static const struct {
        const char *text;
        enum nib_status status;
        const char *names;
    } cases[] = {
        {CONFIG("3"), NIB_ERROR_FORMAT, "'quantization_config'"},
        {CONFIG("{}"), NIB_ERROR_UNSUPPORTED, "'quant_method' is not given"},
        {CONFIG("{'quant_method':3}"), NIB_ERROR_FORMAT, "'quant_method'"},
        {CONFIG("{'quant_method':'fp8'}"), NIB_ERROR_UNSUPPORTED, "'quant_method' is 'fp8'"},
        {GPTQ(""), NIB_ERROR_FORMAT, "'bits' is missing"},
        {GPTQ(",'bits':5,'group_size':128"), NIB_ERROR_UNSUPPORTED, "'bits' is 5"},
        {GPTQ(",'bits':'4','group_size':128"), NIB_ERROR_FORMAT, "'bits'"},
        {GPTQ(",'bits':4"), NIB_ERROR_FORMAT, "'group_size' is missing"},
        {GPTQ(",'bits':4,'group_size':0"), NIB_ERROR_FORMAT, "'group_size'"},
        {GPTQ(",'bits':4,'group_size':-2"), NIB_ERROR_FORMAT, "'group_size'"},
        {GPTQ(",'bits':4,'group_size':4294967296"), NIB_ERROR_FORMAT, "'group_size'"},
        {GPTQ(",'bits':4,'group_size':32,'sym':1"), NIB_ERROR_FORMAT, "'sym'"},
        {GPTQ(",'bits':4,'group_size':32,'desc_act':'yes'"), NIB_ERROR_FORMAT, "'desc_act'"},
        {GPTQ(",'bits':4,'group_size':32,'checkpoint_format':'marlin'"), NIB_ERROR_UNSUPPORTED,
         "'checkpoint_format' is 'marlin'"},
        {GPTQ(",'bits':4,'group_size':32,'format':'bitblas'"), NIB_ERROR_UNSUPPORTED,
         "'format' is 'bitblas'"},
        {GPTQ(",'bits':4,'group_size':32,'pack_dtype':'int8'"), NIB_ERROR_UNSUPPORTED,
         "'pack_dtype' is 'int8'"},
        {GPTQ(",'bits':4,'group_size':32,'dynamic':{'-:.*up_proj':{}}"), NIB_ERROR_UNSUPPORTED,
         "'dynamic'"},
        {GPTQ(",'bits':4,'group_size':32,'adapter':{'rank':8}"), NIB_ERROR_UNSUPPORTED,
         "'adapter'"},
        {AWQ(",'bits':8"), NIB_ERROR_UNSUPPORTED, "'bits' is 8"},
        {AWQ(",'bits':4,'version':'gemv_fast'"), NIB_ERROR_UNSUPPORTED, "'version' is 'gemv_fast'"},
        {AWQ(",'bits':4,'zero_point':false"), NIB_ERROR_UNSUPPORTED, "'zero_point' is false"},
        {AWQ(",'bits':4,'backend':'llm-awq'"), NIB_ERROR_UNSUPPORTED, "'backend' is 'llm-awq'"},
        {BNB(""), NIB_ERROR_FORMAT, "'load_in_4bit'"},
        {BNB(",'load_in_4bit':true,'load_in_8bit':true"), NIB_ERROR_FORMAT, "'load_in_4bit'"},
        {BNB(",'load_in_4bit':true,'bnb_4bit_quant_type':'int4'"), NIB_ERROR_UNSUPPORTED,
         "'bnb_4bit_quant_type' is 'int4'"},
        {BNB(",'load_in_8bit':true,'llm_int8_threshold':-1"), NIB_ERROR_FORMAT,
         "'llm_int8_threshold'"},
        {BNB(",'load_in_8bit':true,'llm_int8_threshold':'6'"), NIB_ERROR_FORMAT,
         "'llm_int8_threshold'"},
        {BNB(",'load_in_8bit':true,'llm_int8_has_fp16_weight':true"), NIB_ERROR_UNSUPPORTED,
         "'llm_int8_has_fp16_weight'"},
        {CONFIG("{'quant_method':'compressed-tensors'}"), NIB_ERROR_FORMAT, "'config_groups'"},
        {COMPRESSED(W8, ",'format':'float-quantized'"), NIB_ERROR_UNSUPPORTED,
         "'format' is 'float-quantized'"},
        {COMPRESSED(W8, ""), NIB_ERROR_UNSUPPORTED, "'format' is not given"},
        {COMPRESSED(W8, PACKED ",'sparsity_config':{'format':'sparse-24-bitmask'}"),
         NIB_ERROR_UNSUPPORTED, "'sparsity_config'"},
        {COMPRESSED(W8, PACKED ",'transform_config':{'config_groups':{}}"), NIB_ERROR_UNSUPPORTED,
         "'transform_config'"},
        {COMPRESSED(W8, PACKED ",'kv_cache_scheme':{'num_bits':8}"), NIB_ERROR_UNSUPPORTED,
         "'kv_cache_scheme'"},
        {COMPRESSED(W8 ",'output_activations':{'num_bits':8}", PACKED), NIB_ERROR_UNSUPPORTED,
         "'output_activations'"},
        {COMPRESSED("'targets':['Linear']", PACKED), NIB_ERROR_UNSUPPORTED, "'weights'"},
        {COMPRESSED("'weights':{'num_bits':8}", PACKED), NIB_ERROR_FORMAT, "'targets'"},
        {COMPRESSED("'targets':[3],'weights':{'num_bits':8}", PACKED), NIB_ERROR_FORMAT,
         "'targets'"},
        {COMPRESSED("'weights':{'num_bits':8,'type':'float'}", PACKED), NIB_ERROR_UNSUPPORTED,
         "'type' is 'float'"},
        {COMPRESSED("'weights':{'num_bits':8,'dynamic':true}", PACKED), NIB_ERROR_UNSUPPORTED,
         "'dynamic' is true"},
        {COMPRESSED("'weights':{'num_bits':5}", PACKED), NIB_ERROR_UNSUPPORTED, "'num_bits' is 5"},
        {COMPRESSED("'weights':{'num_bits':8,'strategy':'block'}", PACKED), NIB_ERROR_UNSUPPORTED,
         "'strategy' is 'block'"},
        {COMPRESSED("'weights':{'num_bits':8,'strategy':'group'}", PACKED), NIB_ERROR_FORMAT,
         "'group_size' is missing"},
        {COMPRESSED("'weights':{'num_bits':8,'strategy':'tensor','symmetric':false}", PACKED),
         NIB_ERROR_UNSUPPORTED, "'symmetric' is false"},
        {COMPRESSED(W8 ",'input_activations':{'num_bits':4}", BYTES), NIB_ERROR_UNSUPPORTED,
         "'num_bits' is 4"},
        {COMPRESSED(W8 ",'input_activations':7", BYTES), NIB_ERROR_FORMAT, "'input_activations'"},
        {COMPRESSED(W8 ",'input_activations':{'num_bits':8,'symmetric':false}", BYTES),
         NIB_ERROR_UNSUPPORTED, "'symmetric' is false"},
        {COMPRESSED(W8 ",'input_activations':{'num_bits':8,'dynamic':true,'strategy':'tensor'}",
                    BYTES),
         NIB_ERROR_UNSUPPORTED, "'strategy' is 'tensor'"},
        {COMPRESSED(W8 ",'input_activations':{'num_bits':8,'strategy':'token'}", BYTES),
         NIB_ERROR_UNSUPPORTED, "'strategy' is 'token'"},
    };
    struct nib_arena arena = {0};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct nib_quantization *quantization;
        cr_expect_eq(parse(cases[i].text, &arena, &quantization), cases[i].status, "case %zu: %s",
                     i, error.message);
        cr_expect_null(quantization);
        cr_expect(strstr(error.message, cases[i].names), "case %zu: %s", i, error.message);
    }
    nib_arena_free(&arena);
}

/// Targets that name a module go before patterns, and patterns before classes.
/// compressed-tensors tells from group_size what a file without a strategy means.
Test(quantization, strategy_of_group_size)
{
    static const struct {
        const char *text;
        uint32_t group;
        bool per_tensor;
    } cases[] = {{"'num_bits':8", 0, true},
                 {"'num_bits':8,'group_size':null,'strategy':null", 0, true},
                 {"'num_bits':8,'group_size':-1,'symmetric':false", 0, false},
                 {"'num_bits':8,'group_size':128", 128, false}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct nib_arena arena = {0};
        struct nib_quantization *quantization;
        char text[512];
        snprintf(text, sizeof text, COMPRESSED("'targets':['Linear'],'weights':{%s}", PACKED),
                 cases[i].text);
        cr_assert_eq(parse(text, &arena, &quantization), NIB_OK, "%s: %s", text, error.message);
        cr_expect_eq(quantization->schemes[0].group, cases[i].group, "%s", text);
        cr_expect_eq(quantization->schemes[0].per_tensor, cases[i].per_tensor, "%s", text);
        nib_arena_free(&arena);
    }
}

Test(quantization, targets)
{
    static const char text[] =
        "{'quant_method':'compressed-tensors','format':'int-quantized','config_groups':{"
        "'a':{'targets':['Linear'],'weights':{'num_bits':8,'group_size':16}},"
        "'b':{'targets':['re:.*mlp[.]','re:model[.]x$'],'weights':{'num_bits':8,'group_size':32}},"
        "'c':{'targets':['m.mlp.down'],'weights':{'num_bits':8,'group_size':64}}}}";
    static const struct {
        const char *name;
        uint32_t group;
    } modules[] = {
        {"m.attn.q", 16}, {"m.mlp.up", 32}, {"m.mlp.down", 64}, {"model.x", 32}, {"a.model.x", 16},
    };
    struct parts parts;
    parts_begin(&parts, text);
    for (size_t i = 0; i < sizeof modules / sizeof modules[0]; i++) {
        const struct nib_row_reader *reader;
        char name[2][64];
        snprintf(name[0], sizeof name[0], "%s.weight", modules[i].name);
        snprintf(name[1], sizeof name[1], "%s.weight_scale", modules[i].name);
        parts_add(&parts, name[0], NIB_DTYPE_I8, 4, 64);
        parts_add(&parts, name[1], NIB_DTYPE_BF16, 4, 64 / modules[i].group);
        cr_assert_eq(nib_quantization_reader(parts.quantization, &parts.directory, modules[i].name,
                                             (struct nib_shape){4, 64}, &reader, &error),
                     NIB_OK, "%s", error.message);
        cr_expect_eq(reader->format.group, modules[i].group, "%s", modules[i].name);
    }
    parts_end(&parts);
}

Test(quantization, wrong_targets)
{
    static const struct {
        const char *target;
        const char *names;
    } cases[] = {
        {"Conv2d", "'targets'"},
        {"re:(", "pattern '('"},
        {"re:(a|aa)+$", "cannot be matched"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct parts parts;
        char text[512];
        const struct nib_row_reader *reader;
        static const char module[] = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa.x";
        char name[128];
        snprintf(text, sizeof text,
                 "{'quant_method':'compressed-tensors','format':'int-quantized',"
                 "'config_groups':{'a':{'targets':['%s'],'weights':{'num_bits':8}}}}",
                 cases[i].target);
        snprintf(name, sizeof name, "%s.weight", module);
        parts_begin(&parts, text);
        parts_add(&parts, name, NIB_DTYPE_I8, 4, 64);
        cr_expect_eq(nib_quantization_reader(parts.quantization, &parts.directory, module,
                                             (struct nib_shape){4, 64}, &reader, &error),
                     NIB_ERROR_FORMAT);
        cr_expect(strstr(error.message, cases[i].names), "case %zu: %s", i, error.message);
        parts_end(&parts);
    }
}

/// A set of tensors that makes a whole matrix of 8 × 16.
struct part {
    const char *name;
    enum nib_dtype dtype;
    uint64_t rows, cols;
    const char *text; ///< content, else zeros
};
struct set {
    const char *config;
    struct part parts[6];
};

#define STATE "{\"shape\":[8,16],\"blocksize\":64,\"nested_blocksize\":2,\"nested_offset\":1}"

static const struct set sets[] = {
    {"{'quant_method':'gptq','bits':4,'group_size':16}",
     {{"m.qweight", NIB_DTYPE_I32, 2, 8, NULL},
      {"m.qzeros", NIB_DTYPE_I32, 1, 1, NULL},
      {"m.scales", NIB_DTYPE_F16, 1, 8, NULL},
      {"m.g_idx", NIB_DTYPE_I32, 16, 0, NULL}}},
    {"{'quant_method':'awq','bits':4,'group_size':8}",
     {{"m.qweight", NIB_DTYPE_I32, 16, 1, NULL},
      {"m.qzeros", NIB_DTYPE_I32, 2, 1, NULL},
      {"m.scales", NIB_DTYPE_F16, 2, 8, NULL}}},
    {"{'quant_method':'awq','bits':4,'group_size':8,'version':'gemv'}",
     {{"m.qweight", NIB_DTYPE_I32, 8, 2, NULL},
      {"m.qzeros", NIB_DTYPE_I32, 8, 4, NULL},
      {"m.scales", NIB_DTYPE_F16, 8, 32, NULL}}},
    {"{'quant_method':'bitsandbytes','load_in_8bit':true}",
     {{"m.weight", NIB_DTYPE_I8, 8, 16, NULL},
      {"m.SCB", NIB_DTYPE_F32, 8, 0, NULL},
      {"m.weight_format", NIB_DTYPE_U8, 1, 0, NULL}}},
    {"{'quant_method':'bitsandbytes','load_in_4bit':true}",
     {{"m.weight.quant_state.bitsandbytes__fp4", NIB_DTYPE_U8, sizeof STATE - 1, 0, STATE},
      {"m.weight", NIB_DTYPE_U8, 64, 1, NULL},
      {"m.weight.quant_map", NIB_DTYPE_F32, 16, 0, NULL},
      {"m.weight.absmax", NIB_DTYPE_U8, 2, 0, NULL},
      {"m.weight.nested_absmax", NIB_DTYPE_F32, 1, 0, NULL},
      {"m.weight.nested_quant_map", NIB_DTYPE_F32, 256, 0, NULL}}},
    {"{'quant_method':'compressed-tensors','format':'pack-quantized','config_groups':{'a':{"
     "'targets':['Linear'],'weights':{'num_bits':4,'group_size':8,'symmetric':false}}}}",
     {{"m.weight_packed", NIB_DTYPE_I32, 8, 2, NULL},
      {"m.weight_scale", NIB_DTYPE_BF16, 8, 2, NULL},
      {"m.weight_zero_point", NIB_DTYPE_I32, 1, 2, NULL},
      {"m.weight_shape", NIB_DTYPE_I64, 2, 0, "\x08\0\0\0\0\0\0\0\x10\0\0\0\0\0\0\0"}}},
    {"{'quant_method':'compressed-tensors','format':'int-quantized','config_groups':{'a':{"
     "'targets':['Linear'],'weights':{'num_bits':8,'strategy':'channel'},"
     "'input_activations':{'num_bits':8}}}}",
     {{"m.weight", NIB_DTYPE_I8, 8, 16, NULL},
      {"m.weight_scale", NIB_DTYPE_BF16, 8, 1, NULL},
      {"m.input_scale", NIB_DTYPE_F32, 1, 0, "\0\0\x80\x3f"}}},
};
enum { N_SETS = sizeof sets / sizeof sets[0] };

/// Builds a set without part `without` (-1: with all), calls it `change`s first.
static void build(struct parts *parts, const struct set *set, int without,
                  void (*change)(struct part *), int changed)
{
    parts_begin(parts, set->config);
    for (int i = 0; i < 6 && set->parts[i].name; i++) {
        struct part part = set->parts[i];
        if (i == without)
            continue;
        if (change && i == changed)
            change(&part);
        uint8_t *data = parts_add(parts, part.name, part.dtype, part.rows, part.cols);
        if (part.text)
            memcpy(data, part.text, parts->tensors[parts->directory.n_tensors - 1].size);
    }
}

static enum nib_status find(struct parts *parts, const struct nib_row_reader **out_reader)
{
    error = (struct nib_error){0};
    return nib_quantization_reader(parts->quantization, &parts->directory, "m",
                                   (struct nib_shape){8, 16}, out_reader, &error);
}

Test(quantization, whole_sets)
{
    for (size_t s = 0; s < N_SETS; s++) {
        struct parts parts;
        build(&parts, &sets[s], -1, NULL, 0);
        free(read_weights(parts_reader(&parts, 8, 16), 8));
        parts_end(&parts);
    }
}

/// Parts that may be absent: g_idx, weight_format.
Test(quantization, missing_parts)
{
    for (size_t s = 0; s < N_SETS; s++) {
        for (int p = 0; p < 6 && sets[s].parts[p].name; p++) {
            struct parts parts;
            const struct nib_row_reader *reader;
            const char *name = sets[s].parts[p].name;
            build(&parts, &sets[s], p, NULL, 0);
            enum nib_status status = find(&parts, &reader);
            if (strcmp(name, "m.g_idx") == 0 || strcmp(name, "m.weight_format") == 0)
                cr_expect(status == NIB_OK && reader, "%s", name);
            else if (p == 0)
                cr_expect((status == NIB_OK && !reader) || status == NIB_ERROR_FORMAT, "%s", name);
            else
                cr_expect(status != NIB_OK && !reader && strstr(error.message, name), "%s: %s",
                          name, error.message);
            parts_end(&parts);
        }
    }
}

static void more_rows(struct part *part)
{
    part->rows++;
    part->text = NULL;
}
static void more_cols(struct part *part)
{
    part->cols++;
    part->text = NULL;
}
static void fewer_rows(struct part *part)
{
    part->rows -= part->rows > 1;
    part->text = NULL;
}
static void another_type(struct part *part)
{
    part->dtype = NIB_DTYPE_F64;
    part->text = NULL;
}

/// Whatever part is of another shape or type, no reader comes out: the matrix is not a quantized
/// one at all where that is the part that tells.
Test(quantization, wrong_parts)
{
    static void (*const changes[])(struct part *) = {more_rows, more_cols, fewer_rows,
                                                     another_type};
    for (size_t s = 0; s < N_SETS; s++) {
        for (int p = 0; p < 6 && sets[s].parts[p].name; p++) {
            for (size_t c = 0; c < 4; c++) {
                struct parts parts;
                const struct nib_row_reader *reader;
                if (c == 2 && sets[s].parts[p].rows == 1)
                    continue;
                build(&parts, &sets[s], -1, changes[c], p);
                enum nib_status status = find(&parts, &reader);
                cr_expect(!reader && (status != NIB_OK || p == 0), "%s, change %zu: %s",
                          sets[s].parts[p].name, c, error.message);
                parts_end(&parts);
            }
        }
    }
}

/// Reads set `s` after part `p` was given other bytes.
static void expect_content(size_t s, int p, const void *bytes, size_t size, const char *names)
{
    struct parts parts;
    const struct nib_row_reader *reader;
    build(&parts, &sets[s], -1, NULL, 0);
    memcpy(parts.data[p], bytes, size);
    cr_expect_neq(find(&parts, &reader), NIB_OK);
    cr_expect_null(reader);
    cr_expect(strstr(error.message, names), "%s", error.message);
    parts_end(&parts);
}

Test(quantization, wrong_content)
{
    expect_content(0, 3, "\1\0\0", 4, "column 0 in group 1");
    expect_content(0, 3, "\xff\xff\xff\xff", 4, "group -1");
    expect_content(3, 2, "\1", 1, "weight_format");
    expect_content(4, 0, "{\"shape\":[9", 11, "'shape'");
    expect_content(4, 0, "not JSON", 8, "quant_state");
    expect_content(5, 3, "\x09", 1, "weight_shape");
    expect_content(6, 2, "\0\0\x80\x7f", 4, "input_scale");
    expect_content(6, 2, "\0\0\0\0", 4, "input_scale");
}

/// Groups that are too full, though every index is in range.
Test(quantization, uneven_groups)
{
    struct parts parts;
    const struct nib_row_reader *reader;
    parts_begin(&parts, "{'quant_method':'gptq','bits':4,'group_size':8}");
    parts_add(&parts, "m.qweight", NIB_DTYPE_I32, 2, 8);
    parts_add(&parts, "m.qzeros", NIB_DTYPE_I32, 2, 1);
    parts_add(&parts, "m.scales", NIB_DTYPE_F16, 2, 8);
    put_word(parts_add(&parts, "m.g_idx", NIB_DTYPE_I32, 16, 0), 3, 1);
    cr_expect_eq(find(&parts, &reader), NIB_ERROR_UNSUPPORTED);
    cr_expect(strstr(error.message, "15 columns in group 0"), "%s", error.message);
    parts_end(&parts);
}

Test(quantization, blocks_that_cut_bytes)
{
    struct parts parts;
    const struct nib_row_reader *reader;
    static const char state[] = "{\"shape\":[8,16],\"blocksize\":63}";
    parts_begin(&parts, sets[4].config);
    memcpy(parts_add(&parts, "m.weight.quant_state.bitsandbytes__nf4", NIB_DTYPE_U8,
                     sizeof state - 1, 0),
           state, sizeof state - 1);
    cr_expect_eq(find(&parts, &reader), NIB_ERROR_UNSUPPORTED);
    cr_expect(strstr(error.message, "blocks of 63"), "%s", error.message);
    parts_end(&parts);
}

/// Every allocation fails once: it is said, and nothing leaks.
Test(quantization, memory_runs_out)
{
    for (size_t s = 0; s < N_SETS; s++) {
        struct parts parts;
        build(&parts, &sets[s], -1, NULL, 0);
        if (s == 0) {
            for (uint32_t i = 0; i < 16; i++)
                put_word(parts.data[3], i, 0);
        }
        for (uint32_t n = 0;; n++) {
            struct nib_arena arena = {0};
            struct nib_quantization *quantization;
            const struct nib_row_reader *reader = NULL;
            error = (struct nib_error){0};
            alloc_fail_after(n);
            enum nib_status status =
                nib_quantization_parse(parts.config, &arena, &quantization, &error);
            if (status == NIB_OK)
                status = nib_quantization_reader(quantization, &parts.directory, "m",
                                                 (struct nib_shape){8, 16}, &reader, &error);
            const bool has_failed = alloc_fail_off();
            cr_expect_eq(status, has_failed ? NIB_ERROR_MEMORY : NIB_OK, "set %zu, %u: %s", s, n,
                         error.message);
            nib_arena_free(&arena);
            if (!has_failed)
                break;
        }
        parts_end(&parts);
    }
}
