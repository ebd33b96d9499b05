/// What `eval` and `compare` share: the text that is scored, and the reference.
#ifndef TOOLS_NIBBLE_EVAL_TEXT_H
#define TOOLS_NIBBLE_EVAL_TEXT_H

#include "tools/nibble/engine_setup.h"

/// The text of -f in one model's tokens, and the windows that it is cut into.
struct eval_text {
    uint32_t window; ///< tokens in one
    int32_t *ids;
    size_t n_ids;
    int32_t bos; ///< −1: windows keep their first token
};

/// Returns the tokens of a window: --ctx, or 512.
uint32_t eval_window(const struct options *options);
/// Tokenizes `text`, the content of -f, for the model at `path`; special tokens' text stays text.
/// Errors: not found (no tokenizer), argument (it does not fill a window), memory.
enum nib_status eval_text_encode(const struct options *options, const struct nib_model *model,
                                 const char *path, struct nib_text text, struct eval_text *out_text,
                                 struct nib_error *err);
/// Returns how `text` is cut and scored.
struct nib_evaluate_params eval_params(const struct options *options, const struct eval_text *text);
void eval_text_free(struct eval_text *text);

/// Returns the first position of a window whose prediction counts, and the number of those that
/// count in one window.
uint32_t eval_first_scored(const struct options *options);
uint32_t eval_scored_per_window(const struct options *options);

/// What --ref names: stored logits, or a model.
struct eval_reference {
    const char *path; ///< NULL: none
    uint32_t vocabulary;
    uint64_t rows; ///< of stored logits
    struct nib_model *model;
    struct nib_engine *engine;
    struct nib_logits_reader *reader;
};
/// Opens the reference, where there is one; its engine is to be loaded with engine_load. Errors:
/// those of nib_logits_reader_open, model_open, engine_create.
enum nib_status eval_reference_open(const struct options *options, struct setup *setup,
                                    struct eval_reference *out_reference, struct nib_error *err);
void eval_reference_close(struct eval_reference *reference);
/// Refuses a model, at `path`, that cannot be compared with the reference. Errors: argument.
enum nib_status eval_reference_check(const struct eval_reference *reference,
                                     const struct options *options, const struct eval_text *text,
                                     const char *path, uint32_t vocabulary, struct nib_error *err);
/// Reads a row of stored logits: a nib_reference_fn whose `user` is the reference.
bool eval_reference_read(void *user, uint64_t row, float *logits, uint32_t vocabulary);

#endif
