/// The tokenizers of the real models give the ids that Hugging Face's tokenizers and llama.cpp
/// give.
#include "runtime/base/os.h"
#include "runtime/formats/json.h"
#include "runtime/import/tokenizer_gguf.h"
#include "tests/unit/tokenizer/ids.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

static struct nib_error error;

static void expect_decoded(const struct nib_tokenizer *tokenizer, const int32_t *ids, size_t count,
                           struct nib_text text)
{
    struct nib_detokenizer *detokenizer;
    cr_assert_eq(nib_detokenizer_create(tokenizer, nib_detokenizer_params(.keep_special = true),
                                        &detokenizer, &error),
                 NIB_OK);
    size_t place = 0;
    for (size_t i = 0; i <= count; i++) {
        struct nib_text piece;
        enum nib_status status = i < count
                                     ? nib_detokenizer_push(detokenizer, ids[i], &piece, &error)
                                     : nib_detokenizer_finish(detokenizer, &piece, &error);
        cr_assert_eq(status, NIB_OK);
        cr_assert(place + piece.size <= text.size &&
                      (piece.size == 0 || memcmp(text.ptr + place, piece.ptr, piece.size) == 0),
                  "'%s' is not what was encoded", text.ptr);
        place += piece.size;
    }
    cr_expect_eq(place, text.size);
    nib_detokenizer_destroy(&detokenizer);
}

static void check_model(const char *model, const char *vectors)
{
    if (nib_path_kind(model) != NIB_PATH_FILE)
        cr_skip_test("the model has not been fetched (tools/fetch-model)");
    struct nib_gguf *gguf;
    struct nib_tokenizer *tokenizer;
    json_t *cases;
    cr_assert_eq(nib_gguf_open(model, &gguf, &error), NIB_OK, "%s", error.message);
    cr_assert_eq(nib_tokenizer_from_gguf(gguf, &tokenizer, &error), NIB_OK, "%s", error.message);
    nib_gguf_destroy(&gguf);
    cr_assert_eq(nib_json_open(NIB_TEST_DATA "/tokenizer", vectors, true, &cases, &error), NIB_OK,
                 "%s", error.message);
    size_t index;
    json_t *item;
    json_array_foreach(cases, index, item)
    {
        struct nib_text text;
        cr_assert(nib_json_get_text(item, "text", &text));
        const json_t *expected = json_object_get(item, "ids");
        int32_t *ids;
        size_t count;
        cr_assert_eq(nib_tokenizer_encode(tokenizer, text, nib_encode_params(.parse_special = true),
                                          &ids, &count, &error),
                     NIB_OK, "%s", error.message);
        cr_expect(ids_are(ids, count, expected), "%s %zu: '%s'", vectors, index, text.ptr);
        expect_decoded(tokenizer, ids, count, text);
        nib_ids_free(ids);
    }
    cr_expect_gt(index, 50);
    json_decref(cases);
    nib_tokenizer_destroy(&tokenizer);
}

Test(real, smollm2)
{
    check_model(NIB_MODELS "/SmolLM2-135M-Instruct.Q4_1.gguf", "smollm2.json");
}

Test(real, gemma3)
{
    check_model(NIB_MODELS "/gemma-3-270m-q4_k_m.gguf", "gemma3.json");
}

/// The first turn of the model's own template, with its default system text.
Test(real, smollm2_chat)
{
    static const char MODEL[] = NIB_MODELS "/SmolLM2-135M-Instruct.Q4_1.gguf";
    static const char RENDERED[] =
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging "
        "Face<|im_end|>\n<|im_start|>user\nHello!\n<|im_end|>\n<|im_start|>assistant\n";
    if (nib_path_kind(MODEL) != NIB_PATH_FILE)
        cr_skip_test("the model has not been fetched (tools/fetch-model)");
    struct nib_gguf *gguf;
    struct nib_tokenizer *tokenizer;
    cr_assert_eq(nib_gguf_open(MODEL, &gguf, &error), NIB_OK, "%s", error.message);
    cr_assert_eq(nib_tokenizer_from_gguf(gguf, &tokenizer, &error), NIB_OK, "%s", error.message);
    nib_gguf_destroy(&gguf);
    struct nib_tokenizer_info info;
    nib_tokenizer_get_info(tokenizer, &info);
    cr_expect_str_eq(info.chat_template, "chatml");
    cr_expect_str_eq(info.pre, "smollm");
    cr_expect(nib_tokenizer_is_end(tokenizer, info.eos));

    const struct nib_chat_message message = {NIB_CHAT_USER, {"Hello!\n", 7}};
    int32_t *ids[2];
    size_t counts[2];
    cr_assert_eq(
        nib_tokenizer_encode_chat(tokenizer, &message, 1, NULL, &ids[0], &counts[0], &error),
        NIB_OK, "%s", error.message);
    cr_assert_eq(nib_tokenizer_encode(tokenizer, (struct nib_text){RENDERED, sizeof RENDERED - 1},
                                      nib_encode_params(.parse_special = true), &ids[1], &counts[1],
                                      &error),
                 NIB_OK);
    cr_assert_eq(counts[0], counts[1]);
    cr_expect_eq(memcmp(ids[0], ids[1], counts[0] * sizeof ids[0][0]), 0);
    cr_expect_eq(ids[0][0], info.bos);
    nib_ids_free(ids[0]);
    nib_ids_free(ids[1]);
    nib_tokenizer_destroy(&tokenizer);
}
