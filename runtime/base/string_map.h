/// A hash map from byte strings to 32-bit numbers, for vocabularies and tensor names.
/// Keys are borrowed. Hashing is seeded per map, so that a file cannot choose keys that collide.
/// Thread-safety: nib_string_map_find is safe on a map that nobody changes.
#ifndef RUNTIME_BASE_STRING_MAP_H
#define RUNTIME_BASE_STRING_MAP_H

#include <nibble/base.h>

struct nib_string_map_slot;

/// A zeroed struct is an empty map.
struct nib_string_map {
    struct nib_string_map_slot *slots;
    size_t n_slots; ///< a power of two, or 0
    size_t count;
    uint64_t seed;
};

/// Makes room for `count` keys at once. Errors: memory.
enum nib_status nib_string_map_reserve(struct nib_string_map *map, size_t count,
                                       struct nib_error *err);
/// Sets `key` to `value`; `*out_was_there` (may be NULL) tells whether the key was there already,
/// in which case the old value stays. Errors: memory.
enum nib_status nib_string_map_add(struct nib_string_map *map, struct nib_text key, uint32_t value,
                                   bool *out_was_there, struct nib_error *err);
/// Returns whether `key` is there, and its value.
bool nib_string_map_find(const struct nib_string_map *map, struct nib_text key,
                         uint32_t *out_value);
void nib_string_map_free(struct nib_string_map *map);

#endif
