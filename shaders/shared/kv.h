// The paged KV cache. C and GLSL.
//
// A page holds NIB_KV_PAGE_TOKENS tokens of one layer. A layer has up to four planes: keys, values
// and, where their format has scales, the keys' and the values' scales. Page p begins p · page size
// into each plane. Bytes are little-endian, and the same on every backend.
//
// f32, f16: keys and values lie [KV head][token][dim]; there are no scales.
//
// i8, i4: the numbers of a head are cut into groups of NIB_KV_GROUP, the last one filled up with
// zeros; `dim` below counts the filled-up head. Whole groups are stored as H x / 8, H being the
// Hadamard matrix of 32 rows, and partial ones as they are: attention takes H q / 4 for a query, so
// that products are the same, and H y / 4 of its output. All planes consist of 32-bit words, and no
// word belongs to two tokens. NIB_KV_BY_TOKEN and NIB_KV_BY_NUMBER find a word in its page.
//
//   plane           word w of a token and head             lies
//   keys, i8        numbers 4 w + j in byte j              [KV head][w][token], w < dim / 4
//   keys, i4        numbers 8 w + j in bits 4 j and up     [KV head][w][token], w < dim / 8
//   bases           numbers 4 w + j in byte j              [KV head][w], w < dim / 4, one token a
//                                                          page; behind the page's keys
//   values, i8      numbers 4 w + j in byte j              [KV head][token][w], w < dim / 4
//   values, i4      of group w / 4, with k = 4 (w % 4),    [KV head][token][w], w < dim / 8
//                   numbers k + j in bits 8 j and up and
//                   16 + k + j in bits 8 j + 4 and up
//   scales, i4 by   scale of number i of group w in the    [KV head][w][i], w < groups, i < 32;
//   channel         low half, its minimum in the high one  once a page
//   scales, i8      scale of group 2 w in the low half,    [KV head][w][token],
//                   of 2 w + 1 (or 0) in the high half     w < ceil(groups / 2)
//   scales, i4      scale of group w in the low half, its  [KV head][w][token], w < groups
//                   minimum in the high half
//   scales of       scale of group 2 w in the low half,    [KV head][w], w < ceil(groups / 2);
//   bases           of 2 w + 1 (or 0) in the high half     behind the page's scales of keys
//
// i4 by channel, for keys alone: planes as keys in i4 have them, but for the scales above and
// without bases. A page's numbers are packed when its last token is stored, from the f16 that
// newest tokens are kept in (below), which they always are; until then its codes and scales may be
// anything, and no row reads them.
//
// So, for keys and scales, words of neighbouring tokens are neighbours, and for values those of
// neighbouring numbers. Scales and minima are binary16.
//
// i8: number = scale · (code − 128), code in 1 … 255; keys: + base.
//     scale = f16(max |x| / 127), code = round(x / scale) + 128.
// i4: number = scale · code + minimum, code in 0 … 15; keys: + base.
//     minimum = f16(least x), scale = f16((greatest x − least x) / 15),
//     code = round((x − minimum) / scale).
//     By channel, x are the numbers of a channel of a page's tokens, in f16.
// For keys, but by channel, x is the key less the base of its page. Bases are made as numbers of
// i8 are: of k for pages 0 and 1 of a sequence, and for all where a window is one token, where k is
// the key of the page's first token, and of b + (k - b) / 4 for those after them, where b is the
// base of the page before as it is stored.
// With `plain_keys` or `plain_values` (runtime/ops/kv.h), and for keys by channel, no group of
// theirs is transformed, nor is a query or output.
// H is multiplied with in fp32: for s = 1, 2, 4, 8, 16, x_i and x_(i+s) become their sum and their
// difference wherever i has no bit s. `round` takes ties to even; codes beyond their range become
// its ends; f16() rounds to nearest, ties to even, keeps subnormals, and makes ±65504 of what is
// larger. With a scale of 0 all codes are 128 or 0. Of what is to be stored, NaN counts as 0, and
// numbers beyond ±65504 as these. All of this is in fp32; x / scale is x · (1 / scale), and a
// backend whose 1 / scale is not exact may differ in a code by one.
//
// Beside their codes, keys and values of the newest tokens may be kept in f16, as they were before
// they became codes: transformed where those are, not less a base, and f16() of it. They lie
// [KV head][token][dim]
// in pages of a class of its own, keys, then values, each where its format has codes. A row in page
// p of its sequence reads pages from NIB_KV_FIRST_RECENT(p, n) on there, n being the number of
// pages that are kept, and codes before them. That is p - n + 1, but nothing before the last
// multiple of NIB_KV_RECENT_STRIDE pages: a sequence can go on from there without such pages.
// The first pages of a sequence may be kept there as well, up to NIB_KV_MAX_FIRST of them, and
// every row reads these in f16.
//
#ifndef SHADERS_SHARED_KV_H
#define SHADERS_SHARED_KV_H

#include "types.h"

#define NIB_KV_PAGE_TOKENS 32
#define NIB_KV_GROUP 32
#define NIB_KV_STORE_FACTOR 0.125f // of H for what is stored
#define NIB_KV_READ_FACTOR 0.25f // of H for queries and outputs; the two make H H / 32, which is I
#define NIB_KV_BASE_SHARE 0.25f  // what a page's first token adds to the base of the one before
#define NIB_KV_BASE_BEGIN 1      // until this page each has a base of its own
#define NIB_KV_RECENT_STRIDE 8
#define NIB_KV_MAX_FIRST 8
#define NIB_KV_MAX_CLASSES 3 // layers that see everything, layers with a window, tokens in f16

#define NIB_KV_FIRST_RECENT(page, n) \
    ((page) - ((page) % NIB_KV_RECENT_STRIDE < (n) ? (page) % NIB_KV_RECENT_STRIDE : (n)-1))

// Word `word` of `n_words` of a KV head's token in its page, for keys and scales, and for values.
#define NIB_KV_BY_TOKEN(head, n_words, word, token) \
    (((head) * (n_words) + (word)) * NIB_KV_PAGE_TOKENS + (token))
#define NIB_KV_BY_NUMBER(head, n_words, word, token) \
    (((head)*NIB_KV_PAGE_TOKENS + (token)) * (n_words) + (word))

#define NIB_KV_HALF_MAX 65504.0f

#endif
