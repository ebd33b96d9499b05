#include "runtime/compress/scale_codes.h"

#include <math.h>
#include <stdlib.h>

#define DECADES 7

static int compare_floats(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

/// Returns boundary `i` of `n` equal parts of [0.1, 1], counted from the nearer end, which is how
/// the tool's fp32 values come about.
static float boundary(int i, int n)
{
    const float first = 0.1f, step = (1 - first) / (float)n;
    if (i < (n + 1) / 2)
        return (float)((double)first + (double)step * i);
    return (float)(1 - (double)step * (n - i));
}

void nib_dynamic_book(float out[NIB_BOOK_SIZE])
{
    int count = 0;
    double power = 1e-6;
    for (int decade = 0; decade < DECADES; decade++, power *= 10) {
        const int n = 1 << decade;
        for (int i = 0; i < n; i++) {
            const float middle = (boundary(i, n) + boundary(i + 1, n)) / 2;
            out[count++] = (float)power * middle;
            out[count++] = -((float)power * middle);
        }
    }
    out[count++] = 0;
    out[count++] = 1;
    qsort(out, NIB_BOOK_SIZE, sizeof *out, compare_floats);
}

/// Returns the index of the nearest value, the lower one of two.
static uint8_t nearest(const float *book, float x)
{
    int low = 0, high = NIB_BOOK_SIZE - 1;
    while (high - low > 1) {
        int middle = (low + high) / 2;
        if (book[middle] <= x)
            low = middle;
        else
            high = middle;
    }
    return (uint8_t)(fabsf(x - book[high]) < fabsf(x - book[low]) ? high : low);
}

void nib_scale_codes_make(float *scale, uint64_t n, struct nib_scale_codes *out)
{
    double sum = 0;
    nib_dynamic_book(out->book);
    for (uint64_t i = 0; i < n; i++)
        sum += scale[i];
    out->offset = n ? (float)(sum / (double)n) : 0;
    for (uint64_t first = 0; first < n; first += NIB_SCALES_PER_BLOCK) {
        const uint64_t last = n - first < NIB_SCALES_PER_BLOCK ? n : first + NIB_SCALES_PER_BLOCK;
        float most = 0;
        for (uint64_t i = first; i < last; i++)
            most = fmaxf(most, fabsf(scale[i] - out->offset));
        out->scale[first / NIB_SCALES_PER_BLOCK] = most;
        const float inverse = most > 0 ? 1 / most : 0;
        for (uint64_t i = first; i < last; i++) {
            out->codes[i] = nearest(out->book, (scale[i] - out->offset) * inverse);
            scale[i] = out->book[out->codes[i]] * most + out->offset;
        }
    }
}
