#include "runtime/import/tokenizer_write.h"

#include "runtime/base/buffer.h"
#include "runtime/base/status.h"
#include "runtime/base/string_map.h"
#include "runtime/base/utf8.h"
#include "runtime/tokenizer/tokenizer.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define SPACE_MARK "\xe2\x96\x81"

// jansson frees what cannot be added and passes a NULL on as a failure, so that one look at the end
// finds whether memory was enough; `failed` keeps it.

/// What is written.
struct writer {
    const struct nib_vocab *vocab;
    struct nib_buffer key; ///< of set_text
    bool failed;
};

static void set(struct writer *writer, json_t *object, const char *key, json_t *value)
{
    writer->failed |= json_object_set_new(object, key, value) != 0;
}

/// As set; jansson 2.13 wants keys that are terminated.
static void set_text(struct writer *writer, json_t *object, struct nib_text key, json_t *value)
{
    writer->key.size = 0;
    writer->failed |= nib_buffer_append(&writer->key, key.ptr, key.size, NULL) != NIB_OK;
    set(writer, object, writer->key.size ? writer->key.data : "", value);
}

static void append(struct writer *writer, json_t *array, json_t *value)
{
    writer->failed |= json_array_append_new(array, value) != 0;
}

static json_t *text_json(struct nib_text text)
{
    return json_stringn(text.ptr, text.size);
}

static const struct nib_vocab_token *token_of(const struct writer *writer, int32_t id)
{
    return id >= 0 ? &writer->vocab->tokens[id] : NULL;
}

/// Returns {"type": type}.
static json_t *typed(struct writer *writer, const char *type)
{
    json_t *object = json_object();
    set(writer, object, "type", json_string(type));
    return object;
}

static json_t *sequence(struct writer *writer, const char *key, json_t *list)
{
    json_t *object = typed(writer, "Sequence");
    set(writer, object, key, list);
    return object;
}

static json_t *replace(struct writer *writer, const char *from, const char *to)
{
    json_t *object = typed(writer, "Replace");
    json_t *pattern = json_object();
    set(writer, pattern, "String", json_string(from));
    set(writer, object, "pattern", pattern);
    set(writer, object, "content", json_string(to));
    return object;
}

static json_t *byte_level(struct writer *writer, bool prefix, bool splits)
{
    json_t *object = typed(writer, "ByteLevel");
    set(writer, object, "add_prefix_space", json_boolean(prefix));
    set(writer, object, "trim_offsets", json_true());
    set(writer, object, "use_regex", json_boolean(splits));
    return object;
}

static bool is_byte_level(const struct writer *writer)
{
    return writer->vocab->model == NIB_VOCAB_BPE;
}

static json_t *added_tokens(struct writer *writer)
{
    json_t *list = json_array();
    for (uint32_t i = 0; i < writer->vocab->n_tokens; i++) {
        const struct nib_vocab_token *token = &writer->vocab->tokens[i];
        const bool is_special =
            token->type == NIB_TOKEN_CONTROL || token->type == NIB_TOKEN_UNKNOWN;
        if (!is_special && token->type != NIB_TOKEN_USER_DEFINED)
            continue;
        json_t *entry = json_object();
        set(writer, entry, "id", json_integer(i));
        set(writer, entry, "content", text_json(token->text));
        set(writer, entry, "single_word", json_boolean(token->flags & NIB_TOKEN_SINGLE_WORD));
        set(writer, entry, "lstrip", json_boolean(token->flags & NIB_TOKEN_STRIP_LEFT));
        set(writer, entry, "rstrip", json_boolean(token->flags & NIB_TOKEN_STRIP_RIGHT));
        set(writer, entry, "normalized", json_boolean(token->flags & NIB_TOKEN_NORMALIZED));
        set(writer, entry, "special", json_boolean(is_special));
        append(writer, list, entry);
    }
    return list;
}

static json_t *normalizer(struct writer *writer)
{
    static const char *const forms[] = {[NIB_NORMAL_NFC] = "NFC",
                                        [NIB_NORMAL_NFD] = "NFD",
                                        [NIB_NORMAL_NFKC] = "NFKC",
                                        [NIB_NORMAL_NFKD] = "NFKD"};
    const struct nib_vocab *vocab = writer->vocab;
    if (is_byte_level(writer)) {
        const enum nib_normal_form form = nib_pretokenizer_find(vocab->pre)->normal_form;
        return form == NIB_NORMAL_NONE ? json_null() : typed(writer, forms[form]);
    }
    json_t *list = json_array();
    if (vocab->space_prefix != NIB_SPACE_PREFIX_NONE) {
        json_t *prepend = typed(writer, "Prepend");
        set(writer, prepend, "prepend", json_string(SPACE_MARK));
        append(writer, list, prepend);
    }
    append(writer, list, replace(writer, " ", SPACE_MARK));
    return sequence(writer, "normalizers", list);
}

static json_t *pre_tokenizer(struct writer *writer)
{
    static const char *const behaviors[] = {[NIB_SPLIT_ISOLATE] = "Isolated",
                                            [NIB_SPLIT_REMOVE] = "Removed",
                                            [NIB_SPLIT_MERGE_PREVIOUS] = "MergedWithPrevious",
                                            [NIB_SPLIT_MERGE_NEXT] = "MergedWithNext",
                                            [NIB_SPLIT_CONTIGUOUS] = "Contiguous"};
    if (!is_byte_level(writer))
        return json_null();
    const struct nib_pretokenizer *family = nib_pretokenizer_find(writer->vocab->pre);
    json_t *list = json_array();
    for (uint32_t i = 0; i < family->n_splits; i++) {
        json_t *split = typed(writer, "Split");
        json_t *pattern = json_object();
        set(writer, pattern, "Regex", text_json(family->splits[i].pattern));
        set(writer, split, "pattern", pattern);
        set(writer, split, "behavior", json_string(behaviors[family->splits[i].kind]));
        set(writer, split, "invert", json_boolean(family->splits[i].invert));
        append(writer, list, split);
    }
    append(writer, list, byte_level(writer, false, false));
    return sequence(writer, "pretokenizers", list);
}

static json_t *template_part(struct writer *writer, const char *kind, struct nib_text id, int type)
{
    json_t *part = json_object();
    json_t *inner = json_object();
    set(writer, inner, "id", text_json(id));
    set(writer, inner, "type_id", json_integer(type));
    set(writer, part, kind, inner);
    return part;
}

/// Puts BOS first, where the model wants that.
static json_t *post_processor(struct writer *writer)
{
    const struct nib_vocab_token *bos = token_of(writer, writer->vocab->bos);
    static const struct nib_text first = {"A", 1}, second = {"B", 1};
    if (!writer->vocab->add_bos || !bos)
        return is_byte_level(writer) ? byte_level(writer, true, true) : json_null();
    json_t *object = typed(writer, "TemplateProcessing");
    json_t *single = json_array(), *pair = json_array(), *specials = json_object();
    json_t *special = json_object(), *ids = json_array(), *tokens = json_array();
    append(writer, single, template_part(writer, "SpecialToken", bos->text, 0));
    append(writer, single, template_part(writer, "Sequence", first, 0));
    append(writer, pair, template_part(writer, "SpecialToken", bos->text, 0));
    append(writer, pair, template_part(writer, "Sequence", first, 0));
    append(writer, pair, template_part(writer, "SpecialToken", bos->text, 1));
    append(writer, pair, template_part(writer, "Sequence", second, 1));
    append(writer, ids, json_integer(writer->vocab->bos));
    append(writer, tokens, text_json(bos->text));
    set(writer, special, "id", text_json(bos->text));
    set(writer, special, "ids", ids);
    set(writer, special, "tokens", tokens);
    set_text(writer, specials, bos->text, special);
    set(writer, object, "single", single);
    set(writer, object, "pair", pair);
    set(writer, object, "special_tokens", specials);
    return object;
}

static json_t *decoder(struct writer *writer)
{
    if (is_byte_level(writer))
        return byte_level(writer, true, true);
    json_t *list = json_array();
    append(writer, list, replace(writer, SPACE_MARK, " "));
    append(writer, list, typed(writer, "ByteFallback"));
    append(writer, list, typed(writer, "Fuse"));
    if (writer->vocab->drops_first_space) {
        json_t *strip = typed(writer, "Strip");
        set(writer, strip, "content", json_string(" "));
        set(writer, strip, "start", json_integer(1));
        set(writer, strip, "stop", json_integer(0));
        append(writer, list, strip);
    }
    return sequence(writer, "decoders", list);
}

/// Adds a merge as "a b", which all versions of the reader know, or as a pair where a part has a
/// space.
static enum nib_status add_merge(struct writer *writer, json_t *list, struct nib_text left,
                                 struct nib_text right, struct nib_buffer *joined,
                                 struct nib_error *err)
{
    enum nib_status status = NIB_OK;
    if (memchr(left.ptr, ' ', left.size) || memchr(right.ptr, ' ', right.size)) {
        json_t *pair = json_array();
        append(writer, pair, text_json(left));
        append(writer, pair, text_json(right));
        append(writer, list, pair);
        return NIB_OK;
    }
    joined->size = 0;
    NIB_TRY(nib_buffer_append(joined, left.ptr, left.size, err));
    NIB_TRY(nib_buffer_append(joined, " ", 1, err));
    NIB_TRY(nib_buffer_append(joined, right.ptr, right.size, err));
    append(writer, list, json_stringn(joined->data, joined->size));
fail:
    return status;
}

/// A token of a SentencePiece vocabulary, to be sorted: the best score first.
struct scored {
    float score;
    uint32_t id;
};

static int compare_scored(const void *a, const void *b)
{
    const struct scored *x = a, *y = b;
    if (x->score != y->score)
        return x->score > y->score ? -1 : 1;
    return x->id < y->id ? -1 : x->id > y->id;
}

/// Adds the merges of all pairs of tokens that make `text`.
static enum nib_status add_splits(struct writer *writer, json_t *list,
                                  const struct nib_string_map *by_text, struct nib_text text,
                                  struct nib_buffer *joined, struct nib_error *err)
{
    enum nib_status status = NIB_OK;
    uint32_t id;
    for (size_t cut = 1; cut < text.size; cut++) {
        const struct nib_text left = {text.ptr, cut};
        const struct nib_text right = {text.ptr + cut, text.size - cut};
        if (((unsigned char)text.ptr[cut] & 0xc0) == 0x80)
            continue; // within a character
        if (nib_string_map_find(by_text, left, &id) && nib_string_map_find(by_text, right, &id))
            NIB_TRY(add_merge(writer, list, left, right, joined, err));
    }
fail:
    return status;
}

/// SentencePiece merges the neighbours whose join has the best score; ranks in the order of the
/// scores do the same.
static enum nib_status scored_merges(struct writer *writer, json_t *list, struct nib_error *err)
{
    enum nib_status status = NIB_OK;
    const struct nib_vocab *vocab = writer->vocab;
    struct nib_string_map by_text = {0};
    struct nib_buffer joined = {0};
    uint32_t n = 0;
    struct scored *order = calloc(vocab->n_tokens, sizeof *order);
    if (!order)
        NIB_TRY(nib_fail_memory(err));
    NIB_TRY(nib_string_map_reserve(&by_text, vocab->n_tokens, err));
    for (uint32_t i = 0; i < vocab->n_tokens; i++) {
        if (vocab->tokens[i].type != NIB_TOKEN_NORMAL)
            continue;
        order[n++] = (struct scored){vocab->tokens[i].score, i};
        NIB_TRY(nib_string_map_add(&by_text, vocab->tokens[i].text, i, NULL, err));
    }
    qsort(order, n, sizeof *order, compare_scored);
    for (uint32_t i = 0; i < n; i++)
        NIB_TRY(add_splits(writer, list, &by_text, vocab->tokens[order[i].id].text, &joined, err));
fail:
    nib_buffer_free(&joined);
    nib_string_map_free(&by_text);
    free(order);
    return status;
}

static enum nib_status ranked_merges(struct writer *writer, json_t *list, struct nib_error *err)
{
    enum nib_status status = NIB_OK;
    const struct nib_vocab *vocab = writer->vocab;
    struct nib_buffer joined = {0};
    for (uint32_t i = 0; i < vocab->n_merges; i++)
        NIB_TRY(add_merge(writer, list, vocab->tokens[vocab->merges[i].left].text,
                          vocab->tokens[vocab->merges[i].right].text, &joined, err));
fail:
    nib_buffer_free(&joined);
    return status;
}

static enum nib_status write_model(struct writer *writer, json_t *root, struct nib_error *err)
{
    const struct nib_vocab *vocab = writer->vocab;
    const struct nib_vocab_token *unknown = token_of(writer, vocab->unknown);
    json_t *model = typed(writer, "BPE"), *tokens = json_object(), *merges = json_array();
    set(writer, model, "dropout", json_null());
    set(writer, model, "unk_token", unknown ? text_json(unknown->text) : json_null());
    set(writer, model, "continuing_subword_prefix", json_null());
    set(writer, model, "end_of_word_suffix", json_null());
    set(writer, model, "fuse_unk", json_boolean(!is_byte_level(writer)));
    set(writer, model, "byte_fallback", json_boolean(vocab->byte_fallback));
    set(writer, model, "ignore_merges", json_boolean(vocab->ignore_merges));
    for (uint32_t i = 0; i < vocab->n_tokens; i++)
        set_text(writer, tokens, vocab->tokens[i].text, json_integer(i));
    set(writer, model, "vocab", tokens);
    const enum nib_status status = is_byte_level(writer) ? ranked_merges(writer, merges, err)
                                                         : scored_merges(writer, merges, err);
    set(writer, model, "merges", merges);
    set(writer, root, "model", model);
    return status;
}

static void write_config(struct writer *writer, uint32_t context, json_t *config)
{
    const struct nib_vocab *vocab = writer->vocab;
    const struct {
        const char *key;
        int32_t id;
    } named[] = {
        {"bos_token", vocab->bos}, {"eos_token", vocab->eos}, {"unk_token", vocab->unknown}};
    for (size_t i = 0; i < sizeof named / sizeof named[0]; i++) {
        const struct nib_vocab_token *token = token_of(writer, named[i].id);
        if (token)
            set(writer, config, named[i].key, text_json(token->text));
    }
    if (vocab->chat_template.size > 0)
        set(writer, config, "chat_template", text_json(vocab->chat_template));
    set(writer, config, "clean_up_tokenization_spaces", json_false());
    set(writer, config, "model_max_length", json_integer(context));
    set(writer, config, "tokenizer_class", json_string("PreTrainedTokenizerFast"));
}

/// Whether all that is written is text.
static enum nib_status check_texts(const struct nib_vocab *vocab, struct nib_error *err)
{
    for (uint32_t i = 0; i < vocab->n_tokens; i++) {
        const struct nib_text text = vocab->tokens[i].text;
        if (!nib_utf8_valid(text.ptr, text.size) || memchr(text.ptr, 0, text.size))
            return nib_fail(err, NIB_ERROR_UNSUPPORTED,
                            "token %" PRIu32 " is no text that tokenizer.json can hold", i);
    }
    if (!nib_utf8_valid(vocab->chat_template.ptr, vocab->chat_template.size))
        return nib_fail(err, NIB_ERROR_UNSUPPORTED, "the chat template is no UTF-8 text");
    return NIB_OK;
}

enum nib_status nib_tokenizer_to_files(const struct nib_vocab *vocab, uint32_t context,
                                       json_t **out_tokenizer, json_t **out_config,
                                       struct nib_error *err)
{
    struct writer writer = {.vocab = vocab};
    json_t *root = json_object(), *config = json_object();
    enum nib_status status = NIB_OK;
    *out_tokenizer = *out_config = NULL;
    if (vocab->model != NIB_VOCAB_SPM &&
        (vocab->model != NIB_VOCAB_BPE || !vocab->pre || !nib_pretokenizer_find(vocab->pre)))
        NIB_TRY(nib_fail(err, NIB_ERROR_UNSUPPORTED,
                         "a tokenizer of this kind cannot be written as tokenizer.json; take the "
                         "model's own Hugging Face folder as the source"));
    NIB_TRY(check_texts(vocab, err));
    set(&writer, root, "version", json_string("1.0"));
    set(&writer, root, "truncation", json_null());
    set(&writer, root, "padding", json_null());
    set(&writer, root, "added_tokens", added_tokens(&writer));
    set(&writer, root, "normalizer", normalizer(&writer));
    set(&writer, root, "pre_tokenizer", pre_tokenizer(&writer));
    set(&writer, root, "post_processor", post_processor(&writer));
    set(&writer, root, "decoder", decoder(&writer));
    NIB_TRY(write_model(&writer, root, err));
    write_config(&writer, context, config);
    if (writer.failed)
        NIB_TRY(nib_fail_memory(err));
    *out_tokenizer = root;
    *out_config = config;
fail:
    nib_buffer_free(&writer.key);
    if (status != NIB_OK) {
        json_decref(root);
        json_decref(config);
    }
    return status;
}
