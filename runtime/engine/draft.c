#include "runtime/engine/draft.h"

/// Equal tokens without which a place is taken for chance, and beyond which it is no better.
#define MIN_EQUAL 2
#define MAX_EQUAL 8

/// Returns how many tokens before `a` and before `b` > `a` are equal, up to MAX_EQUAL.
static uint32_t count_equal(const int32_t *tokens, uint32_t a, uint32_t b)
{
    uint32_t count = 0;
    while (count < MAX_EQUAL && count < a && tokens[a - 1 - count] == tokens[b - 1 - count])
        count++;
    return count;
}

uint32_t nib_draft_find(int32_t *tokens, uint32_t n, uint32_t n_draft)
{
    uint32_t best = 0, most = MIN_EQUAL - 1;
    for (uint32_t back = 1; back + MIN_EQUAL <= n && most < MAX_EQUAL; back++) {
        uint32_t count = count_equal(tokens, n - back, n);
        if (count > most) {
            most = count;
            best = n - back;
        }
    }
    if (best == 0)
        return 0;
    // Where the place is near the end, the draft goes on with its own beginning.
    for (uint32_t i = 0; i < n_draft; i++)
        tokens[n + i] = tokens[best + i];
    return n_draft;
}
