#include "runtime/tokenizer/pattern.h"

#include "runtime/base/buffer.h"
#include "runtime/base/status.h"
#include "runtime/base/utf8.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <stdlib.h>
#include <string.h>

enum {
    MAX_PATTERN_SIZE = 1 << 15, ///< the longest in use, DeepSeek's, has some 700 bytes
    /// Backtracking steps of an ordinary match. One that needs more is run again with the large
    /// limit, which only so many matches of an encoding may, so that no pattern can make the whole
    /// of them slow.
    SMALL_MATCH_LIMIT = 5000,
    LARGE_MATCH_LIMIT = 10000000,
    HARD_MATCHES = 64,
    BYTES_PER_HARD_MATCH = 1024,
    HEAP_LIMIT_KIB = 65536,
    QUOTED = 80 ///< bytes of a pattern that a message shows
};

/// Unicode's White_Space and its complement, to stand in a set: PCRE2's \s also holds U+180E.
#define SPACE_SET                                                                               \
    "\\x{9}-\\x{d}\\x{20}\\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}" \
    "\\x{205f}\\x{3000}"
#define NON_SPACE_SET                                                                       \
    "\\x{0}-\\x{8}\\x{e}-\\x{1f}\\x{21}-\\x{84}\\x{86}-\\x{9f}\\x{a1}-\\x{167f}\\x{1681}-"  \
    "\\x{1fff}\\x{200b}-\\x{2027}\\x{202a}-\\x{202e}\\x{2030}-\\x{205e}\\x{2060}-\\x{2fff}" \
    "\\x{3001}-\\x{10ffff}"
/// Oniguruma's \w, which PCRE2's falls short of.
#define WORD_SET "\\p{L}\\p{M}\\p{Nd}\\p{Nl}\\p{Pc}"
#define HEX_SET "0-9A-Fa-f"

struct nib_pattern {
    pcre2_code *code;
    char quoted[QUOTED + 4];
};

struct nib_pattern_scratch {
    pcre2_match_data *data;
    pcre2_match_context *small;
    pcre2_match_context *large;
};

/// Copies as much of a pattern as fits, cut at a character.
static void quote(struct nib_text source, char out[QUOTED + 4])
{
    size_t size = source.size < QUOTED ? source.size : QUOTED;
    size -= nib_utf8_incomplete_tail(source.ptr, size);
    if (size)
        memcpy(out, source.ptr, size);
    memcpy(out + size, size < source.size ? "..." : "", size < source.size ? 4 : 1);
}

struct translation {
    struct nib_text source;
    size_t place;
    unsigned set_depth; ///< how many "[" are open
    struct nib_buffer out;
};

static enum nib_status put(struct translation *t, const char *text, struct nib_error *err)
{
    return nib_buffer_append(&t->out, text, strlen(text), err);
}

static enum nib_status put_set(struct translation *t, bool negated, const char *set,
                               struct nib_error *err)
{
    if (t->set_depth)
        return put(t, set, err);
    return nib_buffer_printf(&t->out, err, negated ? "[^%s]" : "[%s]", set);
}

/// Translates the escape at `place`.
static enum nib_status translate_escape(struct translation *t, struct nib_error *err)
{
    const char *escape = t->source.ptr + t->place;
    size_t left = t->source.size - t->place;
    char kind = left > 1 ? escape[1] : '\0';
    if (kind == 's' || (kind == 'S' && !t->set_depth) || kind == 'h' ||
        (kind == 'w' || (kind == 'W' && !t->set_depth))) {
        t->place += 2;
        const char *set = kind == 'h' ? HEX_SET : kind == 's' || kind == 'S' ? SPACE_SET : WORD_SET;
        return put_set(t, kind == 'S' || kind == 'W', set, err);
    }
    if (kind == 'S') {
        t->place += 2;
        return put(t, NON_SPACE_SET, err);
    }
    if (kind == 'u' && left >= 6) {
        t->place += 6;
        return nib_buffer_printf(&t->out, err, "\\x{%.4s}", escape + 2);
    }
    size_t size = left > 1 ? 2 : 1;
    if (left > 1 && (uint8_t)kind >= 0x80) {
        uint32_t code_point;
        bool valid;
        size = 1 + nib_utf8_decode(escape + 1, left - 1, &code_point, &valid);
    }
    t->place += size;
    return nib_buffer_append(&t->out, escape, size, err);
}

/// Translates "[" or "]" at `place`, within a set or opening one.
static enum nib_status translate_bracket(struct translation *t, struct nib_error *err)
{
    const char *text = t->source.ptr + t->place;
    size_t left = t->source.size - t->place;
    if (text[0] == ']') {
        t->place++;
        return --t->set_depth ? NIB_OK : put(t, "]", err);
    }
    if (t->set_depth == 0) {
        size_t size = left > 1 && text[1] == '^' ? 2 : 1;
        size += left > size && text[size] == ']';
        t->set_depth = 1;
        t->place += size;
        return nib_buffer_append(&t->out, text, size, err);
    }
    if (left > 1 && text[1] == ':') {
        size_t size = 2;
        while (size < left && text[size] != ']')
            size++;
        size += size < left;
        t->place += size;
        return nib_buffer_append(&t->out, text, size, err);
    }
    if (left > 1 && text[1] == '^')
        return nib_fail(err, NIB_ERROR_UNSUPPORTED, "complement of a set within a set");
    t->set_depth++;
    t->place++;
    return NIB_OK;
}

static enum nib_status translate(struct translation *t, struct nib_error *err)
{
    enum nib_status status = NIB_OK;
    while (t->place < t->source.size) {
        const char *text = t->source.ptr + t->place;
        if (text[0] == '\\') {
            NIB_TRY(translate_escape(t, err));
        } else if (text[0] == '[' || (text[0] == ']' && t->set_depth)) {
            NIB_TRY(translate_bracket(t, err));
        } else if (t->set_depth && t->source.size - t->place > 1 && memcmp(text, "&&", 2) == 0) {
            NIB_TRY(nib_fail(err, NIB_ERROR_UNSUPPORTED, "intersection of sets"));
        } else {
            NIB_TRY(nib_buffer_append(&t->out, text, 1, err));
            t->place++;
        }
    }
fail:
    return status;
}

static enum nib_status compile(const struct nib_buffer *source, pcre2_code **out_code,
                               struct nib_error *err)
{
    *out_code = NULL;
    pcre2_compile_context *context = pcre2_compile_context_create(NULL);
    if (!context)
        return nib_fail_memory(err);
    pcre2_set_newline(context, PCRE2_NEWLINE_LF);
    int error;
    PCRE2_SIZE offset;
    *out_code = pcre2_compile((PCRE2_SPTR)(source->data ? source->data : ""), source->size,
                              PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C,
                              &error, &offset, context);
    pcre2_compile_context_free(context);
    if (*out_code) {
        // Where there is no just-in-time compiler the code is interpreted.
        (void)pcre2_jit_compile(*out_code, PCRE2_JIT_COMPLETE);
        return NIB_OK;
    }
    if (error == PCRE2_ERROR_HEAP_FAILED)
        return nib_fail_memory(err);
    PCRE2_UCHAR reason[128];
    pcre2_get_error_message(error, reason, sizeof reason);
    return nib_fail(err, NIB_ERROR_FORMAT, "%s", (const char *)reason);
}

enum nib_status nib_pattern_compile(struct nib_text source, struct nib_pattern **out_pattern,
                                    struct nib_error *err)
{
    *out_pattern = NULL;
    struct translation translation = {.source = source};
    enum nib_status status = NIB_OK;
    char quoted[QUOTED + 4];
    quote(source, quoted);
    struct nib_pattern *pattern = calloc(1, sizeof *pattern);
    if (!pattern)
        return nib_fail_memory(err);

    if (source.size > MAX_PATTERN_SIZE)
        NIB_TRY(nib_fail(err, NIB_ERROR_UNSUPPORTED, "longer than %d bytes", MAX_PATTERN_SIZE));
    if (!nib_utf8_valid(source.ptr, source.size))
        NIB_TRY(nib_fail(err, NIB_ERROR_FORMAT, "not UTF-8"));
    NIB_TRY(translate(&translation, err));
    NIB_TRY(compile(&translation.out, &pattern->code, err));
    memcpy(pattern->quoted, quoted, sizeof quoted);
    *out_pattern = pattern;
    pattern = NULL;
fail:
    nib_buffer_free(&translation.out);
    nib_pattern_destroy(&pattern);
    if (status == NIB_OK || status == NIB_ERROR_MEMORY)
        return status;
    return nib_fail_context(err, status, "pattern '%s'", quoted);
}

void nib_pattern_destroy(struct nib_pattern **pattern)
{
    if (!*pattern)
        return;
    pcre2_code_free((*pattern)->code);
    free(*pattern);
    *pattern = NULL;
}

enum nib_status nib_range_list_add(struct nib_range_list *list, struct nib_range range,
                                   struct nib_error *err)
{
    enum nib_status status = nib_array_reserve((void **)&list->ranges, &list->capacity,
                                               list->count + 1, sizeof *list->ranges, err);
    if (status == NIB_OK)
        list->ranges[list->count++] = range;
    return status;
}

void nib_range_list_free(struct nib_range_list *list)
{
    free(list->ranges);
    *list = (struct nib_range_list){0};
}

static pcre2_match_context *make_context(uint32_t match_limit)
{
    pcre2_match_context *context = pcre2_match_context_create(NULL);
    if (context) {
        pcre2_set_match_limit(context, match_limit);
        pcre2_set_heap_limit(context, HEAP_LIMIT_KIB);
    }
    return context;
}

enum nib_status nib_pattern_matcher_begin(struct nib_pattern_matcher *matcher, size_t size,
                                          struct nib_error *err)
{
    matcher->hard_matches = HARD_MATCHES + size / BYTES_PER_HARD_MATCH;
    struct nib_pattern_scratch *scratch = calloc(1, sizeof *scratch);
    if (!scratch)
        return nib_fail_memory(err);
    matcher->scratch = scratch;
    // One pair of offsets: the whole match is all that is asked for.
    scratch->data = pcre2_match_data_create(1, NULL);
    scratch->small = make_context(SMALL_MATCH_LIMIT);
    scratch->large = make_context(LARGE_MATCH_LIMIT);
    if (!scratch->data || !scratch->small || !scratch->large)
        return nib_fail_memory(err);
    return NIB_OK;
}

void nib_pattern_matcher_free(struct nib_pattern_matcher *matcher)
{
    if (matcher->scratch) {
        pcre2_match_data_free(matcher->scratch->data);
        pcre2_match_context_free(matcher->scratch->small);
        pcre2_match_context_free(matcher->scratch->large);
        free(matcher->scratch);
    }
    free(matcher->is_match);
    nib_range_list_free(&matcher->parts);
    *matcher = (struct nib_pattern_matcher){0};
}

/// Looks for the first match in `subject` at or after `start`; where there is none, it begins at
/// SIZE_MAX.
static enum nib_status match(const struct nib_pattern *pattern, struct nib_pattern_matcher *matcher,
                             struct nib_text subject, size_t start, struct nib_range *out_match,
                             struct nib_error *err)
{
    struct nib_pattern_scratch *scratch = matcher->scratch;
    PCRE2_SPTR text = (PCRE2_SPTR)subject.ptr;
    *out_match = (struct nib_range){SIZE_MAX, SIZE_MAX};
    int found = pcre2_match(pattern->code, text, subject.size, start, PCRE2_NO_UTF_CHECK,
                            scratch->data, scratch->small);
    if (found == PCRE2_ERROR_MATCHLIMIT || found == PCRE2_ERROR_JIT_STACKLIMIT) {
        if (matcher->hard_matches == 0)
            return nib_fail(err, NIB_ERROR_UNSUPPORTED,
                            "pattern '%s' exceeds its match limit on this text", pattern->quoted);
        matcher->hard_matches--;
        found = pcre2_match(pattern->code, text, subject.size, start,
                            PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT, scratch->data, scratch->large);
    }
    if (found == PCRE2_ERROR_NOMATCH)
        return NIB_OK;
    if (found == PCRE2_ERROR_NOMEMORY)
        return nib_fail_memory(err);
    if (found < 0) {
        PCRE2_UCHAR reason[128];
        pcre2_get_error_message(found, reason, sizeof reason);
        return nib_fail(err, NIB_ERROR_UNSUPPORTED, "pattern '%s': %s on this text",
                        pattern->quoted, (const char *)reason);
    }
    const PCRE2_SIZE *offsets = pcre2_get_ovector_pointer(scratch->data);
    *out_match = (struct nib_range){offsets[0], offsets[1]};
    return NIB_OK;
}

static enum nib_status add_part(struct nib_pattern_matcher *matcher, struct nib_range part,
                                bool is_match, struct nib_error *err)
{
    if (part.begin >= part.end)
        return NIB_OK;
    size_t count = matcher->parts.count;
    enum nib_status status =
        nib_array_reserve((void **)&matcher->is_match, &matcher->is_match_capacity, count + 1,
                          sizeof *matcher->is_match, err);
    if (status != NIB_OK)
        return status;
    matcher->is_match[count] = is_match;
    return nib_range_list_add(&matcher->parts, part, err);
}

/// Fills `matcher->parts` with the matches and what lies between them.
static enum nib_status find_parts(const struct nib_pattern *pattern, bool invert,
                                  struct nib_pattern_matcher *matcher, struct nib_text subject,
                                  struct nib_error *err)
{
    enum nib_status status = NIB_OK;
    matcher->parts.count = 0;
    size_t done = 0;
    for (size_t start = 0; start < subject.size;) {
        struct nib_range range;
        NIB_TRY(match(pattern, matcher, subject, start, &range, err));
        if (range.begin == SIZE_MAX)
            break;
        // Up to PCRE2 10.37, \K within an assertion can place a match's ends anywhere.
        if (range.begin < done)
            range.begin = done;
        if (range.end < range.begin)
            range.end = range.begin;
        NIB_TRY(add_part(matcher, (struct nib_range){done, range.begin}, invert, err));
        NIB_TRY(add_part(matcher, range, !invert, err));
        done = range.end;
        size_t next = range.end > start ? range.end : start;
        if (range.begin == range.end && next < subject.size) {
            uint32_t code_point;
            bool valid;
            next += nib_utf8_decode(subject.ptr + next, subject.size - next, &code_point, &valid);
        }
        start = next;
    }
    NIB_TRY(add_part(matcher, (struct nib_range){done, subject.size}, invert, err));
fail:
    return status;
}

/// Returns whether part `i` continues the piece of part i - 1.
static bool joins_previous(const struct nib_pattern_matcher *matcher, enum nib_split_kind kind,
                           size_t i)
{
    const bool *is_match = matcher->is_match;
    if (i == 0)
        return false;
    switch (kind) {
    case NIB_SPLIT_MERGE_PREVIOUS:
        return is_match[i] && !is_match[i - 1];
    case NIB_SPLIT_MERGE_NEXT:
        return is_match[i - 1] && !is_match[i];
    case NIB_SPLIT_CONTIGUOUS:
        return is_match[i] == is_match[i - 1];
    case NIB_SPLIT_ISOLATE:
    case NIB_SPLIT_REMOVE:
        break;
    }
    return false;
}

enum nib_status nib_pattern_split(const struct nib_pattern_step *step,
                                  struct nib_pattern_matcher *matcher, const char *text,
                                  struct nib_range piece, struct nib_range_list *out,
                                  struct nib_error *err)
{
    enum nib_status status = NIB_OK;
    struct nib_text subject = {text + piece.begin, piece.end - piece.begin};
    NIB_TRY(find_parts(step->pattern, step->invert, matcher, subject, err));
    for (size_t i = 0; i < matcher->parts.count; i++) {
        struct nib_range part = matcher->parts.ranges[i];
        part.begin += piece.begin;
        part.end += piece.begin;
        if (step->kind == NIB_SPLIT_REMOVE && matcher->is_match[i])
            continue;
        if (joins_previous(matcher, step->kind, i))
            out->ranges[out->count - 1].end = part.end;
        else
            NIB_TRY(nib_range_list_add(out, part, err));
    }
fail:
    return status;
}
