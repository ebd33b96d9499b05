/// Normalizers, pre-tokenizers and decoders of tokenizer.json.
#include "runtime/base/buffer.h"
#include "runtime/base/status.h"
#include "runtime/import/tokenizer_hf_reader.h"

#include <string.h>

#define SPACE_MARK "\xe2\x96\x81"
#define PUNCTUATION "[\\p{P}!-/:-@\\[-`{-~]"
/// Hugging Face counts the two joiners among the word characters here, unlike in a file's patterns.
#define WORDS "[\\w\\x{200c}\\x{200d}]+|[^\\w\\x{200c}\\x{200d}\\s]+"

/// Sequences within sequences; files have one level.
enum { MAX_DEPTH = 8 };

/// The order in which a tokenizer applies what the normalizers ask for.
enum stage { STAGE_FORM = 1, STAGE_LOWERCASE, STAGE_PREFIX, STAGE_ESCAPE };

struct nib_text nib_hf_text(const json_t *object, const char *key)
{
    struct nib_text text = {"", 0};
    nib_json_get_text(object, key, &text);
    return text;
}

bool nib_hf_text_is(struct nib_text text, const char *string)
{
    return text.size == strlen(string) && memcmp(text.ptr, string, text.size) == 0;
}

bool nib_hf_is_null(const json_t *object, const char *key)
{
    const json_t *member = json_object_get(object, key);
    return !member || json_is_null(member);
}

static enum nib_status fail_unsupported(const char *what, struct nib_text type,
                                        struct nib_error *err)
{
    return nib_fail(err, NIB_ERROR_UNSUPPORTED, "%s '%.*s' is not supported", what,
                    (int)(type.size < 64 ? type.size : 64), type.ptr);
}

/// What a kind of step is called in messages, where a sequence of it lies, and who reads one.
struct step_kind {
    const char *what;
    const char *list_key;
    enum nib_status (*read)(struct nib_hf_reader *reader, const json_t *step, struct nib_text type,
                            struct nib_error *err);
};

/// Reads a step, or those of a sequence, in order.
static enum nib_status read_steps(struct nib_hf_reader *reader, const struct step_kind *kind,
                                  const json_t *step, int depth, struct nib_error *err)
{
    enum nib_status status = NIB_OK;
    if (!step || json_is_null(step))
        return NIB_OK;
    struct nib_text type = nib_hf_text(step, "type");
    if (!nib_hf_text_is(type, "Sequence"))
        return kind->read(reader, step, type, err);
    const json_t *list = json_object_get(step, kind->list_key);
    if (!json_is_array(list) || depth == MAX_DEPTH)
        return nib_fail(err, NIB_ERROR_FORMAT, "%s: a sequence without '%s', or nested too deeply",
                        kind->what, kind->list_key);
    for (size_t i = 0; i < json_array_size(list); i++)
        NIB_TRY(read_steps(reader, kind, json_array_get(list, i), depth + 1, err));
fail:
    return status;
}

static enum nib_status enter_stage(struct nib_hf_reader *reader, enum stage stage,
                                   struct nib_text type, struct nib_error *err)
{
    if ((int)stage <= reader->text_stage)
        return nib_fail(err, NIB_ERROR_UNSUPPORTED, "normalizer '%.*s' at its place in the order",
                        (int)(type.size < 64 ? type.size : 64), type.ptr);
    reader->text_stage = stage;
    return NIB_OK;
}

static enum nib_status read_normalizer(struct nib_hf_reader *reader, const json_t *step,
                                       struct nib_text type, struct nib_error *err)
{
    static const struct {
        const char *type;
        enum nib_normal_form form;
    } FORMS[] = {{"NFC", NIB_NORMAL_NFC},
                 {"NFD", NIB_NORMAL_NFD},
                 {"NFKC", NIB_NORMAL_NFKC},
                 {"NFKD", NIB_NORMAL_NFKD}};
    struct nib_vocab *vocab = &reader->vocab;
    for (size_t i = 0; i < sizeof FORMS / sizeof FORMS[0]; i++) {
        if (nib_hf_text_is(type, FORMS[i].type)) {
            vocab->normal_form = FORMS[i].form;
            return enter_stage(reader, STAGE_FORM, type, err);
        }
    }
    if (nib_hf_text_is(type, "Lowercase")) {
        vocab->lowercase = true;
        return enter_stage(reader, STAGE_LOWERCASE, type, err);
    }
    if (nib_hf_text_is(type, "Prepend") &&
        nib_hf_text_is(nib_hf_text(step, "prepend"), SPACE_MARK)) {
        vocab->space_prefix = NIB_SPACE_PREFIX_ALWAYS;
        return enter_stage(reader, STAGE_PREFIX, type, err);
    }
    if (nib_hf_text_is(type, "Replace") &&
        nib_hf_text_is(nib_hf_text(json_object_get(step, "pattern"), "String"), " ") &&
        nib_hf_text_is(nib_hf_text(step, "content"), SPACE_MARK)) {
        vocab->escape_spaces = true;
        return enter_stage(reader, STAGE_ESCAPE, type, err);
    }
    return fail_unsupported("normalizer", type, err);
}

static enum nib_status add_split(struct nib_hf_reader *reader, struct nib_text pattern,
                                 enum nib_split_kind kind, bool invert, struct nib_error *err)
{
    if (reader->is_byte_level)
        return nib_fail(err, NIB_ERROR_UNSUPPORTED, "a pre-tokenizer after ByteLevel");
    if (reader->vocab.n_splits == NIB_HF_MAX_SPLITS)
        return nib_fail(err, NIB_ERROR_UNSUPPORTED, "more than %d pre-tokenizers",
                        NIB_HF_MAX_SPLITS);
    reader->splits[reader->vocab.n_splits++] = (struct nib_vocab_split){pattern, kind, invert};
    return NIB_OK;
}

static enum nib_status add_split_text(struct nib_hf_reader *reader, const char *pattern,
                                      enum nib_split_kind kind, struct nib_error *err)
{
    return add_split(reader, (struct nib_text){pattern, strlen(pattern)}, kind, false, err);
}

/// Adds a split at a plain text, which is written as a pattern.
static enum nib_status add_literal_split(struct nib_hf_reader *reader, struct nib_text text,
                                         enum nib_split_kind kind, bool invert,
                                         struct nib_error *err)
{
    char *pattern = nib_arena_array(&reader->arena, text.size + 1, 2);
    if (!pattern)
        return nib_fail_memory(err);
    size_t size = 0;
    for (size_t i = 0; i < text.size; i++) {
        uint8_t byte = (uint8_t)text.ptr[i];
        bool is_plain = byte >= 0x80 || byte == 0 || (byte >= '0' && byte <= '9') ||
                        (byte >= 'A' && byte <= 'Z') || (byte >= 'a' && byte <= 'z');
        if (!is_plain)
            pattern[size++] = '\\';
        pattern[size++] = text.ptr[i];
    }
    return add_split(reader, (struct nib_text){pattern, size}, kind, invert, err);
}

static bool read_behavior(struct nib_text text, enum nib_split_kind *out_kind)
{
    static const struct {
        const char *name;
        enum nib_split_kind kind;
    } KINDS[] = {{"Isolated", NIB_SPLIT_ISOLATE},
                 {"Removed", NIB_SPLIT_REMOVE},
                 {"MergedWithPrevious", NIB_SPLIT_MERGE_PREVIOUS},
                 {"MergedWithNext", NIB_SPLIT_MERGE_NEXT},
                 {"Contiguous", NIB_SPLIT_CONTIGUOUS}};
    for (size_t i = 0; i < sizeof KINDS / sizeof KINDS[0]; i++) {
        if (nib_hf_text_is(text, KINDS[i].name)) {
            *out_kind = KINDS[i].kind;
            return true;
        }
    }
    return false;
}

static enum nib_status read_split(struct nib_hf_reader *reader, const json_t *step,
                                  struct nib_error *err)
{
    enum nib_split_kind kind;
    bool invert = false;
    struct nib_text text;
    const json_t *pattern = json_object_get(step, "pattern");
    nib_json_get_bool(step, "invert", &invert);
    if (!read_behavior(nib_hf_text(step, "behavior"), &kind))
        return fail_unsupported("behavior of a Split", nib_hf_text(step, "behavior"), err);
    if (nib_json_get_text(pattern, "Regex", &text))
        return add_split(reader, text, kind, invert, err);
    if (nib_json_get_text(pattern, "String", &text) && text.size)
        return add_literal_split(reader, text, kind, invert, err);
    return nib_fail(err, NIB_ERROR_FORMAT, "pre_tokenizer Split has no pattern");
}

static enum nib_status read_byte_level(struct nib_hf_reader *reader, const json_t *step,
                                       struct nib_error *err)
{
    bool prefix = true;
    bool splits = true;
    nib_json_get_bool(step, "add_prefix_space", &prefix);
    nib_json_get_bool(step, "use_regex", &splits);
    if (prefix && reader->vocab.n_splits)
        return nib_fail(err, NIB_ERROR_UNSUPPORTED,
                        "ByteLevel with add_prefix_space after other pre-tokenizers");
    if (prefix)
        reader->vocab.space_prefix = NIB_SPACE_PREFIX_MISSING;
    const struct nib_pretokenizer *family = nib_pretokenizer_find("gpt-2");
    enum nib_status status = NIB_OK;
    if (splits)
        status = add_split(reader, family->splits[0].pattern, NIB_SPLIT_ISOLATE, false, err);
    reader->is_byte_level = true;
    return status;
}

static enum nib_status read_metaspace(struct nib_hf_reader *reader, const json_t *step,
                                      struct nib_error *err)
{
    struct nib_vocab *vocab = &reader->vocab;
    struct nib_text scheme = {"always", strlen("always")};
    bool prefix = true;
    bool splits = true;
    nib_json_get_bool(step, "add_prefix_space", &prefix);
    nib_json_get_text(step, "prepend_scheme", &scheme);
    nib_json_get_bool(step, "split", &splits);
    if (!nib_hf_text_is(nib_hf_text(step, "replacement"), SPACE_MARK))
        return fail_unsupported("Metaspace with replacement", nib_hf_text(step, "replacement"),
                                err);
    if (vocab->n_splits || vocab->space_prefix != NIB_SPACE_PREFIX_NONE)
        return nib_fail(err, NIB_ERROR_UNSUPPORTED, "Metaspace after other pre-tokenizers");
    vocab->escape_spaces = true;
    if (prefix && !nib_hf_text_is(scheme, "never"))
        vocab->space_prefix = NIB_SPACE_PREFIX_MISSING;
    vocab->space_prefix_first_only = nib_hf_text_is(scheme, "first");
    return splits ? add_split_text(reader, SPACE_MARK, NIB_SPLIT_MERGE_NEXT, err) : NIB_OK;
}

static enum nib_status read_pre_tokenizer(struct nib_hf_reader *reader, const json_t *step,
                                          struct nib_text type, struct nib_error *err)
{
    if (nib_hf_text_is(type, "ByteLevel"))
        return read_byte_level(reader, step, err);
    if (nib_hf_text_is(type, "Metaspace"))
        return read_metaspace(reader, step, err);
    if (nib_hf_text_is(type, "Split"))
        return read_split(reader, step, err);
    if (nib_hf_text_is(type, "Digits")) {
        bool individual = false;
        nib_json_get_bool(step, "individual_digits", &individual);
        return add_split_text(reader, "\\p{N}",
                              individual ? NIB_SPLIT_ISOLATE : NIB_SPLIT_CONTIGUOUS, err);
    }
    if (nib_hf_text_is(type, "Punctuation")) {
        enum nib_split_kind kind = NIB_SPLIT_ISOLATE;
        struct nib_text behavior;
        if (nib_json_get_text(step, "behavior", &behavior) && !read_behavior(behavior, &kind))
            return fail_unsupported("behavior of a Punctuation", behavior, err);
        return add_split_text(reader, PUNCTUATION, kind, err);
    }
    if (nib_hf_text_is(type, "Whitespace"))
        return add_split(reader, (struct nib_text){WORDS, strlen(WORDS)}, NIB_SPLIT_REMOVE, true,
                         err);
    if (nib_hf_text_is(type, "WhitespaceSplit"))
        return add_split_text(reader, "\\s", NIB_SPLIT_REMOVE, err);
    if (nib_hf_text_is(type, "CharDelimiterSplit")) {
        struct nib_text delimiter = nib_hf_text(step, "delimiter");
        if (delimiter.size)
            return add_literal_split(reader, delimiter, NIB_SPLIT_REMOVE, false, err);
    }
    return fail_unsupported("pre_tokenizer", type, err);
}

/// A decoder undoes what encoding did, which the vocabulary tells; what it adds is whether the
/// space before the first word goes.
static enum nib_status read_decoder(struct nib_hf_reader *reader, const json_t *step,
                                    struct nib_text type, struct nib_error *err)
{
    static const char *const UNDONE[] = {"ByteLevel", "ByteFallback", "Fuse"};
    struct nib_vocab *vocab = &reader->vocab;
    for (size_t i = 0; i < sizeof UNDONE / sizeof UNDONE[0]; i++)
        if (nib_hf_text_is(type, UNDONE[i]))
            return NIB_OK;
    if (nib_hf_text_is(type, "Metaspace")) {
        struct nib_text scheme = nib_hf_text(step, "prepend_scheme");
        bool prefix = true;
        nib_json_get_bool(step, "add_prefix_space", &prefix);
        vocab->drops_first_space = prefix && !nib_hf_text_is(scheme, "never");
        return NIB_OK;
    }
    if (nib_hf_text_is(type, "Replace") &&
        nib_hf_text_is(nib_hf_text(json_object_get(step, "pattern"), "String"), SPACE_MARK) &&
        nib_hf_text_is(nib_hf_text(step, "content"), " "))
        return NIB_OK;
    uint32_t start = 0;
    uint32_t stop = 0;
    if (nib_hf_text_is(type, "Strip") && nib_hf_text_is(nib_hf_text(step, "content"), " ") &&
        nib_json_get_u32(step, "start", &start) && nib_json_get_u32(step, "stop", &stop) &&
        start <= 1 && stop == 0) {
        vocab->drops_first_space = start == 1;
        return NIB_OK;
    }
    return fail_unsupported("decoder", type, err);
}

enum nib_status nib_hf_read_text_steps(struct nib_hf_reader *reader, struct nib_error *err)
{
    static const struct step_kind NORMALIZER = {"normalizer", "normalizers", read_normalizer};
    static const struct step_kind PRE_TOKENIZER = {"pre_tokenizer", "pretokenizers",
                                                   read_pre_tokenizer};
    static const struct step_kind DECODER = {"decoder", "decoders", read_decoder};
    const json_t *root = reader->files->tokenizer;
    struct nib_vocab *vocab = &reader->vocab;
    enum nib_status status = NIB_OK;
    NIB_TRY(read_steps(reader, &NORMALIZER, json_object_get(root, "normalizer"), 0, err));
    if (vocab->space_prefix != NIB_SPACE_PREFIX_NONE && !vocab->escape_spaces)
        NIB_TRY(
            nib_fail(err, NIB_ERROR_UNSUPPORTED, "normalizer Prepend without Replace of spaces"));
    NIB_TRY(read_steps(reader, &PRE_TOKENIZER, json_object_get(root, "pre_tokenizer"), 0, err));
    if (reader->is_byte_level && vocab->escape_spaces)
        NIB_TRY(
            nib_fail(err, NIB_ERROR_UNSUPPORTED, "pre_tokenizer ByteLevel with escaped spaces"));
    NIB_TRY(read_steps(reader, &DECODER, json_object_get(root, "decoder"), 0, err));
    vocab->splits = reader->splits;
fail:
    return status;
}
