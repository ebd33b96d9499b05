#include "runtime/base/os.h"
#include "runtime/base/status.h"
#include "runtime/engine/engine.h"
#include "runtime/ops/logits.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

const char *nib_stop_name(enum nib_stop stop)
{
    static const char *const names[] = {"none",    "eos",       "length", "string",
                                        "context", "cancelled", "error"};
    return (unsigned)stop < sizeof names / sizeof names[0] ? names[stop] : "none";
}

void nib_generator_free(struct nib_generator *generator)
{
    free(generator->biases);
    nib_stop_filter_free(&generator->filter);
    nib_buffer_free(&generator->text);
    nib_detokenizer_destroy(&generator->detokenizer);
    *generator = (struct nib_generator){0};
}

void nib_generator_end(struct nib_session *session, enum nib_stop stop)
{
    session->generator.result.stop = stop;
    session->work = NIB_WORK_NONE;
    session->on_logits = NULL;
}

static enum nib_status check_begin(const struct nib_session *session,
                                   const struct nib_generate_params *params, bool has_tokenizer,
                                   struct nib_error *err)
{
    enum nib_status status = nib_engine_require_idle(session->engine, err);
    if (status != NIB_OK)
        return status;
    if (session->work != NIB_WORK_NONE)
        return nib_fail(err, NIB_ERROR_STATE, "the session is generating already");
    if (session->n_tokens == 0)
        return nib_fail(err, NIB_ERROR_STATE,
                        "there is nothing to continue: the session has no token");
    if (params->n_top_logprobs > NIB_ENGINE_MAX_TOP)
        return nib_fail(err, NIB_ERROR_ARGUMENT, "n_top_logprobs is %u, but at most %d are given",
                        params->n_top_logprobs, NIB_ENGINE_MAX_TOP);
    if (params->n_stops > 0 && !has_tokenizer)
        return nib_fail(err, NIB_ERROR_ARGUMENT,
                        "stop strings need a tokenizer, which this model does not have");
    if (params->max_draft > NIB_ENGINE_MAX_DRAFT)
        return nib_fail(err, NIB_ERROR_ARGUMENT, "max_draft is %u, but at most %d are drafted",
                        params->max_draft, NIB_ENGINE_MAX_DRAFT);
    uint32_t vocabulary = session->engine->plan->vocabulary;
    for (uint32_t i = 0; i < params->n_biases; i++) {
        struct nib_logit_bias bias = params->biases[i];
        if (bias.id < 0 || (uint32_t)bias.id >= vocabulary || isnan(bias.bias))
            return nib_fail(err, NIB_ERROR_ARGUMENT,
                            "logit bias %u is NaN or for id %d, outside the vocabulary of %u", i,
                            bias.id, vocabulary);
    }
    return nib_sampling_validate(&params->sampling, err);
}

static enum nib_status generator_init(struct nib_generator *generator,
                                      const struct nib_generate_params *params,
                                      const struct nib_tokenizer *tokenizer, struct nib_error *err)
{
    enum nib_status status = NIB_OK;
    *generator = (struct nib_generator){
        .sampling = params->sampling,
        .max_tokens = params->max_tokens,
        .n_top = params->n_top_logprobs,
        .max_draft = params->max_draft,
        .draft_length = params->max_draft,
        .shift = params->shift,
        .shift_keep = params->shift_keep,
        .ignore_eos = params->ignore_eos,
        .mask = params->mask,
        .on_token = params->on_token,
        .user = params->user,
    };
    NIB_TRY(nib_stop_filter_init(&generator->filter, params->stops, params->n_stops, err));
    if (params->n_biases > 0) {
        generator->biases = calloc(params->n_biases, sizeof *generator->biases);
        if (!generator->biases)
            NIB_TRY(nib_fail_memory(err));
        memcpy(generator->biases, params->biases, params->n_biases * sizeof *generator->biases);
        generator->n_biases = params->n_biases;
    }
    if (tokenizer) {
        const struct nib_detokenizer_params *how =
            nib_detokenizer_params(.keep_special = params->keep_special,
                                   .continuation = params->continuation);
        NIB_TRY(nib_detokenizer_create(tokenizer, how, &generator->detokenizer, err));
    }
    generator->begin_ns = nib_clock_ns();
    return NIB_OK;

fail:
    nib_generator_free(generator);
    return status;
}

enum nib_status nib_generator_begin(struct nib_session *session,
                                    const struct nib_generate_params *params, struct nib_error *err)
{
    const struct nib_tokenizer *tokenizer = nib_source_tokenizer(session->engine->model->source);
    enum nib_status status = check_begin(session, params, tokenizer != NULL, err);
    if (status != NIB_OK)
        return status;
    struct nib_generator generator;
    status = generator_init(&generator, params, tokenizer, err);
    if (status != NIB_OK)
        return status;

    nib_generator_free(&session->generator);
    session->generator = generator;
    session->serial = ++session->engine->last_serial;
    // The first draw needs the logits of the last token, so that one is computed in any case.
    if (session->n_computed == session->n_tokens)
        nib_session_rewind(session, session->n_tokens - 1);
    session->generator.result.n_prompt = session->n_tokens - session->n_computed;
    session->work = NIB_WORK_GENERATE;
    session->on_logits = params->on_logits;
    session->first_logits = params->first_logits;
    session->n_told = session->n_computed; // others are not given again after a loss
    session->logits_user = params->user;
    session->refused = false;
    atomic_store_explicit(&session->cancelled, false, memory_order_relaxed);
    return NIB_OK;
}

void nib_session_get_generation(const struct nib_session *session,
                                struct nib_generation *out_generation)
{
    *out_generation = session->generator.result;
}

enum nib_status nib_generator_run(struct nib_session *session,
                                  const struct nib_generate_params *params,
                                  struct nib_generation *out_generation, struct nib_error *err)
{
    struct nib_engine *engine = session->engine;
    bool ready = engine->load.ready;
    enum nib_status status = ready ? NIB_OK : nib_engine_prepare(engine, 0, &ready, err);
    if (status == NIB_OK)
        status = nib_generator_begin(session, params, err);
    if (status != NIB_OK)
        return status;
    struct nib_error error = {0};
    while (status == NIB_OK && session->work == NIB_WORK_GENERATE) {
        status = nib_engine_step(engine, NULL, &error);
        if (engine->is_own_failure && session->generator.result.stop != NIB_STOP_ERROR)
            status = NIB_OK; // another session's
    }
    if (status != NIB_OK && err)
        *err = error;
    if (session->work == NIB_WORK_GENERATE)
        nib_generator_end(session, NIB_STOP_ERROR);
    if (out_generation)
        *out_generation = session->generator.result;
    return status;
}

/// Takes a token that the device has drawn.
static enum nib_status take_drawn(const struct nib_session *session, uint32_t drawn,
                                  struct nib_token_event *event, struct nib_error *err)
{
    if (drawn >= session->engine->plan->vocabulary)
        return nib_sampler_fail(err);
    event->id = (int32_t)drawn;
    return NIB_OK;
}

/// Chooses the next token, with log-probabilities where they are wanted.
static enum nib_status choose(struct nib_session *session, const float *logits,
                              struct nib_token_event *event, struct nib_error *err)
{
    struct nib_generator *generator = &session->generator;
    struct nib_sampler *sampler = session->engine->sampler;
    uint32_t vocabulary = session->engine->plan->vocabulary;
    struct nib_choice choice = {
        .sampling = &generator->sampling,
        .biases = generator->biases,
        .n_biases = generator->n_biases,
        .tokens = session->tokens,
        .n_tokens = session->n_tokens,
    };
    if (generator->mask) {
        uint32_t *allowed = nib_sampler_mask(sampler);
        generator->mask(generator->user, session->tokens, session->n_tokens, allowed);
        choice.allowed = allowed;
    }
    uint64_t start_ns = nib_clock_ns();
    enum nib_status status = nib_sampler_choose(sampler, logits, &choice, &event->id, err);
    if (status == NIB_OK && generator->n_top > 0) {
        uint32_t best = nib_logits_argmax(logits, vocabulary);
        double log_sum =
            best < vocabulary ? nib_logits_log_sum(logits, vocabulary, best) : (double)-INFINITY;
        event->n_top = generator->n_top < vocabulary ? generator->n_top : vocabulary;
        event->top = generator->top;
        event->logprob = (float)((double)nib_logit_clean(logits[event->id]) - log_sum);
        nib_logits_top(logits, vocabulary, log_sum, generator->top, event->n_top);
    }
    session->engine->host_ns += nib_clock_ns() - start_ns;
    return status;
}

/// Adds what the detokenizer and the filter still hold back to the event's text.
static enum nib_status flush_text(struct nib_generator *generator, struct nib_text *text,
                                  struct nib_error *err)
{
    enum nib_status status = NIB_OK;
    struct nib_buffer *buffer = &generator->text;
    struct nib_text rest;
    bool stopped;
    buffer->size = 0;
    NIB_TRY(nib_buffer_append(buffer, text->ptr, text->size, err));
    NIB_TRY(nib_detokenizer_finish(generator->detokenizer, &rest, err));
    NIB_TRY(nib_stop_filter_push(&generator->filter, rest, &rest, &stopped, err));
    if (!stopped)
        nib_stop_filter_flush(&generator->filter, &rest);
    NIB_TRY(nib_buffer_append(buffer, rest.ptr, rest.size, err));
    *text = (struct nib_text){.ptr = buffer->data, .size = buffer->size};

fail:
    return status;
}

/// Returns how many tokens are dropped when the context is full: half of those behind the ones to
/// be kept, where that is wanted.
static uint32_t droppable(const struct nib_session *session)
{
    const struct nib_generator *generator = &session->generator;
    uint32_t keep = generator->shift_keep;
    return generator->shift && keep < session->n_tokens ? (session->n_tokens - keep) / 2 : 0;
}

/// Drops them. The next draw then waits until the tokens behind are computed anew.
static void make_room(struct nib_session *session)
{
    struct nib_generator *generator = &session->generator;
    uint32_t count = droppable(session);
    nib_session_drop(session, generator->shift_keep, count);
    generator->result.n_dropped += count;
    if (generator->result.n_generated == 0)
        generator->result.n_prompt += session->n_tokens - session->n_computed;
}

/// Makes the event's text and finds out whether the new token, already appended, ends the
/// generation.
static enum nib_status settle(struct nib_session *session, struct nib_token_event *event,
                              enum nib_stop *out_stop, struct nib_error *err)
{
    struct nib_generator *generator = &session->generator;
    const struct nib_engine *engine = session->engine;
    const struct nib_tokenizer *tokenizer = nib_source_tokenizer(engine->model->source);
    enum nib_stop stop = NIB_STOP_NONE;
    if (session->n_tokens == engine->plan->context && droppable(session) == 0)
        stop = NIB_STOP_CONTEXT;
    if (generator->max_tokens > 0 && generator->result.n_generated == generator->max_tokens)
        stop = NIB_STOP_LENGTH;
    if (tokenizer && !generator->ignore_eos && nib_tokenizer_is_end(tokenizer, event->id))
        stop = NIB_STOP_EOS;

    enum nib_status status = NIB_OK;
    if (generator->detokenizer) {
        bool stopped = false;
        struct nib_tokenizer_info info;
        nib_tokenizer_get_info(tokenizer, &info);
        // Many models have logits for more ids than tokens; such an id has no text.
        if ((uint32_t)event->id < info.vocabulary)
            NIB_TRY(nib_detokenizer_push(generator->detokenizer, event->id, &event->text, err));
        NIB_TRY(nib_stop_filter_push(&generator->filter, event->text, &event->text, &stopped, err));
        if (stopped)
            stop = NIB_STOP_STRING;
        else if (stop != NIB_STOP_NONE)
            NIB_TRY(flush_text(generator, &event->text, err));
    }
    *out_stop = stop;

fail:
    return status;
}

static void take_time(struct nib_generator *generator)
{
    uint64_t now = nib_clock_ns();
    if (generator->result.n_generated == 1) {
        generator->first_token_ns = now;
        generator->result.first_token_ns = now - generator->begin_ns;
        generator->result.prefill_ns = now - generator->first_step_ns;
    }
    generator->result.decode_ns = now - generator->first_token_ns;
}

enum nib_status nib_generator_draw(struct nib_session *session, const float *logits, uint32_t drawn,
                                   struct nib_error *err)
{
    struct nib_generator *generator = &session->generator;
    if (session->n_tokens == session->engine->plan->context) {
        if (droppable(session) > 0)
            make_room(session);
        else
            nib_generator_end(session, NIB_STOP_CONTEXT);
        return NIB_OK;
    }
    enum nib_status status = NIB_OK;
    enum nib_stop stop = NIB_STOP_ERROR;
    struct nib_token_event event = {.session = session, .index = generator->result.n_generated};
    if (logits)
        NIB_TRY(choose(session, logits, &event, err));
    else
        NIB_TRY(take_drawn(session, drawn, &event, err));
    session->tokens[session->n_tokens++] = event.id;
    generator->result.n_generated++;
    take_time(generator);
    NIB_TRY(settle(session, &event, &stop, err));
    if (generator->on_token && !generator->on_token(generator->user, &event) &&
        stop == NIB_STOP_NONE)
        stop = NIB_STOP_CANCELLED;

fail:
    if (status != NIB_OK)
        stop = NIB_STOP_ERROR;
    if (stop != NIB_STOP_NONE)
        nib_generator_end(session, stop);
    else if (session->n_tokens == session->engine->plan->context)
        make_room(session);
    return status;
}
