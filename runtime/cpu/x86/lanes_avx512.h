/// 16 lanes in one 512-bit register: AVX-512 F, BW, VL and DQ. With NIB_LANES_VNNI also VNNI.
#ifndef RUNTIME_CPU_X86_LANES_AVX512_H
#define RUNTIME_CPU_X86_LANES_AVX512_H

#include <immintrin.h>
#include <stdint.h>
#include <string.h>

typedef __m512 vf;
typedef __m512i vi;
typedef __m512i vb;

static inline vf vf_zero(void)
{
    return _mm512_setzero_ps();
}
static inline vf vf_set(float x)
{
    return _mm512_set1_ps(x);
}
static inline vf vf_load(const float *p)
{
    return _mm512_loadu_ps(p);
}
static inline void vf_store(float *p, vf x)
{
    _mm512_storeu_ps(p, x);
}
/// Bits [first, last) of a mask of lanes.
static inline __mmask16 vf_mask(uint32_t first, uint32_t last)
{
    return (__mmask16)((0xffffu >> (16 - last)) & (0xffffu << first));
}
/// Loads n < 16 floats; the other lanes are 0.
static inline vf vf_load_part(const float *p, uint32_t n)
{
    return _mm512_maskz_loadu_ps(vf_mask(0, n), p);
}
/// Stores lanes [first, last) to p[first .. last).
static inline void vf_store_part(float *p, uint32_t first, uint32_t last, vf x)
{
    _mm512_mask_storeu_ps(p, vf_mask(first, last), x);
}
/// Returns x in lanes [first, last), y in the others.
static inline vf vf_select_part(uint32_t first, uint32_t last, vf x, vf y)
{
    return _mm512_mask_blend_ps(vf_mask(first, last), y, x);
}
static inline vf vf_load_f16(const void *p)
{
    return _mm512_cvtph_ps(_mm256_loadu_si256(p));
}
static inline void vf_store_f16(void *p, vf x)
{
    _mm256_storeu_si256(p, _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
static inline vf vf_load_bf16(const void *p)
{
    __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(p));
    return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
}
static inline vf vf_add(vf a, vf b)
{
    return _mm512_add_ps(a, b);
}
static inline vf vf_sub(vf a, vf b)
{
    return _mm512_sub_ps(a, b);
}
static inline vf vf_mul(vf a, vf b)
{
    return _mm512_mul_ps(a, b);
}
static inline vf vf_div(vf a, vf b)
{
    return _mm512_div_ps(a, b);
}
/// a · b + c, rounded once.
static inline vf vf_fma(vf a, vf b, vf c)
{
    return _mm512_fmadd_ps(a, b, c);
}
/// c − a · b, rounded once.
static inline vf vf_fnma(vf a, vf b, vf c)
{
    return _mm512_fnmadd_ps(a, b, c);
}
/// The larger; b where one is NaN.
static inline vf vf_max(vf a, vf b)
{
    return _mm512_max_ps(a, b);
}
static inline vf vf_min(vf a, vf b)
{
    return _mm512_min_ps(a, b);
}
static inline vf vf_abs(vf x)
{
    return _mm512_abs_ps(x);
}
/// 0 in lanes that hold NaN.
static inline vf vf_drop_nan(vf x)
{
    return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x, x, _CMP_ORD_Q), x);
}
static inline float vf_sum(vf x)
{
    __m256 half = _mm256_add_ps(_mm512_castps512_ps256(x), _mm512_extractf32x8_ps(x, 1));
    __m128 quad = _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
    quad = _mm_add_ps(quad, _mm_movehl_ps(quad, quad));
    return _mm_cvtss_f32(_mm_add_ss(quad, _mm_movehdup_ps(quad)));
}
static inline float vf_largest(vf x)
{
    return _mm512_reduce_max_ps(x);
}
static inline vf vf_round(vf x)
{
    return _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
/// x · 2^n for whole n; 0 below the exponents' range.
static inline vf vf_scale_exponent(vf x, vf n)
{
    return _mm512_scalef_ps(x, n);
}

static inline vi vi_set(int32_t x)
{
    return _mm512_set1_epi32(x);
}
static inline vi vi_load_u8(const uint8_t *p)
{
    return _mm512_cvtepu8_epi32(_mm_loadu_si128((const void *)p));
}
static inline vi vi_load_s8(const uint8_t *p)
{
    return _mm512_cvtepi8_epi32(_mm_loadu_si128((const void *)p));
}
static inline vi vi_add(vi a, vi b)
{
    return _mm512_add_epi32(a, b);
}
static inline vi vi_and(vi a, int32_t mask)
{
    return _mm512_and_si512(a, _mm512_set1_epi32(mask));
}
#define vi_shr(a, n) _mm512_srli_epi32(a, n)
#define vi_shl(a, n) _mm512_slli_epi32(a, n)
static inline vf vf_from_vi(vi x)
{
    return _mm512_cvtepi32_ps(x);
}
static inline vf vf_from_bits(vi x)
{
    return _mm512_castsi512_ps(x);
}
/// Rounds to the nearest integer, ties to even.
static inline vi vi_from_vf(vf x)
{
    return _mm512_cvtps_epi32(x);
}
static inline int32_t vi_sum(vi x)
{
    return _mm512_reduce_add_epi32(x);
}
/// Stores the lanes as int8; they are in its range.
static inline void vi_store_s8(int8_t *p, vi x)
{
    _mm_storeu_si128((void *)p, _mm512_cvtepi32_epi8(x));
}
/// Returns table[index] for 16 floats and indices below 16.
static inline vf vf_look_up(const float *table, vi index)
{
    return _mm512_permutexvar_ps(index, _mm512_loadu_ps(table));
}

static inline vb vb_load(const uint8_t *p)
{
    return _mm512_load_si512(p);
}
static inline vb vb_and(vb a, uint8_t mask)
{
    return _mm512_and_si512(a, _mm512_set1_epi8((char)mask));
}
static inline vb vb_or(vb a, vb b)
{
    return _mm512_or_si512(a, b);
}
// Bits cross from byte to byte; a mask follows.
#define vb_shr(a, n) _mm512_srli_epi16(a, n)
#define vb_shl(a, n) _mm512_slli_epi16(a, n)
/// 16 bytes, in every quarter.
static inline vb vb_table(const uint8_t *p)
{
    return _mm512_broadcast_i32x4(_mm_loadu_si128((const void *)p));
}
static inline vb vb_look_up(vb table, vb index)
{
    return _mm512_shuffle_epi8(table, index);
}
/// The lanes of 32-bit integers.
static inline vi vi_from_vb(vb x)
{
    return x;
}

#ifdef NIB_LANES_VNNI
/// Sums of products of unsigned weights with signed activations, four in a lane at a time.
typedef __m512i sum4;
typedef __m512i sum8;
static inline sum8 sum8_start(const int32_t *start)
{
    return _mm512_set1_epi32(*start);
}
/// Adds products with the four activations at x.
static inline sum8 sum8_add(sum8 s, vb w, const int8_t *x)
{
    // gcc 12 loads the four bytes by an instruction of its own otherwise.
    __asm__("vpdpbusd %2%{1to16%}, %1, %0" : "+v"(s) : "v"(w), "m"(*(const int32_t(*)[1])x));
    return s;
}
static inline vi sum8_end(sum8 s, const int32_t *start)
{
    (void)start;
    return s;
}
#define sum4_start sum8_start
#define sum4_add sum8_add
#define sum4_end sum8_end
#else
/// Products are summed up as 16-bit pairs, which hold those of a block of 32 columns where codes have
/// four bits: 8 · 2 · 15 · 128 = 30720. Wider codes are split into their nibbles.
typedef __m512i sum4;
typedef struct {
    __m512i low, high;
} sum8;
static inline __m512i broadcast_quad(const int8_t *x)
{
    int32_t quad;
    memcpy(&quad, x, sizeof quad);
    return _mm512_set1_epi32(quad);
}
static inline sum4 sum4_start(const int32_t *start)
{
    (void)start;
    return _mm512_setzero_si512();
}
static inline sum4 sum4_add(sum4 s, vb w, const int8_t *x)
{
    return _mm512_add_epi16(s, _mm512_maddubs_epi16(w, broadcast_quad(x)));
}
static inline vi sum4_end(sum4 s, const int32_t *start)
{
    __m512i pairs = _mm512_madd_epi16(s, _mm512_set1_epi16(1));
    return _mm512_add_epi32(pairs, _mm512_set1_epi32(*start));
}
static inline sum8 sum8_start(const int32_t *start)
{
    return (sum8){sum4_start(start), sum4_start(start)};
}
static inline sum8 sum8_add(sum8 s, vb w, const int8_t *x)
{
    s.low = sum4_add(s.low, vb_and(w, 15), x);
    s.high = sum4_add(s.high, vb_and(vb_shr(w, 4), 15), x);
    return s;
}
static inline vi sum8_end(sum8 s, const int32_t *start)
{
    __m512i high = _mm512_madd_epi16(s.high, _mm512_set1_epi16(16));
    return _mm512_add_epi32(sum4_end(s.low, start), high);
}
#endif

/// Transposes 16 rows of 16 floats: row i to column i.
static inline void vf_transpose(vf r[16])
{
    __m512 t[16];
    for (int i = 0; i < 16; i += 2) {
        t[i] = _mm512_unpacklo_ps(r[i], r[i + 1]);
        t[i + 1] = _mm512_unpackhi_ps(r[i], r[i + 1]);
    }
    for (int i = 0; i < 16; i += 4) {
        for (int k = 0; k < 2; k++) {
            __m512d a = _mm512_castps_pd(t[i + k]), b = _mm512_castps_pd(t[i + 2 + k]);
            r[i + 2 * k] = _mm512_castpd_ps(_mm512_unpacklo_pd(a, b));
            r[i + 2 * k + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(a, b));
        }
    }
    // r[4 b + k] holds, in quarter q, column 4 q + k of rows 4 b to 4 b + 3.
    for (int k = 0; k < 4; k++) {
        __m512 a = _mm512_shuffle_f32x4(r[k], r[4 + k], 0x88);
        __m512 b = _mm512_shuffle_f32x4(r[8 + k], r[12 + k], 0x88);
        __m512 c = _mm512_shuffle_f32x4(r[k], r[4 + k], 0xdd);
        __m512 d = _mm512_shuffle_f32x4(r[8 + k], r[12 + k], 0xdd);
        t[k] = _mm512_shuffle_f32x4(a, b, 0x88);
        t[8 + k] = _mm512_shuffle_f32x4(a, b, 0xdd);
        t[4 + k] = _mm512_shuffle_f32x4(c, d, 0x88);
        t[12 + k] = _mm512_shuffle_f32x4(c, d, 0xdd);
    }
    for (int i = 0; i < 16; i++)
        r[i] = t[i];
}

#endif
