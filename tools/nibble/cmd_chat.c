#include "tools/nibble/commands.h"
#include "tools/nibble/engine_setup.h"
#include "tools/nibble/line_editor.h"
#include "tools/nibble/message.h"
#include "tools/nibble/output.h"
#include "tools/nibble/profile.h"
#include "tools/nibble/prompt.h"
#include "tools/nibble/report.h"
#include "tools/nibble/sampling.h"
#include "tools/nibble/system.h"
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

/// A conversation. The session keeps its tokens and their cache from turn to turn.
struct chat {
    const struct options *options;
    struct nib_model *model;
    const struct nib_tokenizer *tokenizer;
    struct setup setup;
    struct nib_engine *engine;
    struct nib_session *session;
    struct line_editor *editor;
    struct nib_sampling sampling;
    struct nib_text *stops;
    struct nib_text system; ///< ptr NULL: none was given
    char *own_system;       ///< its memory where it was typed, else NULL
    int32_t end_of_turn;    ///< −1 where the template has none
    struct nib_generation last;
    char last_character;
};

static enum nib_status prepare(struct chat *chat, struct nib_error *err)
{
    const struct options *options = chat->options;
    enum nib_status status = NIB_OK;
    TRY(model_open(options->model, &chat->model, err));
    TRY(prompt_tokenizer(chat->model, options->model, &chat->tokenizer, err));
    TRY(prompt_end_of_turn(options, chat->tokenizer, &chat->end_of_turn, err));
    chat->sampling = sampling_choose(options, chat->model);
    if (options->system)
        chat->system = (struct nib_text){options->system, strlen(options->system)};
    TRY(prompt_stops(options, &chat->stops, err));
    TRY(setup_open(options, &chat->setup, err));
    TRY(engine_create(chat->model, &chat->setup, (uint32_t)options->context.value, &chat->engine,
                      err));
    TRY(session_open(chat->engine, options, &chat->session, err));
    TRY(engine_load(chat->engine, &chat->setup, err));
    chat->editor = line_editor_create();
    if (!chat->editor)
        TRY(fail_memory(err));

fail:
    return status;
}

/// Renders a conversation of the user's first message, and of the system message unless its ptr is
/// NULL, into ids to be freed.
static enum nib_status render(const struct chat *chat, struct nib_text system, struct nib_text user,
                              int32_t **out_ids, size_t *out_count, struct nib_error *err)
{
    struct nib_chat_message messages[2] = {{NIB_CHAT_SYSTEM, system}};
    size_t n_messages = system.ptr ? 1 : 0;
    messages[n_messages++] = (struct nib_chat_message){NIB_CHAT_USER, user};
    const struct nib_chat_params *params =
        nib_chat_params(.template_name = chat->options->chat_template);
    return nib_tokenizer_encode_chat(chat->tokenizer, messages, n_messages, params, out_ids,
                                     out_count, err);
}

/// Returns how many tokens at the start are the same.
static size_t count_common(const int32_t *a, size_t n_a, const int32_t *b, size_t n_b)
{
    size_t common = 0;
    while (common < n_a && common < n_b && a[common] == b[common])
        common++;
    return common;
}

/// Returns the first place behind an end token in `ids[from .. to)`, or 0.
static size_t find_end(const struct chat *chat, const int32_t *ids, size_t from, size_t to)
{
    for (size_t i = from; i < to; i++) {
        if (nib_tokenizer_is_end(chat->tokenizer, ids[i]))
            return i + 1;
    }
    return 0;
}

/// Returns where the system turn of a loaded session ends, whose text is not known; 0 where it has
/// none. Conversations that differ in one message tell where the template puts messages.
static enum nib_status find_system_end(const struct chat *chat, size_t *out_end,
                                       struct nib_error *err)
{
    const struct nib_text a = {"a", 1}, b = {"b", 1};
    enum nib_status status = NIB_OK;
    int32_t *ids = NULL, *other_system = NULL, *other_user = NULL;
    size_t count, n_other_system, n_other_user, n_tokens;
    *out_end = 0;
    TRY(render(chat, a, a, &ids, &count, err));
    TRY(render(chat, b, a, &other_system, &n_other_system, err));
    TRY(render(chat, a, b, &other_user, &n_other_user, err));
    const int32_t *tokens = nib_session_tokens(chat->session, &n_tokens);
    size_t header = count_common(ids, count, other_system, n_other_system);
    size_t user = count_common(ids, count, other_user, n_other_user);
    bool has_turn = find_end(chat, ids, header, user) > 0;
    if (has_turn && count_common(ids, count, tokens, n_tokens) >= header)
        *out_end = find_end(chat, tokens, header, n_tokens);

fail:
    nib_ids_free(ids);
    nib_ids_free(other_system);
    nib_ids_free(other_user);
    return status;
}

/// Returns how many tokens at the start stay when the conversation is cut: those up to the end of
/// the system message, or the beginning-of-sequence token.
static enum nib_status count_kept(const struct chat *chat, size_t *out_count, struct nib_error *err)
{
    int32_t *ids;
    size_t count, n_tokens;
    enum nib_status status =
        render(chat, chat->system, (struct nib_text){"a", 1}, &ids, &count, err);
    if (status != NIB_OK)
        return status;
    const int32_t *tokens = nib_session_tokens(chat->session, &n_tokens);
    struct nib_tokenizer_info info;
    nib_tokenizer_get_info(chat->tokenizer, &info);
    size_t common = count_common(ids, count, tokens, n_tokens), end = 0;
    for (size_t next = find_end(chat, ids, 0, common); next > 0;
         next = find_end(chat, ids, end, common))
        end = next;
    nib_ids_free(ids);
    if (end == 0 && !chat->system.ptr)
        status = find_system_end(chat, &end, err);
    bool has_bos = n_tokens > 0 && info.add_bos && tokens[0] == info.bos;
    // Some templates have no turn for the system message and put it before the user's first one.
    if (end == 0)
        end = chat->system.ptr ? common : has_bos;
    *out_count = end;
    return status;
}

/// Drops at least half of the tokens behind the first `keep`, up to the end of a turn.
static enum nib_status shorten(struct chat *chat, size_t keep, struct nib_error *err)
{
    size_t n_tokens;
    const int32_t *tokens = nib_session_tokens(chat->session, &n_tokens);
    size_t end = keep + (n_tokens - keep + 1) / 2;
    while (end < n_tokens && !nib_tokenizer_is_end(chat->tokenizer, tokens[end - 1]))
        end++;
    message_print("the context is full: the oldest %zu tokens of the conversation are dropped",
                  end - keep);
    return nib_session_shift(chat->session, keep, end - keep, err);
}

/// Encodes the user's message to follow what there is.
static enum nib_status encode_message(const struct chat *chat, struct nib_text text,
                                      int32_t **out_ids, size_t *out_count, struct nib_error *err)
{
    struct nib_chat_message messages[2];
    size_t n_messages = 0, n_tokens;
    nib_session_tokens(chat->session, &n_tokens);
    if (n_tokens == 0 && chat->system.ptr)
        messages[n_messages++] = (struct nib_chat_message){NIB_CHAT_SYSTEM, chat->system};
    messages[n_messages++] = (struct nib_chat_message){NIB_CHAT_USER, text};
    const struct nib_chat_params *params =
        nib_chat_params(.template_name = chat->options->chat_template,
                        .continue_conversation = n_tokens > 0);
    return nib_tokenizer_encode_chat(chat->tokenizer, messages, n_messages, params, out_ids,
                                     out_count, err);
}

/// Drops old turns until `count` more tokens fit. `*out_fits` is false where they cannot, which the
/// user is told.
static enum nib_status make_room(struct chat *chat, size_t count, bool *out_fits,
                                 struct nib_error *err)
{
    size_t n_tokens, keep;
    struct nib_engine_info info;
    nib_engine_get_info(chat->engine, &info);
    enum nib_status status = count_kept(chat, &keep, err);
    if (status != NIB_OK)
        return status;
    *out_fits = keep + count <= info.context;
    if (!*out_fits)
        message_print("the message of %zu tokens does not fit: the context holds %" PRIu32
                      "; shorten it or raise --ctx",
                      count, info.context);
    nib_session_tokens(chat->session, &n_tokens);
    while (status == NIB_OK && *out_fits && n_tokens + count > info.context) {
        status = shorten(chat, keep, err);
        nib_session_tokens(chat->session, &n_tokens);
    }
    return status;
}

/// Appends the user's message, and before it what the last turn still lacks. `*out_fits` is false
/// where it does not fit and nothing was appended; `*out_before` is the number of tokens before it.
static enum nib_status append_message(struct chat *chat, struct nib_text text, size_t *out_before,
                                      bool *out_fits, struct nib_error *err)
{
    enum nib_status status = NIB_OK;
    int32_t *ids = NULL;
    size_t count;
    TRY(encode_message(chat, text, &ids, &count, err));
    TRY(make_room(chat, count + 1, out_fits, err));
    const int32_t *tokens = nib_session_tokens(chat->session, out_before);
    bool cut_off =
        *out_before > 0 && !nib_tokenizer_is_end(chat->tokenizer, tokens[*out_before - 1]);
    if (*out_fits && cut_off && chat->end_of_turn >= 0)
        TRY(nib_session_append(chat->session, &chat->end_of_turn, 1, err));
    if (*out_fits)
        TRY(nib_session_append(chat->session, ids, count, err));

fail:
    nib_ids_free(ids);
    return status;
}

static bool on_token(void *user, const struct nib_token_event *event)
{
    struct chat *chat = user;
    bool good = true;
    if (event->text.size > 0) {
        good = output_text(event->text.ptr, event->text.size);
        chat->last_character = event->text.ptr[event->text.size - 1];
    }
    return good && !system_interrupted();
}

/// Lets the model answer.
static enum nib_status generate(struct chat *chat, struct nib_error *err)
{
    const struct options *options = chat->options;
    size_t keep;
    struct nib_engine_info info;
    nib_engine_get_info(chat->engine, &info);
    enum nib_status status = count_kept(chat, &keep, err);
    if (status != NIB_OK)
        return status;
    // Where old turns make room, an answer without end needs another one.
    uint32_t most = options->tokens.given ? (uint32_t)options->tokens.value : info.context;
    const struct nib_generate_params *params =
        nib_generate_params(.sampling = chat->sampling, .max_tokens = most,
                            .ignore_eos = options->ignore_eos, .stops = chat->stops,
                            .n_stops = (uint32_t)options->stops.count, .on_token = on_token,
                            .user = chat, .max_draft = (uint32_t)options->draft.value,
                            .shift = true, .shift_keep = (uint32_t)keep);
    chat->last_character = '\n';
    system_watch(chat->session);
    status = nib_session_generate(chat->session, params, &chat->last, err);
    system_watch(NULL);
    if (chat->last_character != '\n')
        output_text("\n", 1);
    if (chat->last.n_dropped > 0)
        message_print("the context was full: the oldest %" PRIu32 " tokens of the conversation "
                      "were dropped",
                      chat->last.n_dropped);
    if (chat->last.stop == NIB_STOP_LENGTH && !options->tokens.given)
        message_print("the answer was ended after %" PRIu32 " tokens; -n sets another limit", most);
    return status;
}

/// Answers one message. A message that does not fit is told to the user, and is no error.
static enum nib_status answer(struct chat *chat, struct nib_text text, struct nib_error *err)
{
    size_t before;
    bool fits = false;
    enum nib_status status = append_message(chat, text, &before, &fits, err);
    if (status != NIB_OK || !fits)
        return status;
    status = generate(chat, err);
    if (system_interrupted()) {
        system_forget_interrupt();
        message_print("stopped");
        // Without a word of the answer the message was never said. A failure stays the result.
        if (status == NIB_OK && chat->last.n_generated == 0 && chat->last.n_dropped == 0)
            status = nib_session_truncate(chat->session, before, err);
    }
    return status;
}

static double rate(uint64_t count, uint64_t ns)
{
    return ns > 0 ? report_rate(count, ns) : 0.0;
}

static void print_stats(const struct chat *chat)
{
    const struct nib_generation *last = &chat->last;
    struct nib_engine_info info;
    size_t n_tokens;
    nib_engine_get_info(chat->engine, &info);
    nib_session_tokens(chat->session, &n_tokens);
    printf("read %" PRIu32 " tokens at %.1f/s, wrote %" PRIu32 " at %.1f/s; "
           "%zu of %" PRIu32 " tokens of context are used\n",
           last->n_prompt, rate(last->n_prompt, last->prefill_ns), last->n_generated,
           rate(last->n_generated > 0 ? last->n_generated - 1 : 0, last->decode_ns), n_tokens,
           info.context);
}

/// Forgets the conversation.
static enum nib_status reset(struct chat *chat, struct nib_error *err)
{
    chat->last = (struct nib_generation){0};
    return nib_session_truncate(chat->session, 0, err);
}

static enum nib_status set_system(struct chat *chat, struct nib_text text, struct nib_error *err)
{
    char *own = malloc(text.size + 1);
    if (!own)
        return fail_memory(err);
    memcpy(own, text.ptr, text.size);
    free(chat->own_system);
    chat->own_system = own;
    chat->system = (struct nib_text){own, text.size};
    return reset(chat, err);
}

/// Returns whether `line` is the command `name`, alone or with text behind it, which it gives.
static bool is_command(struct nib_text line, const char *name, struct nib_text *out_rest)
{
    size_t size = strlen(name);
    if (line.size < size || memcmp(line.ptr, name, size) != 0 ||
        (line.size > size && line.ptr[size] != ' '))
        return false;
    while (size < line.size && line.ptr[size] == ' ')
        size++;
    *out_rest = (struct nib_text){line.ptr + size, line.size - size};
    return true;
}

/// Obeys a line that begins with a slash. `*out_quit` tells whether that was the wish.
static enum nib_status obey(struct chat *chat, struct nib_text line, bool *out_quit,
                            struct nib_error *err)
{
    struct nib_text rest;
    if (is_command(line, "/quit", &rest) || is_command(line, "/exit", &rest)) {
        *out_quit = true;
    } else if (is_command(line, "/reset", &rest)) {
        return reset(chat, err);
    } else if (is_command(line, "/system", &rest)) {
        return set_system(chat, rest, err);
    } else if (is_command(line, "/stats", &rest)) {
        print_stats(chat);
    } else if (is_command(line, "/help", &rest)) {
        fputs("/reset         forget the conversation\n"
              "/system TEXT   set the system message and forget the conversation\n"
              "/stats         how fast the last answer was, and how full the context is\n"
              "/quit          end, as Ctrl-D does\n"
              "A backslash at the end of a line continues it. Ctrl-C stops an answer.\n",
              stdout);
    } else {
        message_print("unknown command %.*s; /help lists them", (int)strcspn(line.ptr, " \n"),
                      line.ptr);
    }
    return NIB_OK;
}

/// Reads a message: one line, or more where a backslash ends all but the last. Its memory, with a
/// NUL behind it, is to be freed.
static enum line_result read_message(struct chat *chat, char **out_text, size_t *out_size)
{
    char *text = NULL;
    size_t size = 0;
    bool more = true;
    while (more) {
        const char *line;
        size_t length;
        enum line_result result =
            line_editor_read(chat->editor, text ? "| " : "> ", &line, &length);
        if (result == LINE_END && text)
            break;
        char *grown = result == LINE_TEXT ? realloc(text, size + length + 2) : NULL;
        if (!grown) {
            free(text);
            return result == LINE_TEXT ? LINE_FAILED : result;
        }
        text = grown;
        memcpy(text + size, line, length);
        size += length;
        more = length > 0 && line[length - 1] == '\\';
        if (more)
            text[size - 1] = '\n';
    }
    text[size] = '\0';
    *out_text = text;
    *out_size = size;
    return LINE_TEXT;
}

static enum nib_status converse(struct chat *chat, struct nib_error *err)
{
    enum nib_status status = NIB_OK;
    bool quit = false;
    while (status == NIB_OK && !quit && !ferror(stdout)) {
        char *text = NULL;
        size_t size = 0;
        enum line_result result = read_message(chat, &text, &size);
        if (result == LINE_FAILED)
            return fail_with(err, NIB_ERROR_IO, "standard input: cannot read a line");
        if (result == LINE_END)
            return NIB_OK;
        if (result == LINE_INTERRUPTED)
            continue;
        if (size > 0)
            line_editor_remember(chat->editor, text);
        struct nib_text line = {text, size};
        if (size > 0 && text[0] == '/')
            status = obey(chat, line, &quit, err);
        else if (size > 0)
            status = answer(chat, line, err);
        free(text);
    }
    return status;
}

enum nib_status command_chat(const struct options *options, struct nib_error *err)
{
    enum nib_status status = NIB_OK;
    struct chat chat = {.options = options};
    TRY(prepare(&chat, err));
    if (system_is_terminal(stdin))
        message_print("%s; /help lists commands, Ctrl-D ends", options->model);
    TRY(converse(&chat, err));
    if (options->save_session)
        TRY(nib_session_save(chat.session, options->save_session, err));
    if (options->profile) {
        struct profile profile;
        TRY(profile_read(chat.engine, &profile, err));
        status = profile_print(&profile, err);
        profile_free(&profile);
    }

fail:
    line_editor_destroy(&chat.editor);
    nib_session_destroy(&chat.session);
    nib_engine_destroy(&chat.engine);
    setup_close(&chat.setup);
    nib_model_destroy(&chat.model);
    free(chat.stops);
    free(chat.own_system);
    return status;
}
