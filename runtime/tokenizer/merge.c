#include "runtime/tokenizer/merge.h"

#include "runtime/base/os.h"
#include "runtime/base/status.h"
#include "runtime/base/utf8.h"
#include "runtime/tokenizer/internal.h"

#include <stdlib.h>
#include <string.h>

enum { NO_SYMBOL = -1 };

/// A run of bytes of the piece; one that was merged into its left neighbour has size 0.
struct nib_merge_symbol {
    uint32_t start;
    uint32_t size;
    int32_t previous;
    int32_t next;
    int32_t id; ///< -1: no token
};

/// A pair that may merge. It is out of date once either part has grown, which its size shows.
struct nib_merge_candidate {
    uint32_t key; ///< lower goes first; of equal ones the leftmost
    uint32_t left;
    uint32_t size;
    int32_t result;
};

static uint32_t pair_hash(const struct nib_merge_table *table, int32_t left, int32_t right)
{
    uint64_t x = ((uint64_t)(uint32_t)left << 32 | (uint32_t)right) ^ table->seed;
    // The finalizer of SplitMix64 (Steele, Lea, Flood 2014).
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
    x = (x ^ x >> 27) * 0x94d049bb133111ebu;
    return (uint32_t)(x ^ x >> 31);
}

/// Returns the slot of the pair, or the free one where it belongs.
static uint32_t *find_slot(const struct nib_merge_table *table, int32_t left, int32_t right)
{
    uint32_t i = pair_hash(table, left, right) & table->mask;
    while (table->slots[i]) {
        const struct nib_vocab_merge *merge = &table->merges[table->slots[i] - 1];
        if (merge->left == left && merge->right == right)
            break;
        i = (i + 1) & table->mask;
    }
    return &table->slots[i];
}

enum nib_status nib_merge_table_build(struct nib_merge_table *table, struct nib_arena *arena,
                                      const struct nib_vocab_merge *merges, uint32_t count,
                                      struct nib_error *err)
{
    *table = (struct nib_merge_table){.merges = merges};
    if (count == 0)
        return NIB_OK;
    if (count > UINT32_MAX / 4)
        return nib_fail(err, NIB_ERROR_UNSUPPORTED, "%u merges are too many", count);

    uint32_t n_slots = 16;
    while (n_slots < count + count / 2)
        n_slots *= 2;
    table->slots = nib_arena_array(arena, n_slots, sizeof *table->slots);
    if (!table->slots)
        return nib_fail_memory(err);
    table->mask = n_slots - 1;
    table->seed = nib_entropy();
    for (uint32_t rank = 0; rank < count; rank++) {
        uint32_t *slot = find_slot(table, merges[rank].left, merges[rank].right);
        if (!*slot)
            *slot = rank + 1;
    }
    return NIB_OK;
}

/// Returns whether the two may merge; the rank is `*out_rank`, the result's id `*out_result`.
static bool find_merge(const struct nib_merge_table *table, int32_t left, int32_t right,
                       uint32_t *out_rank, int32_t *out_result)
{
    if (!table->slots)
        return false;
    uint32_t slot = *find_slot(table, left, right);
    if (!slot)
        return false;
    *out_rank = slot - 1;
    *out_result = table->merges[slot - 1].result;
    return true;
}

void nib_merge_scratch_free(struct nib_merge_scratch *scratch)
{
    free(scratch->symbols);
    free(scratch->heap);
    *scratch = (struct nib_merge_scratch){0};
}

static bool goes_first(const struct nib_merge_candidate *a, const struct nib_merge_candidate *b)
{
    return a->key != b->key ? a->key < b->key : a->left < b->left;
}

static enum nib_status heap_push(struct nib_merge_scratch *scratch,
                                 struct nib_merge_candidate candidate, struct nib_error *err)
{
    enum nib_status status = nib_array_reserve((void **)&scratch->heap, &scratch->heap_capacity,
                                               scratch->heap_size + 1, sizeof *scratch->heap, err);
    if (status != NIB_OK)
        return status;
    size_t i = scratch->heap_size++;
    while (i > 0) {
        size_t parent = (i - 1) / 2;
        if (!goes_first(&candidate, &scratch->heap[parent]))
            break;
        scratch->heap[i] = scratch->heap[parent];
        i = parent;
    }
    scratch->heap[i] = candidate;
    return NIB_OK;
}

static struct nib_merge_candidate heap_pop(struct nib_merge_scratch *scratch)
{
    struct nib_merge_candidate *heap = scratch->heap;
    struct nib_merge_candidate first = heap[0];
    struct nib_merge_candidate last = heap[--scratch->heap_size];
    size_t i = 0;
    for (;;) {
        size_t child = 2 * i + 1;
        if (child >= scratch->heap_size)
            break;
        if (child + 1 < scratch->heap_size && goes_first(&heap[child + 1], &heap[child]))
            child++;
        if (!goes_first(&heap[child], &last))
            break;
        heap[i] = heap[child];
        i = child;
    }
    heap[i] = last;
    return first;
}

/// Maps a score to a number that is lower for a higher score; every NaN comes after all others.
static uint32_t score_key(float score)
{
    if (score != score)
        return UINT32_MAX;
    score += 0.0f; // -0 ranks as 0
    uint32_t bits;
    memcpy(&bits, &score, sizeof bits);
    uint32_t ascending = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
    return ~ascending;
}

/// Adds the pair that begins at symbol `left`, if it may merge.
static enum nib_status consider(struct nib_encoder *encoder, const char *piece, int32_t left,
                                struct nib_error *err)
{
    const struct nib_tokenizer *tokenizer = encoder->tokenizer;
    const struct nib_merge_symbol *symbols = encoder->merge.symbols;
    if (left == NO_SYMBOL || symbols[left].next == NO_SYMBOL)
        return NIB_OK;
    const struct nib_merge_symbol *a = &symbols[left];
    const struct nib_merge_symbol *b = &symbols[a->next];
    struct nib_merge_candidate candidate = {.left = (uint32_t)left, .size = a->size + b->size};
    if (tokenizer->model == NIB_VOCAB_SPM) {
        uint32_t id;
        struct nib_text text = {piece + a->start, candidate.size};
        if (text.size > tokenizer->longest_text ||
            !nib_string_map_find(&tokenizer->by_text, text, &id))
            return NIB_OK;
        candidate.key = score_key(tokenizer->tokens[id].score);
        candidate.result = (int32_t)id;
    } else if (!find_merge(&tokenizer->merges, a->id, b->id, &candidate.key, &candidate.result)) {
        return NIB_OK;
    }
    return heap_push(&encoder->merge, candidate, err);
}

/// Splits the piece into its first symbols: bytes of a byte-level vocabulary, else characters, and
/// the bytes of characters that a ranked vocabulary lacks.
static enum nib_status make_symbols(struct nib_encoder *encoder, struct nib_text piece,
                                    size_t *out_count, struct nib_error *err)
{
    const struct nib_tokenizer *tokenizer = encoder->tokenizer;
    struct nib_merge_scratch *scratch = &encoder->merge;
    *out_count = 0;
    enum nib_status status =
        nib_array_reserve((void **)&scratch->symbols, &scratch->symbols_capacity, piece.size,
                          sizeof *scratch->symbols, err);
    if (status != NIB_OK)
        return status;

    size_t count = 0;
    for (size_t i = 0; i < piece.size;) {
        size_t size = 1;
        int32_t id = -1;
        bool as_bytes = tokenizer->model == NIB_VOCAB_BPE;
        if (!as_bytes) {
            uint32_t code_point;
            bool valid;
            size = nib_utf8_decode(piece.ptr + i, piece.size - i, &code_point, &valid);
            uint32_t found;
            if (nib_string_map_find(&tokenizer->by_text, (struct nib_text){piece.ptr + i, size},
                                    &found))
                id = (int32_t)found;
            as_bytes =
                id < 0 && tokenizer->model == NIB_VOCAB_RANKED_SPM && tokenizer->byte_fallback;
            for (size_t j = 0; j < size && as_bytes; j++)
                as_bytes = tokenizer->byte_ids[(uint8_t)piece.ptr[i + j]] >= 0;
        }
        size_t n_parts = as_bytes ? size : 1;
        for (size_t j = 0; j < n_parts; j++) {
            scratch->symbols[count] = (struct nib_merge_symbol){
                .start = (uint32_t)(i + j),
                .size = as_bytes ? 1 : (uint32_t)size,
                .previous = (int32_t)count - 1,
                .next = (int32_t)count + 1,
                .id = as_bytes ? tokenizer->byte_ids[(uint8_t)piece.ptr[i + j]] : id,
            };
            count++;
        }
        i += size;
    }
    if (count)
        scratch->symbols[count - 1].next = NO_SYMBOL;
    *out_count = count;
    return NIB_OK;
}

static enum nib_status merge_symbols(struct nib_encoder *encoder, const char *piece, size_t count,
                                     struct nib_error *err)
{
    struct nib_merge_scratch *scratch = &encoder->merge;
    struct nib_merge_symbol *symbols = scratch->symbols;
    enum nib_status status = NIB_OK;
    scratch->heap_size = 0;
    for (size_t i = 0; i + 1 < count; i++)
        NIB_TRY(consider(encoder, piece, (int32_t)i, err));

    while (scratch->heap_size > 0) {
        struct nib_merge_candidate candidate = heap_pop(scratch);
        struct nib_merge_symbol *left = &symbols[candidate.left];
        if (left->size == 0 || left->next == NO_SYMBOL)
            continue;
        struct nib_merge_symbol *right = &symbols[left->next];
        if (left->size + right->size != candidate.size)
            continue;
        left->size = candidate.size;
        left->id = candidate.result;
        left->next = right->next;
        right->size = 0;
        if (left->next != NO_SYMBOL)
            symbols[left->next].previous = (int32_t)candidate.left;
        NIB_TRY(consider(encoder, piece, left->previous, err));
        NIB_TRY(consider(encoder, piece, (int32_t)candidate.left, err));
    }
fail:
    return status;
}

enum nib_status nib_merge_encode(struct nib_encoder *encoder, struct nib_text piece,
                                 struct nib_error *err)
{
    const struct nib_tokenizer *tokenizer = encoder->tokenizer;
    encoder->after_unknown = false;
    uint32_t whole;
    if (tokenizer->ignore_merges && nib_string_map_find(&tokenizer->by_text, piece, &whole))
        return nib_encoder_push(encoder, (int32_t)whole, err);

    enum nib_status status = NIB_OK;
    size_t count;
    NIB_TRY(make_symbols(encoder, piece, &count, err));
    NIB_TRY(merge_symbols(encoder, piece.ptr, count, err));
    for (int32_t i = count ? 0 : NO_SYMBOL; i != NO_SYMBOL;) {
        const struct nib_merge_symbol *symbol = &encoder->merge.symbols[i];
        if (symbol->id >= 0)
            NIB_TRY(nib_encoder_push(encoder, symbol->id, err));
        else
            NIB_TRY(nib_encoder_push_missing(
                encoder, (struct nib_text){piece.ptr + symbol->start, symbol->size}, err));
        i = symbol->next;
    }
fail:
    return status;
}
