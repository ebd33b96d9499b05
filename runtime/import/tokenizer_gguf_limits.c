/// What of a tokenizer GGUF's keys cannot say.
#include "runtime/import/tokenizer_gguf.h"

#include "runtime/base/status.h"

#include <inttypes.h>
#include <string.h>

#define SPACE_MARK "\xe2\x96\x81"

/// What a user can do about it.
#define REMEDY "write a folder instead, or take a GGUF file of the model as the source"

static bool is_text(struct nib_text text, const char *string)
{
    return text.size == strlen(string) && memcmp(text.ptr, string, text.size) == 0;
}

/// Returns whether a token that text can become has a "▁" behind its first character.
static bool spans_words(const struct nib_vocab *vocab)
{
    const size_t size = strlen(SPACE_MARK);
    for (uint32_t i = 0; i < vocab->n_tokens; i++) {
        const struct nib_vocab_token *token = &vocab->tokens[i];
        if (token->type != NIB_TOKEN_NORMAL && token->type != NIB_TOKEN_USER_DEFINED)
            continue;
        for (size_t at = 1; at + size <= token->text.size; at++) {
            if (memcmp(token->text.ptr + at, SPACE_MARK, size) == 0)
                return true;
        }
    }
    return false;
}

/// Returns whether the tokens are the same without the split, given that spaces are escaped:
/// Gemma's at spaces, of which none are left, and one before each "▁" where no token goes on there.
static bool is_idle_split(const struct nib_vocab *vocab, const struct nib_vocab_split *split)
{
    if (split->invert)
        return false;
    if (is_text(split->pattern, " ") || is_text(split->pattern, "\\ "))
        return true;
    return is_text(split->pattern, SPACE_MARK) && split->kind == NIB_SPLIT_MERGE_NEXT &&
           !spans_words(vocab);
}

/// Returns whether what is done with characters that have no token depends on more than on which
/// BYTE tokens there are, which GGUF takes for granted.
static bool has_own_unknown(const struct nib_vocab *vocab)
{
    uint32_t n_bytes = 0;
    for (uint32_t i = 0; i < vocab->n_tokens; i++)
        n_bytes += vocab->tokens[i].type == NIB_TOKEN_BYTE;
    if (vocab->byte_fallback && n_bytes >= 256)
        return false;
    if (!vocab->byte_fallback && n_bytes > 0)
        return true;
    const bool is_unigram = vocab->model == NIB_VOCAB_UNIGRAM;
    return vocab->unknown < 0 ? !is_unigram : vocab->fuse_unknown != is_unigram;
}

/// Returns what a tokenizer.json calls a step that GGUF has no key for, or NULL.
static const char *find_step(const struct nib_vocab *vocab)
{
    static const char *const forms[] = {[NIB_NORMAL_NFC] = "normalizer NFC",
                                        [NIB_NORMAL_NFD] = "normalizer NFD",
                                        [NIB_NORMAL_NFKC] = "normalizer NFKC",
                                        [NIB_NORMAL_NFKD] = "normalizer NFKD"};
    const bool is_byte_level = vocab->model == NIB_VOCAB_BPE;
    if (vocab->lowercase)
        return "normalizer Lowercase";
    if (is_byte_level)
        return vocab->space_prefix == NIB_SPACE_PREFIX_NONE
                   ? NULL
                   : "pre_tokenizer ByteLevel with add_prefix_space";
    if (vocab->normal_form != NIB_NORMAL_NONE)
        return forms[vocab->normal_form];
    if (!vocab->escape_spaces)
        return "a normalizer that leaves spaces as they are";
    for (uint32_t i = 0; i < vocab->n_splits; i++) {
        if (!is_idle_split(vocab, &vocab->splits[i]))
            return "a pre_tokenizer that splits text";
    }
    if (vocab->ignore_merges)
        return "model.ignore_merges";
    return has_own_unknown(vocab) ? "model.unk_token, fuse_unk or byte_fallback as they are" : NULL;
}

bool nib_vocab_end_needs_key(const struct nib_vocab *vocab, uint32_t index)
{
    const int32_t id = vocab->ends[index];
    for (uint32_t i = 0; i < index; i++) {
        if (vocab->ends[i] == id)
            return false;
    }
    return id != vocab->eos && !nib_vocab_token_is_end(&vocab->tokens[id]);
}

enum nib_status nib_vocab_check_gguf(const struct nib_vocab *vocab, struct nib_error *err)
{
    const char *step = find_step(vocab);
    if (step)
        return nib_fail(err, NIB_ERROR_UNSUPPORTED, "GGUF has no key for %s; " REMEDY, step);
    if (vocab->model == NIB_VOCAB_BPE && !vocab->pre && !nib_pretokenizer_match(vocab))
        return nib_fail(err, NIB_ERROR_UNSUPPORTED,
                        "GGUF has no name for this tokenizer's way of splitting text; " REMEDY);
    uint32_t n_ends = 0;
    for (uint32_t i = 0; i < vocab->n_ends; i++)
        n_ends += nib_vocab_end_needs_key(vocab, i);
    if (n_ends > NIB_GGUF_END_KEYS)
        return nib_fail(err, NIB_ERROR_UNSUPPORTED,
                        "GGUF has keys for %d tokens that end generation beside eos_token_id, and "
                        "the model has %" PRIu32 "; " REMEDY,
                        (int)NIB_GGUF_END_KEYS, n_ends);
    return NIB_OK;
}

/// Tells of tokens whose flags a reader of the file will not know.
static void report_flags(const struct nib_vocab *vocab, bool is_phi3, const struct nib_log *log)
{
    const struct nib_vocab_token *first = NULL;
    uint32_t count = 0;
    for (uint32_t i = 0; i < vocab->n_tokens; i++) {
        const struct nib_vocab_token *token = &vocab->tokens[i];
        unsigned lost =
            token->flags & (NIB_TOKEN_STRIP_LEFT | NIB_TOKEN_STRIP_RIGHT | NIB_TOKEN_SINGLE_WORD);
        if (is_phi3 && nib_phi3_strips_right(token))
            lost &= ~(unsigned)NIB_TOKEN_STRIP_RIGHT;
        if (lost && count++ == 0)
            first = token;
    }
    if (count)
        nib_log_write(log, NIB_LOG_WARNING,
                      "tokenizer: GGUF has no key for lstrip, rstrip and single_word of %" PRIu32
                      " added tokens such as '%.*s'",
                      count, first->text.size < 64 ? (int)first->text.size : 64, first->text.ptr);
}

void nib_vocab_report_gguf(const struct nib_vocab *vocab, const char *arch,
                           const struct nib_log *log)
{
    const bool is_llama = vocab->model == NIB_VOCAB_SPM || vocab->model == NIB_VOCAB_RANKED_SPM;
    if (vocab->model != NIB_VOCAB_BPE && vocab->space_prefix == NIB_SPACE_PREFIX_MISSING)
        nib_log_write(log, NIB_LOG_WARNING,
                      "tokenizer: in GGUF files text that begins with a space gets one more");
    if (vocab->space_prefix != NIB_SPACE_PREFIX_NONE && vocab->space_prefix_first_only)
        nib_log_write(
            log, NIB_LOG_WARNING,
            "tokenizer: in GGUF files a space is put before text after added tokens, too");
    report_flags(vocab, is_llama && strcmp(arch, "phi3") == 0, log);
}
