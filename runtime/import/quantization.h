/// Folders that other tools have quantized: what `quantization_config` says, and readers of
/// matrices that are sets of tensors (codes, scales, zero points). Formats after the tools that
/// write them: GPTQModel (Frantar et al. 2022), AutoAWQ (Lin et al. 2023), bitsandbytes (Dettmers
/// et al. 2022, 2023) and compressed-tensors.
#ifndef RUNTIME_IMPORT_QUANTIZATION_H
#define RUNTIME_IMPORT_QUANTIZATION_H

#include "runtime/base/arena.h"
#include "runtime/formats/tensor.h"
#include "runtime/import/roles.h"
#include "runtime/quant/row_reader.h"

#include <jansson.h>

enum nib_quantization_method {
    NIB_QUANTIZATION_GPTQ,
    NIB_QUANTIZATION_AWQ,
    NIB_QUANTIZATION_BNB_4BIT,
    NIB_QUANTIZATION_BNB_INT8,
    NIB_QUANTIZATION_COMPRESSED ///< compressed-tensors
};

/// How some modules are quantized. Only compressed-tensors has more than one.
struct nib_quantization_scheme {
    uint32_t bits;  ///< of a code: 2, 3, 4 or 8
    uint32_t group; ///< 0: the row
    bool symmetric;
    bool per_tensor; ///< compressed-tensors: one scale for the matrix
    bool packed;     ///< compressed-tensors: codes in 32-bit words, else one a byte
    enum nib_activation activation;
    const char **targets; ///< compressed-tensors: names, "re:" and a pattern, or classes of modules
    uint32_t n_targets;
};

/// A parsed `quantization_config`. Thread-safety: one thread at a time.
struct nib_quantization {
    enum nib_quantization_method method;
    const char *name; ///< method and format of most weights: "gptq-int4"
    struct nib_quantization_scheme *schemes;
    uint32_t n_schemes;
    bool zero_minus_one;     ///< GPTQ: zero points are stored minus one
    bool gemv;               ///< AWQ: tensors in the order of GEMV, else of GEMM
    float outlier_threshold; ///< LLM.int8
    struct nib_arena *arena;
    const uint32_t *permutation; ///< the newest, which matrices with the same one share; or NULL
    uint64_t permutation_size;
    uint32_t n_tensors; ///< that the readers made so far are for
};

/// Parses what a parsed config.json says; `*out_quantization` is NULL where the weights are not
/// quantized. It and the readers made with it live as long as `arena`. Safe for untrusted input.
/// Errors: format, unsupported (a method, or a key's value; the key is named), memory.
enum nib_status nib_quantization_parse(const json_t *config, struct nib_arena *arena,
                                       struct nib_quantization **out_quantization,
                                       struct nib_error *err);

/// Makes the reader of the matrix of `module`, the name of its tensors without ".weight".
/// `*out_reader` is NULL where that matrix is not quantized. The reader borrows `directory`, which
/// drops pages. All shapes and types are checked; safe for untrusted input.
/// Errors: not found (a tensor of the set), format, unsupported, memory.
enum nib_status nib_quantization_reader(struct nib_quantization *quantization,
                                        const struct nib_tensor_directory *directory,
                                        const char *module, struct nib_shape shape,
                                        const struct nib_row_reader **out_reader,
                                        struct nib_error *err);

#endif
