#include "runtime/base/philox.h"
#include "tests/unit/engine/pool_check.h"
#include <criterion/criterion.h>
#include <stdlib.h>

#define N_TABLES 5
#define CONTEXT 400
#define N_PAGES 40
#define WINDOW 40

/// The last copy that a pool asked for.
static struct {
    uint32_t kv_class, source, target, count;
    enum nib_status status;
} copied;

static enum nib_status copy(void *user, uint32_t kv_class, uint32_t source, uint32_t target,
                            struct nib_error *err)
{
    (void)err;
    cr_assert_eq(user, &copied);
    copied.kv_class = kv_class;
    copied.source = source;
    copied.target = target;
    copied.count++;
    return copied.status;
}

/// A pool whose classes and their pages are given.
static struct nib_kv_pool *make_pool_of(struct nib_kv_pool_params params)
{
    params.n_tables = N_TABLES;
    params.context = CONTEXT;
    params.share = true;
    params.copy = copy;
    params.user = &copied;
    struct nib_kv_pool *pool = NULL;
    cr_assert_eq(nib_kv_pool_create(&params, &pool, NULL), NIB_OK);
    return pool;
}

static struct nib_kv_pool *make_pool(uint32_t window, uint32_t n_pages)
{
    return make_pool_of((struct nib_kv_pool_params){
        .n_classes = window ? 2 : 1,
        .n_pages = {N_PAGES, n_pages},
        .reach = {{.window = 0}, {.window = window}},
    });
}

static uint32_t page_at(const struct nib_kv_pool *pool, uint32_t table, uint32_t kv_class,
                        uint32_t index)
{
    return nib_kv_pool_tables(
        pool)[nib_kv_pool_offset(pool, table) + kv_class * nib_kv_pool_stride(pool) + index];
}

Test(kv_pool, gives_pages_for_tokens)
{
    struct nib_kv_pool *pool = make_pool(0, 0);
    cr_assert_eq(nib_kv_pool_stride(pool), 13);
    cr_assert_eq(nib_kv_pool_extend(pool, 2, 33, NULL), NIB_OK);
    cr_assert_eq(nib_kv_pool_get_usage(pool, 0).n_free, N_PAGES - 2);
    cr_assert_neq(page_at(pool, 2, 0, 0), page_at(pool, 2, 0, 1));
    cr_assert_eq(page_at(pool, 2, 0, 2), NIB_NONE);
    cr_assert_eq(nib_kv_pool_extend(pool, 2, 64, NULL), NIB_OK);
    cr_assert_eq(nib_kv_pool_get_usage(pool, 0).n_free, N_PAGES - 2);
    cr_assert_eq(nib_kv_pool_truncate(pool, 2, 32), 32);
    cr_assert_eq(nib_kv_pool_get_usage(pool, 0).n_free, N_PAGES - 1);
    cr_assert_eq(nib_kv_pool_truncate(pool, 2, 100), 32);
    nib_kv_pool_destroy(&pool);
    cr_assert_null(pool);
}

Test(kv_pool, full_pool_takes_nothing)
{
    struct nib_kv_pool *pool = make_pool(0, 0);
    for (uint32_t table = 0; table < 3; table++)
        cr_assert_eq(nib_kv_pool_extend(pool, table, CONTEXT, NULL), NIB_OK);
    struct nib_error error;
    cr_assert_eq(nib_kv_pool_extend(pool, 3, 64, &error), NIB_ERROR_KV_FULL);
    cr_assert_eq(error.status, NIB_ERROR_KV_FULL);
    cr_assert_eq(nib_kv_pool_get_usage(pool, 0).n_free, 1);
    cr_assert_eq(page_at(pool, 3, 0, 0), NIB_NONE);
    cr_assert_eq(nib_kv_pool_extend(pool, 3, 32, NULL), NIB_OK);
    nib_kv_pool_destroy(&pool);
}

Test(kv_pool, truncating_behind_the_window_forgets_all)
{
    struct nib_kv_pool *pool = make_pool(WINDOW, 8);
    for (uint32_t n = 1; n <= 200; n++)
        cr_assert_eq(nib_kv_pool_extend(pool, 0, n, NULL), NIB_OK);
    // Position 192, with which the last page begins, sees positions from 153 on, so the pages of
    // tokens below 128 are gone.
    cr_assert_eq(page_at(pool, 0, 1, 3), NIB_NONE);
    cr_assert_neq(page_at(pool, 0, 1, 4), NIB_NONE);
    cr_assert_neq(page_at(pool, 0, 0, 3), NIB_NONE);
    cr_assert_eq(nib_kv_pool_truncate(pool, 0, 167), 167);
    cr_assert_eq(nib_kv_pool_truncate(pool, 0, 166), 0);
    cr_assert_eq(nib_kv_pool_get_usage(pool, 0).n_free, N_PAGES);
    cr_assert_eq(nib_kv_pool_get_usage(pool, 1).n_free, 8);
    nib_kv_pool_destroy(&pool);
}

static void assert_sound(const struct nib_kv_pool *pool)
{
    const char *wrong = pool_check(pool);
    cr_assert_null(wrong, "%s", wrong);
}

/// Writes n tokens of text `text`; all texts begin with the same 70 tokens.
static void write_tokens(int32_t *tokens, uint32_t n, int32_t text)
{
    for (uint32_t i = 0; i < n; i++)
        tokens[i] = (int32_t)i + (i < 70 ? 0 : 1000 * text);
}

/// Computes n tokens with table `table` in one go.
static void compute(struct nib_kv_pool *pool, uint32_t table, const int32_t *tokens, uint32_t n)
{
    cr_assert_eq(nib_kv_pool_extend(pool, table, n, NULL), NIB_OK);
    nib_kv_pool_commit(pool, table, tokens, n);
    assert_sound(pool);
}

Test(kv_pool, a_prefix_is_shared)
{
    struct nib_kv_pool *pool = make_pool(0, 0);
    int32_t first[200], second[200];
    write_tokens(first, 200, 1);
    write_tokens(second, 200, 2);
    compute(pool, 0, first, 150);
    // Two pages of 64 tokens are common, a third is not; the limit counts as well.
    cr_assert_eq(nib_kv_pool_attach(pool, 1, second, 200), 64);
    cr_assert_eq(nib_kv_pool_attach(pool, 2, second, 63), 32);
    cr_assert_eq(page_at(pool, 1, 0, 1), page_at(pool, 0, 0, 1));
    cr_assert_eq(nib_kv_pool_get_usage(pool, 0).n_free, N_PAGES - 5);
    compute(pool, 1, second, 100);
    cr_assert_neq(page_at(pool, 1, 0, 2), page_at(pool, 0, 0, 2));
    // A table that has computed a part on its own goes on with what others have.
    cr_assert_eq(nib_kv_pool_attach(pool, 3, second, 200), 96);
    cr_assert_eq(nib_kv_pool_truncate(pool, 3, 70), 70);
    cr_assert_eq(nib_kv_pool_attach(pool, 3, second, 200), 96);
    assert_sound(pool);
    nib_kv_pool_destroy(&pool);
}

Test(kv_pool, what_two_tables_compute_is_kept_once)
{
    struct nib_kv_pool *pool = make_pool(WINDOW, 20);
    int32_t tokens[128];
    write_tokens(tokens, 128, 1);
    cr_assert_eq(nib_kv_pool_extend(pool, 0, 128, NULL), NIB_OK);
    compute(pool, 1, tokens, 128);
    cr_assert_eq(nib_kv_pool_get_usage(pool, 0).n_free, N_PAGES - 8);
    nib_kv_pool_commit(pool, 0, tokens, 128);
    cr_assert_eq(nib_kv_pool_get_usage(pool, 0).n_free, N_PAGES - 4);
    cr_assert_eq(page_at(pool, 0, 0, 3), page_at(pool, 1, 0, 3));
    assert_sound(pool);
    nib_kv_pool_destroy(&pool);
}

Test(kv_pool, prefixes_outlive_tables_until_pages_are_needed)
{
    struct nib_kv_pool *pool = make_pool(0, 0);
    int32_t old[400], newer[400];
    write_tokens(old, 400, 1);
    write_tokens(newer, 400, 2);
    compute(pool, 0, old, 400);
    cr_assert_eq(nib_kv_pool_truncate(pool, 0, 0), 0);
    compute(pool, 1, newer, 400);
    cr_assert_eq(nib_kv_pool_truncate(pool, 1, 0), 0);
    // 12 whole pages each, two of them common; nobody can find the ends.
    cr_assert_eq(nib_kv_pool_get_usage(pool, 0).n_idle, 22);
    cr_assert_eq(nib_kv_pool_extend(pool, 2, 400, NULL), NIB_OK);
    cr_assert_eq(nib_kv_pool_extend(pool, 3, 224, NULL), NIB_OK);
    assert_sound(pool);
    // Of the older text the last two pages had to go.
    cr_assert_eq(nib_kv_pool_attach(pool, 0, old, 400), 320);
    cr_assert_eq(nib_kv_pool_attach(pool, 1, newer, 400), 384);
    assert_sound(pool);
    nib_kv_pool_destroy(&pool);
}

Test(kv_pool, a_window_takes_its_pages_with_it)
{
    struct nib_kv_pool *pool = make_pool(WINDOW, 7);
    int32_t tokens[400];
    write_tokens(tokens, 400, 1);
    for (uint32_t n = 50; n <= 400; n += 50)
        compute(pool, 0, tokens, n);
    // Of the window's class those of tokens 192 and up are left, and the whole of the other.
    cr_assert_eq(nib_kv_pool_attach(pool, 1, tokens, 200), 0);
    cr_assert_eq(nib_kv_pool_attach(pool, 1, tokens, 255), 0);
    cr_assert_eq(nib_kv_pool_attach(pool, 1, tokens, 256), 256);
    cr_assert_eq(page_at(pool, 1, 1, 5), NIB_NONE);
    cr_assert_neq(page_at(pool, 1, 1, 6), NIB_NONE);
    assert_sound(pool);
    nib_kv_pool_destroy(&pool);
}

Test(kv_pool, a_fork_copies_the_page_it_writes_to)
{
    struct nib_kv_pool *pool = make_pool(0, 0);
    int32_t tokens[100];
    write_tokens(tokens, 100, 1);
    compute(pool, 0, tokens, 80);
    nib_kv_pool_fork(pool, 0, 1);
    cr_assert_eq(nib_kv_pool_get_usage(pool, 0).n_free, N_PAGES - 3);
    copied.count = 0;
    uint32_t page = page_at(pool, 0, 0, 2);
    cr_assert_eq(nib_kv_pool_extend(pool, 1, 81, NULL), NIB_OK);
    cr_assert_eq(copied.count, 1);
    cr_assert_eq(copied.source, page);
    cr_assert_eq(copied.target, page_at(pool, 1, 0, 2));
    cr_assert_eq(nib_kv_pool_extend(pool, 0, 81, NULL), NIB_OK);
    cr_assert_eq(copied.count, 1);
    cr_assert_eq(page_at(pool, 0, 0, 2), page);
    // A copy that fails leaves the table as it was.
    nib_kv_pool_fork(pool, 0, 2);
    copied.status = NIB_ERROR_DEVICE_LOST;
    cr_assert_eq(nib_kv_pool_extend(pool, 2, 82, NULL), NIB_ERROR_DEVICE_LOST);
    copied.status = NIB_OK;
    cr_assert_eq(page_at(pool, 2, 0, 2), page);
    assert_sound(pool);
    nib_kv_pool_destroy(&pool);
}

Test(kv_pool, a_full_pool_rather_forgets_than_fails)
{
    struct nib_kv_pool *pool = make_pool(0, 0);
    int32_t tokens[400];
    write_tokens(tokens, 400, 1);
    for (uint32_t t = 0; t < 3; t++)
        cr_assert_eq(nib_kv_pool_extend(pool, t, 384, NULL), NIB_OK);
    compute(pool, 3, tokens, 128);
    // Page 3 is known to others, and no page is left to copy it to.
    cr_assert_eq(nib_kv_pool_truncate(pool, 3, 100), 100);
    copied.count = 0;
    cr_assert_eq(nib_kv_pool_extend(pool, 3, 101, NULL), NIB_OK);
    cr_assert_eq(copied.count, 0);
    assert_sound(pool);
    nib_kv_pool_destroy(&pool);
}

Test(kv_pool, one_table_claims_a_page)
{
    struct nib_kv_pool *pool = make_pool(0, 0);
    int32_t first[100], second[100];
    write_tokens(first, 100, 1);
    write_tokens(second, 100, 2);
    nib_kv_pool_begin(pool);
    cr_assert(nib_kv_pool_claim(pool, 0, first, 100));
    cr_assert_not(nib_kv_pool_claim(pool, 1, second, 100));
    // Too few tokens to fill the page: nothing that others could wait for.
    cr_assert(nib_kv_pool_claim(pool, 2, first, 31));
    nib_kv_pool_begin(pool);
    cr_assert(nib_kv_pool_claim(pool, 1, second, 100));
    compute(pool, 0, first, 64);
    compute(pool, 1, second, 64);
    nib_kv_pool_begin(pool);
    cr_assert(nib_kv_pool_claim(pool, 0, first, 100));
    cr_assert(nib_kv_pool_claim(pool, 1, second, 100));
    nib_kv_pool_destroy(&pool);
}

Test(kv_pool, restored_tables_are_not_shared)
{
    struct nib_kv_pool *pool = make_pool(WINDOW, 6);
    int32_t tokens[320];
    write_tokens(tokens, 320, 1);
    cr_assert_eq(nib_kv_pool_restore(pool, 0, 320, NULL), NIB_OK);
    cr_assert_eq(page_at(pool, 0, 1, 7), NIB_NONE);
    cr_assert_neq(page_at(pool, 0, 1, 8), NIB_NONE);
    nib_kv_pool_commit(pool, 0, tokens, 320);
    cr_assert_eq(nib_kv_pool_attach(pool, 1, tokens, 320), 0);
    cr_assert_eq(nib_kv_pool_truncate(pool, 0, 0), 0);
    cr_assert_eq(nib_kv_pool_get_usage(pool, 0).n_free, N_PAGES);
    cr_assert_eq(nib_kv_pool_extend(pool, 2, 400, NULL), NIB_ERROR_KV_FULL);
    cr_assert_eq(nib_kv_pool_restore(pool, 2, 384, NULL), NIB_OK);
    assert_sound(pool);
    nib_kv_pool_destroy(&pool);
}

Test(kv_pool, first_pages_stay)
{
    const struct nib_kv_pool_params params = {
        .n_classes = 3,
        .n_pages = {N_PAGES, 6 * N_TABLES, 2 * N_TABLES},
        .n_step_pages = 6,
        .reach = {{.window = 0}, {.recent = 2, .first = 2}, {.first = 2}},
    };
    struct nib_kv_pool *pool = make_pool_of(params);
    int32_t tokens[400];
    write_tokens(tokens, 400, 1);
    nib_kv_pool_begin(pool);
    cr_assert_eq(nib_kv_pool_extend(pool, 0, 192, NULL), NIB_OK);
    for (uint32_t i = 0; i < 6; i++) {
        // Between the first ones and the newest ones lie those of the step.
        cr_assert_eq(page_at(pool, 0, 1, i) < params.n_pages[1], i < 2 || i > 3);
        cr_assert_eq(page_at(pool, 0, 2, i) != NIB_NONE, i < 2);
    }
    nib_kv_pool_commit(pool, 0, tokens, 192);
    cr_assert(nib_kv_pool_can_resume(pool, 0, 192) && !nib_kv_pool_can_resume(pool, 0, 150));
    cr_assert(nib_kv_pool_can_resume(pool, 0, 64) && nib_kv_pool_can_resume(pool, 0, 40));
    assert_sound(pool);
    // Others get them with the prefix, wherever it ends.
    cr_assert_eq(nib_kv_pool_attach(pool, 1, tokens, 200), 192);
    cr_assert_eq(nib_kv_pool_attach(pool, 2, tokens, 159), 64);
    for (uint32_t c = 1; c < 3; c++) {
        cr_assert_eq(page_at(pool, 1, c, 1), page_at(pool, 0, c, 1));
        cr_assert_eq(page_at(pool, 2, c, 0), page_at(pool, 0, c, 0));
    }
    // Where newest ones are gone, they are left.
    cr_assert_eq(nib_kv_pool_truncate(pool, 0, 130), 64);
    cr_assert_neq(page_at(pool, 0, 1, 1), NIB_NONE);
    cr_assert_eq(nib_kv_pool_truncate(pool, 0, 40), 40);
    nib_kv_pool_fork(pool, 0, 3);
    cr_assert_eq(nib_kv_pool_extend(pool, 3, 41, NULL), NIB_OK);
    for (uint32_t c = 1; c < 3; c++) {
        cr_assert_eq(page_at(pool, 3, c, 0), page_at(pool, 0, c, 0));
        cr_assert_neq(page_at(pool, 3, c, 1), page_at(pool, 0, c, 1));
    }
    cr_assert_eq(nib_kv_pool_truncate(pool, 1, 0), 0);
    cr_assert_eq(nib_kv_pool_restore(pool, 1, 320, NULL), NIB_OK);
    cr_assert(page_at(pool, 1, 1, 1) != NIB_NONE && page_at(pool, 1, 1, 2) == NIB_NONE);
    assert_sound(pool);
    nib_kv_pool_destroy(&pool);
}

/// What the pool must hold: the tokens of each table, and from which page on a window's are there.
struct model {
    uint32_t n_tokens[N_TABLES];
    uint32_t first_page[N_TABLES];
};

static uint32_t seen_page(uint32_t position)
{
    return position < WINDOW ? 0 : (position - WINDOW + 1) / NIB_KV_PAGE_TOKENS;
}

static void check_against(const struct nib_kv_pool *pool, const struct model *model)
{
    uint32_t owner[2][N_PAGES] = {{0}};
    uint32_t used[2] = {0};
    for (uint32_t t = 0; t < N_TABLES; t++) {
        uint32_t end = (model->n_tokens[t] + NIB_KV_PAGE_TOKENS - 1) / NIB_KV_PAGE_TOKENS;
        for (uint32_t c = 0; c < 2; c++) {
            for (uint32_t i = 0; i < nib_kv_pool_stride(pool); i++) {
                uint32_t page = page_at(pool, t, c, i);
                bool held = i < end && (c == 0 || i >= model->first_page[t]);
                cr_assert_eq(page != NIB_NONE, held, "table %u class %u entry %u", t, c, i);
                if (!held)
                    continue;
                cr_assert_lt(page, N_PAGES);
                cr_assert_eq(owner[c][page], 0, "page %u of class %u has two owners", page, c);
                owner[c][page] = t + 1;
                used[c]++;
            }
        }
    }
    cr_assert_eq(nib_kv_pool_get_usage(pool, 0).n_free, N_PAGES - used[0]);
    cr_assert_eq(nib_kv_pool_get_usage(pool, 1).n_free, N_PAGES - used[1]);
}

Test(kv_pool, random_operations_match_a_simple_model)
{
    struct nib_kv_pool *pool = make_pool(WINDOW, N_PAGES);
    struct model model = {0};
    uint32_t full = 0;
    for (uint64_t i = 0; i < 20000; i++) {
        uint32_t random[4];
        nib_philox(7, i, random);
        uint32_t t = random[0] % N_TABLES;
        uint32_t *n = &model.n_tokens[t];
        if (random[1] % 4 != 0) {
            uint32_t more = 1 + random[2] % 64;
            uint32_t end = *n + more < CONTEXT ? *n + more : CONTEXT;
            uint32_t seen = seen_page(*n - *n % NIB_KV_PAGE_TOKENS);
            if (end > *n && seen > model.first_page[t])
                model.first_page[t] = seen;
            if (nib_kv_pool_extend(pool, t, end, NULL) == NIB_OK)
                *n = end;
            else
                full++;
        } else {
            uint32_t keep = random[2] % 3 ? *n - (*n < random[3] % 40 ? *n : random[3] % 40) : 0;
            uint32_t kept = nib_kv_pool_truncate(pool, t, keep);
            uint32_t expected = model.first_page[t] > seen_page(keep) ? 0 : keep;
            cr_assert_eq(kept, expected);
            *n = kept;
            if (kept == 0)
                model.first_page[t] = 0;
        }
        check_against(pool, &model);
    }
    cr_assert_gt(full, 100);
    nib_kv_pool_destroy(&pool);
}
