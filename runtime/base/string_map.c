#include "runtime/base/string_map.h"

#include "runtime/base/bytes.h"
#include "runtime/base/checked.h"
#include "runtime/base/os.h"
#include "runtime/base/status.h"

#include <stdlib.h>
#include <string.h>

struct nib_string_map_slot {
    const char *key; ///< NULL in a free slot, never in a taken one
    size_t size;
    uint32_t hash;
    uint32_t value;
};

static uint64_t rotate_left(uint64_t value, unsigned n_bits)
{
    return value << n_bits | value >> (64 - n_bits);
}

static void sip_round(uint64_t v[4])
{
    v[0] += v[1];
    v[2] += v[3];
    v[1] = rotate_left(v[1], 13) ^ v[0];
    v[3] = rotate_left(v[3], 16) ^ v[2];
    v[0] = rotate_left(v[0], 32);
    v[2] += v[1];
    v[0] += v[3];
    v[1] = rotate_left(v[1], 17) ^ v[2];
    v[3] = rotate_left(v[3], 21) ^ v[0];
    v[2] = rotate_left(v[2], 32);
}

/// SipHash-1-3 (Aumasson and Bernstein, "SipHash: a fast short-input PRF", INDOCRYPT 2012, with one
/// round a word and three at the end) under the key (seed, ~seed).
static uint64_t hash_text(uint64_t seed, const char *text, size_t size)
{
    uint64_t v[4] = {
        seed ^ 0x736f6d6570736575u,
        ~seed ^ 0x646f72616e646f6du,
        seed ^ 0x6c7967656e657261u,
        ~seed ^ 0x7465646279746573u,
    };
    size_t n_whole = size - size % 8;
    for (size_t i = 0; i < n_whole; i += 8) {
        uint64_t word = nib_load_u64(text + i);
        v[3] ^= word;
        sip_round(v);
        v[0] ^= word;
    }
    uint64_t last = (uint64_t)size << 56;
    for (size_t i = n_whole; i < size; i++)
        last |= (uint64_t)(uint8_t)text[i] << 8 * (i - n_whole);
    v[3] ^= last;
    sip_round(v);
    v[0] ^= last;
    v[2] ^= 0xff;
    for (int i = 0; i < 3; i++)
        sip_round(v);
    return v[0] ^ v[1] ^ v[2] ^ v[3];
}

/// Returns the slot of `key`, or the free one where it belongs. There is always a free one.
static struct nib_string_map_slot *find_slot(const struct nib_string_map *map, struct nib_text key,
                                             uint32_t hash)
{
    size_t mask = map->n_slots - 1;
    for (size_t i = hash & mask;; i = (i + 1) & mask) {
        struct nib_string_map_slot *slot = &map->slots[i];
        if (!slot->key)
            return slot;
        if (slot->hash != hash || slot->size != key.size)
            continue;
        if (key.size == 0 || memcmp(slot->key, key.ptr, key.size) == 0)
            return slot;
    }
}

static enum nib_status rehash(struct nib_string_map *map, size_t n_slots, struct nib_error *err)
{
    struct nib_string_map_slot *slots = calloc(n_slots, sizeof *slots);
    if (!slots)
        return nib_fail_memory(err);
    size_t mask = n_slots - 1;
    for (size_t i = 0; i < map->n_slots; i++) {
        if (!map->slots[i].key)
            continue;
        size_t at = map->slots[i].hash & mask;
        while (slots[at].key)
            at = (at + 1) & mask;
        slots[at] = map->slots[i];
    }
    if (!map->slots)
        map->seed = nib_entropy();
    free(map->slots);
    map->slots = slots;
    map->n_slots = n_slots;
    return NIB_OK;
}

enum nib_status nib_string_map_reserve(struct nib_string_map *map, size_t count,
                                       struct nib_error *err)
{
    // At most two thirds of the slots are taken.
    size_t needed;
    if (!nib_add_size(count, count / 2 + 1, &needed))
        return nib_fail_memory(err);
    size_t n_slots = 16;
    while (n_slots < needed) {
        if (!nib_mul_size(n_slots, 2, &n_slots))
            return nib_fail_memory(err);
    }
    return n_slots > map->n_slots ? rehash(map, n_slots, err) : NIB_OK;
}

enum nib_status nib_string_map_add(struct nib_string_map *map, struct nib_text key, uint32_t value,
                                   bool *out_was_there, struct nib_error *err)
{
    if (out_was_there)
        *out_was_there = false;
    enum nib_status status = nib_string_map_reserve(map, map->count + 1, err);
    if (status != NIB_OK)
        return status;
    uint32_t hash = (uint32_t)hash_text(map->seed, key.ptr, key.size);
    struct nib_string_map_slot *slot = find_slot(map, key, hash);
    if (slot->key) {
        if (out_was_there)
            *out_was_there = true;
        return NIB_OK;
    }
    *slot = (struct nib_string_map_slot){
        .key = key.size ? key.ptr : "",
        .size = key.size,
        .hash = hash,
        .value = value,
    };
    map->count++;
    return NIB_OK;
}

bool nib_string_map_find(const struct nib_string_map *map, struct nib_text key, uint32_t *out_value)
{
    *out_value = 0;
    if (map->count == 0)
        return false;
    uint32_t hash = (uint32_t)hash_text(map->seed, key.ptr, key.size);
    const struct nib_string_map_slot *slot = find_slot(map, key, hash);
    if (!slot->key)
        return false;
    *out_value = slot->value;
    return true;
}

void nib_string_map_free(struct nib_string_map *map)
{
    free(map->slots);
    *map = (struct nib_string_map){0};
}
