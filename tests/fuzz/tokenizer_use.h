/// What the fuzzers do with a tokenizer that a file made.
#ifndef TESTS_FUZZ_TOKENIZER_USE_H
#define TESTS_FUZZ_TOKENIZER_USE_H

#include "runtime/base/utf8.h"
#include "runtime/tokenizer/tokenizer.h"

#include <stdlib.h>

static inline void use_require(bool holds)
{
    if (!holds)
        abort();
}

/// Encodes and decodes some text, and a conversation; the ids must be of the vocabulary, and what
/// comes out must be UTF-8.
static inline void use_tokenizer(const struct nib_tokenizer *tokenizer)
{
    static const char TEXT[] = " Hello, naïve world: 12345 is <s>not</s> 日本😀\xff\n\t  ab  abb\0";
    struct nib_error error;
    struct nib_tokenizer_info info;
    nib_tokenizer_get_info(tokenizer, &info);
    const struct nib_chat_message message = {NIB_CHAT_USER, {TEXT, sizeof TEXT - 1}};
    for (int round = 0; round < 3; round++) {
        int32_t *ids;
        size_t count;
        enum nib_status status =
            round < 2
                ? nib_tokenizer_encode(tokenizer, message.text,
                                       nib_encode_params(.parse_special = round, .add_bos = true),
                                       &ids, &count, &error)
                : nib_tokenizer_encode_chat(tokenizer, &message, 1, NULL, &ids, &count, &error);
        if (status != NIB_OK)
            continue;
        struct nib_detokenizer *detokenizer;
        struct nib_text piece;
        use_require(nib_detokenizer_create(tokenizer,
                                           nib_detokenizer_params(.keep_special = round == 1),
                                           &detokenizer, &error) == NIB_OK);
        for (size_t i = 0; i < count; i++) {
            use_require(ids[i] >= 0 && (uint32_t)ids[i] < info.vocabulary);
            use_require(nib_detokenizer_push(detokenizer, ids[i], &piece, &error) == NIB_OK);
            use_require(piece.size == 0 || nib_utf8_valid(piece.ptr, piece.size));
            (void)nib_tokenizer_is_end(tokenizer, ids[i]);
        }
        use_require(nib_detokenizer_finish(detokenizer, &piece, &error) == NIB_OK);
        nib_detokenizer_destroy(&detokenizer);
        nib_ids_free(ids);
    }
}

#endif
