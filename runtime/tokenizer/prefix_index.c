#include "runtime/tokenizer/prefix_index.h"

#include <stdlib.h>
#include <string.h>

static int compare_entries(const void *left, const void *right)
{
    const struct nib_prefix_entry *a = left;
    const struct nib_prefix_entry *b = right;
    size_t common = a->text.size < b->text.size ? a->text.size : b->text.size;
    int order = common ? memcmp(a->text.ptr, b->text.ptr, common) : 0;
    if (order)
        return order;
    if (a->text.size != b->text.size)
        return a->text.size < b->text.size ? -1 : 1;
    return (a->id > b->id) - (a->id < b->id);
}

static bool same_text(const struct nib_prefix_entry *a, const struct nib_prefix_entry *b)
{
    return a->text.size == b->text.size &&
           (a->text.size == 0 || memcmp(a->text.ptr, b->text.ptr, a->text.size) == 0);
}

void nib_prefix_index_build(struct nib_prefix_index *index, struct nib_prefix_entry *entries,
                            uint32_t count)
{
    if (count)
        qsort(entries, count, sizeof *entries, compare_entries);
    uint32_t n_kept = 0;
    for (uint32_t i = 0; i < count; i++) {
        if (n_kept == 0 || !same_text(&entries[n_kept - 1], &entries[i]))
            entries[n_kept++] = entries[i];
    }
    count = n_kept;
    *index = (struct nib_prefix_index){.entries = entries, .count = count};

    uint32_t i = 0;
    while (i < count && entries[i].text.size == 0)
        i++;
    for (uint32_t byte = 0; byte < 256; byte++) {
        index->first[byte] = i;
        while (i < count && (uint8_t)entries[i].text.ptr[0] == byte)
            i++;
    }
    index->first[256] = i;
}

/// Returns the first entry of [begin, end) whose byte at `depth` is at least `byte`. All of them
/// have a byte there.
static uint32_t lower_bound(const struct nib_prefix_index *index, uint32_t begin, uint32_t end,
                            size_t depth, unsigned byte)
{
    while (begin < end) {
        uint32_t middle = begin + (end - begin) / 2;
        if ((uint8_t)index->entries[middle].text.ptr[depth] < byte)
            begin = middle + 1;
        else
            end = middle;
    }
    return begin;
}

bool nib_prefix_step(const struct nib_prefix_index *index, uint8_t byte,
                     struct nib_prefix_walk *walk)
{
    // Only the first of them can end here: the texts differ.
    uint32_t begin = walk->begin + (index->entries[walk->begin].text.size == walk->depth);
    begin = lower_bound(index, begin, walk->end, walk->depth, byte);
    walk->end = lower_bound(index, begin, walk->end, walk->depth, byte + 1u);
    walk->begin = begin;
    walk->depth++;
    return walk->begin < walk->end;
}
