#include "check.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/base/half.h"
#include "runtime/base/os.h"

static enum nib_status read_block(const struct nib_row_reader *reader, uint64_t first,
                                  struct nib_row_block *block, struct nib_error *err)
{
    (void)err;
    nib_row_block_copy(&reader->format, reader->source, first, block);
    return NIB_OK;
}

/// Rounds to a number that the format's scale type has.
static float round_scale(const struct nib_format *format, float x)
{
    if (format->scale == NIB_SCALE_F16)
        return nib_f32_from_f16(nib_f16_from_f32(x));
    if (format->scale == NIB_SCALE_BF16)
        return nib_f32_from_bf16(nib_bf16_from_f32(x));
    if (format->scale == NIB_SCALE_E8M0)
        return ldexpf(1.0f, (int)lrintf(x * 100.0f));
    return x;
}

static float round_float(const struct nib_format *format, float x)
{
    if (format->id == NIB_FORMAT_F16)
        return nib_f32_from_f16(nib_f16_from_f32(x));
    if (format->id == NIB_FORMAT_BF16)
        return nib_f32_from_bf16(nib_bf16_from_f32(x));
    return x;
}

static float make_scale(struct check *c, const struct weights_params *p)
{
    static const float tiny[] = {0.0f, -0.0f, 0x1p-24f, -0x1p-20f, 0x1p-15f};
    float x = p->style == WEIGHTS_TINY ? tiny[random_below(c, 5)] : random_float(c, 0.1f);
    return round_scale(p->format, x);
}

/// Returns a number in [0, most], or one of the two ends.
static uint32_t make_code(struct check *c, const struct weights_params *p, uint32_t most)
{
    if (p->style == WEIGHTS_LARGEST)
        return random_below(c, 8) ? most : 0;
    return random_below(c, most + 1);
}

static void fill_block(struct check *c, const struct weights_params *p, struct nib_row_block *b)
{
    const struct nib_format *format = p->format;
    uint64_t groups = nib_format_groups(format, p->cols);
    uint64_t supers = format->super ? nib_format_supers(format, p->cols) : groups;
    bool has_sign = format->zero == NIB_ZERO_NONE; // of the second level's scales
    uint32_t most_sub = has_sign ? 255 : format->bits == 2 ? 15 : 63;
    uint32_t largest = format->bits <= 8 ? (1u << format->bits) - 1 : 0;
    for (uint64_t i = 0; b->values && i < p->rows * p->cols; i++)
        b->values[i] = round_float(format, random_float(c, 0.5f));
    for (uint64_t i = 0; b->codes && i < p->rows * p->cols; i++)
        b->codes[i] = (uint8_t)make_code(c, p, largest);
    for (uint64_t i = 0; b->scale && i < p->rows * supers; i++)
        b->scale[i] = make_scale(c, p);
    for (uint64_t i = 0; b->min && i < p->rows * supers; i++)
        b->min[i] = make_scale(c, p);
    for (uint64_t i = 0; b->sub_scale && i < p->rows * groups; i++)
        b->sub_scale[i] = (int8_t)((int)make_code(c, p, most_sub) - (has_sign ? 128 : 0));
    for (uint64_t i = 0; b->sub_min && i < p->rows * groups; i++)
        b->sub_min[i] = (uint8_t)make_code(c, p, format->bits == 2 ? 15 : 63);
    for (uint64_t i = 0; b->zero && i < p->rows * groups; i++)
        b->zero[i] = (int16_t)make_code(c, p, largest + 1);
}

void weights_create(struct check *c, const struct weights_params *p, struct weights *w)
{
    *w = (struct weights){0};
    w->memory = new_zeros(nib_row_block_size(p->format, p->rows, p->cols), 1);
    nib_row_block_init(&w->block, p->format, p->rows, p->cols, w->memory);
    fill_block(c, p, &w->block);
    if (p->has_permutation) {
        w->permutation = new_zeros(p->cols, sizeof *w->permutation);
        for (uint32_t i = 0; i < p->cols; i++) { // Fisher and Yates
            uint32_t k = random_below(c, i + 1);
            w->permutation[i] = w->permutation[k];
            w->permutation[k] = i;
        }
    }
    w->reader = (struct nib_row_reader){
        .name = "weights",
        .format = *p->format,
        .rows = p->rows,
        .cols = p->cols,
        .permutation = w->permutation,
        .activation_scale = 0.03f,
        .outlier_threshold = 6.0f,
        .read = read_block,
        .source = &w->block,
    };
    struct nib_error error;
    struct nib_cpu_packing packing = {
        .store_panel = c->kernels->wants_panels ? c->kernels->store_panel : NULL,
    };
    enum nib_status status = nib_cpu_matrix_pack(&w->matrix, &packing, &w->reader, &error);
    if (status != NIB_OK) {
        fprintf(stderr, "%s\n", error.message);
        exit(1);
    }
}

void weights_destroy(struct weights *w)
{
    nib_cpu_matrix_free(&w->matrix);
    free(w->permutation);
    free(w->memory);
}

double weights_get(const struct weights *w, uint64_t row, uint64_t col, double *out_size)
{
    const struct nib_format *f = &w->reader.format;
    const struct nib_row_block *b = &w->block;
    if (b->values) {
        *out_size = fabs((double)b->values[row * b->cols + col]);
        return (double)b->values[row * b->cols + col];
    }
    uint64_t group = f->group ? f->group : b->cols;
    uint64_t g = row * nib_format_groups(f, b->cols) + col / group;
    uint64_t s = f->super ? row * nib_format_supers(f, b->cols) + col / f->super : g;
    uint8_t code = b->codes[row * b->cols + col];
    double value = f->code == NIB_CODE_BOOK ? (double)f->book[code] : (double)code - f->center;
    double scale = (double)b->scale[s] * (b->sub_scale ? b->sub_scale[g] : 1);
    double min = b->min ? (double)b->min[s] * (b->sub_min ? b->sub_min[g] : 1) : 0;
    double product = scale * (value - (b->zero ? b->zero[g] : 0));
    *out_size = fabs(product) + fabs(min);
    return product + min;
}

enum {
    TALL_BYTES = NIB_CPU_TALL_PANELS * sizeof(struct nib_cpu_tall),
    SUMS_BYTES = NIB_CPU_TALL_ROWS * 16 * NIB_CPU_TALL_PANELS * sizeof(float)
};

struct nib_cpu_scratch *new_scratch(const struct nib_format *format, uint64_t cols)
{
    struct nib_cpu_scratch *scratch = new_zeros(2, sizeof *scratch);
    for (int t = 0; t < 2; t++) {
        // As exec.c's caller makes them: exact sizes, so that a sanitizer sees what goes beyond.
        scratch[t].block = new_zeros(nib_row_block_size(format, NIB_CPU_BLOCK_ROWS, cols), 1);
        scratch[t].values = new_zeros(NIB_CPU_BLOCK_ROWS * cols, sizeof(float));
        scratch[t].codes = new_zeros(NIB_CPU_BLOCK_ROWS * cols, sizeof(int16_t));
        scratch[t].run_scale = new_zeros(NIB_CPU_BLOCK_ROWS * cols, sizeof(float));
        scratch[t].run_min = new_zeros(NIB_CPU_BLOCK_ROWS * cols, sizeof(float));
        scratch[t].group_scale = new_zeros(cols, sizeof(float));
        scratch[t].group_min = new_zeros(cols, sizeof(float));
        scratch[t].group_sum = new_zeros(cols, sizeof(int32_t));
        scratch[t].input_codes = new_zeros(cols, 1);
        scratch[t].wide_codes = new_zeros(cols, sizeof(int16_t));
        scratch[t].outlier = new_zeros(cols, 1);
        // Pages: vectors of it are loaded where they are aligned.
        scratch[t].tall = nib_pages_alloc(TALL_BYTES);
        scratch[t].tall_sums = nib_pages_alloc(SUMS_BYTES);
        scratch[t].panel_scale = new_zeros((cols + 31) / 32 * 128, sizeof(float));
        scratch[t].keys = new_zeros(NIB_KV_PAGE_TOKENS * ((cols + 31) / 32 * 32), sizeof(float));
        scratch[t].base = new_zeros((cols + 31) / 32 * 32, sizeof(float));
        uint64_t filled = (cols + 15) / 16 * 16;
        scratch[t].page_values = new_zeros(NIB_KV_PAGE_TOKENS * filled, sizeof(float));
        scratch[t].queries = new_zeros(NIB_CPU_MAX_QUERIES * cols, sizeof(float));
        scratch[t].totals = new_zeros(NIB_CPU_MAX_QUERIES * filled, sizeof(float));
    }
    return scratch;
}

void free_scratch(struct nib_cpu_scratch *scratch)
{
    for (int t = 0; t < 2; t++) {
        nib_pages_free(scratch[t].tall, TALL_BYTES);
        nib_pages_free(scratch[t].tall_sums, SUMS_BYTES);
        void *const all[] = {
            scratch[t].block,       scratch[t].values,      scratch[t].codes,
            scratch[t].run_scale,   scratch[t].run_min,     scratch[t].group_scale,
            scratch[t].group_min,   scratch[t].group_sum,   scratch[t].input_codes,
            scratch[t].outlier,     scratch[t].wide_codes,  scratch[t].keys,
            scratch[t].page_values, scratch[t].panel_scale, scratch[t].queries,
            scratch[t].totals,      scratch[t].base,
        };
        for (size_t i = 0; i < sizeof all / sizeof *all; i++)
            free(all[i]);
    }
    free(scratch);
}
