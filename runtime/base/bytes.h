/// Unaligned little-endian loads and stores, right on any host.
#ifndef RUNTIME_BASE_BYTES_H
#define RUNTIME_BASE_BYTES_H

#include <stdint.h>
#include <string.h>

static inline uint16_t nib_load_u16(const void *p)
{
    const uint8_t *b = p;
    return (uint16_t)(b[0] | b[1] << 8);
}

static inline uint32_t nib_load_u32(const void *p)
{
    const uint8_t *b = p;
    return (uint32_t)b[0] | (uint32_t)b[1] << 8 | (uint32_t)b[2] << 16 | (uint32_t)b[3] << 24;
}

static inline uint64_t nib_load_u64(const void *p)
{
    return nib_load_u32(p) | (uint64_t)nib_load_u32((const uint8_t *)p + 4) << 32;
}

static inline float nib_load_f32(const void *p)
{
    uint32_t bits = nib_load_u32(p);
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static inline void nib_store_u16(void *p, uint16_t v)
{
    uint8_t *b = p;
    b[0] = (uint8_t)v;
    b[1] = (uint8_t)(v >> 8);
}

static inline void nib_store_u32(void *p, uint32_t v)
{
    nib_store_u16(p, (uint16_t)v);
    nib_store_u16((uint8_t *)p + 2, (uint16_t)(v >> 16));
}

static inline void nib_store_u64(void *p, uint64_t v)
{
    nib_store_u32(p, (uint32_t)v);
    nib_store_u32((uint8_t *)p + 4, (uint32_t)(v >> 32));
}

#endif
