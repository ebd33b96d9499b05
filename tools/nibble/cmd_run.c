#include "tools/nibble/commands.h"
#include "tools/nibble/engine_setup.h"
#include "tools/nibble/json_out.h"
#include "tools/nibble/message.h"
#include "tools/nibble/output.h"
#include "tools/nibble/profile.h"
#include "tools/nibble/prompt.h"
#include "tools/nibble/report.h"
#include "tools/nibble/sampling.h"
#include "tools/nibble/system.h"
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>

/// One run, from the command line to its report.
struct run {
    const struct options *options;
    struct nib_model *model;
    struct prompt prompt;
    size_t n_prompt; ///< tokens before the first generated one
    struct setup setup;
    struct nib_engine *engine;
    struct nib_session *session;
    struct nib_logits_writer *writer;
    uint64_t start_ns;
    double load_s;
    struct nib_generation generation;

    FILE *sink; ///< collects the text for JSON; NULL: it goes to standard output
    char *text;
    size_t text_size;
    char last;               ///< the last character written to standard output
    enum nib_status written; ///< of the logits; `write_err` tells more
    struct nib_error write_err;
};

static bool on_token(void *user, const struct nib_token_event *event)
{
    struct run *run = user;
    bool good = true;
    if (run->sink) {
        good = fwrite(event->text.ptr, 1, event->text.size, run->sink) == event->text.size;
    } else if (!nib_model_tokenizer(run->model)) {
        char id[16];
        int size = snprintf(id, sizeof id, event->index > 0 ? " %" PRId32 : "%" PRId32, event->id);
        good = output_text(id, (size_t)size);
    } else if (event->text.size > 0) {
        good = output_text(event->text.ptr, event->text.size);
        run->last = event->text.ptr[event->text.size - 1];
    }
    return good && !system_interrupted();
}

static bool on_logits(void *user, uint32_t position, const float *logits, uint32_t vocabulary)
{
    (void)position;
    (void)vocabulary;
    struct run *run = user;
    run->written = nib_logits_writer_append(run->writer, logits, &run->write_err);
    return run->written == NIB_OK;
}

/// Does everything that can fail quickly, so that no long work is in vain.
static enum nib_status prepare(struct run *run, struct nib_error *err)
{
    const struct options *options = run->options;
    enum nib_status status = NIB_OK;
    struct nib_engine_info info;
    struct nib_model_info model;
    TRY(model_open(options->model, &run->model, err));
    TRY(setup_open(options, &run->setup, err));
    TRY(engine_create(run->model, &run->setup, (uint32_t)options->context.value, &run->engine,
                      err));
    TRY(session_open(run->engine, options, &run->session, err));
    TRY(prompt_make(options, run->model, run->session, &run->prompt, err));
    nib_engine_get_info(run->engine, &info);
    nib_model_get_info(run->model, &model);
    nib_session_tokens(run->session, &run->n_prompt);
    run->n_prompt += run->prompt.count;
    if (run->n_prompt > info.context)
        TRY(fail_with(err, NIB_ERROR_CONTEXT_FULL,
                      "%s: the prompt of %zu tokens is longer than the context of %" PRIu32
                      "; shorten it%s",
                      options->model, run->n_prompt, info.context,
                      info.context < model.context ? " or raise --ctx" : ""));
    TRY(nib_session_append(run->session, run->prompt.ids, run->prompt.count, err));
    if (options->save_logits)
        TRY(nib_logits_writer_open(options->save_logits, info.vocabulary, &run->writer, err));
    if (options->json) {
        run->sink = open_memstream(&run->text, &run->text_size);
        if (!run->sink)
            TRY(fail_memory(err));
    }
    TRY(engine_load(run->engine, &run->setup, err));
    run->load_s = (double)(system_now_ns() - run->start_ns) / 1e9;

fail:
    return status;
}

static enum nib_status generate(struct run *run, struct nib_error *err)
{
    const struct options *options = run->options;
    struct nib_text *stops;
    enum nib_status status = prompt_stops(options, &stops, err);
    if (status != NIB_OK)
        return status;
    const struct nib_generate_params *params =
        nib_generate_params(.sampling = sampling_choose(options, run->model),
                            .max_tokens = (uint32_t)options->tokens.value,
                            .ignore_eos = options->ignore_eos, .stops = stops,
                            .n_stops = (uint32_t)options->stops.count, .on_token = on_token,
                            .max_draft = (uint32_t)options->draft.value,
                            .on_logits = run->writer ? on_logits : NULL, .user = run,
                            .continuation = !options->chat);
    system_watch(run->session);
    status = nib_session_generate(run->session, params, &run->generation, err);
    system_watch(NULL);
    free(stops);
    if (!options->json && run->generation.n_generated > 0 && run->last != '\n')
        output_text("\n", 1);
    if (run->written != NIB_OK) {
        *err = run->write_err;
        status = run->written;
    }
    return status;
}

static void write_timing(struct json_out *json, const struct run *run,
                         const struct nib_engine_info *info)
{
    const struct nib_generation *generation = &run->generation;
    uint32_t n = generation->n_generated;
    json_open_object(json, "timing");
    json_put_real(json, "load_s", run->load_s);
    json_put_real(json, "first_token_s", n > 0 ? (double)generation->first_token_ns / 1e9 : NAN);
    json_put_size(json, "prefill_tokens", generation->n_prompt);
    json_put_real(json, "prefill_tps",
                  n > 0 ? report_rate(generation->n_prompt, generation->prefill_ns) : NAN);
    json_put_size(json, "decode_tokens", n);
    json_put_real(json, "decode_tps", report_decode_rate(generation));
    json_put_size(json, "drafted_tokens", generation->n_drafted);
    json_put_size(json, "accepted_tokens", generation->n_accepted);
    json_put_real(json, "host_us_per_token", n > 0 ? (double)info->host_ns / 1e3 / n : NAN);
    json_close_object(json);
}

/// Writes the report as docs/json.md describes it.
static enum nib_status write_json(struct run *run, const struct profile *profile,
                                  struct nib_error *err)
{
    bool complete = !ferror(run->sink);
    complete = fclose(run->sink) == 0 && complete;
    run->sink = NULL;
    if (!complete)
        return fail_memory(err);
    struct nib_engine_info info;
    nib_engine_get_info(run->engine, &info);
    size_t n_tokens;
    const int32_t *tokens = nib_session_tokens(run->session, &n_tokens);
    size_t n_prompt = run->n_prompt;

    struct json_out json = json_begin(stdout);
    json_put_string(&json, "model", run->options->model);
    json_put_string(&json, "device", info.device.name);
    json_put_ids(&json, "prompt_ids", tokens, n_prompt);
    json_put_ids(&json, "ids", tokens + n_prompt, n_tokens - n_prompt);
    json_put_text(&json, "text", run->text, run->text_size);
    json_put_string(&json, "stop", nib_stop_name(run->generation.stop));
    report_execution(&json, run->engine);
    write_timing(&json, run, &info);
    report_memory(&json, &info);
    profile_write(profile, &json);
    json_end(&json);
    return NIB_OK;
}

static void print_rates(const struct run *run)
{
    const struct nib_generation *generation = &run->generation;
    if (!system_is_terminal(stderr) || generation->n_generated == 0)
        return;
    fflush(stdout);
    fprintf(stderr, "[%s; %" PRIu32 " prompt tokens, %.1f tokens/s; %" PRIu32 " generated",
            nib_stop_name(generation->stop), generation->n_prompt,
            report_rate(generation->n_prompt, generation->prefill_ns), generation->n_generated);
    if (generation->n_generated > 1)
        fprintf(stderr, ", %.1f tokens/s", report_decode_rate(generation));
    if (generation->n_drafted > 0)
        fprintf(stderr, "; %" PRIu32 " of %" PRIu32 " drafted accepted", generation->n_accepted,
                generation->n_drafted);
    fprintf(stderr, "; loaded in %.2f s]\n", run->load_s);
}

static enum nib_status report(struct run *run, struct nib_error *err)
{
    enum nib_status status = NIB_OK;
    struct profile profile = {0};
    if (run->options->profile)
        TRY(profile_read(run->engine, &profile, err));
    if (run->options->json) {
        TRY(write_json(run, &profile, err));
    } else {
        print_rates(run);
        TRY(profile_print(&profile, err));
    }

fail:
    profile_free(&profile);
    return status;
}

enum nib_status command_run(const struct options *options, struct nib_error *err)
{
    enum nib_status status = NIB_OK;
    struct run run = {.options = options, .start_ns = system_now_ns()};
    TRY(prepare(&run, err));
    TRY(generate(&run, err));
    if (run.writer)
        TRY(nib_logits_writer_commit(&run.writer, err));
    if (options->save_session)
        TRY(nib_session_save(run.session, options->save_session, err));
    TRY(report(&run, err));

fail:
    if (run.sink)
        fclose(run.sink);
    free(run.text);
    nib_logits_writer_destroy(&run.writer);
    nib_session_destroy(&run.session);
    nib_engine_destroy(&run.engine);
    setup_close(&run.setup);
    prompt_free(&run.prompt);
    nib_model_destroy(&run.model);
    return status;
}
