// From a reader's rows to the planes of a matrix, a tile at a time.
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/base/half.h"
#include "runtime/base/status.h"
#include "runtime/vulkan/matrix.h"

#define ROWS NIB_TILE_ROWS
#define N_PLANES 8
/// Weights times a row's unit are below 2^UNIT_BITS, an octave below the largest binary16 number.
#define UNIT_BITS 15
#define MAX_EXPONENT 126

/// A tile in the making.
struct tile {
    const struct nib_vk_layout *layout;
    struct nib_row_block block; ///< rows as read
    uint32_t *words;            ///< planes of one tile, one after the other
    uint32_t *spans;            ///< [2 · n_granules]
    uint64_t n_words;
    uint64_t supers;
};

static void set_bits(uint32_t *plane, uint64_t bit, uint32_t value)
{
    plane[bit / 32] |= value << bit % 32;
}

/// Writes weight i of a granule into its cell: runs of four words, each [16 rows].
static void store_code(const struct nib_vk_layout *l, uint32_t *plane, uint64_t granule,
                       uint64_t row, uint32_t i, uint32_t value)
{
    uint32_t bits = l->low_bits;
    if (bits < 4) {
        set_bits(plane, ((granule * ROWS + row) * NIB_GRANULE + i) * bits, value);
        return;
    }
    uint64_t run = i * bits / 128, n_runs = bits / 4;
    uint64_t at = ((granule * n_runs + run) * ROWS + row) * 128 + i * bits % 128;
    set_bits(plane, at, value);
}

static uint32_t float_code(const struct nib_format *format, float value)
{
    if (format->bits == 32)
        return nib_f32_bits(value);
    return format->id == NIB_FORMAT_BF16 ? nib_bf16_from_f32(value) : nib_f16_from_f32(value);
}

static void store_codes(struct tile *t, uint64_t row, uint32_t *low, uint32_t *high)
{
    const struct nib_vk_layout *l = t->layout;
    const struct nib_format *format = &l->format;
    uint32_t mask = format->code == NIB_CODE_FLOAT ? 0 : (1u << l->low_bits) - 1;
    for (uint32_t g = 0; g < l->n_granules; g++) {
        uint64_t first = row * l->cols + t->spans[2 * g];
        for (uint32_t i = 0; i < t->spans[2 * g + 1]; i++) {
            if (format->code == NIB_CODE_FLOAT) {
                store_code(l, low, g, row, i, float_code(format, t->block.values[first + i]));
                continue;
            }
            uint32_t code = t->block.codes[first + i];
            store_code(l, low, g, row, i, code & mask);
            if (l->high_bits) {
                uint64_t cell = (uint64_t)g * ROWS + row;
                uint32_t above = code >> l->low_bits & ((1u << l->high_bits) - 1);
                set_bits(high, (cell * NIB_GRANULE + i) * l->high_bits, above);
            }
        }
    }
}

/// Returns the weight group of entry `e`.
static uint64_t group_of(const struct tile *t, uint64_t e)
{
    const struct nib_vk_layout *l = t->layout;
    return l->has_spans ? t->spans[2 * e] / l->format.group : e;
}

/// Writes `scale` in the format's type; returns false where it is not of that type.
static bool store_scale(const struct nib_format *format, float scale, uint64_t entry,
                        uint32_t *plane)
{
    if (format->scale == NIB_SCALE_F32 || format->scale == NIB_SCALE_NONE) {
        plane[entry] = nib_f32_bits(scale);
        return true;
    }
    bool is_half = format->scale == NIB_SCALE_F16;
    uint16_t h = is_half ? nib_f16_from_f32(scale) : nib_bf16_from_f32(scale);
    set_bits(plane, entry * 16, h);
    float back = is_half ? nib_f32_from_f16(h) : nib_f32_from_bf16(h);
    return back == scale || isnan(scale);
}

/// Writes scales and minima of one row, of groups or of super-blocks.
static bool store_scales(struct tile *t, uint64_t row, uint32_t *scale, uint32_t *min)
{
    const struct nib_vk_layout *l = t->layout;
    const struct nib_format *format = &l->format;
    uint64_t n = format->super ? t->supers : l->n_entries;
    uint64_t n_read = format->super ? t->supers : nib_format_groups(format, l->cols);
    bool is_good = true;
    for (uint64_t e = 0; e < n; e++) {
        uint64_t from = format->super ? e : group_of(t, e);
        if (from >= n_read) // the second half of a last granule
            continue;
        uint64_t at = row * n_read + from;
        is_good &= store_scale(format, t->block.scale[at], e * ROWS + row, scale);
        if (t->block.min)
            is_good &= store_scale(format, t->block.min[at], e * ROWS + row, min);
    }
    return is_good;
}

/// Writes what groups have of their own: two-level scales and minima, zero points.
static void store_groups(struct tile *t, uint64_t row, uint32_t *sub_scale, uint32_t *sub_min,
                         uint32_t *zero)
{
    const struct nib_vk_layout *l = t->layout;
    uint64_t n_groups = nib_format_groups(&l->format, l->cols);
    uint32_t zero_bits = l->format.bits <= 4 ? 8 : 16;
    for (uint64_t e = 0; e < l->n_entries; e++) {
        uint64_t group = group_of(t, e), entry = e * ROWS + row;
        if (group >= n_groups)
            continue;
        uint64_t at = row * n_groups + group;
        if (t->block.sub_scale)
            set_bits(sub_scale, entry * 8, (uint8_t)t->block.sub_scale[at]);
        if (t->block.sub_min)
            set_bits(sub_min, entry * 8, t->block.sub_min[at]);
        if (t->block.zero)
            set_bits(zero, entry * zero_bits, (uint16_t)t->block.zero[at]);
    }
}

/// Returns the largest number that a code stands for, before a zero point is taken from it.
static float largest_value(const struct nib_format *format)
{
    float most = 0;
    for (int32_t i = 0; i < 1 << format->bits; i++)
        most = fmaxf(most, fabsf(format->book ? format->book[i] : (float)(i - format->center)));
    return most;
}

/// Returns the power of two that a row's weights, and each term of them, are below 2^UNIT_BITS with.
static float unit_of(const struct tile *t, uint64_t row)
{
    const struct nib_format *format = &t->layout->format;
    const struct nib_row_block *b = &t->block;
    uint64_t groups = nib_format_groups(format, t->layout->cols), per_super = 1;
    if (format->super)
        per_super = format->super / format->group;
    float value = largest_value(format), most = 0;
    for (uint64_t g = 0; g < groups; g++) {
        uint64_t at = row * groups + g;
        uint64_t super = format->super ? row * t->supers + g / per_super : at;
        float size = value + (b->zero ? fabsf((float)b->zero[at]) : 0.0f);
        float weight = fabsf(b->scale[super]) * size * (b->sub_scale ? abs(b->sub_scale[at]) : 1);
        if (b->min)
            weight += fabsf(b->min[super]) * (b->sub_min ? (float)b->sub_min[at] : 1.0f);
        if (isfinite(weight))
            most = fmaxf(most, weight);
    }
    int exponent;
    frexpf(most, &exponent);
    exponent = most > 0 ? UNIT_BITS - exponent : 0;
    // Within what fp32 holds, and its inverse.
    return ldexpf(1.0f, exponent < -MAX_EXPONENT  ? -MAX_EXPONENT
                        : exponent > MAX_EXPONENT ? MAX_EXPONENT
                                                  : exponent);
}

/// Where the planes of one tile begin among its words, and where those of the slice do.
struct place {
    uint64_t tile[N_PLANES + 1];
    uint64_t slice[N_PLANES + 1];
};

static struct place find_places(const struct nib_vk_layout *l, uint32_t slice)
{
    struct nib_vk_layout one = *l;
    one.rows = ROWS;
    one.slice_rows = ROWS;
    struct place place;
    for (int whole = 0; whole < 2; whole++) {
        struct nib_matrix_args a;
        nib_vk_layout_args(whole ? l : &one, whole ? slice : 0, &a);
        uint64_t *to = whole ? place.slice : place.tile;
        const uint64_t at[N_PLANES + 1] = {0,         a.high_at,      a.scale_at,
                                           a.min_at,  a.sub_scale_at, a.sub_min_at,
                                           a.zero_at, a.unit_at,      a.book_at};
        memcpy(to, at, sizeof at);
    }
    return place;
}

static bool fill_tile(struct tile *t, const struct place *place, uint64_t n_rows)
{
    bool is_good = true;
    memset(t->words, 0, t->n_words * sizeof *t->words);
    for (uint64_t r = 0; r < n_rows; r++) {
        store_codes(t, r, t->words, t->words + place->tile[1]);
        if (t->layout->format.code == NIB_CODE_FLOAT)
            continue;
        is_good &= store_scales(t, r, t->words + place->tile[2], t->words + place->tile[3]);
        store_groups(t, r, t->words + place->tile[4], t->words + place->tile[5],
                     t->words + place->tile[6]);
        t->words[place->tile[7] + r] = nib_f32_bits(unit_of(t, r));
    }
    return is_good;
}

/// What packing goes on with.
struct packer {
    struct nib_vk_matrix *matrix;
    struct nib_vk_transfer *transfer;
    const struct nib_row_reader *reader;
    void *memory; ///< of the block
};

static enum nib_status write_tile(const struct packer *p, const struct tile *t,
                                  const struct place *place, uint32_t slice, uint64_t tile,
                                  struct nib_error *err)
{
    for (int i = 0; i < N_PLANES; i++) {
        uint64_t n = place->tile[i + 1] - place->tile[i];
        if (n == 0)
            continue;
        enum nib_status status = nib_vk_transfer_write(p->transfer, &p->matrix->slices[slice],
                                                       4 * (place->slice[i] + tile * n),
                                                       t->words + place->tile[i], 4 * n, err);
        if (status != NIB_OK)
            return status;
    }
    return NIB_OK;
}

static enum nib_status pack_slice(const struct packer *p, struct tile *t, uint32_t slice,
                                  struct nib_error *err)
{
    enum nib_status status = NIB_OK;
    const struct nib_vk_layout *l = t->layout;
    const struct nib_row_reader *reader = p->reader;
    struct place place = find_places(l, slice);
    uint64_t first = (uint64_t)slice * l->slice_rows, n = nib_vk_layout_slice_rows(l, slice);
    for (uint64_t r = 0; r < n; r += ROWS) {
        uint64_t count = n - r < ROWS ? n - r : ROWS;
        nib_row_block_init(&t->block, &reader->format, count, reader->cols, p->memory);
        NIB_TRY(reader->read(reader, first + r, &t->block, err));
        if (!fill_tile(t, &place, count)) {
            return nib_fail(err, NIB_ERROR_FORMAT,
                            "tensor '%s': a scale near row %llu is not of format %s's type",
                            reader->name, (unsigned long long)(first + r), reader->format.name);
        }
        NIB_TRY(write_tile(p, t, &place, slice, r / ROWS, err));
        if (reader->drop)
            reader->drop(reader, first + r, count);
    }
    if (l->format.code == NIB_CODE_BOOK) {
        float book[16] = {0};
        memcpy(book, l->format.book, sizeof(float) << l->format.bits);
        NIB_TRY(nib_vk_transfer_write(p->transfer, &p->matrix->slices[slice],
                                      4 * place.slice[N_PLANES], book, sizeof book, err));
    }
fail:
    return status;
}

static enum nib_status write_table(const struct packer *p, const struct tile *t,
                                   struct nib_error *err)
{
    enum nib_status status = NIB_OK;
    const struct nib_vk_layout *l = t->layout;
    uint64_t spans = l->has_spans ? 2ull * l->n_granules * sizeof(uint32_t) : 0;
    if (spans)
        NIB_TRY(nib_vk_transfer_write(p->transfer, &p->matrix->table, 0, t->spans, spans, err));
    if (!p->reader->permutation)
        return NIB_OK;
    uint64_t size = l->cols * sizeof(uint32_t);
    if (p->matrix->table.size < spans + size)
        return nib_fail(err, NIB_ERROR_UNSUPPORTED, "a permutation of format %s", l->format.name);
    NIB_TRY(nib_vk_transfer_write(p->transfer, &p->matrix->table, spans, p->reader->permutation,
                                  size, err));
    p->matrix->has_permutation = true;
fail:
    return status;
}

static enum nib_status pack_matrix(struct packer *p, struct nib_error *err)
{
    enum nib_status status = NIB_OK;
    const struct nib_vk_layout *l = &p->matrix->layout;
    struct tile t = {.layout = l, .supers = nib_format_supers(&l->format, l->cols)};
    struct place place = find_places(l, 0);
    t.n_words = place.tile[N_PLANES];
    t.words = malloc(t.n_words * sizeof *t.words);
    t.spans = malloc(2 * l->n_granules * sizeof *t.spans);
    if (!t.words || !t.spans) {
        status = nib_fail_memory(err);
        goto fail;
    }
    nib_vk_layout_spans(l, t.spans);
    NIB_TRY(write_table(p, &t, err));
    for (uint32_t s = 0; s < l->n_slices; s++)
        NIB_TRY(pack_slice(p, &t, s, err));
fail:
    free(t.words);
    free(t.spans);
    return status;
}

static enum nib_status pack_vector(const struct packer *p, struct nib_error *err)
{
    enum nib_status status = NIB_OK;
    const struct nib_row_reader *reader = p->reader;
    struct nib_row_block block;
    float *values = calloc(reader->cols ? reader->cols : 1, sizeof *values);
    if (!values)
        return nib_fail_memory(err);
    nib_row_block_init(&block, &reader->format, 1, reader->cols, p->memory);
    NIB_TRY(reader->read(reader, 0, &block, err));
    nib_row_dequantize(&reader->format, &block, 0, values);
    NIB_TRY(nib_vk_transfer_write(p->transfer, &p->matrix->slices[0], 0, values,
                                  reader->cols * sizeof *values, err));
fail:
    free(values);
    return status;
}

enum nib_status nib_vk_matrix_pack(struct nib_vk_matrix *matrix, struct nib_vk_transfer *transfer,
                                   const struct nib_row_reader *reader, struct nib_error *err)
{
    struct packer p = {.matrix = matrix, .transfer = transfer, .reader = reader};
    size_t size = nib_row_block_size(&reader->format, matrix->is_vector ? 1 : ROWS, reader->cols);
    p.memory = size ? malloc(size) : NULL;
    if (!p.memory)
        return nib_fail_memory(err);
    matrix->activation_scale = reader->activation_scale;
    matrix->outlier_threshold = reader->outlier_threshold;
    enum nib_status status = matrix->is_vector ? pack_vector(&p, err) : pack_matrix(&p, err);
    free(p.memory);
    matrix->is_packed = status == NIB_OK;
    return status;
}
