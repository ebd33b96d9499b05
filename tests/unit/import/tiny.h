/// Makes GGUF files of models with two layers of a few numbers, right or wrong, in memory.
#ifndef TESTS_UNIT_IMPORT_TINY_H
#define TESTS_UNIT_IMPORT_TINY_H

#include "runtime/base/buffer.h"
#include "runtime/formats/gguf.h"

/// The sizes that every tiny model has.
enum {
    TINY_LAYERS = 2,
    TINY_HIDDEN = 8,
    TINY_FFN = 12,
    TINY_HEADS = 2,
    TINY_KV_HEADS = 1,
    TINY_HEAD_DIM = 4,
    TINY_VOCABULARY = 5,
    TINY_CONTEXT = 64
};

/// A file in the making; a zeroed struct is empty.
struct tiny {
    const char *arch; ///< before every key
    struct nib_buffer values;
    struct nib_buffer tensors;
    uint64_t n_values;
    uint64_t n_tensors;
    uint64_t data_size;
    const char *without; ///< a key or tensor that is left out, or NULL
};

/// Adds "general.architecture" and the keys of the sizes above.
void tiny_begin(struct tiny *tiny, const char *arch, const char *without);
/// Each adds a key of the architecture.
void tiny_u32(struct tiny *tiny, const char *key, uint32_t value);
void tiny_f32(struct tiny *tiny, const char *key, float value);
void tiny_text(struct tiny *tiny, const char *key, const char *value);
void tiny_flags(struct tiny *tiny, const char *key, const bool *flags, uint32_t count);
/// Adds an f32 tensor full of 0.5; `rows` 0: one dimension.
void tiny_tensor(struct tiny *tiny, const char *name, uint32_t rows, uint32_t cols);
/// Adds the tensors of a llama-like model: `fused` as Phi-3 has them, `biased` as Qwen 2, `qk_norm`
/// 1 as Qwen 3, 2 as OLMo 2, `post_norm` as Gemma; without norms before blocks if `no_pre_norm`.
struct tiny_kind {
    const char *arch;
    bool fused;
    bool biased;
    bool post_norm;
    bool no_pre_norm;
    uint32_t qk_norm;
};
void tiny_layers(struct tiny *tiny, const struct tiny_kind *kind);
/// All the architectures that GGUF files may have.
extern const struct tiny_kind tiny_kinds[];
extern const uint32_t n_tiny_kinds;

/// Writes the whole file to `out` and empties `tiny`.
void tiny_end(struct tiny *tiny, struct nib_buffer *out);

#endif
