#include "runtime/tokenizer/tokenizer.h"

#include "runtime/base/status.h"
#include "runtime/base/utf8.h"
#include "runtime/tokenizer/chat_family.h"
#include "runtime/tokenizer/internal.h"

#include <stdlib.h>
#include <string.h>

/// Bytes of a token's text; the longest in use are some hundreds of spaces. It bounds the work of
/// looking for tokens at each place of a text.
enum { MAX_TOKEN_SIZE = 4096 };

/// SentencePiece's penalty of an unknown character against the lowest score.
static const float UNKNOWN_PENALTY = 10.0f;

/// Tokens that end a turn or a text in the chat formats in use; files name only one or two of them.
static const char *const END_TEXTS[] = {
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<end_of_turn>",
    "<|eom_id|>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<|END_OF_TURN_TOKEN|>",
    "<|return|>",
    "<|end_of_turn|>",
    "<|EOT|>",
    "<EOT>",
    "<｜end▁of▁sentence｜>",
};
enum { N_END_TEXTS = sizeof END_TEXTS / sizeof END_TEXTS[0] };

/// Fills the inverse of GPT-2's map from bytes to printable characters: Latin-1's printable ones
/// stand for themselves, the others for U+0100 and on, in order.
static void fill_byte_characters(int16_t bytes[512])
{
    for (size_t i = 0; i < 512; i++)
        bytes[i] = -1;
    int next = 256;
    for (int byte = 0; byte < 256; byte++) {
        bool printable = (byte >= '!' && byte <= '~') || (byte >= 0xa1 && byte != 0xad);
        bytes[printable ? byte : next++] = (int16_t)byte;
    }
}

/// Writes the bytes that `text` stands for to `out`, which has room for text.size, and returns
/// their number; 0 where a character stands for no byte.
static size_t decode_byte_characters(const int16_t bytes[512], struct nib_text text, char *out)
{
    size_t size = 0;
    for (size_t i = 0; i < text.size;) {
        uint32_t c;
        bool valid;
        i += nib_utf8_decode(text.ptr + i, text.size - i, &c, &valid);
        if (!valid || c >= 512 || bytes[c] < 0)
            return 0;
        out[size++] = (char)bytes[c];
    }
    return size;
}

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    return -1;
}

/// Parses "<0x0A>".
static bool parse_byte_token(struct nib_text text, uint8_t *out_byte)
{
    if (text.size != 6 || memcmp(text.ptr, "<0x", 3) != 0 || text.ptr[5] != '>')
        return false;
    int high = hex_digit(text.ptr[3]);
    int low = hex_digit(text.ptr[4]);
    if (high < 0 || low < 0)
        return false;
    *out_byte = (uint8_t)(high * 16 + low);
    return true;
}

static enum nib_status check_id(int32_t id, uint32_t n_tokens, const char *what,
                                struct nib_error *err)
{
    if (id >= -1 && (id < 0 || (uint32_t)id < n_tokens))
        return NIB_OK;
    return nib_fail(err, NIB_ERROR_FORMAT, "%s token id %d is not in the vocabulary of %u", what,
                    id, n_tokens);
}

static enum nib_status check_vocab(const struct nib_vocab *vocab, struct nib_error *err)
{
    enum nib_status status = NIB_OK;
    uint32_t n = vocab->n_tokens;
    if (n == 0 || n > INT32_MAX)
        return nib_fail(err, NIB_ERROR_FORMAT, "vocabulary of %u tokens", n);
    NIB_TRY(check_id(vocab->bos, n, "BOS", err));
    NIB_TRY(check_id(vocab->eos, n, "EOS", err));
    NIB_TRY(check_id(vocab->unknown, n, "unknown", err));
    for (uint32_t i = 0; i < vocab->n_ends; i++) {
        if (vocab->ends[i] < 0)
            NIB_TRY(nib_fail(err, NIB_ERROR_FORMAT, "end token id %d", vocab->ends[i]));
        NIB_TRY(check_id(vocab->ends[i], n, "end", err));
    }
    for (uint32_t i = 0; i < n; i++)
        if (vocab->tokens[i].text.size > MAX_TOKEN_SIZE)
            NIB_TRY(nib_fail(err, NIB_ERROR_FORMAT, "token %u has %zu bytes, more than %d", i,
                             vocab->tokens[i].text.size, MAX_TOKEN_SIZE));
    for (uint32_t i = 0; i < vocab->n_merges; i++) {
        const struct nib_vocab_merge *merge = &vocab->merges[i];
        if ((uint32_t)merge->left >= n || (uint32_t)merge->right >= n ||
            (uint32_t)merge->result >= n)
            NIB_TRY(
                nib_fail(err, NIB_ERROR_FORMAT, "merge %u names a token id outside of %u", i, n));
    }
fail:
    return status;
}

bool nib_vocab_token_is_end(const struct nib_vocab_token *token)
{
    struct nib_text text = token->text;
    for (size_t i = 0; i < N_END_TEXTS && token->added; i++)
        if (text.size == strlen(END_TEXTS[i]) && memcmp(text.ptr, END_TEXTS[i], text.size) == 0)
            return true;
    return false;
}

/// Makes a token that has a meaning of its own one that plain text cannot become.
static void make_control(struct nib_token *token)
{
    if (token->type == NIB_TOKEN_NORMAL || token->type == NIB_TOKEN_USER_DEFINED) {
        token->type = NIB_TOKEN_CONTROL;
        token->added = true;
    }
}

/// Lists the tokens that end generation, each at least once, and makes them and BOS control tokens.
static enum nib_status mark_ends(struct nib_tokenizer *tokenizer, const struct nib_vocab *vocab,
                                 struct nib_error *err)
{
    tokenizer->ends = nib_arena_array(&tokenizer->arena, (size_t)vocab->n_ends + 1 + N_END_TEXTS,
                                      sizeof *tokenizer->ends);
    if (!tokenizer->ends)
        return nib_fail_memory(err);
    if (vocab->n_ends)
        memcpy(tokenizer->ends, vocab->ends, vocab->n_ends * sizeof *tokenizer->ends);
    tokenizer->n_ends = vocab->n_ends;
    if (vocab->eos >= 0)
        tokenizer->ends[tokenizer->n_ends++] = vocab->eos;

    uint32_t n_found = 0;
    for (uint32_t i = 0; i < vocab->n_tokens && n_found < N_END_TEXTS; i++) {
        if (nib_vocab_token_is_end(&vocab->tokens[i])) {
            tokenizer->ends[tokenizer->n_ends++] = (int32_t)i;
            n_found++;
        }
    }
    for (uint32_t i = 0; i < tokenizer->n_ends; i++)
        make_control(&tokenizer->tokens[tokenizer->ends[i]]);
    if (vocab->bos >= 0)
        make_control(&tokenizer->tokens[vocab->bos]);
    return NIB_OK;
}

/// Copies the tokens' texts, those of a byte-level vocabulary as bytes. One with characters that
/// stand for no byte is plain text, which can only be decoded.
static enum nib_status copy_texts(struct nib_tokenizer *tokenizer, const struct nib_vocab *vocab,
                                  struct nib_error *err)
{
    int16_t bytes[512];
    fill_byte_characters(bytes);
    size_t total = 0;
    for (uint32_t i = 0; i < vocab->n_tokens; i++)
        total += vocab->tokens[i].text.size;
    char *text = nib_arena_alloc(&tokenizer->arena, total ? total : 1);
    if (!text)
        return nib_fail_memory(err);

    for (uint32_t i = 0; i < vocab->n_tokens; i++) {
        const struct nib_vocab_token *from = &vocab->tokens[i];
        struct nib_token *to = &tokenizer->tokens[i];
        bool is_special = to->type == NIB_TOKEN_CONTROL || to->type == NIB_TOKEN_UNKNOWN;
        bool in_bytes = vocab->model == NIB_VOCAB_BPE && !to->added && !is_special;
        size_t size = in_bytes ? decode_byte_characters(bytes, from->text, text) : 0;
        if (size == 0) {
            size = from->text.size;
            if (size)
                memcpy(text, from->text.ptr, size);
            to->added = to->added || in_bytes;
        }
        to->text = (struct nib_text){text, size};
        if (to->type == NIB_TOKEN_BYTE && !parse_byte_token(from->text, &to->byte))
            to->type = NIB_TOKEN_UNUSED;
        text += to->text.size;
    }
    return NIB_OK;
}

static enum nib_status copy_tokens(struct nib_tokenizer *tokenizer, const struct nib_vocab *vocab,
                                   struct nib_error *err)
{
    tokenizer->tokens =
        nib_arena_array(&tokenizer->arena, vocab->n_tokens, sizeof *tokenizer->tokens);
    if (!tokenizer->tokens)
        return nib_fail_memory(err);
    tokenizer->n_tokens = vocab->n_tokens;
    for (uint32_t i = 0; i < vocab->n_tokens; i++) {
        const struct nib_vocab_token *from = &vocab->tokens[i];
        tokenizer->tokens[i] = (struct nib_token){
            .score = from->score, .type = from->type, .flags = from->flags, .added = from->added};
    }
    enum nib_status status = mark_ends(tokenizer, vocab, err);
    return status == NIB_OK ? copy_texts(tokenizer, vocab, err) : status;
}

/// Returns whether plain text can become the token by merging or scoring.
static bool is_piece(const struct nib_tokenizer *tokenizer, const struct nib_token *token)
{
    if (token->text.size == 0)
        return false;
    if (tokenizer->model == NIB_VOCAB_BPE && token->added)
        return false;
    return token->type == NIB_TOKEN_NORMAL || token->type == NIB_TOKEN_USER_DEFINED;
}

static enum nib_status index_pieces(struct nib_tokenizer *tokenizer, struct nib_error *err)
{
    enum nib_status status = NIB_OK;
    struct nib_prefix_entry *entries = NULL;
    uint32_t n_entries = 0;
    float lowest = 0.0f;
    for (size_t i = 0; i < 256; i++)
        tokenizer->byte_ids[i] = -1;
    NIB_TRY(nib_string_map_reserve(&tokenizer->by_text, tokenizer->n_tokens, err));
    if (tokenizer->model == NIB_VOCAB_UNIGRAM) {
        entries = nib_arena_array(&tokenizer->arena, tokenizer->n_tokens, sizeof *entries);
        if (!entries)
            NIB_TRY(nib_fail_memory(err));
    }
    for (uint32_t i = 0; i < tokenizer->n_tokens; i++) {
        const struct nib_token *token = &tokenizer->tokens[i];
        if (token->type == NIB_TOKEN_BYTE && tokenizer->model != NIB_VOCAB_BPE &&
            tokenizer->byte_ids[token->byte] < 0)
            tokenizer->byte_ids[token->byte] = (int32_t)i;
        if (!is_piece(tokenizer, token))
            continue;
        NIB_TRY(nib_string_map_add(&tokenizer->by_text, token->text, i, NULL, err));
        if (token->text.size > tokenizer->longest_text)
            tokenizer->longest_text = token->text.size;
        if (tokenizer->model == NIB_VOCAB_BPE && token->text.size == 1 &&
            tokenizer->byte_ids[(uint8_t)token->text.ptr[0]] < 0)
            tokenizer->byte_ids[(uint8_t)token->text.ptr[0]] = (int32_t)i;
        if (entries) {
            entries[n_entries++] = (struct nib_prefix_entry){token->text, (int32_t)i};
            if (token->score < lowest)
                lowest = token->score;
        }
    }
    nib_prefix_index_build(&tokenizer->pieces, entries, n_entries);
    tokenizer->unknown_score = lowest - UNKNOWN_PENALTY;
fail:
    return status;
}

/// Sets `*text`, which is UTF-8, to what it becomes in normalized text.
static enum nib_status normalize_added(struct nib_tokenizer *tokenizer, struct nib_text *text,
                                       struct nib_error *err)
{
    struct nib_buffer normalized = {0};
    enum nib_status status = NIB_OK;
    NIB_TRY(nib_normalize(tokenizer, *text, &normalized, err));
    const char *copy =
        nib_arena_text(&tokenizer->arena, nib_buffer_text(&normalized).ptr, normalized.size);
    if (!copy)
        NIB_TRY(nib_fail_memory(err));
    *text = (struct nib_text){copy, normalized.size};
fail:
    nib_buffer_free(&normalized);
    return status;
}

/// Returns whether the token is looked for in text. One that is not UTF-8 is not: it could only be
/// found within a character, and what is left of that is not text.
static bool is_added(const struct nib_token *token, bool normalized)
{
    bool found = token->type == NIB_TOKEN_CONTROL || token->type == NIB_TOKEN_UNKNOWN ||
                 token->type == NIB_TOKEN_USER_DEFINED;
    return found && normalized == ((token->flags & NIB_TOKEN_NORMALIZED) != 0) &&
           nib_utf8_valid(token->text.ptr, token->text.size);
}

/// Builds one of the two indexes of added tokens.
static enum nib_status index_added(struct nib_tokenizer *tokenizer, bool normalized,
                                   struct nib_prefix_index *index, struct nib_error *err)
{
    enum nib_status status = NIB_OK;
    uint32_t count = 0;
    for (uint32_t i = 0; i < tokenizer->n_tokens; i++)
        count += is_added(&tokenizer->tokens[i], normalized);
    struct nib_prefix_entry *entries =
        nib_arena_array(&tokenizer->arena, count ? count : 1, sizeof *entries);
    if (!entries)
        return nib_fail_memory(err);
    count = 0;
    for (uint32_t i = 0; i < tokenizer->n_tokens; i++) {
        if (!is_added(&tokenizer->tokens[i], normalized))
            continue;
        struct nib_prefix_entry *entry = &entries[count++];
        *entry = (struct nib_prefix_entry){tokenizer->tokens[i].text, (int32_t)i};
        if (normalized && nib_normalizes(tokenizer))
            NIB_TRY(normalize_added(tokenizer, &entry->text, err));
    }
    nib_prefix_index_build(index, entries, count);
fail:
    return status;
}

/// Copies the merges but for those whose result plain text must not become.
static enum nib_status copy_merges(struct nib_tokenizer *tokenizer, const struct nib_vocab *vocab,
                                   struct nib_error *err)
{
    if (vocab->n_merges == 0)
        return NIB_OK;
    struct nib_vocab_merge *merges =
        nib_arena_array(&tokenizer->arena, vocab->n_merges, sizeof *merges);
    if (!merges)
        return nib_fail_memory(err);
    uint32_t count = 0;
    for (uint32_t i = 0; i < vocab->n_merges; i++) {
        uint8_t type = tokenizer->tokens[vocab->merges[i].result].type;
        if (type == NIB_TOKEN_NORMAL || type == NIB_TOKEN_USER_DEFINED)
            merges[count++] = vocab->merges[i];
    }
    return nib_merge_table_build(&tokenizer->merges, &tokenizer->arena, merges, count, err);
}

static enum nib_status compile_splits(struct nib_tokenizer *tokenizer,
                                      const struct nib_vocab_split *splits, uint32_t n_splits,
                                      struct nib_error *err)
{
    enum nib_status status = NIB_OK;
    if (n_splits == 0)
        return NIB_OK;
    tokenizer->splits = nib_arena_array(&tokenizer->arena, n_splits, sizeof *tokenizer->splits);
    if (!tokenizer->splits)
        return nib_fail_memory(err);
    for (uint32_t i = 0; i < n_splits; i++) {
        struct nib_pattern_step *step = &tokenizer->splits[i];
        *step = (struct nib_pattern_step){NULL, splits[i].kind, splits[i].invert};
        NIB_TRY(nib_pattern_compile(splits[i].pattern, &step->pattern, err));
        tokenizer->n_splits = i + 1;
    }
fail:
    return status;
}

/// Copies the settings that are not arrays, and takes over those of the pre-tokenizer's family.
static enum nib_status copy_settings(struct nib_tokenizer *tokenizer, const struct nib_vocab *vocab,
                                     struct nib_error *err)
{
    tokenizer->model = vocab->model;
    tokenizer->remove_extra_spaces = vocab->remove_extra_spaces;
    tokenizer->normal_form = vocab->normal_form;
    tokenizer->lowercase = vocab->lowercase;
    tokenizer->space_prefix = vocab->space_prefix;
    tokenizer->space_prefix_first_only = vocab->space_prefix_first_only;
    tokenizer->escape_spaces = vocab->escape_spaces;
    tokenizer->drops_first_space = vocab->drops_first_space;
    tokenizer->byte_fallback = vocab->byte_fallback;
    tokenizer->fuse_unknown = vocab->fuse_unknown;
    tokenizer->ignore_merges = vocab->ignore_merges;
    tokenizer->add_bos = vocab->add_bos;
    tokenizer->bos = vocab->bos;
    tokenizer->eos = vocab->eos;
    tokenizer->unknown = vocab->unknown;
    tokenizer->pre = "";

    if (!vocab->pre)
        return compile_splits(tokenizer, vocab->splits, vocab->n_splits, err);

    const struct nib_pretokenizer *family = nib_pretokenizer_find(vocab->pre);
    if (!family)
        return nib_fail(err, NIB_ERROR_UNSUPPORTED, "unknown pre-tokenizer '%s'", vocab->pre);
    tokenizer->pre = nib_arena_text(&tokenizer->arena, vocab->pre, strlen(vocab->pre));
    if (!tokenizer->pre)
        return nib_fail_memory(err);
    if (vocab->normal_form == NIB_NORMAL_NONE)
        tokenizer->normal_form = family->normal_form;
    return compile_splits(tokenizer, family->splits, family->n_splits, err);
}

enum nib_status nib_tokenizer_create(const struct nib_vocab *vocab,
                                     struct nib_tokenizer **out_tokenizer, struct nib_error *err)
{
    *out_tokenizer = NULL;
    enum nib_status status = NIB_OK;
    struct nib_tokenizer *tokenizer = calloc(1, sizeof *tokenizer);
    if (!tokenizer)
        return nib_fail_memory(err);
    NIB_TRY(check_vocab(vocab, err));
    NIB_TRY(copy_settings(tokenizer, vocab, err));
    NIB_TRY(copy_tokens(tokenizer, vocab, err));
    NIB_TRY(index_pieces(tokenizer, err));
    NIB_TRY(index_added(tokenizer, false, &tokenizer->added, err));
    NIB_TRY(index_added(tokenizer, true, &tokenizer->added_normalized, err));
    NIB_TRY(copy_merges(tokenizer, vocab, err));
    NIB_TRY(nib_chat_recognise(tokenizer, vocab->chat_template, err));
    *out_tokenizer = tokenizer;
    return NIB_OK;
fail:
    nib_tokenizer_destroy(&tokenizer);
    return status;
}

void nib_tokenizer_destroy(struct nib_tokenizer **tokenizer)
{
    if (!*tokenizer)
        return;
    for (uint32_t i = 0; i < (*tokenizer)->n_splits; i++)
        nib_pattern_destroy(&(*tokenizer)->splits[i].pattern);
    nib_string_map_free(&(*tokenizer)->by_text);
    nib_arena_free(&(*tokenizer)->arena);
    free(*tokenizer);
    *tokenizer = NULL;
}

bool nib_tokenizer_is_end(const struct nib_tokenizer *tokenizer, int32_t id)
{
    for (uint32_t i = 0; i < tokenizer->n_ends; i++)
        if (tokenizer->ends[i] == id)
            return true;
    return false;
}

void nib_tokenizer_get_info(const struct nib_tokenizer *tokenizer,
                            struct nib_tokenizer_info *out_info)
{
    static const char *const MODELS[] = {
        [NIB_VOCAB_BPE] = "bpe",
        [NIB_VOCAB_SPM] = "spm",
        [NIB_VOCAB_RANKED_SPM] = "spm",
        [NIB_VOCAB_UNIGRAM] = "unigram",
    };
    *out_info = (struct nib_tokenizer_info){
        .model = MODELS[tokenizer->model],
        .pre = tokenizer->pre,
        .vocabulary = tokenizer->n_tokens,
        .bos = tokenizer->bos,
        .eos = tokenizer->eos,
        .unknown = tokenizer->unknown,
        .add_bos = tokenizer->add_bos,
        .chat_template = tokenizer->chat.family ? tokenizer->chat.family->name : NULL,
    };
}
