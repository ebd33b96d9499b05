/// Finds stop strings in a stream of text, wherever its pieces are cut, and holds back what could
/// be the beginning of one. Thread-safety: one thread at a time.
#ifndef RUNTIME_ENGINE_STOP_FILTER_H
#define RUNTIME_ENGINE_STOP_FILTER_H

#include "runtime/base/buffer.h"

/// A zeroed struct has no stop strings and lets everything through.
struct nib_stop_filter {
    struct nib_text *stops; ///< [n_stops], their text in `copies`
    uint32_t n_stops;
    char *copies;
    struct nib_buffer held; ///< released text, then text held back
    size_t released;        ///< bytes at the front that the last call gave out
};

/// Copies the stop strings. Errors: argument (an empty one, or not UTF-8), memory.
enum nib_status nib_stop_filter_init(struct nib_stop_filter *filter, const struct nib_text *stops,
                                     uint32_t n_stops, struct nib_error *err);
void nib_stop_filter_free(struct nib_stop_filter *filter);

/// Takes more text, whole characters. Points `*out_text` at what is now certain not to belong to a
/// stop string, alive until the next call; `*out_stopped` tells that the stop string that ends
/// first has been found, and the text before it is all that was given out. Errors: memory.
enum nib_status nib_stop_filter_push(struct nib_stop_filter *filter, struct nib_text text,
                                     struct nib_text *out_text, bool *out_stopped,
                                     struct nib_error *err);
/// Adds the text that is still held back to what the last push gave out: `*out_text` is both.
void nib_stop_filter_flush(struct nib_stop_filter *filter, struct nib_text *out_text);

#endif
