/// Models: a file or folder that is mapped, checked and understood, with no weight unpacked yet.
#ifndef NIBBLE_MODEL_H
#define NIBBLE_MODEL_H

#include <nibble/base.h>

#ifdef __cplusplus
extern "C" {
#endif

struct nib_tokenizer;

/// A model opened for reading: configuration, tensor directory, tokenizer.
/// Holds the file's mapping; engines made from it hold a reference, so it may be destroyed first.
/// Thread-safety: immutable after nib_model_open; safe.
struct nib_model;

struct nib_model_params {
    uint32_t struct_size;
    struct nib_log log;
    struct nib_progress progress; ///< counts bytes of metadata and tokenizer
};
#define nib_model_params(...) \
    (&(struct nib_model_params){.struct_size = sizeof(struct nib_model_params), __VA_ARGS__})

/// Opens `path`: a .gguf file (any part of a split one), or a Hugging Face folder with config.json
/// and safetensors. Safe for untrusted input.
/// Errors: io, format, unsupported (architecture, tensor type), not found (a tensor or file),
/// memory.
NIB_API enum nib_status nib_model_open(const char *path, const struct nib_model_params *params,
                                       struct nib_model **out_model, struct nib_error *err);
NIB_API void nib_model_destroy(struct nib_model **model);

/// Facts about the model; strings are owned by the model and are never NULL.
struct nib_model_info {
    const char *name;         ///< the file's own name for it, or the path's last part
    const char *architecture; ///< "llama", "gemma3", ...
    const char *container;    ///< "gguf" or "safetensors"
    const char *quantization; ///< the format of most weights' bytes: "q4_1", "bf16", "gptq-int4"
    uint64_t parameters;      ///< weights, tied ones counted once
    uint64_t file_bytes;      ///< all files together
    uint64_t weight_bytes;    ///< tensor data, as stored
    uint32_t layers;
    uint32_t hidden_size;
    uint32_t ffn_size;
    uint32_t heads;
    uint32_t kv_heads;
    uint32_t head_dim;
    uint32_t vocabulary;     ///< rows of the head: logits per position
    uint32_t context;        ///< trained context length, tokens
    uint32_t sliding_window; ///< 0: none
    bool has_tokenizer;
};
NIB_API void nib_model_get_info(const struct nib_model *model, struct nib_model_info *out_info);

/// One tensor of the file.
struct nib_tensor_info {
    const char *name;
    const char *format; ///< name in the table of formats, such as "q4_k"; "u8", "i32", ... for
                        ///< parts of a quantized matrix
    uint32_t n_dims;    ///< 0 to 4
    uint64_t dims[4];   ///< row-major: dims[0] is the slowest ([rows, columns] for a matrix)
    uint64_t size_bytes;
};
/// Returns the number of tensors in the file.
NIB_API uint32_t nib_model_tensor_count(const struct nib_model *model);
/// Describes tensor `index` < nib_model_tensor_count, in the file's order.
NIB_API void nib_model_get_tensor(const struct nib_model *model, uint32_t index,
                                  struct nib_tensor_info *out_info);

/// Returns the model's tokenizer, owned by the model, or NULL where the file has none.
NIB_API const struct nib_tokenizer *nib_model_tokenizer(const struct nib_model *model);

/// How the authors advise to sample; a field that the file does not give, or that is out of range,
/// is negative.
struct nib_generation_defaults {
    float temperature;
    float top_p;
    float min_p;
    float repeat_penalty;
    int32_t top_k;
    int32_t do_sample; ///< 0: the authors want greedy decoding; 1: sampling
};
NIB_API void nib_model_get_generation_defaults(const struct nib_model *model,
                                               struct nib_generation_defaults *out_defaults);

/// Formats of keys or values in the KV cache. i8 and i4 are in groups of 32 numbers of a head, each
/// with a scale of its own for each token; docs/kv-cache.md says what they cost and save. An engine
/// whose devices cannot do one says so when it is created.
enum nib_kv_format {
    NIB_KV_DEFAULT = 0, ///< f16
    NIB_KV_F32 = 1,
    NIB_KV_F16 = 2,
    NIB_KV_I8 = 3,        ///< 8.5 bits a value and 8.8 a key
    NIB_KV_I4 = 4,        ///< 5 bits a value and 5.3 a key: groups with scale and minimum
    NIB_KV_I4_CHANNEL = 5 ///< keys alone, 5 bits: scale and minimum of a channel over 32 tokens;
                          ///< newest tokens are always kept in f16 besides
};

/// Newest tokens whose keys and values are kept in f16 beside their codes of i8 or i4, and read
/// there: a multiple of 32 up to 256, or one of these. Of n, a row reads the n - 31 to n tokens up
/// to its own, but none before the last multiple of 256. The default is NIB_KV_RECENT_I4 where keys
/// and values are i4, no layer of the model has a window and no head an odd size, and where keys
/// are i4 by channel, else none. docs/kv-cache.md says why.
#define NIB_KV_RECENT_DEFAULT 0
#define NIB_KV_RECENT_NONE UINT32_MAX
#define NIB_KV_RECENT_I4 64

/// Whether i8 and i4 multiply each group of 32 numbers by the Hadamard matrix, which makes them
/// alike. docs/kv-cache.md says what it gains.
enum nib_kv_transform {
    NIB_KV_TRANSFORM_DEFAULT = 0, ///< on
    NIB_KV_TRANSFORM_ON = 1,
    NIB_KV_TRANSFORM_OFF = 2,
    /// What a check finds, for keys and for values: nib_engine_create then loads the model on the
    /// CPU and computes 64 tokens.
    NIB_KV_TRANSFORM_AUTO = 3
};

/// What to predict memory for.
struct nib_memory_params {
    uint32_t struct_size;
    /// A format by which every matrix is replaced ("f16", "int8", "int4": groups of 32, f16
    /// scales), or NULL for the formats of the file.
    const char *weight_format;
    uint32_t context;      ///< tokens; 0: the engine's default
    uint32_t max_sessions; ///< 0: 1
    uint32_t max_rows;     ///< 0: the engine's default
    enum nib_kv_format key_format;
    enum nib_kv_format value_format;
    uint32_t kv_recent; ///< newest tokens in f16; 0: NIB_KV_RECENT_DEFAULT
    /// On a Vulkan device, where each layer has its own pages for the newest tokens of a step; the
    /// CPU's layers take turns with theirs.
    bool on_vulkan;
    uint32_t kv_first; ///< first tokens in f16, as nib_engine_params.kv_first; 0: none
    uint32_t threads;  ///< of the CPU, each of which has buffers; 0: as many as an engine has by
                       ///< default. Not looked at on a Vulkan device
};
#define nib_memory_params(...) \
    (&(struct nib_memory_params){.struct_size = sizeof(struct nib_memory_params), __VA_ARGS__})

/// What an engine takes, before anything is taken. Bytes.
struct nib_memory {
    uint64_t weights_bytes; ///< packed weights
    uint64_t kv_bytes;      ///< the KV pool with its scales
    uint64_t scratch_bytes; ///< activations and logits of one step
    uint64_t total_bytes;
};
/// Predicts the memory of an engine on one device. Errors: argument, not found (weight format),
/// unsupported (a KV format), memory.
NIB_API enum nib_status nib_model_predict_memory(const struct nib_model *model,
                                                 const struct nib_memory_params *params,
                                                 struct nib_memory *out_memory,
                                                 struct nib_error *err);

#ifdef __cplusplus
}
#endif
#endif
