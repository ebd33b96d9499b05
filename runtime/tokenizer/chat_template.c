/// Chat templates without a Jinja interpreter: the model's own template is recognised as one of a
/// few families, and the conversation written by the family's rules.
#include "runtime/base/params.h"
#include "runtime/base/status.h"
#include "runtime/tokenizer/chat_family.h"
#include "runtime/tokenizer/internal.h"

#include <stdlib.h>
#include <string.h>

/// Llama 3.1 and later put this before every system text. The day is that which their templates
/// have where none is given, so that a conversation does not vary with the calendar.
#define LLAMA3_MARK "Cutting Knowledge Date: December 2023"
#define LLAMA3_PREAMBLE LLAMA3_MARK "\nToday Date: 26 Jul 2024\n\n"
#define THINK_BEGIN "<think>\n"
#define THINK_END "</think>"

/// Copies a Jinja text to the arena with "\n" of its string literals as line feeds.
static char *unescape_line_feeds(struct nib_arena *arena, struct nib_text jinja, size_t *out_size)
{
    char *text = nib_arena_text(arena, jinja.size ? jinja.ptr : "", jinja.size);
    if (!text)
        return NULL;
    size_t size = 0;
    for (size_t i = 0; i < jinja.size; i++) {
        bool escaped = jinja.ptr[i] == '\\' && i + 1 < jinja.size && jinja.ptr[i + 1] == 'n';
        text[size++] = escaped ? '\n' : jinja.ptr[i];
        i += escaped;
    }
    *out_size = size;
    return text;
}

/// Finds the system text that the template itself has for conversations without one: a whole system
/// turn within one string literal.
static struct nib_text find_default_system(struct nib_text jinja,
                                           const struct nib_chat_family *family)
{
    size_t begin_size = strlen(family->system_begin);
    if (begin_size == 0 || family->system_in_user)
        return (struct nib_text){0};
    for (size_t at = 0; (at = nib_text_find(jinja, at, family->system_begin)) != SIZE_MAX;) {
        size_t begin = at + begin_size;
        size_t end = begin;
        while (end < jinja.size && !strchr("'\"{}", jinja.ptr[end]) && jinja.ptr[end] != '<')
            end++;
        struct nib_text rest = {jinja.ptr + end, jinja.size - end};
        size_t end_mark = strcspn(family->system_end, "\n");
        if (end > begin && end_mark > 0 && rest.size >= end_mark &&
            memcmp(rest.ptr, family->system_end, end_mark) == 0)
            return (struct nib_text){jinja.ptr + begin, end - begin};
        at = begin;
    }
    return (struct nib_text){0};
}

enum nib_status nib_chat_recognise(struct nib_tokenizer *tokenizer, struct nib_text jinja,
                                   struct nib_error *err)
{
    struct nib_chat_style *style = &tokenizer->chat;
    style->has_template = jinja.size > 0;
    style->bos = tokenizer->add_bos;
    if (!style->has_template)
        return NIB_OK;
    size_t size = 0;
    const char *copy = unescape_line_feeds(&tokenizer->arena, jinja, &size);
    if (!copy)
        return nib_fail_memory(err);
    struct nib_text text = {copy, size};
    style->family = nib_chat_family_recognise(text);
    if (!style->family)
        return NIB_OK;

    style->bos = style->bos || nib_text_find(text, 0, "bos_token") != SIZE_MAX;
    style->drops_thinking = nib_text_find(text, 0, THINK_END) != SIZE_MAX;
    style->trims_after_thinking = nib_text_find(text, 0, "lstrip(") != SIZE_MAX;
    style->default_system = find_default_system(text, style->family);
    if (strcmp(style->family->name, "llama3") == 0 &&
        nib_text_find(text, 0, LLAMA3_MARK) != SIZE_MAX)
        style->system_preamble = (struct nib_text){LLAMA3_PREAMBLE, strlen(LLAMA3_PREAMBLE)};
    const char *thinks =
        nib_arena_printf(&tokenizer->arena, "%s" THINK_BEGIN, style->family->generation);
    if (!thinks)
        return nib_fail_memory(err);
    style->thinks = style->family->generation[0] && nib_text_find(text, 0, thinks) != SIZE_MAX &&
                    nib_text_find(text, 0, "enable_thinking") == SIZE_MAX;
    return NIB_OK;
}

/// A conversation being written.
struct chat_writer {
    const struct nib_tokenizer *tokenizer;
    const struct nib_chat_family *family;
    const struct nib_chat_style *style;
    struct nib_buffer text;
    struct nib_range_list spoken; ///< what of the text the speakers' own words are
};

static enum nib_status write_token(struct chat_writer *writer, int32_t id, struct nib_error *err)
{
    // A file's token can be any bytes; the text that is encoded is UTF-8.
    return id < 0 ? NIB_OK
                  : nib_append_utf8(&writer->text, writer->tokenizer->tokens[id].text, err);
}

/// Writes text of the template.
static enum nib_status write_template(struct chat_writer *writer, const char *text,
                                      struct nib_error *err)
{
    enum nib_status status = NIB_OK;
    while (*text) {
        size_t size = strcspn(text, NIB_CHAT_BOS NIB_CHAT_EOS);
        NIB_TRY(nib_buffer_append(&writer->text, text, size, err));
        text += size;
        if (!*text)
            break;
        bool is_bos = *text++ == NIB_CHAT_BOS[0];
        NIB_TRY(write_token(writer, is_bos ? writer->tokenizer->bos : writer->tokenizer->eos, err));
    }
fail:
    return status;
}

/// Writes a speaker's own words.
static enum nib_status write_spoken(struct chat_writer *writer, struct nib_text text,
                                    struct nib_error *err)
{
    size_t begin = writer->text.size;
    enum nib_status status = nib_append_utf8(&writer->text, text, err);
    if (status != NIB_OK)
        return status;
    return nib_range_list_add(&writer->spoken, (struct nib_range){begin, writer->text.size}, err);
}

static struct nib_text trimmed(struct nib_text text)
{
    size_t leading = nib_leading_space(text);
    text = (struct nib_text){text.ptr + leading, text.size - leading};
    text.size -= nib_trailing_space(text);
    return text;
}

/// Returns an earlier answer without its reasoning.
static struct nib_text without_thinking(const struct nib_chat_style *style, struct nib_text text)
{
    size_t end = SIZE_MAX;
    for (size_t at = 0; (at = nib_text_find(text, at, THINK_END)) != SIZE_MAX;)
        end = at += strlen(THINK_END);
    if (end == SIZE_MAX)
        return text;
    while (style->trims_after_thinking && end < text.size && text.ptr[end] == '\n')
        end++;
    return (struct nib_text){text.ptr + end, text.size - end};
}

static enum nib_status write_system(struct chat_writer *writer, struct nib_text text,
                                    struct nib_error *err)
{
    const struct nib_chat_family *family = writer->family;
    struct nib_text preamble = writer->style->system_preamble;
    enum nib_status status = NIB_OK;
    NIB_TRY(write_template(writer, family->system_begin, err));
    NIB_TRY(nib_buffer_append(&writer->text, preamble.ptr, preamble.size, err));
    NIB_TRY(write_spoken(writer, text, err));
    NIB_TRY(write_template(writer, family->system_end, err));
fail:
    return status;
}

/// Returns the index of the last message of a user, or `n_messages`.
static size_t find_last_user(const struct nib_chat_message *messages, size_t n_messages)
{
    for (size_t i = n_messages; i-- > 0;)
        if (messages[i].role == NIB_CHAT_USER)
            return i;
    return n_messages;
}

/// Writes the turns. A system text that belongs into a user's turn opens that turn.
static enum nib_status write_messages(struct chat_writer *writer,
                                      const struct nib_chat_message *messages, size_t n_messages,
                                      struct nib_error *err)
{
    const struct nib_chat_family *family = writer->family;
    enum nib_status status = NIB_OK;
    size_t last_user = find_last_user(messages, n_messages);
    bool turn_is_open = false;
    for (size_t i = 0; i < n_messages; i++) {
        struct nib_text text = messages[i].text.size ? messages[i].text : (struct nib_text){"", 0};
        if (messages[i].role <= NIB_CHAT_ASSISTANT && (family->trims & 1u << messages[i].role))
            text = trimmed(text);
        switch (messages[i].role) {
        case NIB_CHAT_SYSTEM:
            if (family->system_in_user && !turn_is_open)
                NIB_TRY(write_template(writer, family->user_begin, err));
            turn_is_open = family->system_in_user;
            NIB_TRY(write_system(writer, text, err));
            break;
        case NIB_CHAT_USER:
            if (!turn_is_open)
                NIB_TRY(write_template(writer, family->user_begin, err));
            turn_is_open = false;
            NIB_TRY(write_spoken(writer, text, err));
            NIB_TRY(write_template(writer, family->user_end, err));
            break;
        case NIB_CHAT_ASSISTANT:
            if (turn_is_open)
                NIB_TRY(write_template(writer, family->user_end, err));
            turn_is_open = false;
            if (writer->style->drops_thinking && i < last_user)
                text = without_thinking(writer->style, text);
            NIB_TRY(write_template(writer, family->assistant_begin, err));
            NIB_TRY(write_spoken(writer, text, err));
            NIB_TRY(write_template(writer, family->assistant_end, err));
            NIB_TRY(write_template(writer, family->assistant_tail, err));
            break;
        default:
            NIB_TRY(nib_fail(err, NIB_ERROR_ARGUMENT, "message %zu has an unknown role %d", i,
                             (int)messages[i].role));
        }
    }
    if (turn_is_open)
        NIB_TRY(write_template(writer, family->user_end, err));
fail:
    return status;
}

static enum nib_status write_conversation(struct chat_writer *writer,
                                          const struct nib_chat_message *messages,
                                          size_t n_messages, const struct nib_chat_params *params,
                                          struct nib_error *err)
{
    const struct nib_chat_family *family = writer->family;
    const struct nib_chat_style *style = writer->style;
    enum nib_status status = NIB_OK;
    bool continues = params->continue_conversation;
    bool has_system = n_messages > 0 && messages[0].role == NIB_CHAT_SYSTEM;
    bool turns_have_bos = strchr(family->user_begin, NIB_CHAT_BOS[0]) != NULL;
    if (continues) {
        NIB_TRY(write_template(writer, family->assistant_tail, err));
    } else {
        if (style->bos && !turns_have_bos)
            NIB_TRY(write_token(writer, writer->tokenizer->bos, err));
        if (!has_system && (style->default_system.size || style->system_preamble.size))
            NIB_TRY(write_system(writer, style->default_system, err));
    }
    NIB_TRY(write_messages(writer, messages, n_messages, err));
    if (!params->no_generation_prompt) {
        NIB_TRY(write_template(writer, family->generation, err));
        if (style->thinks)
            NIB_TRY(write_template(writer, THINK_BEGIN, err));
    }
fail:
    return status;
}

/// Chooses the family; the model's own style holds for its own family alone.
static enum nib_status choose_family(struct chat_writer *writer, const char *name,
                                     struct nib_chat_style *plain, struct nib_error *err)
{
    const struct nib_chat_style *own = &writer->tokenizer->chat;
    writer->family = name ? nib_chat_family_find(name) : own->family;
    *plain = (struct nib_chat_style){.bos = own->bos};
    writer->style = writer->family == own->family ? own : plain;
    if (writer->family)
        return NIB_OK;

    struct nib_buffer names = {0};
    enum nib_status status = NIB_OK;
    for (uint32_t i = 0; nib_chat_family_at(i); i++)
        NIB_TRY(nib_buffer_printf(&names, err, "%s%s", i ? ", " : "", nib_chat_family_at(i)->name));
    if (name)
        status =
            nib_fail(err, NIB_ERROR_NOT_FOUND,
                     "no chat template '%s': --chat-template takes one of %s", name, names.data);
    else
        status = nib_fail(
            err, NIB_ERROR_NOT_FOUND, "the model %s: choose one with --chat-template, of %s",
            own->has_template ? "has a chat template of an unknown family" : "has no chat template",
            names.data);
fail:
    nib_buffer_free(&names);
    return status;
}

enum nib_status nib_tokenizer_encode_chat(const struct nib_tokenizer *tokenizer,
                                          const struct nib_chat_message *messages,
                                          size_t n_messages, const struct nib_chat_params *params,
                                          int32_t **out_ids, size_t *out_count,
                                          struct nib_error *err)
{
    *out_ids = NULL;
    *out_count = 0;
    struct chat_writer writer = {.tokenizer = tokenizer};
    struct nib_chat_params current;
    struct nib_chat_style plain;
    uint8_t *literal = NULL;
    enum nib_status status = NIB_OK;
    NIB_TRY(nib_params_read(&current, sizeof current, params, err));
    if (!tokenizer)
        NIB_TRY(nib_fail(err, NIB_ERROR_ARGUMENT, "tokenizer is NULL: the model has none"));
    NIB_TRY(choose_family(&writer, current.template_name, &plain, err));
    NIB_TRY(write_conversation(&writer, messages, n_messages, &current, err));

    literal = calloc(writer.text.size + 1, 1);
    if (!literal)
        NIB_TRY(nib_fail_memory(err));
    for (size_t i = 0; i < writer.spoken.count; i++) {
        struct nib_range range = writer.spoken.ranges[i];
        memset(literal + range.begin, 1, range.end - range.begin);
    }
    struct nib_encode_source source = {
        .text = nib_buffer_text(&writer.text),
        .literal = literal,
        .parse_special = true,
    };
    NIB_TRY(nib_encode_source(tokenizer, &source, out_ids, out_count, err));
fail:
    free(literal);
    nib_buffer_free(&writer.text);
    nib_range_list_free(&writer.spoken);
    return status;
}

const char *nib_chat_template_name(uint32_t index)
{
    const struct nib_chat_family *family = nib_chat_family_at(index);
    return family ? family->name : NULL;
}
