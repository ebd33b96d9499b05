// Random operations on the KV pool against a simple model, which knows what every page must hold.
//
// The model's cache holds, for each position, a hash of all tokens up to it. A page that two
// sequences own wrongly, a copy that was not made, or a prefix mistaken for another shows as a
// wrong hash. Under the address and the thread sanitizer as well, so without Criterion.
#include "runtime/base/philox.h"
#include "tests/unit/engine/pool_check.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define N_TABLES 8
#define CONTEXT 420
#define MAX_PAGES 128
#define N_OPERATIONS 200000
#define N_TEXTS 4
#define N_FILES 3

struct table {
    int32_t tokens[CONTEXT];
    uint64_t hashes[CONTEXT]; ///< of the tokens up to each
    uint32_t n_tokens;
    uint32_t n_computed;
};

/// A saved sequence: whole pages.
struct file {
    struct table table;
    uint64_t pages[NIB_KV_MAX_CLASSES][CONTEXT];
};

/// One run: a shape of the pool.
struct run {
    struct nib_kv_pool_params params;
    struct nib_kv_pool *pool;
    struct table tables[N_TABLES];
    struct file files[N_FILES];
    uint64_t cache[NIB_KV_MAX_CLASSES][MAX_PAGES][NIB_KV_PAGE_TOKENS];
    uint64_t operation;
    uint64_t n_full, n_copied, n_attached, n_evicted, n_gone;
};

static void fail(const struct run *run, const char *what)
{
    fprintf(stderr, "operation %llu: %s\n", (unsigned long long)run->operation, what);
    exit(1);
}

static void require(const struct run *run, bool holds, const char *what)
{
    if (!holds)
        fail(run, what);
}

static enum nib_status copy(void *user, uint32_t kv_class, uint32_t source, uint32_t target,
                            struct nib_error *err)
{
    struct run *run = user;
    (void)err;
    require(run, source != target, "a page is copied to itself");
    memcpy(run->cache[kv_class][target], run->cache[kv_class][source],
           sizeof run->cache[kv_class][target]);
    run->n_copied++;
    return NIB_OK;
}

static uint64_t *slot(struct run *run, uint32_t t, uint32_t c, uint32_t position)
{
    uint32_t page = nib_kv_pool_tables(
        run->pool)[nib_kv_pool_offset(run->pool, t) + c * nib_kv_pool_stride(run->pool) +
                   position / NIB_KV_PAGE_TOKENS];
    // Of newest tokens there are pages of the step behind the others.
    uint32_t n_step = run->params.reach[c].recent ? run->params.n_step_pages : 0;
    if (page >= run->params.n_pages[c] + n_step)
        fail(run, "a token that can be seen has no page");
    return &run->cache[c][page][position % NIB_KV_PAGE_TOKENS];
}

/// Tells whether a row at `position` sees token `p`, which is not behind it, in a class.
static bool sees(const struct run *run, uint32_t c, uint32_t position, uint32_t p)
{
    const struct nib_kv_reach *reach = &run->params.reach[c];
    uint32_t row_page = position / NIB_KV_PAGE_TOKENS, page = p / NIB_KV_PAGE_TOKENS;
    if (reach->first > 0 || reach->recent > 0)
        return page < reach->first ||
               (reach->recent > 0 && page >= NIB_KV_FIRST_RECENT(row_page, reach->recent));
    return reach->window == 0 || position - p < reach->window;
}

/// Stores `hash` for a token in every class that has tokens like it.
static void store(struct run *run, uint32_t t, uint32_t p, uint64_t hash)
{
    for (uint32_t c = 0; c < run->params.n_classes; c++) {
        if (sees(run, c, p, p))
            *slot(run, t, c, p) = hash;
    }
}

/// Everything that token `n` of a table sees before itself is what its tokens make it.
static void check_seen(struct run *run, uint32_t t, uint32_t n)
{
    const struct table *table = &run->tables[t];
    for (uint32_t c = 0; c < run->params.n_classes; c++) {
        for (uint32_t p = 0; p < n; p++) {
            if (sees(run, c, n, p))
                require(run, *slot(run, t, c, p) == table->hashes[p], "a page holds other tokens");
        }
    }
}

static void check_table(struct run *run, uint32_t t)
{
    check_seen(run, t, run->tables[t].n_computed);
}

static void check_all(struct run *run)
{
    const char *wrong = pool_check(run->pool);
    require(run, !wrong, wrong ? wrong : "");
    for (uint32_t t = 0; t < N_TABLES; t++)
        check_table(run, t);
}

static void rehash(struct table *table, uint32_t from)
{
    for (uint32_t p = from; p < table->n_tokens; p++) {
        uint64_t before = p > 0 ? table->hashes[p - 1] : 1;
        table->hashes[p] = (before ^ (uint32_t)table->tokens[p]) * 0x9e3779b97f4a7c15u + p;
    }
}

/// Texts begin alike, for 70 tokens more with each, so that prefixes are shared and part.
static void append(struct run *run, uint32_t t, uint32_t count, uint32_t text)
{
    struct table *table = &run->tables[t];
    uint32_t from = table->n_tokens;
    for (; count > 0 && table->n_tokens < CONTEXT; count--) {
        uint32_t p = table->n_tokens++;
        table->tokens[p] = (int32_t)(p < 70 * text ? p : 1000 * (text + 1) + p);
    }
    rehash(table, from);
}

/// Computes up to `n` of the tokens that are not computed, sharing what can be.
static void step(struct run *run, uint32_t t, uint32_t n)
{
    struct table *table = &run->tables[t];
    uint32_t before = table->n_computed;
    uint64_t idle = nib_kv_pool_get_usage(run->pool, 0).n_idle;
    nib_kv_pool_begin(run->pool);
    table->n_computed = nib_kv_pool_attach(run->pool, t, table->tokens, table->n_tokens);
    require(run, table->n_computed >= before && table->n_computed <= table->n_tokens,
            "a prefix of a strange length");
    run->n_attached += table->n_computed > before;
    check_table(run, t);
    uint32_t end =
        table->n_computed + n < table->n_tokens ? table->n_computed + n : table->n_tokens;
    if (nib_kv_pool_extend(run->pool, t, end, NULL) != NIB_OK) {
        run->n_full++;
        end = nib_kv_pool_room(run->pool, t, end);
        if (nib_kv_pool_extend(run->pool, t, end, NULL) != NIB_OK)
            return;
    }
    run->n_evicted += nib_kv_pool_get_usage(run->pool, 0).n_idle < idle;
    for (uint32_t p = table->n_computed; p < end; p++)
        store(run, t, p, table->hashes[p]);
    for (uint32_t p = table->n_computed; p < end; p++)
        check_seen(run, t, p);
    table->n_computed = end;
    nib_kv_pool_commit(run->pool, t, table->tokens, table->n_computed);
}

/// Tells whether `kept` tokens may be left of `wanted`.
static bool is_cut(const struct run *run, uint32_t kept, uint32_t wanted)
{
    const uint32_t stride = NIB_KV_RECENT_STRIDE * NIB_KV_PAGE_TOKENS;
    uint32_t first = run->params.reach[run->params.n_classes - 1].first * NIB_KV_PAGE_TOKENS;
    bool is_recent = run->params.n_step_pages > 0 &&
                     kept == (wanted - wanted % stride > first ? wanted - wanted % stride : first);
    return kept == wanted || kept == 0 || is_recent;
}

static void truncate(struct run *run, uint32_t t, uint32_t n)
{
    struct table *table = &run->tables[t];
    uint32_t wanted = n < table->n_computed ? n : table->n_computed;
    table->n_tokens = n < table->n_tokens ? n : table->n_tokens;
    table->n_computed = nib_kv_pool_truncate(run->pool, t, wanted);
    require(run, is_cut(run, table->n_computed, wanted), "truncated elsewhere");
    run->n_gone += table->n_computed != wanted;
    for (uint32_t c = 0; c < run->params.n_classes && table->n_computed == 0; c++)
        require(run, run->pool->states[t].held[c].end == 0, "an empty table has pages");
}

/// Drops tokens out of the middle.
static void shift(struct run *run, uint32_t t, uint32_t keep, uint32_t count)
{
    struct table *table = &run->tables[t];
    if (keep + count > table->n_tokens)
        return;
    uint32_t n = table->n_tokens - count;
    memmove(table->tokens + keep, table->tokens + keep + count, (n - keep) * sizeof *table->tokens);
    if (table->n_computed > keep)
        table->n_computed = nib_kv_pool_truncate(run->pool, t, keep);
    table->n_tokens = n;
    rehash(table, keep);
}

static void save(struct run *run, uint32_t t, struct file *file)
{
    file->table = run->tables[t];
    file->table.n_computed -= file->table.n_computed % NIB_KV_PAGE_TOKENS;
    // After a cut, the pages that the last whole page's end sees may be gone.
    if (!nib_kv_pool_can_resume(run->pool, t, file->table.n_computed))
        file->table.n_computed = 0;
    for (uint32_t c = 0; c < run->params.n_classes; c++) {
        struct nib_kv_places places = nib_kv_needed(run->params.reach[c], file->table.n_computed);
        for (uint32_t i = 0; i < nib_kv_count(&places); i++)
            memcpy(&file->pages[c][i * NIB_KV_PAGE_TOKENS],
                   slot(run, t, c, nib_kv_place(&places, i) * NIB_KV_PAGE_TOKENS),
                   NIB_KV_PAGE_TOKENS * sizeof file->pages[c][0]);
    }
}

static void load(struct run *run, uint32_t t, const struct file *file)
{
    truncate(run, t, 0);
    uint32_t n = file->table.n_computed;
    if (nib_kv_pool_restore(run->pool, t, n, NULL) != NIB_OK)
        return;
    run->tables[t] = file->table;
    for (uint32_t c = 0; c < run->params.n_classes; c++) {
        struct nib_kv_places places = nib_kv_needed(run->params.reach[c], n);
        for (uint32_t i = 0; i < nib_kv_count(&places); i++)
            memcpy(slot(run, t, c, nib_kv_place(&places, i) * NIB_KV_PAGE_TOKENS),
                   &file->pages[c][i * NIB_KV_PAGE_TOKENS],
                   NIB_KV_PAGE_TOKENS * sizeof file->pages[c][0]);
    }
}

static void fork_table(struct run *run, uint32_t from, uint32_t to)
{
    if (from == to)
        return;
    truncate(run, to, 0);
    nib_kv_pool_fork(run->pool, from, to);
    run->tables[to] = run->tables[from];
}

/// Extends a table, as for a step, and takes it back, as after a failure or a rejected draft.
static void give_up(struct run *run, uint32_t t, uint32_t n)
{
    struct table *table = &run->tables[t];
    uint32_t end = table->n_computed + n < CONTEXT ? table->n_computed + n : CONTEXT;
    nib_kv_pool_begin(run->pool);
    if (nib_kv_pool_extend(run->pool, t, end, NULL) == NIB_OK) {
        for (uint32_t p = table->n_computed; p < end; p++)
            store(run, t, p, 7);
    }
    uint32_t kept = nib_kv_pool_truncate(run->pool, t, table->n_computed);
    bool is_kept = run->params.n_step_pages > 0 ? is_cut(run, kept, table->n_computed)
                                                : kept == table->n_computed;
    require(run, is_kept, "what was computed is lost");
    table->n_computed = kept;
}

static void operate(struct run *run, const uint32_t random[4])
{
    uint32_t t = random[0] % N_TABLES;
    uint32_t n = random[1] % 96;
    struct table *table = &run->tables[t];
    switch (random[2] % 16) {
    case 0: // leave, or be cancelled, and join
        truncate(run, t, 0);
        append(run, t, 40 + 3 * n, random[3] % N_TEXTS);
        break;
    case 1:
        fork_table(run, t, random[3] % N_TABLES);
        break;
    case 2:
        truncate(run, t, table->n_tokens - (n < table->n_tokens ? n : table->n_tokens));
        break;
    case 3:
        shift(run, t, random[3] % 100, n);
        break;
    case 4:
        save(run, t, &run->files[random[3] % N_FILES]);
        break;
    case 5:
        load(run, t, &run->files[random[3] % N_FILES]);
        break;
    case 6:
        give_up(run, t, n);
        break;
    case 7:
    case 8:
    case 9:
        append(run, t, n, random[3] % N_TEXTS);
        break;
    default:
        step(run, t, random[3] % 4 == 0 ? 1 : n + 1);
    }
    check_table(run, t);
}

static int property(struct run *run, const struct nib_kv_pool_params *params, uint64_t seed,
                    uint64_t n_operations)
{
    *run = (struct run){.params = *params};
    run->params.n_tables = N_TABLES;
    run->params.context = CONTEXT;
    run->params.share = true;
    run->params.copy = copy;
    run->params.user = run;
    require(run, nib_kv_pool_create(&run->params, &run->pool, NULL) == NIB_OK, "no pool");
    for (; run->operation < n_operations; run->operation++) {
        uint32_t random[4];
        nib_philox(seed, run->operation, random);
        operate(run, random);
        if (run->operation % 8 == 0)
            check_all(run);
    }
    check_all(run);
    for (uint32_t t = 0; t < N_TABLES; t++)
        truncate(run, t, 0);
    for (uint32_t c = 0; c < params->n_classes; c++) {
        struct nib_kv_pool_usage usage = nib_kv_pool_get_usage(run->pool, c);
        require(run, usage.n_free + usage.n_idle == usage.n_pages, "pages are lost");
    }
    nib_kv_pool_destroy(&run->pool);
    printf("%llu operations: %llu times full, %llu copies, %llu prefixes found, %llu evictions, "
           "%llu windows gone\n",
           (unsigned long long)n_operations, (unsigned long long)run->n_full,
           (unsigned long long)run->n_copied, (unsigned long long)run->n_attached,
           (unsigned long long)run->n_evicted, (unsigned long long)run->n_gone);
    bool is_varied =
        run->n_full > 100 && run->n_copied > 100 && run->n_attached > 100 && run->n_evicted > 100;
    require(run, is_varied, "the operations left something out");
    return 0;
}

/// A million operations without looking; then every page must still be of use.
static void wear(struct run *run)
{
    *run = (struct run){.params = {.n_classes = 1,
                                   .n_pages = {MAX_PAGES},
                                   .n_tables = N_TABLES,
                                   .context = 32 * MAX_PAGES,
                                   .copy = copy,
                                   .user = run}};
    require(run, nib_kv_pool_create(&run->params, &run->pool, NULL) == NIB_OK, "no pool");
    for (; run->operation < 1000000; run->operation++) {
        uint32_t random[4];
        nib_philox(9, run->operation, random);
        uint32_t t = random[0] % N_TABLES, other = random[3] % N_TABLES;
        struct table *table = &run->tables[t];
        if (random[2] % 8 == 0 && other != t) {
            nib_kv_pool_truncate(run->pool, other, 0);
            nib_kv_pool_fork(run->pool, t, other);
            run->tables[other].n_computed = table->n_computed;
        } else if (random[2] % 8 < 4) {
            table->n_computed =
                nib_kv_pool_truncate(run->pool, t, random[1] % (table->n_computed + 1));
        } else {
            uint32_t end = table->n_computed + random[1] % 300;
            end = end < run->params.context ? end : run->params.context;
            if (nib_kv_pool_extend(run->pool, t, end, NULL) == NIB_OK)
                table->n_computed = end;
        }
    }
    for (uint32_t t = 0; t < N_TABLES; t++)
        nib_kv_pool_truncate(run->pool, t, 0);
    require(run, nib_kv_pool_extend(run->pool, 3, 32 * MAX_PAGES, NULL) == NIB_OK,
            "the pool is fragmented");
    const char *wrong = pool_check(run->pool);
    require(run, !wrong, wrong ? wrong : "");
    nib_kv_pool_destroy(&run->pool);
}

int main(void)
{
    struct run *run = malloc(sizeof *run);
    if (!run)
        return 1;
    const struct nib_kv_pool_params both = {
        .n_classes = 2, .n_pages = {40, 30}, .reach = {{.window = 0}, {.window = 60}}};
    const struct nib_kv_pool_params window_first = {
        .n_classes = 2, .n_pages = {24, 60}, .reach = {{.window = 90}, {.window = 0}}};
    const struct nib_kv_pool_params window_only = {
        .n_classes = 1, .n_pages = {30}, .reach = {{.window = 100}}};
    const struct nib_kv_pool_params recent = {
        .n_classes = 3,
        .n_pages = {40, 30, 2 * 2 * N_TABLES},
        .n_step_pages = 3,
        .reach = {{.window = 0}, {.window = 200}, {.recent = 2}}};
    const struct nib_kv_pool_params recent_few = {.n_classes = 2,
                                                  .n_pages = {40, 3 * N_TABLES},
                                                  .n_step_pages = 3,
                                                  .reach = {{.window = 0}, {.recent = 2}}};
    const struct nib_kv_pool_params first = {
        .n_classes = 2, .n_pages = {40, 2 * N_TABLES}, .reach = {{.window = 0}, {.first = 2}}};
    const struct nib_kv_pool_params first_and_recent = {
        .n_classes = 3,
        .n_pages = {40, 30, (2 * 2 + 2) * N_TABLES},
        .n_step_pages = 3,
        .reach = {{.window = 0}, {.window = 200}, {.recent = 2, .first = 2}}};
    const struct nib_kv_pool_params first_few = {
        .n_classes = 2,
        .n_pages = {40, 4 * N_TABLES},
        .n_step_pages = 3,
        .reach = {{.window = 0}, {.recent = 1, .first = 3}}};
    const struct nib_kv_pool_params whole = {.n_classes = 1, .n_pages = {40}};
    int failed = property(run, &both, 1, N_OPERATIONS) ||
                 property(run, &window_first, 2, N_OPERATIONS / 4) ||
                 property(run, &window_only, 3, N_OPERATIONS / 4) ||
                 property(run, &whole, 4, N_OPERATIONS / 4) ||
                 property(run, &recent, 5, N_OPERATIONS / 2) ||
                 property(run, &recent_few, 6, N_OPERATIONS / 4) ||
                 property(run, &first, 7, N_OPERATIONS / 4) ||
                 property(run, &first_and_recent, 8, N_OPERATIONS / 2) ||
                 property(run, &first_few, 9, N_OPERATIONS / 4);
    wear(run);
    free(run);
    return failed;
}
