/// Ids of tokens beside those that a file of vectors expects.
#ifndef TESTS_UNIT_TOKENIZER_IDS_H
#define TESTS_UNIT_TOKENIZER_IDS_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

/// Returns whether they are the numbers of the array `expected`.
static inline bool ids_are(const int32_t *ids, size_t count, const json_t *expected)
{
    bool same = count == json_array_size(expected);
    for (size_t i = 0; i < count && same; i++)
        same = ids[i] == json_number_value(json_array_get(expected, i));
    return same;
}

#endif
