/// Evaluation: perplexity of a text, and how far one model's distributions are from another's.
#ifndef NIBBLE_EVALUATE_H
#define NIBBLE_EVALUATE_H

#include <nibble/base.h>
#include <nibble/engine.h>
#include <nibble/session.h>

#ifdef __cplusplus
extern "C" {
#endif

/// Which predictions of a window count.
enum nib_score {
    NIB_SCORE_HALF = 0, ///< those made at positions context/2 … context − 2, as
                        ///< llama-perplexity does
    NIB_SCORE_ALL = 1   ///< those made at positions 0 … context − 2
};

/// Gives the reference's logits of scored row `row` (counted over all windows, in order) in
/// `logits[0 .. vocabulary)`. Return false if there are none: the call fails with NIB_ERROR_IO.
typedef bool nib_reference_fn(void *user, uint64_t row, float *logits, uint32_t vocabulary);

struct nib_evaluate_params {
    uint32_t struct_size;
    const int32_t *ids; ///< the whole text, tokenized once, BOS first where the model wants one
    size_t n_ids;
    int32_t bos;      ///< replaces the first token of each window; negative: none
    uint32_t context; ///< tokens in a window, at least 4; 0: 512
    uint32_t windows; ///< at most so many; 0: all. A last partial window is left out
    enum nib_score score;
    struct nib_engine *reference_engine; ///< run in lockstep on the same ids, or NULL
    nib_reference_fn *reference;         ///< stored logits to compare with, or NULL
    /// Gets the logits of each scored row, in order; return false to stop. May be NULL.
    bool (*on_logits)(void *user, uint64_t row, const float *logits, uint32_t vocabulary);
    void *user;
    struct nib_progress progress; ///< counts tokens
};
#define nib_evaluate_params(...) \
    (&(struct nib_evaluate_params){.struct_size = sizeof(struct nib_evaluate_params), __VA_ARGS__})

struct nib_evaluation {
    double perplexity; ///< exp(nll)
    double nll;        ///< mean negative natural log-likelihood of the scored predictions
    uint64_t tokens;   ///< tokens of the text
    uint32_t windows;  ///< windows run
    uint64_t scored;   ///< predictions scored
    double seconds;
    bool compared;         ///< the following are set
    double kl_mean;        ///< mean over scored rows of KL(reference ‖ model), nats
    double kl_p99;         ///< its 99th percentile
    double top1_agreement; ///< share of rows where both have the same largest logit, 0 to 1
};

/// Runs the windows through `engine` and scores them; the engine needs a free session and a context
/// of at least `context` tokens.
/// Errors: argument (fewer tokens than one window; an id outside the vocabulary; vocabularies that
/// differ), cancelled, io, those of the devices.
NIB_API enum nib_status nib_evaluate(struct nib_engine *engine,
                                     const struct nib_evaluate_params *params,
                                     struct nib_evaluation *out_evaluation, struct nib_error *err);

/// A file of logits: safetensors with one tensor "logits", F32 [rows, vocabulary], and where its
/// windows are known a metadata entry "windows": 16 hexadecimal digits for each window, the FNV-1a
/// hash of its first scored position and its tokens, as little-endian 32-bit numbers.
/// Thread-safety: one thread at a time.
struct nib_logits_writer;
/// Opens a writer; the file appears when it is committed. Errors: io, memory.
NIB_API enum nib_status nib_logits_writer_open(const char *path, uint32_t vocabulary,
                                               struct nib_logits_writer **out_writer,
                                               struct nib_error *err);
/// Notes, before the first row, which windows the rows will belong to: those that nib_evaluate with
/// these params runs. Errors: argument (as nib_evaluate), memory.
NIB_API enum nib_status nib_logits_writer_note_windows(struct nib_logits_writer *writer,
                                                       const struct nib_evaluate_params *params,
                                                       struct nib_error *err);
/// Appends one row of `vocabulary` logits. Errors: io (disk full).
NIB_API enum nib_status nib_logits_writer_append(struct nib_logits_writer *writer,
                                                 const float *logits, struct nib_error *err);
/// Puts the file in its place and frees the writer, on failure too.
NIB_API enum nib_status nib_logits_writer_commit(struct nib_logits_writer **writer,
                                                 struct nib_error *err);
/// Throws away what was written.
NIB_API void nib_logits_writer_destroy(struct nib_logits_writer **writer);

struct nib_logits_reader;
/// Opens a file of logits. Safe for untrusted input. Errors: io, format, not found (no "logits").
NIB_API enum nib_status nib_logits_reader_open(const char *path,
                                               struct nib_logits_reader **out_reader,
                                               uint64_t *out_rows, uint32_t *out_vocabulary,
                                               struct nib_error *err);
/// Checks that the rows belong to the windows that nib_evaluate with these params runs; a file may
/// have more of them, and one that has no note of its windows passes. Errors: argument (as
/// nib_evaluate; other tokens, or other positions scored), memory.
NIB_API enum nib_status nib_logits_reader_check_windows(const struct nib_logits_reader *reader,
                                                        const struct nib_evaluate_params *params,
                                                        struct nib_error *err);
/// Copies row `row`; returns false where there is none.
NIB_API bool nib_logits_reader_read(const struct nib_logits_reader *reader, uint64_t row,
                                    float *out_logits);
NIB_API void nib_logits_reader_destroy(struct nib_logits_reader **reader);

#ifdef __cplusplus
}
#endif
#endif
