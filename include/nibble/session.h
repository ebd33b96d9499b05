/// Sessions: one sequence of tokens with its KV cache and sampler.
#ifndef NIBBLE_SESSION_H
#define NIBBLE_SESSION_H

#include <nibble/base.h>
#include <nibble/engine.h>

#ifdef __cplusplus
extern "C" {
#endif

/// One sequence: tokens, KV pages, sampler. Belongs to an engine.
/// Thread-safety: as its engine; nib_session_cancel is safe. From inside a callback only
/// nib_session_cancel and functions that change nothing may be called; those that can fail say so.
struct nib_session;

/// Makes an empty session. Errors: state (the engine has max_sessions already), memory.
NIB_API enum nib_status nib_session_create(struct nib_engine *engine,
                                           struct nib_session **out_session, struct nib_error *err);
NIB_API void nib_session_destroy(struct nib_session **session);
/// Makes a copy of `session` between steps: its tokens, and the pages of its cache, which both use
/// until one of them goes on in them. A running generation is not copied. The copy's results are
/// the same as the original's. Errors: as nib_session_create, state also in a callback.
NIB_API enum nib_status nib_session_fork(const struct nib_session *session,
                                         struct nib_session **out_session, struct nib_error *err);

/// Writes the session to a file: its tokens, and the cache of those computed, in whole pages of 32
/// tokens, so that of a session that goes on from the file at most the last 31 tokens are computed
/// again (all, where nib_session_truncate has just cut into a window that layers see). The file
/// appears whole or not at all. A running generation is not saved. A thread that loads
/// (nib_engine_prepare) rests until the next such call. Errors: io, memory, state (in a callback),
/// those of the devices.
NIB_API enum nib_status nib_session_save(const struct nib_session *session, const char *path,
                                         struct nib_error *err);
/// Makes a session from a file. The file is checked whole, and must come from the same model with
/// the same formats of the cache and activations; on which devices does not matter. Its pages are
/// not shared with sessions that begin alike, which have not to trust the file. A thread that loads
/// rests as for nib_session_save. Errors: io, format (damaged), unsupported (it does not fit this
/// engine; the message says why), context full, KV full, state (as for nib_session_create), memory,
/// those of the devices.
NIB_API enum nib_status nib_session_load(struct nib_engine *engine, const char *path,
                                         struct nib_session **out_session, struct nib_error *err);

/// Appends `count` ids to the session's tokens; nothing is computed until a forward or a step.
/// Errors: argument (an id outside the vocabulary), context full (nothing is appended), state (a
/// generation runs, or this is a callback's call).
NIB_API enum nib_status nib_session_append(struct nib_session *session, const int32_t *ids,
                                           size_t count, struct nib_error *err);
/// Drops all but the first `count` tokens and the pages that only they needed.
/// Errors: argument (more than there are), state (as above).
NIB_API enum nib_status nib_session_truncate(struct nib_session *session, size_t count,
                                             struct nib_error *err);
/// Drops the `count` tokens behind the first `keep` ones, to make room in a full context. The
/// tokens behind them move to lower positions and are computed anew with the next forward or step,
/// so that results are those of the shorter text; it costs as much as reading them as a prompt.
/// Errors: argument (more than there are), state (as above).
NIB_API enum nib_status nib_session_shift(struct nib_session *session, size_t keep, size_t count,
                                          struct nib_error *err);
/// Returns the session's tokens, prompt and generated, and their number. Alive until the session
/// next changes.
NIB_API const int32_t *nib_session_tokens(const struct nib_session *session, size_t *out_count);

/// Takes the logits of one position: `logits[0 .. vocabulary)` predict the token at position + 1.
/// They live for the call alone. Return false to stop.
typedef bool nib_logits_fn(void *user, uint32_t position, const float *logits, uint32_t vocabulary);

/// Computes all appended tokens that have not been computed, in chunks, and gives the logits of
/// each computed position at or after `first_position` to `on_logits`, in order. Logits masks and
/// sampling do not apply. `on_logits` NULL: only the cache is filled.
/// Errors: state (nothing to compute, or as above), cancelled (the callback returned false, or
/// nib_session_cancel), those of the devices.
NIB_API enum nib_status nib_session_forward(struct nib_session *session, uint32_t first_position,
                                            nib_logits_fn *on_logits, void *user,
                                            struct nib_error *err);

/// How the next token is drawn from the logits, in this order: biases and mask, repetition penalty
/// (Keskar et al. 2019, section 4.1), temperature, top-k, top-p (Holtzman et al. 2020), min-p
/// (Nguyen et al. 2024), draw. All zero: the largest logit, the first of equal ones.
/// The draw is Philox4x32-10 (Salmon et al. 2011) of (seed, position): equal logits and seed give
/// the same token everywhere.
struct nib_sampling {
    float temperature;    ///< 0: greedy
    uint32_t top_k;       ///< keep the k most probable; 0: all
    float top_p;          ///< keep the fewest whose probability sums to p; 0 or 1: all
    float min_p;          ///< drop those below min_p × the largest probability; 0: none
    float repeat_penalty; ///< divides positive and multiplies negative logits of recent tokens;
                          ///< 0 or 1: none
    uint32_t repeat_last; ///< how many recent tokens the penalty looks at; 0: 64
    uint64_t seed;
};

/// Adds `bias` to the logit of `id`; −infinity forbids it.
struct nib_logit_bias {
    int32_t id;
    float bias;
};

/// A candidate and its natural log-probability under the model's own distribution (before biases,
/// penalties and temperature).
struct nib_token_logprob {
    int32_t id;
    float logprob;
};

/// One generated token.
struct nib_token_event {
    struct nib_session *session;
    int32_t id;
    uint32_t index;       ///< counts the generated tokens from 0
    struct nib_text text; ///< characters completed by this token and not held back as the possible
                          ///< start of a stop string
    float logprob;        ///< of `id`; 0 where n_top_logprobs is 0
    uint32_t n_top;       ///< min(n_top_logprobs, vocabulary)
    const struct nib_token_logprob *top; ///< most probable first
};

/// Why a generation ended.
enum nib_stop {
    NIB_STOP_NONE = 0, ///< it has not
    NIB_STOP_EOS = 1,
    NIB_STOP_LENGTH = 2,
    NIB_STOP_STRING = 3,
    NIB_STOP_CONTEXT = 4, ///< the context is full
    NIB_STOP_CANCELLED = 5,
    NIB_STOP_ERROR = 6 ///< the device failed; the tokens so far are kept
};
/// Returns "eos", "length", "string", "context", "cancelled", "error" or "none".
NIB_API const char *nib_stop_name(enum nib_stop stop);

struct nib_generate_params {
    uint32_t struct_size;
    struct nib_sampling sampling;
    uint32_t max_tokens; ///< 0: to the end of sequence or context
    bool ignore_eos;
    bool keep_special;            ///< control tokens' text appears in the events' text
    const struct nib_text *stops; ///< texts that end generation and are not part of it
    uint32_t n_stops;
    const struct nib_logit_bias *biases; ///< the lists are copied
    uint32_t n_biases;
    /// Called before each draw: clear the bits of ids that must not come next (bit i % 32 of word
    /// i / 32; all are set before the call). At least one must stay: else the generation ends with
    /// NIB_STOP_ERROR, and the step returns NIB_ERROR_ARGUMENT. May be NULL.
    void (*mask)(void *user, const int32_t *tokens, size_t n_tokens, uint32_t *allowed);
    uint32_t n_top_logprobs; ///< up to 64
    /// Called with each token; return false to stop after it (stop reason "cancelled"). May be
    /// NULL.
    bool (*on_token)(void *user, const struct nib_token_event *event);
    nib_logits_fn *on_logits; ///< gets the logits of every computed position from `first_logits` on
    uint32_t first_logits;    ///< a position
    void *user;
    /// Tokens to draft at most, up to 31; 0: none. What followed the session's last tokens where
    /// they stood before is checked in one step with the next token, and the tokens drawn are the
    /// same as without (on the CPU bit for bit): pays where the text repeats its prompt. Not done
    /// for LLM.int8, whose results depend on which rows are computed together.
    uint32_t max_draft;
    bool shift; ///< in a full context, drop half of the tokens behind the first `shift_keep` ones
                ///< and go on, as after nib_session_shift, instead of ending; positions computed
                ///< anew are given to `on_logits` again
    uint32_t shift_keep;
    /// The events' text goes on after the prompt's: a space before its first word stays, as
    /// nib_detokenizer_params.continuation has it.
    bool continuation;
};
#define nib_generate_params(...) \
    (&(struct nib_generate_params){.struct_size = sizeof(struct nib_generate_params), __VA_ARGS__})

/// Starts a generation: the following nib_engine_step calls compute the appended tokens and then
/// draw tokens until a reason to stop is met. Text works only with models that have a tokenizer.
/// Errors: state (no token appended, or one is running), argument, memory.
NIB_API enum nib_status nib_session_begin(struct nib_session *session,
                                          const struct nib_generate_params *params,
                                          struct nib_error *err);

/// How a generation went.
struct nib_generation {
    enum nib_stop stop; ///< NIB_STOP_NONE while it runs
    uint32_t n_prompt;  ///< tokens computed before the first draw
    uint32_t n_generated;
    uint64_t first_token_ns; ///< from nib_session_begin to the first token
    uint64_t prefill_ns;     ///< from the first step with this session to the first token
    uint64_t decode_ns;      ///< from the first token to the last
    uint32_t n_shared;       ///< tokens of the prompt that others had computed: beside n_prompt
    uint32_t n_drafted;      ///< tokens drafted
    uint32_t n_accepted;     ///< of these, how many were drawn
    uint32_t n_dropped;      ///< tokens dropped from a full context
};
NIB_API void nib_session_get_generation(const struct nib_session *session,
                                        struct nib_generation *out_generation);

/// nib_session_begin, then nib_engine_step until this session's generation ends; other sessions of
/// the engine go on too, and one that can draw no token ends alone. `*out_generation` is what there
/// is, also where the call fails. Errors: those of both for this session and for the devices.
NIB_API enum nib_status nib_session_generate(struct nib_session *session,
                                             const struct nib_generate_params *params,
                                             struct nib_generation *out_generation,
                                             struct nib_error *err);

/// Asks the running generation or forward to stop at the next token. Thread-safety: safe, also in a
/// signal handler.
NIB_API void nib_session_cancel(struct nib_session *session);

#ifdef __cplusplus
}
#endif
#endif
