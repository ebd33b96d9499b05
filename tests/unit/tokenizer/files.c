/// Tokenizers from tokenizer.json and its companions, and from GGUF metadata.
#include "runtime/formats/gguf.h"
#include "runtime/formats/json.h"
#include "runtime/import/tokenizer_gguf.h"
#include "runtime/import/tokenizer_hf.h"
#include "tests/support/folder.h"
#include "tests/unit/tokenizer/ids.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct nib_error error;

TestSuite(files, .init = make_folder, .fini = remove_folder);

static char *decode(const struct nib_tokenizer *tokenizer, const int32_t *ids, size_t count,
                    size_t *out_size)
{
    struct nib_detokenizer *detokenizer;
    cr_assert_eq(nib_detokenizer_create(tokenizer, nib_detokenizer_params(.keep_special = true),
                                        &detokenizer, &error),
                 NIB_OK);
    char *text = calloc(1, 4096);
    *out_size = 0;
    for (size_t i = 0; i <= count; i++) {
        struct nib_text piece;
        enum nib_status status = i < count
                                     ? nib_detokenizer_push(detokenizer, ids[i], &piece, &error)
                                     : nib_detokenizer_finish(detokenizer, &piece, &error);
        cr_assert_eq(status, NIB_OK);
        if (piece.size)
            memcpy(text + *out_size, piece.ptr, piece.size);
        *out_size += piece.size;
    }
    nib_detokenizer_destroy(&detokenizer);
    return text;
}

/// Small tokenizers of all kinds give the ids and the text that Hugging Face's library gives.
static void check_file(const char *name)
{
    json_t *root;
    struct nib_tokenizer *tokenizer;
    cr_assert_eq(nib_json_open(NIB_TEST_DATA "/tokenizer/hf", name, true, &root, &error), NIB_OK,
                 "%s", error.message);
    struct nib_tokenizer_files files = {.tokenizer = json_object_get(root, "tokenizer")};
    cr_assert_eq(nib_tokenizer_from_files(&files, &tokenizer, &error), NIB_OK, "%s: %s", name,
                 error.message);
    size_t index;
    json_t *item;
    json_array_foreach(json_object_get(root, "vectors"), index, item)
    {
        struct nib_text text;
        struct nib_text expected;
        cr_assert(nib_json_get_text(item, "text", &text));
        int32_t *ids;
        size_t count;
        cr_assert_eq(nib_tokenizer_encode(tokenizer, text, nib_encode_params(.parse_special = true),
                                          &ids, &count, &error),
                     NIB_OK, "%s", error.message);
        cr_expect(ids_are(ids, count, json_object_get(item, "ids")), "%s %zu: '%s'", name, index,
                  text.ptr);
        size_t size;
        char *decoded = decode(tokenizer, ids, count, &size);
        if (nib_json_get_text(item, "decoded", &expected))
            cr_expect(size == expected.size && memcmp(decoded, expected.ptr, size) == 0,
                      "%s %zu: '%s' instead of '%s'", name, index, decoded, expected.ptr);
        free(decoded);
        nib_ids_free(ids);
    }
    cr_expect_gt(index, 30);
    nib_tokenizer_destroy(&tokenizer);
    json_decref(root);
}

Test(files, as_hugging_face)
{
    static const char *const NAMES[] = {"llama3",     "smollm",  "qwen2",        "prefix",
                                        "behaviours", "llama2",  "gemma",        "metaspace",
                                        "words",      "unigram", "unigram-bytes"};
    for (size_t i = 0; i < sizeof NAMES / sizeof NAMES[0]; i++) {
        char name[64];
        snprintf(name, sizeof name, "%s.json", NAMES[i]);
        check_file(name);
    }
}

#define VOCAB "\"vocab\":{\"a\":0,\"b\":1,\"ab\":2,\"<s>\":3,\"</s>\":4,\"<e>\":5}"
#define ADDED                                                            \
    "\"added_tokens\":[{\"id\":3,\"content\":\"<s>\",\"special\":true}," \
    "{\"id\":4,\"content\":\"</s>\",\"special\":true},"                  \
    "{\"id\":5,\"content\":\"<e>\",\"special\":true}]"
#define MODEL "\"model\":{\"type\":\"BPE\"," VOCAB ",\"merges\":[\"a b\"]}"

static json_t *parse(const char *text)
{
    json_t *json = NULL;
    if (text)
        cr_assert_eq(nib_json_parse(text, strlen(text), "test", &json, &error), NIB_OK, "%s",
                     error.message);
    return json;
}

static enum nib_status load(const char *tokenizer, const char *config, const char *generation,
                            struct nib_tokenizer **out)
{
    struct nib_tokenizer_files files = {.tokenizer = parse(tokenizer),
                                        .tokenizer_config = parse(config),
                                        .generation_config = parse(generation)};
    enum nib_status status = nib_tokenizer_from_files(&files, out, &error);
    json_decref(files.tokenizer);
    json_decref(files.tokenizer_config);
    json_decref(files.generation_config);
    return status;
}

Test(files, companions)
{
    struct nib_tokenizer *tokenizer;
    struct nib_tokenizer_info info;
    cr_assert_eq(load("{" ADDED "," MODEL "}",
                      "{\"bos_token\":{\"content\":\"<s>\"},\"eos_token\":\"</s>\","
                      "\"add_bos_token\":true,\"model_max_length\":"
                      "1000000000000000019884624838656,\"chat_template\":["
                      "{\"name\":\"tools\",\"template\":\"[INST] <<SYS>>\"},"
                      "{\"name\":\"default\",\"template\":\"<|im_start|>\"}]}",
                      "{\"eos_token_id\":[4,5]}", &tokenizer),
                 NIB_OK, "%s", error.message);
    nib_tokenizer_get_info(tokenizer, &info);
    cr_expect(info.bos == 3 && info.eos == 4 && info.add_bos && info.vocabulary == 6);
    cr_expect_str_eq(info.chat_template, "chatml");
    cr_expect(nib_tokenizer_is_end(tokenizer, 5) && nib_tokenizer_is_end(tokenizer, 4));
    cr_expect_not(nib_tokenizer_is_end(tokenizer, 3));
    nib_tokenizer_destroy(&tokenizer);

    // The post-processor puts BOS first, unless the configuration says otherwise.
#define POST                                                           \
    "\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":[" \
    "{\"SpecialToken\":{\"id\":\"<s>\",\"type_id\":0}},{\"Sequence\":{\"id\":\"A\"}}]},"
    cr_assert_eq(load("{" POST ADDED "," MODEL "}", NULL, "{\"eos_token_id\":4}", &tokenizer),
                 NIB_OK);
    nib_tokenizer_get_info(tokenizer, &info);
    cr_expect(info.bos == 3 && info.eos == 4 && info.add_bos);
    nib_tokenizer_destroy(&tokenizer);
    cr_assert_eq(load("{" POST ADDED "," MODEL "}", "{\"add_bos_token\":false}", NULL, &tokenizer),
                 NIB_OK);
    nib_tokenizer_get_info(tokenizer, &info);
    cr_expect(info.bos == 3 && info.eos == -1 && !info.add_bos);
    nib_tokenizer_destroy(&tokenizer);
}

Test(files, refused)
{
#define WITH(member) "{" member "," MODEL "}"
    static const struct {
        const char *json;
        enum nib_status status;
        const char *part;
    } CASES[] = {
        {"[]", NIB_ERROR_FORMAT, "not a JSON object"},
        {"{}", NIB_ERROR_UNSUPPORTED, "model"},
        {"{\"model\":{\"type\":\"WordPiece\",\"vocab\":{}}}", NIB_ERROR_UNSUPPORTED, "'WordPiece'"},
        {"{\"model\":{\"type\":\"BPE\"}}", NIB_ERROR_FORMAT, "model.vocab"},
        {"{\"model\":{\"type\":\"BPE\",\"vocab\":{},\"merges\":[]}}", NIB_ERROR_FORMAT, "0 tokens"},
        {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":-1},\"merges\":[]}}", NIB_ERROR_FORMAT,
         "'a'"},
        {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":2147483000},\"merges\":[]}}",
         NIB_ERROR_FORMAT, "ids up to"},
        {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"b\":0},\"merges\":[]}}",
         NIB_ERROR_FORMAT, "two tokens have the id 0"},
        {"{\"model\":{\"type\":\"BPE\"," VOCAB "}}", NIB_ERROR_FORMAT, "model.merges"},
        {"{\"model\":{\"type\":\"BPE\"," VOCAB ",\"merges\":[\"ab\"]}}", NIB_ERROR_FORMAT,
         "entry 0"},
        {"{\"model\":{\"type\":\"BPE\"," VOCAB ",\"merges\":[[\"a\",\"x\"]]}}", NIB_ERROR_FORMAT,
         "entry 0"},
        {"{\"model\":{\"type\":\"BPE\"," VOCAB ",\"merges\":[],\"unk_token\":\"x\"}}",
         NIB_ERROR_FORMAT, "unk_token"},
        {"{\"model\":{\"type\":\"BPE\"," VOCAB ",\"merges\":[],\"end_of_word_suffix\":\"</w>\"}}",
         NIB_ERROR_UNSUPPORTED, "end_of_word_suffix"},
        {"{\"model\":{\"type\":\"Unigram\",\"vocab\":[[\"a\",\"b\"]]}}", NIB_ERROR_FORMAT,
         "entry 0"},
        {"{\"model\":{\"type\":\"Unigram\",\"vocab\":[[\"a\",0]],\"unk_id\":1}}", NIB_ERROR_FORMAT,
         "unk_id"},
        {WITH("\"added_tokens\":[{\"content\":\"x\"}]"), NIB_ERROR_FORMAT, "entry 0 has no id"},
        {WITH("\"added_tokens\":[{\"id\":1}]"), NIB_ERROR_FORMAT, "entry 0 has no content"},
        {WITH("\"normalizer\":{\"type\":\"Precompiled\"}"), NIB_ERROR_UNSUPPORTED, "'Precompiled'"},
        {WITH("\"normalizer\":{\"type\":\"Replace\",\"pattern\":{\"Regex\":\" \"},"
              "\"content\":\"x\"}"),
         NIB_ERROR_UNSUPPORTED, "'Replace'"},
        {WITH("\"normalizer\":{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"Lowercase\"},"
              "{\"type\":\"NFC\"}]}"),
         NIB_ERROR_UNSUPPORTED, "'NFC'"},
        {WITH("\"pre_tokenizer\":{\"type\":\"UnicodeScripts\"}"), NIB_ERROR_UNSUPPORTED,
         "'UnicodeScripts'"},
        {WITH("\"pre_tokenizer\":{\"type\":\"Split\",\"behavior\":\"Odd\"}"), NIB_ERROR_UNSUPPORTED,
         "'Odd'"},
        {WITH("\"pre_tokenizer\":{\"type\":\"Split\",\"behavior\":\"Removed\","
              "\"pattern\":{\"Regex\":\"(\"}}"),
         NIB_ERROR_FORMAT, "'('"},
        {WITH("\"pre_tokenizer\":{\"type\":\"Sequence\"}"), NIB_ERROR_FORMAT, "pretokenizers"},
        {WITH("\"decoder\":{\"type\":\"CTC\"}"), NIB_ERROR_UNSUPPORTED, "'CTC'"},
    };
    for (size_t i = 0; i < sizeof CASES / sizeof CASES[0]; i++) {
        struct nib_tokenizer *tokenizer;
        enum nib_status status = load(CASES[i].json, NULL, NULL, &tokenizer);
        cr_expect_null(tokenizer);
        cr_expect_eq(status, CASES[i].status, "%s: %d %s", CASES[i].json, status, error.message);
        cr_expect(strstr(error.message, CASES[i].part), "%s: %s", CASES[i].json, error.message);
    }
    struct nib_tokenizer *tokenizer;
    cr_expect_eq(load("{" MODEL "}", NULL, "{\"eos_token_id\":6}", &tokenizer), NIB_ERROR_FORMAT);
    cr_expect_eq(load("{" MODEL "}", NULL, "{\"eos_token_id\":[\"a\"]}", &tokenizer),
                 NIB_ERROR_FORMAT);
}

static void write_file(const char *name, const char *text)
{
    put_file(path_in_folder(name), text, strlen(text));
}

Test(files, folder)
{
    const char *folder = path_in_folder(NULL);
    struct nib_tokenizer *tokenizer;
    cr_expect_eq(nib_tokenizer_from_folder(folder, &tokenizer, &error), NIB_OK);
    cr_expect_null(tokenizer);
    write_file("tokenizer.json", "{" ADDED "," MODEL "}");
    write_file("special_tokens_map.json", "{\"bos_token\":\"<s>\"}");
    write_file("chat_template.jinja", "<start_of_turn>");
    cr_assert_eq(nib_tokenizer_from_folder(folder, &tokenizer, &error), NIB_OK, "%s",
                 error.message);
    struct nib_tokenizer_info info;
    nib_tokenizer_get_info(tokenizer, &info);
    cr_expect_eq(info.bos, 3);
    cr_expect_str_eq(info.chat_template, "gemma");
    nib_tokenizer_destroy(&tokenizer);
    write_file("tokenizer.json", "{" ADDED "}");
    cr_expect_eq(nib_tokenizer_from_folder(folder, &tokenizer, &error), NIB_ERROR_UNSUPPORTED);
    cr_expect(strstr(error.message, folder), "%s", error.message);
}

struct gguf_case {
    const char *model;
    const char *const *texts;
    uint32_t n_texts;
    const char *const *merges;
    uint32_t n_merges;
    const char *pre;
    uint32_t eos;
};
#define LOAD_GGUF(...) load_gguf(&(struct gguf_case){__VA_ARGS__}, &tokenizer)

/// Writes a GGUF file with some metadata, and loads its tokenizer.
static enum nib_status load_gguf(const struct gguf_case *from, struct nib_tokenizer **out)
{
    const char *path = path_in_folder("tokenizer.gguf");
    struct nib_gguf_writer *writer;
    struct nib_text list[16];
    cr_assert_eq(nib_gguf_writer_open(path, &writer, &error), NIB_OK);
    if (from->model)
        nib_gguf_writer_add_text(writer, "tokenizer.ggml.model",
                                 (struct nib_text){from->model, strlen(from->model)}, &error);
    if (from->pre)
        nib_gguf_writer_add_text(writer, "tokenizer.ggml.pre",
                                 (struct nib_text){from->pre, strlen(from->pre)}, &error);
    for (uint32_t i = 0; i < from->n_texts; i++)
        list[i] = (struct nib_text){from->texts[i], strlen(from->texts[i])};
    if (from->texts)
        nib_gguf_writer_add_texts(writer, "tokenizer.ggml.tokens", list, from->n_texts, &error);
    for (uint32_t i = 0; i < from->n_merges; i++)
        list[i] = (struct nib_text){from->merges[i], strlen(from->merges[i])};
    if (from->merges)
        nib_gguf_writer_add_texts(writer, "tokenizer.ggml.merges", list, from->n_merges, &error);
    nib_gguf_writer_add_u32(writer, "tokenizer.ggml.eos_token_id", from->eos, &error);
    cr_assert_eq(nib_gguf_writer_commit(&writer, NULL, &error), NIB_OK, "%s", error.message);
    struct nib_gguf *gguf;
    cr_assert_eq(nib_gguf_open(path, &gguf, &error), NIB_OK, "%s", error.message);
    enum nib_status status = nib_tokenizer_from_gguf(gguf, out, &error);
    nib_gguf_destroy(&gguf);
    return status;
}

Test(files, gguf)
{
    static const char *const TEXTS[] = {"a", "b", "ab", "<e>"};
    // The second and third merge can never happen.
    static const char *const MERGES[] = {"a b", "ab b", "x y", "nospace"};
    struct nib_tokenizer *tokenizer;
    cr_assert_eq(LOAD_GGUF("gpt2", TEXTS, 4, MERGES, 4, "llama-bpe", 3), NIB_OK, "%s",
                 error.message);
    struct nib_tokenizer_info info;
    nib_tokenizer_get_info(tokenizer, &info);
    cr_expect(info.eos == 3 && info.bos == -1 && info.add_bos && info.vocabulary == 4);
    int32_t *ids;
    size_t count;
    cr_assert_eq(
        nib_tokenizer_encode(tokenizer, (struct nib_text){"abb<e>", 6}, NULL, &ids, &count, &error),
        NIB_OK);
    cr_expect(count == 2 && ids[0] == 2 && ids[1] == 1);
    nib_ids_free(ids);
    nib_tokenizer_destroy(&tokenizer);

    cr_expect_eq(LOAD_GGUF(NULL, NULL, 0, NULL, 0, NULL, 0), NIB_OK);
    cr_expect_null(tokenizer);
    cr_expect_eq(LOAD_GGUF("no_vocab", NULL, 0, NULL, 0, NULL, 0), NIB_OK);
    cr_expect_null(tokenizer);
}

Test(files, gguf_refused)
{
    static const char *const TEXTS[] = {"a", "b", "ab"};
    static const char *const MERGES[] = {"a b"};
    struct nib_tokenizer *tokenizer;
    cr_expect_eq(LOAD_GGUF("rwkv", TEXTS, 3, MERGES, 1, NULL, 0), NIB_ERROR_UNSUPPORTED);
    cr_expect(strstr(error.message, "'rwkv'"), "%s", error.message);
    cr_expect_eq(LOAD_GGUF("gpt2", NULL, 0, MERGES, 1, NULL, 0), NIB_ERROR_FORMAT);
    cr_expect(strstr(error.message, "tokenizer.ggml.tokens is missing"), "%s", error.message);
    cr_expect_eq(LOAD_GGUF("gpt2", TEXTS, 3, NULL, 0, NULL, 0), NIB_ERROR_FORMAT);
    cr_expect(strstr(error.message, "tokenizer.ggml.merges is missing"), "%s", error.message);
    cr_expect_eq(LOAD_GGUF("gpt2", TEXTS, 3, MERGES, 1, "odd", 0), NIB_ERROR_UNSUPPORTED);
    cr_expect(strstr(error.message, "'odd'"), "%s", error.message);
    cr_expect_eq(LOAD_GGUF("gpt2", TEXTS, 3, MERGES, 1, NULL, 3), NIB_ERROR_FORMAT);
    cr_expect(strstr(error.message, "eos_token_id"), "%s", error.message);
    cr_expect_eq(LOAD_GGUF("llama", TEXTS, 3, NULL, 0, NULL, 0), NIB_ERROR_FORMAT);
    cr_expect(strstr(error.message, "tokenizer.ggml.scores is missing"), "%s", error.message);
    cr_expect_null(tokenizer);
}
