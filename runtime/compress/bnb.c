// Codes as bitsandbytes rounds them: LLM.int8 by rows, NF4 and FP4 by blocks of 64.
#include "runtime/compress/block_family.h"
#include "runtime/compress/nested.h"
#include "runtime/compress/quantizers.h"

#include "runtime/base/status.h"
#include <math.h>
#include <string.h>

static float largest(const float *w, uint64_t n)
{
    float most = 0;
    for (uint64_t i = 0; i < n; i++)
        most = fabsf(w[i]) > most ? fabsf(w[i]) : most;
    return most;
}

struct rows_loop {
    const struct nib_quantize_job *job;
    struct nib_quantized_matrix *matrix;
};

/// The tool rounds weights to binary16 first. Those beyond its range, infinite there, become its
/// largest numbers.
static void int8_rows(void *user, uint64_t first, uint64_t last, uint32_t thread)
{
    (void)thread;
    const struct rows_loop *loop = user;
    struct nib_quantized_matrix *matrix = loop->matrix;
    const uint64_t cols = matrix->cols;
    for (uint64_t r = first; r < last; r++) {
        const float *w = loop->job->weights + r * cols;
        uint8_t *codes = matrix->block.codes + r * cols;
        // Rounding keeps the order, so the largest may be found before it.
        const float most = nib_block_f16(largest(w, cols));
        const float inverse = most > 0 ? 1 / most : 0;
        const float factor = inverse * 127;
        matrix->row_absmax[r] = most;
        matrix->block.scale[r] = most / 127;
        for (uint64_t i = 0; i < cols; i++) {
            const float half = nib_block_f16(w[i]);
            codes[i] = (uint8_t)((int)rintf(half * factor) + matrix->format.center);
        }
    }
}

static enum nib_status quantize_int8(const struct nib_quantize_job *job,
                                     struct nib_quantized_matrix **out_matrix,
                                     struct nib_error *err)
{
    enum nib_status status = nib_quantized_matrix_create(job->entry, false, out_matrix, err);
    if (status != NIB_OK)
        return status;
    struct rows_loop loop = {job, *out_matrix};
    nib_thread_pool_run(job->pool, job->entry->rows, 8, int8_rows, &loop);
    return NIB_OK;
}

/// A book's codes in the order of their values, and the middles between neighbours. +0 comes before
/// −0, so that small positive numbers become −0 in FP4: so it is in the tool.
struct sorted_book {
    uint8_t codes[16];
    float middles[15];
};

static struct sorted_book sort_book(const float *book)
{
    struct sorted_book sorted;
    for (int i = 0; i < 16; i++) {
        int place = i;
        while (place > 0 && book[sorted.codes[place - 1]] > book[i]) {
            sorted.codes[place] = sorted.codes[place - 1];
            place--;
        }
        sorted.codes[place] = (uint8_t)i;
    }
    for (int i = 0; i < 15; i++)
        sorted.middles[i] = (book[sorted.codes[i]] + book[sorted.codes[i + 1]]) / 2;
    return sorted;
}

/// Returns the code nearest to x, of two the one of the smaller value.
static uint8_t nearest(const struct sorted_book *book, float x)
{
    int place = 0;
    for (int i = 0; i < 15; i++)
        place += x > book->middles[i];
    return book->codes[place];
}

static void book_rows(void *user, uint64_t first, uint64_t last, uint32_t thread)
{
    (void)thread;
    const struct rows_loop *loop = user;
    struct nib_quantized_matrix *matrix = loop->matrix;
    const uint64_t cols = matrix->cols, group = matrix->format.group ? matrix->format.group : cols;
    const uint64_t groups = nib_format_groups(&matrix->format, cols);
    const struct sorted_book book = sort_book(matrix->format.book);
    for (uint64_t r = first; r < last; r++) {
        for (uint64_t g = 0; g < groups; g++) {
            const uint64_t begin = r * cols + g * group;
            const uint64_t n = cols - g * group < group ? cols - g * group : group;
            const float most = largest(loop->job->weights + begin, n);
            const float inverse = most > 0 ? 1 / most : 0;
            matrix->block.scale[r * groups + g] = most;
            for (uint64_t i = begin; i < begin + n; i++) {
                matrix->block.codes[i] = nearest(&book, loop->job->weights[i] * inverse);
            }
        }
    }
}

static enum nib_status quantize_book(const struct nib_quantize_job *job,
                                     struct nib_quantized_matrix **out_matrix,
                                     struct nib_error *err)
{
    const struct nib_compress_entry *entry = job->entry;
    const struct nib_format *format = &entry->scheme.format;
    *out_matrix = NULL;
    if (format->group != 0 && entry->cols % format->group != 0)
        return nib_fail(err, NIB_ERROR_UNSUPPORTED,
                        "%s: blocks of %u would cross the rows of %llu weights, which this library "
                        "cannot write; keep the matrix (--mix %s=keep)",
                        entry->name, (unsigned)format->group, (unsigned long long)entry->cols,
                        nib_role_name(entry->role));
    enum nib_status status = nib_quantized_matrix_create(entry, false, out_matrix, err);
    if (status != NIB_OK)
        return status;
    struct rows_loop loop = {job, *out_matrix};
    nib_thread_pool_run(job->pool, entry->rows, 8, book_rows, &loop);
    if (entry->scheme.double_quantized)
        nib_nested_quantize((*out_matrix)->block.scale,
                            entry->rows * nib_format_groups(format, entry->cols),
                            &(*out_matrix)->scale_codes);
    return NIB_OK;
}

const struct nib_quantizer nib_quantizer_llm_int8 = {.stats = 0, .quantize = quantize_int8};
const struct nib_quantizer nib_quantizer_book = {.stats = 0, .quantize = quantize_book};
