#include "runtime/quant/format.h"

#include <criterion/criterion.h>

TestSuite(format);

Test(format, table_is_consistent)
{
    for (int id = 0; id < NIB_FORMAT_COUNT; id++) {
        const struct nib_format *f = nib_format_get(id);
        cr_assert(f->id == (enum nib_format_id)id);
        cr_assert(nib_format_find(f->name) == f);
        cr_assert((f->code == NIB_CODE_FLOAT) == (f->scale == NIB_SCALE_NONE), "%s", f->name);
        cr_assert((f->code == NIB_CODE_BOOK) == (f->book != NULL), "%s", f->name);
        cr_assert(f->center == 0 || f->center == 1 << (f->bits - 1), "%s", f->name);
        if (f->super)
            cr_assert(f->super % f->group == 0 && f->block_weights == f->super, "%s", f->name);
        for (int i = 0; f->book_int && i < 16; i++)
            cr_assert(f->book[i] == (float)f->book_int[i], "%s", f->name);
        // A block holds at least the codes and a scale.
        if (f->block_bytes) {
            uint32_t rest = f->block_bytes - f->block_weights * f->bits / 8;
            cr_assert(f->code == NIB_CODE_FLOAT ? rest == 0 : rest > 0 && rest <= 20, "%s",
                      f->name);
        }
    }
    cr_assert_null(nib_format_find("q4"));
    cr_assert_null(nib_format_find(""));
}

Test(format, books_are_sorted_or_signed)
{
    const float *nf4 = nib_format_get(NIB_FORMAT_NF4)->book;
    const float *iq4 = nib_format_get(NIB_FORMAT_IQ4_NL)->book;
    for (int i = 1; i < 16; i++)
        cr_assert(nf4[i - 1] < nf4[i] && iq4[i - 1] < iq4[i]);
    const float *fp4 = nib_format_get(NIB_FORMAT_FP4)->book;
    const float *mxfp4 = nib_format_get(NIB_FORMAT_MXFP4)->book;
    for (int i = 0; i < 8; i++)
        cr_assert(fp4[i] == -fp4[i + 8] && mxfp4[i] == -mxfp4[i + 8]);
    // The 17 digits that bitsandbytes stores.
    cr_assert(fp4[1] == 0.0052083334885537624f && fp4[2] == 0.6666666865348816f);
    cr_assert(fp4[4] == 0.3333333432674408f && fp4[6] == 0.1666666716337204f);
}

Test(format, groups_and_supers)
{
    const struct nib_format *int4 = nib_format_get(NIB_FORMAT_INT4);
    cr_assert(nib_format_groups(int4, 70) == 3 && nib_format_supers(int4, 70) == 0);
    cr_assert(nib_format_groups(int4, 0) == 0 && nib_format_groups(int4, UINT64_MAX) == 1ull << 59);
    struct nib_format channel = *int4;
    channel.group = 0;
    cr_assert(nib_format_groups(&channel, 70) == 1 && nib_format_groups(&channel, 0) == 0);
    const struct nib_format *q6_k = nib_format_get(NIB_FORMAT_Q6_K);
    cr_assert(nib_format_groups(q6_k, 512) == 32 && nib_format_supers(q6_k, 512) == 2);
    const struct nib_format *f16 = nib_format_get(NIB_FORMAT_F16);
    cr_assert(nib_format_groups(f16, 70) == 0 && nib_format_supers(f16, 70) == 0);
}

Test(format, row_bytes)
{
    uint64_t bytes = 1;
    cr_assert(nib_format_row_bytes(nib_format_get(NIB_FORMAT_Q4_K), 512, &bytes) && bytes == 288);
    cr_assert(nib_format_row_bytes(nib_format_get(NIB_FORMAT_BF16), 7, &bytes) && bytes == 14);
    cr_assert(nib_format_row_bytes(nib_format_get(NIB_FORMAT_Q8_0), 0, &bytes) && bytes == 0);
    bytes = 1;
    cr_assert(!nib_format_row_bytes(nib_format_get(NIB_FORMAT_Q4_K), 288, &bytes) && bytes == 0);
    cr_assert(!nib_format_row_bytes(nib_format_get(NIB_FORMAT_INT4), 64, &bytes));
    cr_assert(!nib_format_row_bytes(nib_format_get(NIB_FORMAT_F32), 1ull << 62, &bytes));
    cr_assert(!nib_format_row_bytes(nib_format_get(NIB_FORMAT_Q8_0), UINT64_MAX - 31, &bytes));
    cr_assert(bytes == 0);
}

Test(format, packed_bytes)
{
    const struct nib_format *int4_zero = nib_format_get(NIB_FORMAT_INT4_ZERO);
    // 35 bytes of codes, 3 groups of 16 + 4 bits.
    cr_assert_eq(nib_format_packed_bytes(int4_zero, 2, 70), 2 * (35 + 8));
    cr_assert_eq(nib_format_packed_bytes(nib_format_get(NIB_FORMAT_NF4), 1, 64), 32 + 4);
    cr_assert_eq(nib_format_packed_bytes(nib_format_get(NIB_FORMAT_Q4_K), 3, 256), 3 * 144);
    cr_assert_eq(nib_format_packed_bytes(nib_format_get(NIB_FORMAT_F32), 3, 5), 60);
    cr_assert_eq(nib_format_packed_bytes(int4_zero, 0, 70), 0);
    cr_assert_eq(nib_format_packed_bytes(int4_zero, UINT64_MAX, 70), UINT64_MAX);
    cr_assert_eq(nib_format_packed_bytes(int4_zero, 1, UINT64_MAX), UINT64_MAX);
}

Test(format, activation_names)
{
    cr_assert_str_eq(nib_activation_name(NIB_ACTIVATION_F32), "f32");
    cr_assert_str_eq(nib_activation_name(NIB_ACTIVATION_LLM_INT8), "llm-int8");
}
