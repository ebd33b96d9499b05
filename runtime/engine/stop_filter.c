#include "runtime/engine/stop_filter.h"

#include "runtime/base/checked.h"
#include "runtime/base/status.h"
#include "runtime/base/utf8.h"
#include <stdlib.h>
#include <string.h>

/// Room for the text of ordinary tokens, so that a push seldom allocates.
#define USUAL_PIECE 256

enum nib_status nib_stop_filter_init(struct nib_stop_filter *filter, const struct nib_text *stops,
                                     uint32_t n_stops, struct nib_error *err)
{
    *filter = (struct nib_stop_filter){0};
    size_t total = 0;
    size_t longest = 0;
    for (uint32_t i = 0; i < n_stops; i++) {
        if (stops[i].size == 0 || !nib_utf8_valid(stops[i].ptr, stops[i].size))
            return nib_fail(err, NIB_ERROR_ARGUMENT, "stop string %u is empty or not UTF-8", i);
        if (!nib_add_size(total, stops[i].size, &total))
            return nib_fail_memory(err);
        longest = stops[i].size > longest ? stops[i].size : longest;
    }
    if (n_stops == 0)
        return NIB_OK;

    filter->stops = calloc(n_stops, sizeof *filter->stops);
    filter->copies = malloc(total);
    filter->held.data = malloc(longest + USUAL_PIECE);
    if (!filter->stops || !filter->copies || !filter->held.data) {
        nib_stop_filter_free(filter);
        return nib_fail_memory(err);
    }
    filter->held.data[0] = '\0';
    filter->held.capacity = longest + USUAL_PIECE;
    char *copy = filter->copies;
    for (uint32_t i = 0; i < n_stops; i++) {
        memcpy(copy, stops[i].ptr, stops[i].size);
        filter->stops[i] = (struct nib_text){.ptr = copy, .size = stops[i].size};
        copy += stops[i].size;
    }
    filter->n_stops = n_stops;
    return NIB_OK;
}

void nib_stop_filter_free(struct nib_stop_filter *filter)
{
    free(filter->stops);
    free(filter->copies);
    nib_buffer_free(&filter->held);
    *filter = (struct nib_stop_filter){0};
}

/// Returns the longest stop string that `text[0 .. end)` ends with.
static size_t stop_at(const struct nib_stop_filter *filter, const char *text, size_t end)
{
    size_t found = 0;
    for (uint32_t i = 0; i < filter->n_stops; i++) {
        struct nib_text stop = filter->stops[i];
        if (stop.size <= end && stop.size > found &&
            memcmp(text + (end - stop.size), stop.ptr, stop.size) == 0)
            found = stop.size;
    }
    return found;
}

/// Returns the length of the longest end of `text` that begins a stop string.
static size_t possible_start(const struct nib_stop_filter *filter, const char *text, size_t size)
{
    size_t found = 0;
    for (uint32_t i = 0; i < filter->n_stops; i++) {
        struct nib_text stop = filter->stops[i];
        size_t length = stop.size - 1 < size ? stop.size - 1 : size;
        for (; length > found; length--) {
            if (memcmp(text + (size - length), stop.ptr, length) == 0)
                found = length;
        }
    }
    return found;
}

enum nib_status nib_stop_filter_push(struct nib_stop_filter *filter, struct nib_text text,
                                     struct nib_text *out_text, bool *out_stopped,
                                     struct nib_error *err)
{
    *out_text = text;
    *out_stopped = false;
    if (filter->n_stops == 0)
        return NIB_OK;

    struct nib_buffer *held = &filter->held;
    held->size -= filter->released;
    memmove(held->data, held->data + filter->released, held->size);
    filter->released = 0;
    *out_text = (struct nib_text){.ptr = held->data, .size = 0};

    size_t old_size = held->size;
    enum nib_status status = nib_buffer_append(held, text.ptr, text.size, err);
    if (status != NIB_OK)
        return status;
    out_text->ptr = held->data;
    for (size_t end = old_size + 1; end <= held->size; end++) {
        size_t stop = stop_at(filter, held->data, end);
        if (stop > 0) {
            out_text->size = end - stop;
            held->size = filter->released = out_text->size;
            *out_stopped = true;
            return NIB_OK;
        }
    }
    out_text->size = held->size - possible_start(filter, held->data, held->size);
    filter->released = out_text->size;
    return NIB_OK;
}

void nib_stop_filter_flush(struct nib_stop_filter *filter, struct nib_text *out_text)
{
    if (filter->n_stops == 0)
        return;
    *out_text = (struct nib_text){.ptr = filter->held.data, .size = filter->held.size};
    filter->released = filter->held.size;
}
