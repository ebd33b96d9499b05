#include "runtime/vulkan/matrix.h"

#include "runtime/base/checked.h"
#include "runtime/base/status.h"

/// Words of each plane in one tile.
struct planes {
    uint64_t codes, high, scale, min, sub_scale, sub_min, zero, unit;
};

/// Bytes of a code book at the end of a slice.
#define BOOK_BYTES 64u

static uint32_t scales_of(const struct nib_format *format)
{
    switch (format->scale) {
    case NIB_SCALE_F16:
        return NIB_SCALES_F16;
    case NIB_SCALE_BF16:
    case NIB_SCALE_E8M0:
        return NIB_SCALES_BF16;
    default:
        return NIB_SCALES_F32;
    }
}

static uint32_t zero_bits(const struct nib_format *format)
{
    if (format->zero != NIB_ZERO_INTEGER)
        return 0;
    return format->bits <= 4 ? 8 : 16; // zero points reach 2^bits
}

static struct planes planes_of(const struct nib_vk_layout *l)
{
    const struct nib_format *format = &l->format;
    struct planes p = {0};
    uint64_t cells = (uint64_t)l->n_granules * NIB_TILE_ROWS;
    p.codes = cells * l->low_bits;
    if (format->code == NIB_CODE_FLOAT)
        return p;
    p.high = cells * l->high_bits;
    uint64_t entries = (uint64_t)l->n_entries * NIB_TILE_ROWS;
    uint64_t scales = format->super ? nib_format_supers(format, l->cols) * NIB_TILE_ROWS : entries;
    bool has_min = format->zero == NIB_ZERO_MINIMUM;
    p.scale = scales_of(format) == NIB_SCALES_F32 ? scales : scales / 2;
    p.min = has_min ? p.scale : 0;
    p.sub_scale = format->super ? entries / 4 : 0;
    p.sub_min = has_min ? p.sub_scale : 0;
    p.zero = entries * zero_bits(format) / 32;
    p.unit = NIB_TILE_ROWS;
    return p;
}

static uint64_t tile_words(const struct planes *p)
{
    return p->codes + p->high + p->scale + p->min + p->sub_scale + p->sub_min + p->zero + p->unit;
}

/// Number of granules where each ends at a group's and at an activation group's end.
static uint64_t count_spans(uint64_t cols, uint64_t group)
{
    uint64_t count = 0;
    for (uint64_t begin = 0; begin < cols; count++) {
        uint64_t a = (begin / group + 1) * group;
        uint64_t b = (begin / NIB_GRANULE + 1) * NIB_GRANULE;
        begin = a < b ? a : b;
    }
    return count;
}

static enum nib_status choose_bits(struct nib_vk_layout *l, struct nib_error *err)
{
    uint32_t bits = l->format.bits;
    if (l->format.code == NIB_CODE_FLOAT && (bits == 16 || bits == 32)) {
        l->low_bits = bits;
    } else if (bits == 8) {
        l->low_bits = 8;
    } else if (bits >= 4 && bits <= 6) {
        l->low_bits = 4;
        l->high_bits = bits - 4;
    } else if (bits == 2 || bits == 3) {
        l->low_bits = 2;
        l->high_bits = bits - 2;
    } else {
        return nib_fail(err, NIB_ERROR_UNSUPPORTED, "the Vulkan backend has no kernels for %u bits",
                        bits);
    }
    return NIB_OK;
}

enum nib_status nib_vk_layout_make(const struct nib_format *format, uint64_t rows, uint64_t cols,
                                   uint64_t max_range, struct nib_vk_layout *out_layout,
                                   struct nib_error *err)
{
    struct nib_vk_layout *l = out_layout;
    *l = (struct nib_vk_layout){.format = *format, .rows = rows, .cols = cols};
    if (rows == 0 || cols == 0 || rows > UINT32_MAX / 2 || cols > UINT32_MAX / 64)
        return nib_fail(err, NIB_ERROR_UNSUPPORTED,
                        "a matrix of %llu × %llu is too large for a Vulkan device",
                        (unsigned long long)rows, (unsigned long long)cols);
    enum nib_status status = choose_bits(l, err);
    if (status != NIB_OK)
        return status;
    uint32_t group = format->group;
    l->n_granules = (uint32_t)nib_ceil_div_u64(cols, NIB_GRANULE);
    l->n_entries = (uint32_t)nib_format_groups(format, cols);
    l->has_spans = format->code != NIB_CODE_FLOAT && group != 0 && group < cols &&
                   group % NIB_GRANULE != 0 && group != NIB_GRANULE / 2;
    if (l->has_spans) {
        if (format->super)
            return nib_fail(err, NIB_ERROR_UNSUPPORTED, "super-blocks with groups of %u", group);
        l->n_granules = (uint32_t)count_spans(cols, group);
        l->n_entries = l->n_granules;
    } else if (group == NIB_GRANULE / 2) {
        l->n_entries = 2 * l->n_granules;
    }
    struct planes planes = planes_of(l);
    uint64_t tile_bytes = 4 * tile_words(&planes);
    uint64_t tiles = nib_ceil_div_u64(rows, NIB_TILE_ROWS);
    uint64_t most = max_range > BOOK_BYTES ? (max_range - BOOK_BYTES) / tile_bytes : 0;
    if (most == 0)
        return nib_fail(err, NIB_ERROR_UNSUPPORTED, "16 rows of %llu weights exceed a binding",
                        (unsigned long long)cols);
    uint64_t slice_tiles = tiles < most ? tiles : most;
    uint64_t n_slices = nib_ceil_div_u64(tiles, slice_tiles);
    if (n_slices > NIB_VK_MAX_SLICES)
        return nib_fail(err, NIB_ERROR_UNSUPPORTED,
                        "a matrix of %llu × %llu needs %llu bindings of the device, at most %d go; "
                        "run its layer on the CPU (--gpu-layers N)",
                        (unsigned long long)rows, (unsigned long long)cols,
                        (unsigned long long)n_slices, NIB_VK_MAX_SLICES);
    l->slice_rows = (uint32_t)(slice_tiles * NIB_TILE_ROWS);
    l->n_slices = (uint32_t)n_slices;
    return NIB_OK;
}

uint32_t nib_vk_layout_slice_rows(const struct nib_vk_layout *layout, uint32_t slice)
{
    uint64_t rest = layout->rows - (uint64_t)slice * layout->slice_rows;
    return rest < layout->slice_rows ? (uint32_t)rest : layout->slice_rows;
}

static uint64_t slice_tiles(const struct nib_vk_layout *layout, uint32_t slice)
{
    return nib_ceil_div_u64(nib_vk_layout_slice_rows(layout, slice), NIB_TILE_ROWS);
}

uint64_t nib_vk_layout_slice_bytes(const struct nib_vk_layout *layout, uint32_t slice)
{
    struct planes planes = planes_of(layout);
    uint64_t book = layout->format.code == NIB_CODE_BOOK ? BOOK_BYTES : 0;
    return 4 * tile_words(&planes) * slice_tiles(layout, slice) + book;
}

static uint32_t group_of(const struct nib_vk_layout *layout)
{
    return layout->format.group ? layout->format.group : (uint32_t)layout->cols;
}

/// Returns whether no group is larger than a granule.
static bool is_group(const struct nib_vk_layout *layout)
{
    return layout->has_spans || group_of(layout) <= NIB_GRANULE;
}

/// Fills what a kernel gets of a slice of `tiles` tiles.
static void make_args(const struct nib_vk_layout *layout, uint64_t tiles,
                      struct nib_matrix_args *out_args)
{
    const struct nib_format *format = &layout->format;
    struct planes p = planes_of(layout);
    uint64_t high = p.codes * tiles, scale = high + p.high * tiles;
    uint64_t min = scale + p.scale * tiles, sub_scale = min + p.min * tiles;
    uint64_t sub_min = sub_scale + p.sub_scale * tiles, zero = sub_min + p.sub_min * tiles;
    uint64_t unit = zero + p.zero * tiles;
    uint32_t group = group_of(layout);
    *out_args = (struct nib_matrix_args){
        .n_granules = layout->n_granules,
        .n_groups = layout->n_entries,
        .n_supers = (uint32_t)nib_format_supers(format, layout->cols),
        .granules_per_group = is_group(layout) ? 1 : (uint32_t)nib_ceil_div_u64(group, NIB_GRANULE),
        .groups_per_super = format->super ? format->super / group : 1,
        .high_at = (uint32_t)high,
        .scale_at = (uint32_t)scale,
        .min_at = (uint32_t)min,
        .sub_scale_at = (uint32_t)sub_scale,
        .sub_min_at = (uint32_t)sub_min,
        .zero_at = (uint32_t)zero,
        .unit_at = (uint32_t)unit,
        .book_at = (uint32_t)(unit + p.unit * tiles),
    };
}

void nib_vk_layout_args(const struct nib_vk_layout *layout, uint32_t slice,
                        struct nib_matrix_args *out_args)
{
    make_args(layout, slice_tiles(layout, slice), out_args);
}

void nib_vk_layout_tile_args(const struct nib_vk_layout *layout, struct nib_matrix_args *out_args)
{
    make_args(layout, 1, out_args);
}

void nib_vk_layout_specs(const struct nib_vk_layout *layout, uint32_t specs[NIB_SPECS])
{
    const struct nib_format *format = &layout->format;
    uint32_t bits = format->bits;
    if (format->id == NIB_FORMAT_BF16)
        bits = NIB_CODE_BF16;
    specs[NIB_SPEC_CODE_BITS] = bits;
    specs[NIB_SPEC_HAS_BOOK] = format->code == NIB_CODE_BOOK;
    specs[NIB_SPEC_SCALE_TYPE] = scales_of(format);
    specs[NIB_SPEC_HAS_SUPER] = format->super != 0;
    specs[NIB_SPEC_HAS_MIN] = format->zero == NIB_ZERO_MINIMUM;
    specs[NIB_SPEC_ZERO_BITS] = zero_bits(format);
    specs[NIB_SPEC_HALVES] =
        format->group == NIB_GRANULE / 2 && layout->n_entries == 2 * layout->n_granules ? 2 : 1;
    specs[NIB_SPEC_CENTER] = (uint32_t)format->center;
    specs[NIB_SPEC_IS_GROUP] = is_group(layout);
}

void nib_vk_layout_spans(const struct nib_vk_layout *layout, uint32_t *out_spans)
{
    uint64_t begin = 0;
    for (uint32_t g = 0; g < layout->n_granules; g++) {
        uint64_t end = (begin / NIB_GRANULE + 1) * NIB_GRANULE;
        if (layout->has_spans) {
            uint64_t group = layout->format.group;
            uint64_t group_end = (begin / group + 1) * group;
            end = end < group_end ? end : group_end;
        }
        end = end < layout->cols ? end : layout->cols;
        out_spans[2 * g] = (uint32_t)begin;
        out_spans[2 * g + 1] = (uint32_t)(end - begin);
        begin = end;
    }
}

enum nib_status nib_vk_matrix_reserve(struct nib_vk_matrix *matrix, struct nib_vk_pool *pool,
                                      const struct nib_weight *weight, struct nib_error *err)
{
    enum nib_status status = NIB_OK;
    *matrix = (struct nib_vk_matrix){.is_vector = !nib_role_is_matrix(weight->role)};
    if (matrix->is_vector) {
        matrix->layout.cols = weight->cols;
        matrix->bytes = weight->cols * sizeof(float);
        return nib_vk_pool_reserve(pool, matrix->bytes, &matrix->slices[0], err);
    }
    struct nib_vk_layout *layout = &matrix->layout;
    NIB_TRY(nib_vk_layout_make(&weight->format, weight->rows, weight->cols,
                               pool->device->snapshot.max_storage_range, layout, err));
    for (uint32_t s = 0; s < layout->n_slices; s++) {
        uint64_t bytes = nib_vk_layout_slice_bytes(layout, s);
        NIB_TRY(nib_vk_pool_reserve(pool, bytes, &matrix->slices[s], err));
        matrix->bytes += bytes;
    }
    // A permutation shows only when the matrix is read; containers with blocks have none.
    uint64_t table = layout->has_spans ? 2ull * layout->n_granules : 0;
    if (weight->format.block_bytes == 0)
        table += weight->cols;
    NIB_TRY(nib_vk_pool_reserve(pool, table * sizeof(uint32_t), &matrix->table, err));
    matrix->bytes += table * sizeof(uint32_t);
fail:
    return status;
}
