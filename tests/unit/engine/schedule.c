#include "runtime/engine/schedule.h"

#include "runtime/base/philox.h"
#include <criterion/criterion.h>

Test(schedule, buckets_are_powers_of_two)
{
    cr_assert_eq(nib_schedule_bucket(1), 1);
    cr_assert_eq(nib_schedule_bucket(2), 2);
    cr_assert_eq(nib_schedule_bucket(3), 4);
    cr_assert_eq(nib_schedule_bucket(512), 512);
    cr_assert_eq(nib_schedule_bucket(257), 512);
}

Test(schedule, a_prompt_does_not_starve_decoding)
{
    uint32_t rows[3];
    const uint32_t pending[3] = {10000, 1, 1};
    cr_assert_eq(nib_schedule_share(pending, 3, 512, rows), 512);
    cr_assert_eq(rows[0], 510);
    cr_assert_eq(rows[1], 1);
    cr_assert_eq(rows[2], 1);
}

Test(schedule, prompts_share_evenly)
{
    uint32_t rows[4];
    const uint32_t pending[4] = {1000, 10, 1000, 1000};
    cr_assert_eq(nib_schedule_share(pending, 4, 100, rows), 100);
    cr_assert_eq(rows[1], 10);
    for (uint32_t i = 0; i < 4; i++)
        cr_assert(i == 1 || (rows[i] >= 29 && rows[i] <= 31), "%u rows", rows[i]);
}

Test(schedule, first_sessions_come_first)
{
    uint32_t rows[4];
    const uint32_t pending[4] = {5, 5, 5, 5};
    cr_assert_eq(nib_schedule_share(pending, 4, 2, rows), 2);
    cr_assert_eq(rows[0] + rows[1], 2);
    cr_assert_eq(rows[0], 1);
}

Test(schedule, uses_the_budget_and_no_more)
{
    for (uint64_t i = 0; i < 5000; i++) {
        uint32_t random[4];
        uint32_t pending[8];
        uint32_t rows[8];
        uint32_t sum_pending = 0;
        nib_philox(3, i, random);
        uint32_t n = 1 + random[0] % 8;
        uint32_t budget = 1 + random[1] % 64;
        for (uint32_t j = 0; j < n; j++) {
            nib_philox(4, i * 8 + j, random);
            pending[j] = random[0] % 3 ? 1 + random[1] % 50 : 1;
            sum_pending += pending[j];
        }
        uint32_t sum = nib_schedule_share(pending, n, budget, rows);
        uint32_t check = 0;
        for (uint32_t j = 0; j < n; j++) {
            cr_assert_leq(rows[j], pending[j]);
            check += rows[j];
        }
        cr_assert_eq(sum, check);
        cr_assert_eq(sum, sum_pending < budget ? sum_pending : budget);
    }
}

Test(schedule, chunks_are_not_parted)
{
    uint32_t rows[4];
    const uint32_t pending[4] = {40, 30, 1, 25};
    cr_assert_eq(nib_schedule_chunks(pending, 4, 64, rows), 41);
    cr_assert_eq(rows[0], 40);
    cr_assert_eq(rows[1], 0);
    cr_assert_eq(rows[2], 1);
    cr_assert_eq(rows[3], 0);
    const uint32_t whole[2] = {64, 1};
    cr_assert_eq(nib_schedule_chunks(whole, 2, 64, rows), 64);
    cr_assert_eq(rows[1], 0);
}
