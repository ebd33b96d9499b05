#include "runtime/cpu/panel.h"

#include <math.h>

#include "runtime/base/bytes.h"
#include "runtime/base/checked.h"
#include "runtime/base/half.h"

#define ROWS NIB_PANEL_ROWS
#define BLOCK NIB_PANEL_BLOCK
/// Bytes of a vector: four columns of all rows.
#define VECTOR (4 * ROWS)

static uint32_t size_of_scale(enum nib_scale_type type)
{
    switch (type) {
    case NIB_SCALE_F32:
        return 4;
    case NIB_SCALE_F16:
    case NIB_SCALE_BF16:
        return 2;
    case NIB_SCALE_E8M0:
        return 1;
    case NIB_SCALE_NONE:
        break;
    }
    return 0;
}

static bool has_even_groups(const struct nib_format *format, uint64_t cols)
{
    if (format->code == NIB_CODE_FLOAT)
        return true;
    if (format->group == BLOCK / 2)
        return format->super != 0;
    return format->group >= cols || format->group % BLOCK == 0;
}

bool nib_panel_layout_init(struct nib_panel_layout *out_layout, const struct nib_format *format,
                           uint64_t cols)
{
    struct nib_panel_layout *l = out_layout;
    *l = (struct nib_panel_layout){0};
    // Planes are at most some 2^7 bytes a column, so their sums do not overflow.
    if (cols == 0 || cols > UINT32_MAX / 2)
        return false;
    uint64_t n_blocks = nib_ceil_div_u64(cols, BLOCK);
    l->n_blocks = (uint32_t)n_blocks;
    l->has_even_groups = has_even_groups(format, cols);
    l->block_bytes = format->bits * VECTOR;
    uint64_t end = 0;
    if (format->code != NIB_CODE_FLOAT) {
        if (format->bits == 7 || format->bits == 1 || format->bits > 8 ||
            (format->code == NIB_CODE_BOOK && format->bits != 4))
            return false;
        l->n_groups = (uint32_t)nib_format_groups(format, cols);
        l->n_scales = format->super ? (uint32_t)nib_format_supers(format, cols) : l->n_groups;
        l->scale_size = size_of_scale(format->scale);
        l->zero_size = format->bits <= 4 ? 1 : 2;
        uint64_t scales = (uint64_t)l->n_scales * ROWS * l->scale_size;
        l->min = scales;
        end = l->min;
        if (format->zero == NIB_ZERO_MINIMUM)
            end += scales;
        else if (format->zero == NIB_ZERO_INTEGER)
            end += (uint64_t)l->n_groups * ROWS * l->zero_size;
        l->sub_scale = end;
        if (nib_panel_has_sixes(format))
            end += nib_ceil_div_u64(l->n_groups, 2) * NIB_PANEL_SIXES;
        else if (format->super)
            end += (uint64_t)l->n_groups * ROWS;
    }
    l->codes = (end + VECTOR - 1) / VECTOR * VECTOR;
    l->bytes = l->codes + n_blocks * l->block_bytes;
    return true;
}

/// Exponent byte of a power of two as mxfp4 scales have it: 2^(e − 128).
static uint8_t exponent_of(float scale)
{
    uint32_t bits = nib_f32_bits(scale);
    if (bits < 0x00800000u)
        return bits == 0x00400000u;
    return (uint8_t)((bits >> 23) + 1);
}

static float from_exponent(uint8_t e)
{
    return nib_f32_from_bits(e < 2 ? 0x00200000u << e : (uint32_t)(e - 1) << 23);
}

static float load_scale(enum nib_scale_type type, const uint8_t *from)
{
    switch (type) {
    case NIB_SCALE_F16:
        return nib_f32_from_f16(nib_load_u16(from));
    case NIB_SCALE_BF16:
        return nib_f32_from_bf16(nib_load_u16(from));
    case NIB_SCALE_E8M0:
        return from_exponent(*from);
    default:
        return nib_load_f32(from);
    }
}

/// Returns whether the scale type has this number.
static bool store_scale(enum nib_scale_type type, float scale, uint8_t *to)
{
    if (type == NIB_SCALE_F16)
        nib_store_u16(to, nib_f16_from_f32(scale));
    else if (type == NIB_SCALE_BF16)
        nib_store_u16(to, nib_bf16_from_f32(scale));
    else if (type == NIB_SCALE_E8M0)
        *to = exponent_of(scale);
    else
        memcpy(to, &scale, sizeof scale);
    return isnan(scale) || load_scale(type, to) == scale;
}

/// Writes 32 codes of a row to its lane.
static void store_codes(uint32_t bits, const uint8_t *restrict c, uint8_t *restrict to)
{
    if (bits == 8) {
        for (int q = 0; q < 8; q++)
            memcpy(to + q * VECTOR, c + 4 * q, 4);
        return;
    }
    uint8_t *high = to + 4 * VECTOR;
    if (bits < 4) {
        for (int z = 0; z < 2; z++) {
            for (int j = 0; j < 4; j++) {
                const uint8_t *p = c + 4 * z + j;
                to[z * VECTOR + j] =
                    (uint8_t)((p[0] & 3) | (p[8] & 3) << 2 | (p[16] & 3) << 4 | (p[24] & 3) << 6);
            }
        }
        high = to + 2 * VECTOR;
    } else {
        for (int z = 0; z < 4; z++) {
            for (int j = 0; j < 4; j++)
                to[z * VECTOR + j] = (uint8_t)((c[4 * z + j] & 15) | (c[16 + 4 * z + j] & 15) << 4);
        }
    }
    if (bits == 3 || bits == 5) {
        for (int i = 0; i < 32; i++)
            high[i % 4] |= (uint8_t)((c[i] >> (bits - 1) & 1) << i / 4);
    } else if (bits == 6) {
        for (int i = 0; i < 32; i++)
            high[i / 4 % 2 * VECTOR + i % 4] |= (uint8_t)((c[i] >> 4 & 3) << i / 8 * 2);
    }
}

static void load_codes(uint32_t bits, const uint8_t *restrict from, uint8_t *restrict c)
{
    if (bits == 8) {
        for (int q = 0; q < 8; q++)
            memcpy(c + 4 * q, from + q * VECTOR, 4);
        return;
    }
    const uint8_t *high = from + (bits < 4 ? 2 : 4) * VECTOR;
    for (int i = 0; i < 32; i++) {
        int q = i / 4, j = i % 4;
        if (bits < 4)
            c[i] = from[q % 2 * VECTOR + j] >> q / 2 * 2 & 3;
        else
            c[i] = from[q % 4 * VECTOR + j] >> q / 4 * 4 & 15;
        if (bits == 3 || bits == 5)
            c[i] |= (uint8_t)((high[j] >> q & 1) << (bits - 1));
        else if (bits == 6)
            c[i] |= (uint8_t)((high[q % 2 * VECTOR + j] >> q / 2 * 2 & 3) << 4);
    }
}

/// Writes a row's floats; numbers of the file's 16 bits come back exactly.
static void store_floats(const struct nib_format *format, const float *x, uint64_t cols,
                         uint8_t *to)
{
    for (uint64_t i = 0; i < cols; i++) {
        uint8_t *p = to + i * ROWS * (format->bits / 8);
        if (format->id == NIB_FORMAT_F16)
            nib_store_u16(p, nib_f16_from_f32(x[i]));
        else if (format->id == NIB_FORMAT_BF16)
            nib_store_u16(p, nib_bf16_from_f32(x[i]));
        else
            memcpy(p, &x[i], sizeof x[i]);
    }
}

static void load_floats(const struct nib_format *format, const uint8_t *from, uint64_t cols,
                        float *x)
{
    for (uint64_t i = 0; i < cols; i++) {
        const uint8_t *p = from + i * ROWS * (format->bits / 8);
        if (format->id == NIB_FORMAT_F16)
            x[i] = nib_f32_from_f16(nib_load_u16(p));
        else if (format->id == NIB_FORMAT_BF16)
            x[i] = nib_f32_from_bf16(nib_load_u16(p));
        else
            x[i] = nib_load_f32(p);
    }
}

/// Adds a group's sub-scale and sub-minimum to a row's bytes, which begin with 0.
static void store_sixes(uint64_t group, uint8_t scale, uint8_t min, uint8_t *to)
{
    to += group / 2 * NIB_PANEL_SIXES;
    if (group % 2 == 0) {
        to[0] |= scale & 63;
        to[ROWS] |= min & 63;
        return;
    }
    to[2 * ROWS] |= scale & 63;
    for (int i = 0; i < 3; i++)
        to[i * ROWS] |= (uint8_t)((min >> 2 * i & 3) << 6);
}

static void load_sixes(uint64_t group, const uint8_t *from, int8_t *out_scale, uint8_t *out_min)
{
    from += group / 2 * NIB_PANEL_SIXES;
    *out_scale = from[group % 2 * 2 * ROWS] & 63;
    *out_min = from[ROWS] & 63;
    if (group % 2)
        *out_min = (uint8_t)(from[0] >> 6 | from[ROWS] >> 6 << 2 | from[2 * ROWS] >> 6 << 4);
}

static bool store_row_scales(const struct nib_panel_layout *l, const struct nib_format *format,
                             const struct nib_row_block *block, uint64_t row, uint8_t *panel)
{
    bool is_exact = true;
    for (uint64_t s = 0; s < l->n_scales; s++) {
        uint64_t at = (s * ROWS + row) * l->scale_size, i = row * l->n_scales + s;
        is_exact &= store_scale(format->scale, block->scale[i], panel + at);
        if (block->min)
            is_exact &= store_scale(format->scale, block->min[i], panel + l->min + at);
    }
    for (uint64_t g = 0; g < l->n_groups; g++) {
        uint64_t at = g * ROWS + row, i = row * l->n_groups + g;
        if (block->zero && l->zero_size == 1)
            panel[l->min + at] = (uint8_t)block->zero[i];
        else if (block->zero)
            nib_store_u16(panel + l->min + 2 * at, nib_f16_from_f32(block->zero[i]));
        if (nib_panel_has_sixes(format))
            store_sixes(g, (uint8_t)block->sub_scale[i], block->sub_min[i],
                        panel + l->sub_scale + row);
        else if (block->sub_scale)
            panel[l->sub_scale + at] = (uint8_t)block->sub_scale[i];
        if (block->sub_min && format->bits == 2)
            panel[l->sub_scale + at] |= (uint8_t)(block->sub_min[i] << 4);
    }
    return is_exact;
}

bool nib_panel_store_scales(const struct nib_panel_layout *layout, const struct nib_format *format,
                            const struct nib_row_block *block, uint8_t *panel)
{
    bool is_exact = true;
    memset(panel, 0, layout->codes);
    for (uint64_t row = 0; row < block->rows; row++)
        is_exact &= store_row_scales(layout, format, block, row, panel);
    return is_exact;
}

bool nib_panel_store(const struct nib_panel_layout *layout, const struct nib_format *format,
                     const struct nib_row_block *block, uint8_t *panel)
{
    uint64_t cols = block->cols;
    memset(panel + layout->codes, 0, layout->bytes - layout->codes);
    for (uint64_t row = 0; row < block->rows; row++) {
        if (format->code == NIB_CODE_FLOAT) {
            store_floats(format, block->values + row * cols, cols,
                         panel + row * (format->bits / 8));
            continue;
        }
        const uint8_t *codes = block->codes + row * cols;
        uint8_t *to = panel + layout->codes + 4 * row;
        uint64_t whole = cols / BLOCK;
        for (uint64_t b = 0; b < whole; b++)
            store_codes(format->bits, codes + b * BLOCK, to + b * layout->block_bytes);
        if (whole < layout->n_blocks) {
            uint8_t rest[BLOCK] = {0};
            memcpy(rest, codes + whole * BLOCK, cols - whole * BLOCK);
            store_codes(format->bits, rest, to + whole * layout->block_bytes);
        }
    }
    return nib_panel_store_scales(layout, format, block, panel);
}

static void load_row_scales(const struct nib_panel_layout *l, const struct nib_format *format,
                            const uint8_t *panel, uint64_t row, uint64_t to,
                            struct nib_row_block *block)
{
    for (uint64_t s = 0; s < l->n_scales; s++) {
        uint64_t at = (s * ROWS + row) * l->scale_size, i = to * l->n_scales + s;
        block->scale[i] = load_scale(format->scale, panel + at);
        if (block->min)
            block->min[i] = load_scale(format->scale, panel + l->min + at);
    }
    for (uint64_t g = 0; g < l->n_groups; g++) {
        uint64_t at = g * ROWS + row, i = to * l->n_groups + g;
        if (block->zero && l->zero_size == 1)
            block->zero[i] = panel[l->min + at];
        else if (block->zero)
            block->zero[i] = (int16_t)nib_f32_from_f16(nib_load_u16(panel + l->min + 2 * at));
        if (nib_panel_has_sixes(format)) {
            load_sixes(g, panel + l->sub_scale + row, &block->sub_scale[i], &block->sub_min[i]);
            continue;
        }
        uint8_t sub = block->sub_scale ? panel[l->sub_scale + at] : 0;
        if (block->sub_min && format->bits == 2) {
            block->sub_scale[i] = sub & 15;
            block->sub_min[i] = sub >> 4;
            continue;
        }
        if (block->sub_scale)
            block->sub_scale[i] = (int8_t)(sub < 128 ? sub : sub - 256);
    }
}

void nib_panel_load(const struct nib_panel_layout *layout, const struct nib_format *format,
                    const uint8_t *panel, uint64_t row, uint64_t block_row,
                    struct nib_row_block *block)
{
    uint64_t cols = block->cols;
    if (format->code == NIB_CODE_FLOAT) {
        load_floats(format, panel + row * (format->bits / 8), cols,
                    block->values + block_row * cols);
        return;
    }
    uint8_t *codes = block->codes + block_row * cols;
    const uint8_t *from = panel + layout->codes + 4 * row;
    for (uint64_t first = 0; first < cols; first += BLOCK) {
        uint8_t all[BLOCK];
        uint64_t n = cols - first < BLOCK ? cols - first : BLOCK;
        load_codes(format->bits, from + first / BLOCK * layout->block_bytes, all);
        memcpy(codes + first, all, n);
    }
    load_row_scales(layout, format, panel, row, block_row, block);
}
