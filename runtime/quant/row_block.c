#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/base/checked.h"
#include "runtime/quant/row_reader.h"

/// The lengths of a block's arrays for one row; 0 where the format has no use for the array.
struct lengths {
    uint64_t values, codes, scale, min, sub_scale, sub_min, zero;
};

static struct lengths row_lengths(const struct nib_format *format, uint64_t cols)
{
    struct lengths n = {0};
    if (format->code == NIB_CODE_FLOAT) {
        n.values = cols;
        return n;
    }
    uint64_t groups = nib_format_groups(format, cols);
    n.codes = cols;
    n.scale = format->super ? nib_format_supers(format, cols) : groups;
    if (format->super)
        n.sub_scale = groups;
    if (format->zero == NIB_ZERO_INTEGER)
        n.zero = groups;
    if (format->zero == NIB_ZERO_MINIMUM) {
        n.min = n.scale;
        n.sub_min = n.sub_scale;
    }
    return n;
}

/// Adds rows × length × size to `*total`.
static bool add_array(uint64_t *total, uint64_t rows, uint64_t length, uint64_t size)
{
    uint64_t bytes;
    return nib_mul_u64(rows, length, &bytes) && nib_mul_u64(bytes, size, &bytes) &&
           nib_add_u64(*total, bytes, total);
}

size_t nib_row_block_size(const struct nib_format *format, uint64_t rows, uint64_t cols)
{
    struct lengths n = row_lengths(format, cols);
    uint64_t total = 1; // an empty block has a size too
    bool fits = add_array(&total, rows, n.values, sizeof(float)) &&
                add_array(&total, rows, n.scale, sizeof(float)) &&
                add_array(&total, rows, n.min, sizeof(float)) &&
                add_array(&total, rows, n.zero, sizeof(int16_t)) &&
                add_array(&total, rows, n.codes, 1) && add_array(&total, rows, n.sub_scale, 1) &&
                add_array(&total, rows, n.sub_min, 1) && nib_round_up_u64(total, 8, &total) &&
                total <= SIZE_MAX;
    return fits ? (size_t)total : 0;
}

/// Returns `count` elements of `size` bytes at `*next` and moves it on, or NULL for none.
static void *take(uint8_t **next, uint64_t count, size_t size)
{
    uint8_t *array = *next;
    *next += count * size;
    return count ? array : NULL;
}

void nib_row_block_init(struct nib_row_block *block, const struct nib_format *format, uint64_t rows,
                        uint64_t cols, void *memory)
{
    struct lengths n = row_lengths(format, cols);
    uint8_t *next = memory;
    // Wide elements first: every array is then aligned.
    *block = (struct nib_row_block){.rows = rows, .cols = cols};
    block->values = take(&next, rows * n.values, sizeof(float));
    block->scale = take(&next, rows * n.scale, sizeof(float));
    block->min = take(&next, rows * n.min, sizeof(float));
    block->zero = take(&next, rows * n.zero, sizeof(int16_t));
    block->codes = take(&next, rows * n.codes, 1);
    block->sub_scale = take(&next, rows * n.sub_scale, 1);
    block->sub_min = take(&next, rows * n.sub_min, 1);
}

void nib_row_block_copy(const struct nib_format *format, const struct nib_row_block *from,
                        uint64_t first, struct nib_row_block *to)
{
    struct lengths n = row_lengths(format, to->cols);
#define COPY(member)                                            \
    do {                                                        \
        if (n.member > 0)                                       \
            memcpy(to->member, from->member + first * n.member, \
                   to->rows * n.member * sizeof *to->member);   \
    } while (0)
    COPY(values);
    COPY(codes);
    COPY(scale);
    COPY(min);
    COPY(sub_scale);
    COPY(sub_min);
    COPY(zero);
#undef COPY
}

void nib_row_group_scales(const struct nib_format *format, const struct nib_row_block *block,
                          uint64_t row, float *out_scale, float *out_min)
{
    struct lengths n = row_lengths(format, block->cols);
    uint64_t groups = nib_format_groups(format, block->cols);
    if (groups == 0)
        return;
    const float *scale = block->scale + row * n.scale;
    const float *min = block->min ? block->min + row * n.min : NULL;
    if (!format->super) {
        for (uint64_t g = 0; g < groups; g++) {
            out_scale[g] = scale[g];
            out_min[g] = min ? min[g] : 0.0f;
        }
        return;
    }
    uint64_t per_super = format->super / format->group;
    const int8_t *sub_scale = block->sub_scale + row * n.sub_scale;
    const uint8_t *sub_min = block->sub_min ? block->sub_min + row * n.sub_min : NULL;
    for (uint64_t g = 0; g < groups; g++) {
        uint64_t s = g / per_super;
        out_scale[g] = scale[s] * (float)sub_scale[g];
        out_min[g] = min ? min[s] * (float)sub_min[g] : 0.0f;
    }
}

/// out = scale · (code − zero)
static void scale_codes(const uint8_t *restrict codes, uint64_t n, float scale, int32_t zero,
                        float *restrict out)
{
    for (uint64_t i = 0; i < n; i++)
        out[i] = scale * (float)(codes[i] - zero);
}

/// out = scale · (code − zero) + min. Apart from the above, since adding 0 would lose the sign of
/// -0.
static void scale_codes_min(const uint8_t *restrict codes, uint64_t n, float scale, int32_t zero,
                            float min, float *restrict out)
{
    for (uint64_t i = 0; i < n; i++)
        out[i] = scale * (float)(codes[i] - zero) + min;
}

/// out = scale · (book[code] − zero)
static void scale_book(const struct nib_format *format, const uint8_t *restrict codes, uint64_t n,
                       float scale, float zero, float *restrict out)
{
    uint8_t mask = (uint8_t)((1u << format->bits) - 1);
    const float *book = format->book;
    for (uint64_t i = 0; i < n; i++)
        out[i] = scale * (book[codes[i] & mask] - zero);
}

void nib_row_dequantize(const struct nib_format *format, const struct nib_row_block *block,
                        uint64_t row, float *out)
{
    uint64_t cols = block->cols;
    if (format->code == NIB_CODE_FLOAT) {
        if (cols > 0)
            memcpy(out, block->values + row * cols, (size_t)cols * sizeof *out);
        return;
    }
    struct lengths n = row_lengths(format, cols);
    uint64_t groups = nib_format_groups(format, cols);
    uint64_t group = format->group ? format->group : cols;
    uint64_t per_super = format->super ? format->super / format->group : 1;
    for (uint64_t g = 0; g < groups; g++) {
        uint64_t first = g * group;
        uint64_t count = cols - first < group ? cols - first : group;
        const uint8_t *codes = block->codes + row * cols + first;
        uint64_t s = row * n.scale + g / per_super;
        float scale = block->scale[s];
        if (format->super)
            scale *= (float)block->sub_scale[row * groups + g];
        int32_t zero = block->zero ? block->zero[row * groups + g] : 0;
        if (format->code == NIB_CODE_BOOK) {
            scale_book(format, codes, count, scale, (float)zero, out + first);
        } else if (block->min) {
            float min = block->min[s];
            if (format->super)
                min *= (float)block->sub_min[row * groups + g];
            scale_codes_min(codes, count, scale, format->center + zero, min, out + first);
        } else {
            scale_codes(codes, count, scale, format->center + zero, out + first);
        }
    }
}

/// Σ |code − zero| and Σ (code − zero)² over a group, or a part of one.
struct code_sums {
    uint64_t sizes;
    uint64_t squares;
};

/// Written so that compilers vectorise it: 16 bits a difference, 32 a sum.
static void add_codes(const uint8_t *codes, uint64_t n, int32_t zero, struct code_sums *sums)
{
    int32_t sizes = 0, squares = 0;
    for (uint64_t i = 0; i < n; i++) {
        int16_t d = (int16_t)(codes[i] - zero);
        int16_t size = (int16_t)(d < 0 ? -d : d);
        sizes += size;
        squares += size * size;
    }
    sums->sizes += (uint32_t)sizes;
    sums->squares += (uint32_t)squares;
}

float nib_row_norm(const struct nib_format *format, const struct nib_row_block *block, uint64_t row)
{
    // Squares of 2^9 at most, so that this many fit 31 bits.
    const uint64_t most = 4096;
    const uint64_t cols = block->cols, group = format->group ? format->group : cols;
    const uint64_t groups = nib_format_groups(format, cols);
    const uint64_t per_super = format->super ? format->super / format->group : 1;
    const struct lengths n = row_lengths(format, cols);
    double total = 0.0;
    if (format->code != NIB_CODE_UNIFORM)
        return INFINITY;
    for (uint64_t g = 0; g < groups; g++) {
        uint64_t first = g * group, end = cols - first < group ? cols : first + group;
        uint64_t s = row * n.scale + g / per_super, i = row * groups + g;
        double scale = fabs((double)block->scale[s]);
        double min = block->min ? fabs((double)block->min[s]) : 0.0;
        if (format->super) {
            scale *= abs(block->sub_scale[i]);
            min *= block->min ? block->sub_min[i] : 0;
        }
        struct code_sums sums = {0};
        for (uint64_t k = first; k < end; k += most)
            add_codes(block->codes + row * cols + k, end - k < most ? end - k : most,
                      format->center + (block->zero ? block->zero[i] : 0), &sums);
        total += scale * scale * (double)sums.squares + 2 * scale * min * (double)sums.sizes +
                 min * min * (double)(end - first);
    }
    // Up by more than all roundings of the sums.
    float norm = (float)(sqrt(total) * (1 + 1e-6));
    return isnan(norm) ? INFINITY : norm;
}
