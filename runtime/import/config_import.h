/// Reading configurations, and what both containers have in common in it.
#ifndef RUNTIME_IMPORT_CONFIG_IMPORT_H
#define RUNTIME_IMPORT_CONFIG_IMPORT_H

#include "runtime/formats/gguf.h"
#include "runtime/import/arch.h"

#include <jansson.h>

/// A checkpoint's configuration. `model.vocabulary` is 0: the token embedding's rows tell it.
struct nib_import_config {
    const struct nib_arch *arch;
    struct nib_model_config model; ///< arrays in the arena that was given
    bool tied;   ///< the head is the token embedding, whatever else the checkpoint holds
    bool biased; ///< Q, K and V must have biases
};

/// Reads the metadata of `gguf`, and its tensors of RoPE factors, which are no weights.
/// Safe for untrusted input. Errors: format (the key is named), unsupported (architecture, RoPE
/// scaling), memory.
enum nib_status nib_config_from_gguf(const struct nib_gguf *gguf, struct nib_arena *arena,
                                     struct nib_import_config *out_config, struct nib_error *err);
/// Reads a parsed config.json as transformers 4 and 5 write it. Safe for untrusted input.
/// How weights are quantized is left to nib_quantization_parse. Errors: as nib_config_from_gguf.
enum nib_status nib_config_from_json(const json_t *json, struct nib_arena *arena,
                                     struct nib_import_config *out_config, struct nib_error *err);

/// Adds the keys that nib_config_from_gguf reads to `writer`, but for vectors of RoPE factors and
/// what the tokenizer tells. A checkpoint of an architecture that GGUF has no name for is written
/// as llama. Errors: unsupported (what GGUF has no key for), memory.
enum nib_status nib_config_to_gguf(const struct nib_arch *arch,
                                   const struct nib_model_config *model,
                                   struct nib_gguf_writer *writer, struct nib_error *err);
/// Returns the name that GGUF files have for the architecture; static.
const char *nib_config_gguf_name(const struct nib_arch *arch);

/// Gets a number as a file of the container holds it. Errors end the visits.
typedef enum nib_status nib_visit_number_fn(void *user, const char *key, bool whole, double number,
                                            struct nib_error *err);
/// Visits the plain numbers that nib_config_begin reads, those that it takes for granted left out.
enum nib_status nib_config_visit_numbers(const struct nib_arch *arch, enum nib_container container,
                                         const struct nib_model_config *model,
                                         nib_visit_number_fn *visit, void *user,
                                         struct nib_error *err);
/// Makes config.json of a configuration that came from elsewhere, such as a GGUF file: all but
/// token ids, biases and element types. Both transformers 4 and 5 read it. Free with json_decref.
/// Errors: unsupported (transformers' class of the architecture has no place for something: the
/// message names it and the remedy), memory.
enum nib_status nib_config_to_json(const struct nib_import_config *config, json_t **out_json,
                                   struct nib_error *err);
/// For it: writes the numbers that nib_config_begin reads, but for those that are 0; returns
/// whether there was memory.
bool nib_config_put_numbers(const struct nib_import_config *config, json_t *object);
/// Returns `number` with as few digits as tell it from other floats, or NULL.
json_t *nib_config_real(float number);

/// For the two readers.

enum nib_found { NIB_ABSENT, NIB_NULL, NIB_NUMBER };
/// Looks `key` up in a file. Errors: format (it is no number; the key is named).
typedef enum nib_status nib_find_number_fn(const void *file, const char *key,
                                           enum nib_found *out_found, double *out_number,
                                           struct nib_error *err);
struct nib_number_file {
    enum nib_container container;
    const void *file;
    nib_find_number_fn *find;
};
/// Reads a number in [least, most] into `*out`, which keeps its value where the file has none.
/// Errors: format.
enum nib_status nib_config_number(const struct nib_number_file *numbers, const char *key,
                                  double least, double most, float *out, struct nib_error *err);
/// The same for a whole number. `null` counts as 0 where `least` allows it.
enum nib_status nib_config_count(const struct nib_number_file *numbers, const char *key,
                                 uint32_t least, uint32_t most, uint32_t *out,
                                 struct nib_error *err);

/// Sets what `arch` says by itself, then reads all plain numbers: sizes, epsilon, scales, caps,
/// window. Head dimensions and the number of KV heads are known then; RoPE and layers are not.
/// Errors: format.
enum nib_status nib_config_begin(const struct nib_arch *arch, const struct nib_number_file *numbers,
                                 struct nib_import_config *out_config, struct nib_error *err);

/// What decides about single layers. Arrays hold n_layers values, or are NULL: the rule holds.
struct nib_layer_rules {
    bool use_window;             ///< NIB_WINDOW_FLAG, NIB_WINDOW_NO_ROPE
    uint32_t first_window_layer; ///< NIB_WINDOW_FLAG
    uint32_t window_period;      ///< NIB_WINDOW_PERIOD
    uint32_t no_rope_period;     ///< 0: all layers have RoPE
    const bool *has_window;
    const bool *has_rope;
};
/// Makes the layers, once ropes are known, and checks the whole. Errors: format, memory.
enum nib_status nib_config_end(struct nib_import_config *config,
                               const struct nib_layer_rules *rules, struct nib_arena *arena,
                               struct nib_error *err);

/// Largest base or factor of RoPE that is believed.
#define NIB_ROPE_LIMIT 1e12
/// Checks one RoPE after its keys were read. Errors: format.
enum nib_status nib_config_check_rope(const struct nib_rope_config *rope,
                                      const struct nib_model_config *model, struct nib_error *err);

#endif
