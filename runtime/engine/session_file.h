/// Files of saved sessions: their layout and checks.
///
/// Little-endian. The header is followed by the tokens, padded to 8 bytes, then, layer by layer,
/// the pages that the sequence needs to go on from its computed tokens, each as kv_export gives it
/// and padded to 8 bytes, and behind them, likewise, those of first and of newest tokens in f16.
///
///     offset  size  what
///          0     8  "NIBSESS" and a zero byte
///          8     8  version of the layout and of the pages, 6
///         16     8  bytes of the file
///         24     8  checksum of the bytes from 32 on
///         32     8  fingerprint of the model
///         40     8  fingerprint of the cache
///         48     4  key format, a value of enum nib_kv_format
///         52     4  value format
///         56     4  1 where activations were precise, else 0
///         60     4  pages of newest tokens that are kept, 0: none
///         64     4  number of tokens
///         68     4  computed tokens, a multiple of 32
///         72     4  1 where keys are codes that are not transformed, 2 for values, or both, or 0
///         76     4  pages of first tokens that are kept, 0: none
///
/// Thread-safety: safe.
#ifndef RUNTIME_ENGINE_SESSION_FILE_H
#define RUNTIME_ENGINE_SESSION_FILE_H

#include "runtime/engine/kv_pool.h"
#include "runtime/import/source.h"
#include "runtime/ops/plan.h"

#define NIB_SESSION_HEADER_SIZE 80
/// Where the checksum lies, and where what it is made of begins.
#define NIB_SESSION_CHECKSUM 24
#define NIB_SESSION_CHECKED 32

/// What a file must fit.
struct nib_session_shape {
    const struct nib_plan *plan;
    const struct nib_kv_reach *reach; ///< [n_kv_classes]
    uint64_t model;                   ///< nib_session_model_print
    uint64_t cache;                   ///< nib_session_cache_print
    bool precise;
};

/// What a file holds. Pointers go into its bytes.
struct nib_session_content {
    uint32_t n_tokens;
    uint32_t n_computed;
    const uint8_t *tokens; ///< [n_tokens] of 4 bytes
    const uint8_t *pages;
};

/// Returns a number that tells models apart: from the names, types and shapes of the tensors, and
/// samples of their bytes.
uint64_t nib_session_model_print(const struct nib_source *source);
/// Returns a number that tells apart what makes the bytes of a cache: its layers and the angles of
/// rotary embedding.
uint64_t nib_session_cache_print(const struct nib_plan *plan);

/// Adds `size` bytes, a multiple of 8, to a checksum that began as 0. Of two runs of bytes one
/// after the other it makes what it makes of both at once.
uint64_t nib_session_checksum(uint64_t checksum, const void *bytes, size_t size);

/// Writes the header of a file for `content`, all but the checksum.
void nib_session_write_header(const struct nib_session_shape *shape,
                              const struct nib_session_content *content,
                              uint8_t out_header[NIB_SESSION_HEADER_SIZE]);
/// Some pages of a layer that a file holds, one after the other.
struct nib_session_run {
    struct nib_kv_places places; ///< of the sequence's pages
    uint32_t kv_class;
    size_t page_size; ///< with its padding; a page has kv_export's bytes
    bool is_recent;
};
/// Returns those of layer `kv_layer` for `n_computed` tokens: codes or numbers, and those of tokens
/// in f16 beside codes (`is_recent`), of which there may be none.
struct nib_session_run nib_session_find_run(const struct nib_session_shape *shape,
                                            uint32_t kv_layer, bool is_recent, uint32_t n_computed);
/// Returns the bytes of the tokens with their padding.
uint64_t nib_session_tokens_size(uint32_t n_tokens);

/// Checks all of a file, called `name` in messages. Errors: format (it is no such file, or a
/// damaged one), unsupported (another version, model or cache), context full.
enum nib_status nib_session_parse(const struct nib_session_shape *shape, const uint8_t *data,
                                  size_t size, const char *name,
                                  struct nib_session_content *out_content, struct nib_error *err);

#endif
