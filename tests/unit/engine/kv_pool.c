#include "runtime/engine/kv_pool.h"

#include "runtime/base/philox.h"
#include <criterion/criterion.h>
#include <stdlib.h>

#define N_TABLES 5
#define CONTEXT 400
#define N_PAGES 40
#define WINDOW 40

static struct nib_kv_pool *make_pool(uint32_t window, uint32_t n_pages)
{
    struct nib_kv_pool_params params = {
        .n_classes = window ? 2 : 1,
        .n_pages = {N_PAGES, n_pages},
        .window = {0, window},
        .n_tables = N_TABLES,
        .context = CONTEXT,
    };
    struct nib_kv_pool *pool = NULL;
    cr_assert_eq(nib_kv_pool_create(&params, &pool, NULL), NIB_OK);
    return pool;
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
    cr_assert_eq(nib_kv_pool_free_pages(pool, 0), N_PAGES - 2);
    cr_assert_neq(page_at(pool, 2, 0, 0), page_at(pool, 2, 0, 1));
    cr_assert_eq(page_at(pool, 2, 0, 2), NIB_NONE);
    cr_assert_eq(nib_kv_pool_extend(pool, 2, 64, NULL), NIB_OK);
    cr_assert_eq(nib_kv_pool_free_pages(pool, 0), N_PAGES - 2);
    cr_assert_eq(nib_kv_pool_truncate(pool, 2, 32), 32);
    cr_assert_eq(nib_kv_pool_free_pages(pool, 0), N_PAGES - 1);
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
    cr_assert_eq(nib_kv_pool_free_pages(pool, 0), 1);
    cr_assert_eq(page_at(pool, 3, 0, 0), NIB_NONE);
    cr_assert_eq(nib_kv_pool_extend(pool, 3, 32, NULL), NIB_OK);
    nib_kv_pool_destroy(&pool);
}

Test(kv_pool, pages_have_references)
{
    struct nib_kv_pool *pool = make_pool(0, 0);
    uint32_t page = nib_kv_pool_take(pool, 0);
    cr_assert_lt(page, N_PAGES);
    nib_kv_pool_retain(pool, 0, page);
    nib_kv_pool_release(pool, 0, page);
    cr_assert_eq(nib_kv_pool_free_pages(pool, 0), N_PAGES - 1);
    nib_kv_pool_release(pool, 0, page);
    cr_assert_eq(nib_kv_pool_free_pages(pool, 0), N_PAGES);
    for (uint32_t i = 0; i < N_PAGES; i++)
        cr_assert_neq(nib_kv_pool_take(pool, 0), NIB_NONE);
    cr_assert_eq(nib_kv_pool_take(pool, 0), NIB_NONE);
    nib_kv_pool_destroy(&pool);
}

Test(kv_pool, truncating_behind_the_window_forgets_all)
{
    struct nib_kv_pool *pool = make_pool(WINDOW, 8);
    for (uint32_t n = 1; n <= 200; n++)
        cr_assert_eq(nib_kv_pool_extend(pool, 0, n, NULL), NIB_OK);
    // Position 199 saw positions from 160 on, so the pages of tokens below 160 are gone.
    cr_assert_eq(page_at(pool, 0, 1, 4), NIB_NONE);
    cr_assert_neq(page_at(pool, 0, 1, 5), NIB_NONE);
    cr_assert_neq(page_at(pool, 0, 0, 4), NIB_NONE);
    cr_assert_eq(nib_kv_pool_truncate(pool, 0, 199), 199);
    cr_assert_eq(nib_kv_pool_truncate(pool, 0, 198), 0);
    cr_assert_eq(nib_kv_pool_free_pages(pool, 0), N_PAGES);
    cr_assert_eq(nib_kv_pool_free_pages(pool, 1), 8);
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
    cr_assert_eq(nib_kv_pool_free_pages(pool, 0), N_PAGES - used[0]);
    cr_assert_eq(nib_kv_pool_free_pages(pool, 1), N_PAGES - used[1]);
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
            if (seen_page(*n) > model.first_page[t])
                model.first_page[t] = seen_page(*n);
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
