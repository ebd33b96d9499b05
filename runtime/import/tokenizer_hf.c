#include "runtime/import/tokenizer_hf.h"

#include "runtime/base/buffer.h"
#include "runtime/base/os.h"
#include "runtime/base/status.h"
#include "runtime/import/tokenizer_hf_reader.h"

#include <inttypes.h>
#include <string.h>

/// Ends of sequence of one generation_config.json; the longest list known has 5.
enum { MAX_ENDS = 64 };

/// A template has some 10 KB.
enum { MAX_TEMPLATE_SIZE = 1 << 20 };

/// Returns the text of a special token as a configuration file gives it, as a string or as an
/// object with a content, or an empty text.
static struct nib_text token_text(const json_t *config, const char *key)
{
    struct nib_text text = nib_hf_text(config, key);
    return text.size ? text : nib_hf_text(json_object_get(config, key), "content");
}

/// Returns the id of the token that the configuration files name by `key`, or -1.
static int32_t find_named(const struct nib_hf_reader *reader, const char *key)
{
    struct nib_text text = token_text(reader->files->tokenizer_config, key);
    if (!text.size)
        text = token_text(reader->files->special_tokens_map, key);
    return text.size ? nib_hf_find(reader, text) : -1;
}

/// Returns the token that a post-processor puts first, or -1. Only a TemplateProcessing has one.
static int32_t find_first_token(const struct nib_hf_reader *reader, const json_t *processor,
                                bool is_nested)
{
    struct nib_text type = nib_hf_text(processor, "type");
    if (nib_hf_text_is(type, "Sequence") && !is_nested) {
        const json_t *list = json_object_get(processor, "processors");
        int32_t id = -1;
        for (size_t i = 0; i < json_array_size(list) && id < 0; i++)
            id = find_first_token(reader, json_array_get(list, i), true);
        return id;
    }
    if (!nib_hf_text_is(type, "TemplateProcessing"))
        return -1;
    const json_t *first = json_array_get(json_object_get(processor, "single"), 0);
    struct nib_text name = nib_hf_text(json_object_get(first, "SpecialToken"), "id");
    return name.size ? nib_hf_find(reader, name) : -1;
}

static enum nib_status read_ends(struct nib_hf_reader *reader, struct nib_error *err)
{
    struct nib_vocab *vocab = &reader->vocab;
    const json_t *value = json_object_get(reader->files->generation_config, "eos_token_id");
    size_t count = json_is_array(value) ? json_array_size(value) : json_is_number(value);
    if (count > MAX_ENDS)
        return nib_fail(err, NIB_ERROR_FORMAT, "generation_config.json: %zu ends of sequence",
                        count);
    int32_t *ends = nib_arena_array(&reader->arena, MAX_ENDS, sizeof *ends);
    if (!ends)
        return nib_fail_memory(err);
    for (size_t i = 0; i < count; i++) {
        const json_t *item = json_is_array(value) ? json_array_get(value, i) : value;
        double id = json_number_value(item);
        if (!json_is_number(item) || !(id >= 0 && id < vocab->n_tokens))
            return nib_fail(err, NIB_ERROR_FORMAT,
                            "generation_config.json: eos_token_id is no id of the %" PRIu32
                            " tokens",
                            vocab->n_tokens);
        ends[i] = (int32_t)id;
    }
    vocab->ends = ends;
    vocab->n_ends = (uint32_t)count;
    return NIB_OK;
}

static enum nib_status read_special_tokens(struct nib_hf_reader *reader, struct nib_error *err)
{
    struct nib_vocab *vocab = &reader->vocab;
    const json_t *config = reader->files->tokenizer_config;
    enum nib_status status = read_ends(reader, err);
    if (status != NIB_OK)
        return status;
    int32_t first = find_first_token(
        reader, json_object_get(reader->files->tokenizer, "post_processor"), false);
    vocab->bos = find_named(reader, "bos_token");
    if (first >= 0) {
        vocab->bos = first;
        vocab->add_bos = true;
    }
    // An explicit setting makes transformers rebuild the post-processor.
    nib_json_get_bool(config, "add_bos_token", &vocab->add_bos);
    vocab->eos = find_named(reader, "eos_token");
    if (vocab->eos < 0 && vocab->n_ends)
        vocab->eos = vocab->ends[0];
    return NIB_OK;
}

/// Finds the chat template: one text, or a list of named ones, of which "default" is taken.
static struct nib_text find_chat_template(const struct nib_tokenizer_files *files)
{
    if (files->chat_template.size)
        return files->chat_template;
    const json_t *list = json_object_get(files->tokenizer_config, "chat_template");
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *entry = json_array_get(list, i);
        if (nib_hf_text_is(nib_hf_text(entry, "name"), "default"))
            return nib_hf_text(entry, "template");
    }
    return nib_hf_text(files->tokenizer_config, "chat_template");
}

static enum nib_status use_files(const struct nib_tokenizer_files *files, nib_use_vocab_fn *use,
                                 void *user, struct nib_error *err)
{
    struct nib_hf_reader reader = {.files = files};
    enum nib_status status = NIB_OK;
    if (!json_is_object(files->tokenizer))
        NIB_TRY(nib_fail(err, NIB_ERROR_FORMAT, "not a JSON object"));
    NIB_TRY(nib_hf_read_text_steps(&reader, err));
    NIB_TRY(nib_hf_read_model(&reader, err));
    NIB_TRY(read_special_tokens(&reader, err));
    reader.vocab.chat_template = find_chat_template(files);
    NIB_TRY(use(user, &reader.vocab, err));
fail:
    nib_string_map_free(&reader.by_text);
    nib_arena_free(&reader.arena);
    return nib_fail_context(err, status, "tokenizer.json");
}

static enum nib_status create_tokenizer(void *user, const struct nib_vocab *vocab,
                                        struct nib_error *err)
{
    return nib_tokenizer_create(vocab, user, err);
}

enum nib_status nib_tokenizer_from_files(const struct nib_tokenizer_files *files,
                                         struct nib_tokenizer **out_tokenizer,
                                         struct nib_error *err)
{
    *out_tokenizer = NULL;
    return use_files(files, create_tokenizer, out_tokenizer, err);
}

/// Maps `folder`/chat_template.jinja; a missing file is an empty map.
static enum nib_status open_chat_template(const char *folder, struct nib_file_map *out_map,
                                          struct nib_error *err)
{
    *out_map = (struct nib_file_map){0};
    struct nib_buffer path = {0};
    enum nib_status status = NIB_OK;
    NIB_TRY(nib_buffer_printf(&path, err, "%s/chat_template.jinja", folder));
    if (nib_path_kind(path.data) == NIB_PATH_FILE)
        NIB_TRY(nib_file_map_open(path.data, out_map, err));
    if (out_map->size > MAX_TEMPLATE_SIZE)
        NIB_TRY(nib_fail(err, NIB_ERROR_FORMAT, "%s: longer than %d bytes", path.data,
                         MAX_TEMPLATE_SIZE));
fail:
    nib_buffer_free(&path);
    return status;
}

enum nib_status nib_vocab_from_folder(const char *folder, nib_use_vocab_fn *use, void *user,
                                      struct nib_error *err)
{
    struct nib_tokenizer_files files = {0};
    struct nib_file_map jinja = {0};
    enum nib_status status = NIB_OK;
    NIB_TRY(nib_json_open(folder, "tokenizer.json", false, &files.tokenizer, err));
    if (!files.tokenizer)
        return NIB_OK;
    NIB_TRY(nib_json_open(folder, "tokenizer_config.json", false, &files.tokenizer_config, err));
    NIB_TRY(
        nib_json_open(folder, "special_tokens_map.json", false, &files.special_tokens_map, err));
    NIB_TRY(nib_json_open(folder, "generation_config.json", false, &files.generation_config, err));
    NIB_TRY(open_chat_template(folder, &jinja, err));
    files.chat_template = (struct nib_text){(const char *)jinja.data, jinja.size};
    status = use_files(&files, use, user, err);
    if (status != NIB_OK)
        nib_fail_context(err, status, "%s", folder);
fail:
    json_decref(files.tokenizer);
    json_decref(files.tokenizer_config);
    json_decref(files.special_tokens_map);
    json_decref(files.generation_config);
    nib_file_map_close(&jinja);
    return status;
}

enum nib_status nib_tokenizer_from_folder(const char *folder, struct nib_tokenizer **out_tokenizer,
                                          struct nib_error *err)
{
    *out_tokenizer = NULL;
    return nib_vocab_from_folder(folder, create_tokenizer, out_tokenizer, err);
}
