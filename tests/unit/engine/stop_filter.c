#include "runtime/engine/stop_filter.h"

#include <criterion/criterion.h>
#include <string.h>

static struct nib_text text_of(const char *text)
{
    return (struct nib_text){.ptr = text, .size = strlen(text)};
}

/// Pushes `text` in pieces of `piece` bytes; returns what came out, flushed where nothing stopped
/// it.
static bool run_filter(const char *const *stops, uint32_t n_stops, const char *text, size_t piece,
                       char *out)
{
    struct nib_text list[8];
    for (uint32_t i = 0; i < n_stops; i++)
        list[i] = text_of(stops[i]);
    struct nib_stop_filter filter;
    cr_assert_eq(nib_stop_filter_init(&filter, list, n_stops, NULL), NIB_OK);
    size_t size = strlen(text);
    size_t written = 0;
    size_t last = 0;
    bool stopped = false;
    struct nib_text result = {0};
    for (size_t i = 0; i < size && !stopped; i += piece) {
        struct nib_text next = {text + i, size - i < piece ? size - i : piece};
        cr_assert_eq(nib_stop_filter_push(&filter, next, &result, &stopped, NULL), NIB_OK);
        if (result.size > 0)
            memcpy(out + written, result.ptr, result.size);
        last = written;
        written += result.size;
    }
    if (!stopped) {
        nib_stop_filter_flush(&filter, &result);
        if (result.size > 0)
            memcpy(out + last, result.ptr, result.size);
        written = last + result.size;
    }
    out[written] = '\0';
    nib_stop_filter_free(&filter);
    return stopped;
}

static void expect(const char *const *stops, uint32_t n_stops, const char *text, bool stopped,
                   const char *expected)
{
    char out[256];
    for (size_t piece = 1; piece <= strlen(text); piece++) {
        cr_assert_eq(run_filter(stops, n_stops, text, piece, out), stopped, "pieces of %zu", piece);
        cr_assert_str_eq(out, expected, "pieces of %zu", piece);
    }
}

Test(stop_filter, lets_everything_through_without_stops)
{
    expect(NULL, 0, "some text", false, "some text");
}

Test(stop_filter, finds_a_stop_across_pieces)
{
    const char *stops[] = {"\nUser:"};
    expect(stops, 1, "Fine.\nUser: and you", true, "Fine.");
    expect(stops, 1, "Fine.\nUse it", false, "Fine.\nUse it");
    expect(stops, 1, "Fine.\n\nUser:", true, "Fine.\n");
    expect(stops, 1, "Fine.\nUser", false, "Fine.\nUser");
}

Test(stop_filter, the_first_end_wins_whatever_the_pieces)
{
    const char *stops[] = {"abcd", "bc"};
    expect(stops, 2, "xxabcdyy", true, "xxa");
    const char *longest[] = {"c", "abc"};
    expect(longest, 2, "xxabcyy", true, "xx");
}

Test(stop_filter, self_overlap)
{
    const char *stops[] = {"aab"};
    expect(stops, 1, "aaaaab!", true, "aaa");
    const char *repeated[] = {"abab"};
    expect(repeated, 1, "ababa", true, "");
    expect(repeated, 1, "abaabab", true, "aba");
}

Test(stop_filter, keeps_nothing_back_without_need)
{
    struct nib_text stop = text_of("END");
    struct nib_stop_filter filter;
    struct nib_text out;
    bool stopped;
    cr_assert_eq(nib_stop_filter_init(&filter, &stop, 1, NULL), NIB_OK);
    cr_assert_eq(nib_stop_filter_push(&filter, text_of("the E"), &out, &stopped, NULL), NIB_OK);
    cr_assert_eq(out.size, 4);
    cr_assert_eq(nib_stop_filter_push(&filter, text_of("x"), &out, &stopped, NULL), NIB_OK);
    cr_assert_eq(out.size, 2);
    cr_assert_eq(memcmp(out.ptr, "Ex", 2), 0);
    nib_stop_filter_free(&filter);
}

Test(stop_filter, long_pieces_grow_the_buffer)
{
    struct nib_text stop = text_of("END");
    struct nib_stop_filter filter;
    struct nib_text out;
    bool stopped;
    char piece[5000];
    memset(piece, 'E', sizeof piece);
    cr_assert_eq(nib_stop_filter_init(&filter, &stop, 1, NULL), NIB_OK);
    cr_assert_eq(
        nib_stop_filter_push(&filter, (struct nib_text){piece, sizeof piece}, &out, &stopped, NULL),
        NIB_OK);
    cr_assert_eq(out.size, sizeof piece - 1);
    nib_stop_filter_free(&filter);
}

Test(stop_filter, refuses_empty_and_broken_stops)
{
    struct nib_stop_filter filter;
    struct nib_text empty = {"", 0};
    struct nib_text broken = {"\x80z", 2};
    cr_assert_eq(nib_stop_filter_init(&filter, &empty, 1, NULL), NIB_ERROR_ARGUMENT);
    cr_assert_eq(nib_stop_filter_init(&filter, &broken, 1, NULL), NIB_ERROR_ARGUMENT);
    nib_stop_filter_free(&filter);
}
