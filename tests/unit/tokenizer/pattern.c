#include "runtime/tokenizer/pattern.h"

#include "runtime/base/utf8.h"
#include "runtime/tokenizer/tokenizer.h"

#include <criterion/criterion.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

static struct nib_error error;

/// Splits `text` and joins the pieces with "|".
static enum nib_status split(const char *source, enum nib_split_kind kind, bool invert,
                             struct nib_text text, char out[512])
{
    struct nib_pattern_step step = {NULL, kind, invert};
    struct nib_pattern_matcher matcher = {0};
    struct nib_range_list pieces = {0};
    out[0] = '\0';
    enum nib_status status =
        nib_pattern_compile((struct nib_text){source, strlen(source)}, &step.pattern, &error);
    if (status == NIB_OK) {
        cr_assert_eq(nib_pattern_matcher_begin(&matcher, text.size, &error), NIB_OK);
        status = nib_pattern_split(&step, &matcher, text.ptr, (struct nib_range){0, text.size},
                                   &pieces, &error);
    }
    for (size_t i = 0; i < pieces.count && text.size < 256; i++) {
        size_t begin = pieces.ranges[i].begin;
        strncat(out, text.ptr + begin, pieces.ranges[i].end - begin);
        if (i + 1 < pieces.count)
            strcat(out, "|");
    }
    nib_range_list_free(&pieces);
    nib_pattern_matcher_free(&matcher);
    nib_pattern_destroy(&step.pattern);
    return status;
}

static void expect_split(const char *source, enum nib_split_kind kind, bool invert,
                         const char *text, const char *pieces)
{
    char got[512];
    cr_assert_eq(split(source, kind, invert, (struct nib_text){text, strlen(text)}, got), NIB_OK,
                 "%s", error.message);
    cr_expect_str_eq(got, pieces, "'%s' on '%s': '%s'", source, text, got);
}

Test(pattern, kinds)
{
    expect_split("-", NIB_SPLIT_ISOLATE, false, "a--b-", "a|-|-|b|-");
    expect_split("-", NIB_SPLIT_REMOVE, false, "a--b-", "a|b");
    expect_split("-", NIB_SPLIT_MERGE_PREVIOUS, false, "-a--b-", "-|a-|-|b-");
    expect_split("-", NIB_SPLIT_MERGE_NEXT, false, "-a--b-", "-a|-|-b|-");
    expect_split("-", NIB_SPLIT_CONTIGUOUS, false, "a--b-", "a|--|b|-");
    expect_split("[a-z]+", NIB_SPLIT_REMOVE, true, "ab-cd", "ab|cd");
    expect_split("x", NIB_SPLIT_ISOLATE, false, "abc", "abc");
    expect_split("x", NIB_SPLIT_ISOLATE, true, "abc", "abc");
}

Test(pattern, empty_matches_cut)
{
    expect_split("(?=(\\d{3})+(?!\\d))", NIB_SPLIT_ISOLATE, false, "1234567", "1|234|567");
    expect_split("é*", NIB_SPLIT_ISOLATE, false, "aéb", "a|é|b");
}

Test(pattern, white_space_is_unicodes)
{
    expect_split("\\s", NIB_SPLIT_REMOVE, false,
                 "a\u180eb\u00a0c\u2003d\xc2\x85"
                 "e",
                 "a\u180eb|c|d|e");
    expect_split("\\S+", NIB_SPLIT_REMOVE, true, "a\u180eb\u3000c", "a\u180eb|c");
    expect_split("[^\\s-]+", NIB_SPLIT_REMOVE, true, "a\u180eb c-d", "a\u180eb|c|d");
    expect_split("[^\\Sx]+", NIB_SPLIT_REMOVE, true, "a \u180e b", " | ");
}

Test(pattern, dialect)
{
    expect_split("[(\\s|[.,])]+", NIB_SPLIT_REMOVE, false, "a, b)c", "a|b|c");
    expect_split("a$", NIB_SPLIT_REMOVE, false, "xa\nya", "x|\ny");
    expect_split("\\u00e9", NIB_SPLIT_REMOVE, false, "aéb", "a|b");
    expect_split("[[:digit:]]", NIB_SPLIT_REMOVE, false, "a1b", "a|b");
    expect_split("[]x]", NIB_SPLIT_REMOVE, false, "a]bxc", "a|b|c");
    expect_split("\\w+", NIB_SPLIT_REMOVE, true, "a\xcc\x81_b-Ⅷ", "a\xcc\x81_b|Ⅷ");
    expect_split("\\h+", NIB_SPLIT_REMOVE, false, "xBEEFy", "x|y");
}

Test(pattern, refused)
{
    static const struct {
        const char *source;
        enum nib_status status;
    } CASES[] = {
        {"(", NIB_ERROR_FORMAT},
        {"a{2,1}", NIB_ERROR_FORMAT},
        {"\\", NIB_ERROR_FORMAT},
        {"[a", NIB_ERROR_FORMAT},
        {"\\p{Nonesuch}", NIB_ERROR_FORMAT},
        {"a\xff", NIB_ERROR_FORMAT},
        {"\\C", NIB_ERROR_FORMAT},
        {"[a&&b]", NIB_ERROR_UNSUPPORTED},
        {"[a[^b]]", NIB_ERROR_UNSUPPORTED},
        {"(?:a{65535}){65535}", NIB_ERROR_FORMAT},
    };
    for (size_t i = 0; i < sizeof CASES / sizeof CASES[0]; i++) {
        char got[512];
        enum nib_status status =
            split(CASES[i].source, NIB_SPLIT_ISOLATE, false, (struct nib_text){"x", 1}, got);
        cr_expect_eq(status, CASES[i].status, "'%s': %d %s", CASES[i].source, status,
                     error.message);
        cr_expect(strstr(error.message, "pattern '"), "%s", error.message);
    }
}

/// Backtracking that would take forever ends in an error.
Test(pattern, hostile)
{
    char text[4096];
    char got[512];
    memset(text, 'a', sizeof text);
    text[sizeof text - 1] = 'b';
    static const char *const SOURCES[] = {"(a+)+$", "(a|aa)+$", "(?:a*)*c", "(.*)*(.*)*c"};
    for (size_t i = 0; i < sizeof SOURCES / sizeof SOURCES[0]; i++) {
        enum nib_status status =
            split(SOURCES[i], NIB_SPLIT_ISOLATE, false, (struct nib_text){text, sizeof text}, got);
        cr_expect(status == NIB_ERROR_UNSUPPORTED || status == NIB_OK, "'%s': %d", SOURCES[i],
                  status);
    }
    cr_expect_eq(split(SOURCES[1], NIB_SPLIT_ISOLATE, false, (struct nib_text){text, 4096}, got),
                 NIB_ERROR_UNSUPPORTED);
    cr_expect(strstr(error.message, "limit"), "%s", error.message);
    expect_split("a\\Kb", NIB_SPLIT_ISOLATE, false, "xabab", "xa|b|a|b");
}

/// Each family cuts texts as the pre-tokenizer in its models' tokenizer.json does.
Test(pattern, families)
{
    json_t *root =
        json_load_file(NIB_TEST_DATA "/tokenizer/pretokenizers.json", JSON_ALLOW_NUL, NULL);
    cr_assert_not_null(root);
    const char *name;
    json_t *cases;
    json_object_foreach(root, name, cases)
    {
        const struct nib_pretokenizer *family = nib_pretokenizer_find(name);
        cr_assert_not_null(family, "%s", name);
        struct nib_pattern_step steps[6];
        for (uint32_t i = 0; i < family->n_splits; i++) {
            const struct nib_vocab_split *from = &family->splits[i];
            steps[i] = (struct nib_pattern_step){NULL, from->kind, from->invert};
            cr_assert_eq(nib_pattern_compile(from->pattern, &steps[i].pattern, &error), NIB_OK,
                         "%s", error.message);
        }
        size_t index;
        json_t *item;
        json_array_foreach(cases, index, item)
        {
            const json_t *text = json_object_get(item, "text");
            const json_t *expected = json_object_get(item, "pieces");
            size_t size = json_string_length(text);
            struct nib_pattern_matcher matcher = {0};
            struct nib_range_list pieces = {0};
            cr_assert_eq(nib_pattern_matcher_begin(&matcher, size, &error), NIB_OK);
            if (size)
                nib_range_list_add(&pieces, (struct nib_range){0, size}, &error);
            for (uint32_t i = 0; i < family->n_splits; i++) {
                struct nib_range_list next = {0};
                for (size_t j = 0; j < pieces.count; j++)
                    cr_assert_eq(nib_pattern_split(&steps[i], &matcher, json_string_value(text),
                                                   pieces.ranges[j], &next, &error),
                                 NIB_OK, "%s", error.message);
                nib_range_list_free(&pieces);
                pieces = next;
            }
            bool same = pieces.count == json_array_size(expected);
            for (size_t j = 0; j < pieces.count && same; j++) {
                const json_t *piece = json_array_get(expected, j);
                size_t length = pieces.ranges[j].end - pieces.ranges[j].begin;
                same = length == json_string_length(piece) &&
                       memcmp(json_string_value(text) + pieces.ranges[j].begin,
                              json_string_value(piece), length) == 0;
            }
            cr_expect(same, "%s: text %zu '%s' has %zu pieces", name, index,
                      json_string_value(text), pieces.count);
            nib_range_list_free(&pieces);
            nib_pattern_matcher_free(&matcher);
        }
        for (uint32_t i = 0; i < family->n_splits; i++)
            nib_pattern_destroy(&steps[i].pattern);
    }
    json_decref(root);
}

/// Every pattern of every family compiles.
Test(pattern, families_compile)
{
    static const char *const NAMES[] = {
        "gpt-2",   "starcoder", "command-r", "llama-bpe",    "dbrx",           "qwen2",
        "hunyuan", "gpt-4o",    "tekken",    "deepseek-llm", "deepseek-coder", "deepseek-v3",
        "falcon",  "bloom",     "viking",    "default",      "smollm",         "llama3"};
    for (size_t i = 0; i < sizeof NAMES / sizeof NAMES[0]; i++) {
        const struct nib_pretokenizer *family = nib_pretokenizer_find(NAMES[i]);
        cr_assert_not_null(family, "%s", NAMES[i]);
        for (uint32_t j = 0; j < family->n_splits; j++) {
            struct nib_pattern *pattern;
            cr_expect_eq(nib_pattern_compile(family->splits[j].pattern, &pattern, &error), NIB_OK,
                         "%s: %s", NAMES[i], error.message);
            nib_pattern_destroy(&pattern);
        }
    }
    cr_expect_null(nib_pretokenizer_find("nonesuch"));
}

#define SPLIT(literal)                                             \
    {                                                              \
        {(literal), sizeof(literal) - 1}, NIB_SPLIT_ISOLATE, false \
    }

static const char *match(const struct nib_vocab_split *splits, uint32_t n_splits)
{
    return nib_pretokenizer_match(
        &(struct nib_vocab){.model = NIB_VOCAB_BPE, .splits = splits, .n_splits = n_splits});
}

/// Writes a pattern with the characters that "\x{4e00}" and the like stand for.
static struct nib_text spell_out(struct nib_text pattern, char *out)
{
    size_t size = 0;
    for (size_t i = 0; i < pattern.size;) {
        char *end;
        if (strncmp(pattern.ptr + i, "\\x{", 3) != 0) {
            out[size++] = pattern.ptr[i++];
            continue;
        }
        size += nib_utf8_encode((uint32_t)strtoul(pattern.ptr + i + 3, &end, 16), out + size);
        i = (size_t)(end + 1 - pattern.ptr);
    }
    return (struct nib_text){out, size};
}

/// Families are recognised by the patterns of the models' own files, in which characters stand for
/// themselves, line ends, too.
Test(pattern, families_of_files)
{
    struct nib_vocab_split llm[] = {SPLIT("[\r\n]"),
                                    SPLIT(""),
                                    SPLIT("\\s?[!-/:-~！-／：-～‘-‟　-。]+"),
                                    SPLIT("\\s+$"),
                                    SPLIT("[一-龥ࠀ-一가-퟿]+"),
                                    SPLIT("\\p{N}")};
    const struct nib_vocab_split coder[] = {SPLIT("[\r\n]"), SPLIT("\\s?\\p{L}+"),
                                            SPLIT("\\s?\\p{P}+"), SPLIT("[一-龥ࠀ-一가-퟿]+"),
                                            SPLIT("\\p{N}")};
    const struct nib_vocab_split v3[] = {
        SPLIT("\\p{N}{1,3}"), SPLIT("[一-龥぀-ゟ゠-ヿ]+"),
        SPLIT("[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?"
              "[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+")};
    char letters[1024];
    llm[1].pattern = spell_out(nib_pretokenizer_find("deepseek-llm")->splits[1].pattern, letters);
    cr_assert_lt(llm[1].pattern.size, sizeof letters);
    const char *names[] = {match(llm, 6), match(coder, 5), match(v3, 3)};
    static const char *const expected[] = {"deepseek-llm", "deepseek-coder", "deepseek-v3"};
    for (size_t i = 0; i < 3; i++)
        cr_expect(names[i] && strcmp(names[i], expected[i]) == 0, "%s: %s", expected[i],
                  names[i] ? names[i] : "none");

    // As they are written in this library, too; other patterns are not theirs.
    const struct nib_pretokenizer *family = nib_pretokenizer_find("deepseek-llm");
    cr_expect_str_eq(match(family->splits, family->n_splits), "deepseek-llm");
    const char *const others[] = {"[\\x{d}\\x{a}]", "[\\\\r\\n]", "[\r\n", "[\r\n]\\",
                                  "[\\x{4e0\xff}]", "",           "\\x{"};
    for (size_t i = 0; i < sizeof others / sizeof others[0]; i++) {
        llm[0].pattern = (struct nib_text){others[i], strlen(others[i])};
        cr_expect_null(match(llm, 6), "'%s'", others[i]);
    }
}
