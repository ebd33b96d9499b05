/// Quantization: a model written anew with fewer bits a weight, in a format that other programs
/// load as well.
#ifndef NIBBLE_QUANTIZE_H
#define NIBBLE_QUANTIZE_H

#include <nibble/base.h>
#include <nibble/model.h>

#ifdef __cplusplus
extern "C" {
#endif

/// How codes are found.
enum nib_quantize_method {
    NIB_QUANTIZE_RTN = 0,         ///< each weight rounded to the nearest code
    NIB_QUANTIZE_GPTQ = 1,        ///< Frantar et al. 2022: each error made good by later weights
    NIB_QUANTIZE_AWQ = 2,         ///< Lin et al. 2023: columns scaled by how large their inputs are
    NIB_QUANTIZE_SMOOTHQUANT = 3, ///< Xiao et al. 2022: outliers of inputs moved into the weights
    NIB_QUANTIZE_LLM_INT8 = 4,    ///< Dettmers et al. 2022: outlier columns in floating point
    NIB_QUANTIZE_NF4 = 5,         ///< Dettmers et al. 2023 (QLoRA): normal floats of 4 bits
    NIB_QUANTIZE_FP4 = 6,         ///< the same with floats of 4 bits
    NIB_QUANTIZE_IMPORTANCE = 7   ///< GGUF's blocks, errors weighted by the inputs' mean squares
};

/// What is written.
enum nib_quantize_container {
    NIB_QUANTIZE_AS_DEFAULT = 0, ///< GGUF for a name that ends in .gguf, else what the method fits
    NIB_QUANTIZE_AS_GGUF = 1,
    NIB_QUANTIZE_AS_GPTQ = 2, ///< Hugging Face folders from here on
    NIB_QUANTIZE_AS_AWQ = 3,
    NIB_QUANTIZE_AS_BITSANDBYTES = 4,
    NIB_QUANTIZE_AS_COMPRESSED_TENSORS = 5,
    NIB_QUANTIZE_AS_SAFETENSORS =
        6 ///< nothing is quantized: `format` is f32, f16 or bf16, or NULL,
          ///< as the source has it
};

/// How many weights share a scale.
enum nib_quantize_granularity {
    NIB_QUANTIZE_BY_DEFAULT = 0, ///< groups where there are at most 4 bits, else channels
    NIB_QUANTIZE_BY_TENSOR = 1,
    NIB_QUANTIZE_BY_CHANNEL = 2, ///< a row of the matrix: an output feature
    NIB_QUANTIZE_BY_GROUP = 3    ///< `group` neighbours along a row
};

/// What the inputs of the matrices are rounded to when the model runs.
enum nib_quantize_activations {
    NIB_QUANTIZE_ACTIVATIONS_DEFAULT = 0, ///< static for SmoothQuant, else floats
    NIB_QUANTIZE_ACTIVATIONS_FLOAT = 1,
    NIB_QUANTIZE_ACTIVATIONS_DYNAMIC = 2, ///< int8, a range for each token, found when running
    NIB_QUANTIZE_ACTIVATIONS_STATIC = 3 ///< int8, one range for each matrix, from calibration; not
                                        ///< with method AWQ
};

/// How the range that the codes cover is found.
enum nib_quantize_range {
    NIB_QUANTIZE_RANGE_DEFAULT = 0, ///< the method's own
    NIB_QUANTIZE_RANGE_MINMAX = 1,
    NIB_QUANTIZE_RANGE_MSE = 2,       ///< the one with the least squared error, searched for
    NIB_QUANTIZE_RANGE_PERCENTILE = 3 ///< all but a share of the largest magnitudes
};

enum nib_quantize_zero {
    NIB_QUANTIZE_ZERO_DEFAULT = 0, ///< the method's own
    NIB_QUANTIZE_SYMMETRIC = 1,    ///< no zero point
    NIB_QUANTIZE_ASYMMETRIC = 2    ///< a zero point for each scale
};

/// How one matrix came out.
struct nib_matrix_report {
    const char *name; ///< of the tensor in the model
    const char *format;
    double error; ///< relative squared error: of the output on the calibration text (gptq, awq), or
                  ///< of the weights
};

struct nib_quantize_params {
    uint32_t struct_size;
    struct nib_log log;
    struct nib_progress progress; ///< counts units of work; estimates can be made from them
    enum nib_quantize_method method;
    enum nib_quantize_container container;
    /// A format ("q4_k", "q8_0", "f16"; in folders "int4", "int4/64"), which then says all of the
    /// following, of which `group` must be 0; or NULL.
    const char *format;
    uint32_t bits; ///< 2, 3, 4 or 8; 0: 8 for SmoothQuant and LLM.int8, else 4
    enum nib_quantize_granularity granularity;
    uint32_t group; ///< 0: 128, or the container's own
    enum nib_quantize_zero zero;
    enum nib_quantize_range range;
    enum nib_quantize_range activation_range; ///< of static activations; DEFAULT: MSE
    float percentile; ///< share that NIB_QUANTIZE_RANGE_PERCENTILE keeps, in percent; 0: 99.9
    enum nib_quantize_activations activations;
    /// What differs for some matrices: "SELECTOR=FORMAT,…"; see docs/quantization.md. Or NULL.
    const char *mix;

    const int32_t *calibration; ///< ids of a text; needed by methods that look at inputs
    size_t n_calibration;
    uint32_t windows; ///< of it that are used; 0: as many as there are, at most 128
    uint32_t context; ///< tokens in a window; 0: 512

    float damping;           ///< GPTQ: share of the mean diagonal added to it; 0: 0.01
    bool act_order;          ///< GPTQ: columns in the order of their inputs' mean squares
    bool no_static_groups;   ///< GPTQ with act_order: groups of neighbours in that order, for which
                             ///< AWQ folders and GGUF files have no place
    float smoothing;         ///< SmoothQuant's exponent; 0: searched for between 0 and 1
    bool single_quantized;   ///< NF4, FP4: keep scales in fp32 instead of quantizing them, too
    float outlier_threshold; ///< LLM.int8; 0: 6
    uint32_t threads;        ///< 0: physical cores
    /// Told of each matrix that this run quantizes, on the thread that made the call. May be NULL.
    void (*on_matrix)(void *user, const struct nib_matrix_report *matrix);
    void *user;
};
#define nib_quantize_params(...) \
    (&(struct nib_quantize_params){.struct_size = sizeof(struct nib_quantize_params), __VA_ARGS__})

/// What was written.
struct nib_quantization_report {
    uint64_t quantized_weights;
    double bits_per_weight; ///< of the quantized matrices: codes, scales and zero points
    uint64_t input_bytes;   ///< all files of the model
    uint64_t file_bytes;    ///< of the output
    uint64_t ns;
    uint32_t resumed_layers; ///< that an earlier, interrupted run had left
};

/// Quantizes `model` into `path`, a .gguf file or a folder, which must not exist and appears whole
/// or not at all. A calibrated run that is cancelled, or fails, keeps its finished layers
/// in `path`.part; the same call goes on from there and removes it at the end.
/// Errors: argument (parameters that do not go together, a calibration text that is too short, the
/// layers in `path`.part are of another run or model), unsupported (what a container cannot hold),
/// format (weights or inputs of matrices that are NaN or infinite), io (also where `path` exists),
/// cancelled, memory.
NIB_API enum nib_status nib_quantize(struct nib_model *model, const char *path,
                                     const struct nib_quantize_params *params,
                                     struct nib_quantization_report *out_report,
                                     struct nib_error *err);

#ifdef __cplusplus
}
#endif
#endif
