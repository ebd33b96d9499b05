/// The command line: one table of flags, from which it is parsed, checked and explained.
#ifndef TOOLS_NIBBLE_OPTIONS_H
#define TOOLS_NIBBLE_OPTIONS_H

#include <nibble/nibble.h>
#include <stdio.h>

/// Commands, as bits of the table's column that says which flag each takes.
enum command_bit {
    COMMAND_RUN = 1 << 0,
    COMMAND_CHAT = 1 << 1,
    COMMAND_TOKENIZE = 1 << 2,
    COMMAND_EVAL = 1 << 3,
    COMMAND_INSPECT = 1 << 4,
    COMMAND_DEVICES = 1 << 5,
    COMMAND_COMPARE = 1 << 6,
    COMMAND_QUANTIZE = 1 << 7,
    COMMAND_BENCH = 1 << 8
};

/// A number that may have been given.
struct option_count {
    bool given;
    uint64_t value;
};
struct option_real {
    bool given;
    double value;
};

/// GPUs that can share a model.
#define MAX_GPUS 16

/// `--device`.
enum device_choice { DEVICE_AUTO, DEVICE_CPU, DEVICE_VULKAN, DEVICE_VULKAN_INDEX };
struct option_device {
    enum device_choice choice;
    uint32_t indices[MAX_GPUS]; ///< for DEVICE_VULKAN_INDEX
    uint32_t count;             ///< of them
};

/// `--split`: a positive number for each GPU.
struct option_split {
    float shares[MAX_GPUS];
    uint32_t count; ///< 0: not given
};

/// `--kv`.
struct option_kv {
    bool given;
    enum nib_kv_format keys;
    enum nib_kv_format values;
    uint32_t recent; ///< as nib_engine_params.kv_recent
    uint32_t first;  ///< as nib_engine_params.kv_first
    bool has_first;  ///< it was given
    enum nib_kv_transform transform;
};

struct option_texts {
    const char **texts;
    size_t count;
};

struct option_ids {
    bool given;
    int32_t *ids;
    size_t count;
};

/// Numbers in ascending order, each once.
struct option_list {
    bool given;
    uint32_t *values;
    size_t count;
};

/// `--gpu-layers auto`, and the flag's default.
#define GPU_LAYERS_AUTO UINT32_MAX

/// What `quantize` is to do. Choices are positions in the table's lists, which are those of the
/// enumerations of <nibble/quantize.h>.
struct option_quantize {
    unsigned method, container, granularity, range, activations, activation_range;
    const char *format, *mix;
    struct option_count bits, group, windows, context;
    struct option_real percentile, damping, smoothing, outlier_threshold;
    bool symmetric, asymmetric, act_order, no_static_groups, single_quantized;
};

/// Everything that a command line can say. Texts are borrowed from it; what was not given is zero.
struct options {
    const char *model;  ///< the first operand
    const char *output; ///< the second one, of `quantize`
    struct option_texts operands;
    bool help, version, json;

    struct option_device device;
    struct option_split split;
    struct option_count gpu_layers, threads, context;
    const char *cpu_mask;
    const char *vulkan_mask, *shader_dir;
    struct option_kv kv;
    unsigned self_test; ///< enum nib_self_test
    bool fallback, precise, profile, measure;

    const char *prompt, *file;
    struct option_ids prompt_ids, detokenize;
    bool chat, no_bos;
    const char *chat_template, *system;

    struct option_count tokens, top_k, seed;
    struct option_real temperature, top_p, min_p, repeat_penalty;
    struct option_texts stops;
    bool greedy, ignore_eos;
    struct option_count draft;
    const char *session, *save_session;

    const char *save_logits, *reference;
    struct option_count windows;
    unsigned score; ///< enum nib_score

    bool tensors;

    struct option_quantize quantize;
    const char *calibration;
    struct option_list batches, contexts;
    struct option_count shared;
    bool host_cost;
};

/// What a command needs beside flags.
struct command {
    enum command_bit bit;
    const char *name;
    const char *operand; ///< "MODEL", or NULL where there is none
    size_t most_operands;
    const char *synopsis; ///< what follows the operand in its usage
    const char *summary;
    const char *notes; ///< printed below the flags, or NULL
    enum nib_status (*run)(const struct options *options, struct nib_error *err);
};

/// Parses the arguments after the command's name. The result is to be freed, after a failure too.
/// Errors: argument, for everything that makes the command line wrong; memory.
enum nib_status options_parse(const struct command *command, int argc, char **argv,
                              struct options *out_options, struct nib_error *err);
void options_free(struct options *options);

/// Prints the command's usage and its flags.
void options_print_help(const struct command *command, FILE *file);

/// Returns the distance (Levenshtein 1966: insertions, deletions, substitutions) of two words,
/// of which no more than 31 characters count.
unsigned options_distance(const char *left, const char *right);

/// Returns the name of a KV format, such as "f16".
const char *options_kv_name(enum nib_kv_format format);

#endif
