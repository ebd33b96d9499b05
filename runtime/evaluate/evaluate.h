/// Perplexity and divergence; functions of <nibble/evaluate.h> with params of this version.
#ifndef RUNTIME_EVALUATE_EVALUATE_H
#define RUNTIME_EVALUATE_EVALUATE_H

#include <nibble/evaluate.h>

/// How a text is cut.
struct nib_windows {
    uint32_t context; ///< tokens of each
    uint32_t count;
    uint32_t first_scored; ///< position in a window
};

/// Cuts a text; of `params`, only what describes the text and its windows is read. Errors: argument
/// (a context below 4; fewer tokens than one window).
enum nib_status nib_evaluation_windows(const struct nib_evaluate_params *params,
                                       struct nib_windows *out_windows, struct nib_error *err);

/// Windows are cut and scored as nib_evaluate_params says. Log-softmax and all sums are in double;
/// exponentials in float. The 99th percentile is interpolated linearly between the nearest ranks.
enum nib_status nib_evaluation_run(struct nib_engine *engine,
                                   const struct nib_evaluate_params *params,
                                   struct nib_evaluation *out_evaluation, struct nib_error *err);

/// nib_logits_writer_note_windows and nib_logits_reader_check_windows.
enum nib_status nib_logits_note_windows(struct nib_logits_writer *writer,
                                        const struct nib_evaluate_params *params,
                                        struct nib_error *err);
enum nib_status nib_logits_check_windows(const struct nib_logits_reader *reader,
                                         const struct nib_evaluate_params *params,
                                         struct nib_error *err);

#endif
