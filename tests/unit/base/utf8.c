#include "runtime/base/utf8.h"

#include <criterion/criterion.h>
#include <string.h>

Test(utf8, every_code_point_round_trips)
{
    for (uint32_t c = 0; c <= 0x10ffff; c++) {
        if (c >= 0xd800 && c <= 0xdfff)
            continue;
        char text[4];
        uint32_t decoded;
        bool valid;
        size_t length = nib_utf8_encode(c, text);
        cr_assert_eq(length, c < 0x80 ? 1 : c < 0x800 ? 2 : c < 0x10000 ? 3 : 4);
        cr_assert(nib_utf8_decode(text, length, &decoded, &valid) == length && valid);
        cr_assert_eq(decoded, c);
        for (size_t n = 1; n < length; n++) {
            cr_assert_eq(nib_utf8_decode(text, n, &decoded, &valid), n);
            cr_assert(!valid && decoded == 0xfffd);
            cr_assert_eq(nib_utf8_incomplete_tail(text, n), n);
        }
        cr_assert_eq(nib_utf8_incomplete_tail(text, length), 0);
    }
}

Test(utf8, what_is_no_code_point_is_encoded_as_replacement)
{
    static const uint32_t bad[] = {0xd800, 0xdbff, 0xdc00, 0xdfff, 0x110000, UINT32_MAX};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        char text[4];
        cr_assert_eq(nib_utf8_encode(bad[i], text), 3);
        cr_assert_arr_eq(text, "\xef\xbf\xbd", 3);
    }
}

/// Returns the length of a well-formed sequence's first `n` bytes by table 3-7, written out: 0
/// where no character begins so, else the whole character's length.
static size_t table_3_7(const uint8_t *s, size_t n)
{
    static const struct {
        uint8_t first, first_last, second, second_last, length;
    } rows[] = {
        {0x00, 0x7f, 0, 0, 1},       {0xc2, 0xdf, 0x80, 0xbf, 2}, {0xe0, 0xe0, 0xa0, 0xbf, 3},
        {0xe1, 0xec, 0x80, 0xbf, 3}, {0xed, 0xed, 0x80, 0x9f, 3}, {0xee, 0xef, 0x80, 0xbf, 3},
        {0xf0, 0xf0, 0x90, 0xbf, 4}, {0xf1, 0xf3, 0x80, 0xbf, 4}, {0xf4, 0xf4, 0x80, 0x8f, 4},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        if (s[0] < rows[i].first || s[0] > rows[i].first_last)
            continue;
        if (n > rows[i].length)
            return 0;
        if (n > 1 && (s[1] < rows[i].second || s[1] > rows[i].second_last))
            return 0;
        for (size_t k = 2; k < n; k++) {
            if (s[k] < 0x80 || s[k] > 0xbf)
                return 0;
        }
        return rows[i].length;
    }
    return 0;
}

/// All sequences of two bytes, and of four whose last two are at the edges of the classes.
Test(utf8, decodes_as_table_3_7_says)
{
    static const uint8_t tails[] = {0x00, 0x7f, 0x80, 0x8f, 0x90, 0x9f, 0xa0, 0xbf, 0xc0, 0xff};
    for (unsigned head = 0; head < 0x10000; head++) {
        for (size_t tail = 0; tail < 100; tail++) {
            uint8_t s[4] = {(uint8_t)(head >> 8), (uint8_t)head, tails[tail / 10],
                            tails[tail % 10]};
            size_t longest = 0; // the longest prefix with which a character begins
            size_t whole = 0;   // the character's length, if it is there
            for (size_t n = 1; n <= 4; n++) {
                size_t length = table_3_7(s, n);
                if (length)
                    longest = n;
                if (length == n)
                    whole = n;
            }
            uint32_t code_point;
            bool valid;
            size_t length = nib_utf8_decode((const char *)s, 4, &code_point, &valid);
            cr_assert_eq(valid, whole > 0);
            cr_assert_eq(length, whole ? whole : longest ? longest : 1);
            cr_assert(valid || code_point == 0xfffd);
        }
    }
}

/// The Unicode Standard's examples of substitution of maximal subparts (tables 3-8 to 3-11).
Test(utf8, substitutes_maximal_subparts)
{
    static const struct {
        const char *text;
        const char *shown; // R stands for U+FFFD
    } cases[] = {
        {"\xc0\xaf\xe0\x80\xbf\xf0\x81\x82\x41", "RRRRRRRRA"},
        {"\xed\xa0\x80\xed\xbf\xbf\xed\xaf\x41", "RRRRRRRRA"},
        {"\xf4\x91\x92\x93\xff\x41\x80\xbf\x42", "RRRRRARRB"},
        {"\xe1\x80\xe2\xf0\x91\x92\xf1\xbf\x41", "RRRRA"},
        {"\x61\xf1\x80\x80\xe1\x80\xc2\x62\x80\x63\x80\xbf\x64", "aRRRbRcRRd"},
        {"\xf8\x88\x80\x80\x80", "RRRRR"},
        {"\xfe\xff", "RR"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        size_t size = strlen(cases[i].text), n = 0;
        char shown[32] = "";
        for (size_t at = 0; at < size; n++) {
            uint32_t code_point;
            bool valid;
            at += nib_utf8_decode(cases[i].text + at, size - at, &code_point, &valid);
            shown[n] = valid ? (char)code_point : 'R';
        }
        cr_assert_str_eq(shown, cases[i].shown);
        cr_assert(!nib_utf8_valid(cases[i].text, size));
    }
}

Test(utf8, valid_text)
{
    static const char text[] = "a\0gr\xc3\xbc\xe2\x82\xac\xf0\x9f\x98\x80";
    cr_assert(nib_utf8_valid(text, sizeof text - 1));
    cr_assert(nib_utf8_valid(NULL, 0));
    cr_assert(!nib_utf8_valid(text, sizeof text - 2));
}

Test(utf8, incomplete_tail)
{
    static const struct {
        const char *text;
        size_t tail;
    } cases[] = {
        {"", 0},
        {"abc", 0},
        {"ab\xc3", 1},
        {"ab\xe2\x82", 2},
        {"ab\xf0\x9f\x98", 3},
        {"ab\xf0\x9f", 2},
        {"\xc3\xa9", 0},
        {"a\x80\x80\x80", 0},
        {"\x80", 0},
        {"\xff", 0},
        {"\xc0", 0},
        {"\xe0\x80", 0},     // overlong
        {"\xed\xa0", 0},     // surrogate
        {"\xf4\x90\x80", 0}, // above U+10FFFF
        {"\xc3\xa9\x80", 0},
        {"\xe2\x82\xac\xe2", 1},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        cr_assert_eq(nib_utf8_incomplete_tail(cases[i].text, strlen(cases[i].text)), cases[i].tail,
                     "case %zu", i);
    }
}
