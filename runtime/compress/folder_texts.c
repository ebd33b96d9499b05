#include "runtime/compress/folder.h"

#include "runtime/base/os.h"
#include "runtime/base/status.h"
#include "runtime/formats/json.h"
#include "runtime/import/source_parts.h"
#include "runtime/import/tokenizer_gguf.h"
#include "runtime/import/tokenizer_write.h"

/// Files of a folder that are copied as they are.
static const char *const COPIED[] = {
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
};

static enum nib_status copy_file(struct nib_folder *folder, const char *name, struct nib_error *err)
{
    enum nib_status status;
    struct nib_buffer path = {0};
    struct nib_file_map map = {0};
    struct nib_file_writer *file = NULL;
    NIB_TRY(nib_buffer_printf(&path, err, "%s/%s", nib_source_path(folder->plan->source), name));
    if (nib_path_kind(path.data) != NIB_PATH_FILE)
        goto fail;
    NIB_TRY(nib_file_map_open(path.data, &map, err));
    NIB_TRY(nib_folder_file(folder, name, &path, err));
    NIB_TRY(nib_file_writer_open(path.data, &file, err));
    NIB_TRY(nib_file_writer_append(file, map.data, map.size, err));
    NIB_TRY(nib_file_writer_commit(&file, err));
fail:
    nib_file_writer_destroy(&file);
    nib_file_map_close(&map);
    nib_buffer_free(&path);
    return status;
}

/// Lists the tokens that end generation; one alone is a number, as in config.json.
static json_t *end_tokens(const struct nib_tokenizer *tokenizer, uint32_t vocabulary, bool *failed)
{
    json_t *list = json_array();
    for (uint32_t id = 0; id < vocabulary; id++) {
        if (nib_tokenizer_is_end(tokenizer, (int32_t)id))
            *failed |= json_array_append_new(list, json_integer(id)) != 0;
    }
    if (json_array_size(list) != 1)
        return list;
    json_t *only = json_incref(json_array_get(list, 0));
    json_decref(list);
    return only;
}

/// Returns generation_config.json: which tokens begin and end a text, and how to sample.
static json_t *generation_config(const struct nib_source *source, bool *failed)
{
    struct nib_generation_defaults defaults;
    struct nib_tokenizer_info info;
    json_t *object = json_object();
    nib_source_generation_defaults(source, &defaults);
    nib_tokenizer_get_info(nib_source_tokenizer(source), &info);
    json_t *ends = end_tokens(nib_source_tokenizer(source), info.vocabulary, failed);
    if (info.bos >= 0)
        *failed |= json_object_set_new(object, "bos_token_id", json_integer(info.bos)) != 0;
    if (!json_is_array(ends) || json_array_size(ends) > 0)
        *failed |= json_object_set_new(object, "eos_token_id", json_incref(ends)) != 0;
    json_decref(ends);
    const struct {
        const char *key;
        float number;
    } numbers[] = {{"temperature", defaults.temperature},
                   {"top_p", defaults.top_p},
                   {"min_p", defaults.min_p},
                   {"repetition_penalty", defaults.repeat_penalty}};
    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++) {
        if (numbers[i].number >= 0)
            *failed |= json_object_set_new(object, numbers[i].key,
                                           nib_config_real(numbers[i].number)) != 0;
    }
    if (defaults.top_k >= 0)
        *failed |= json_object_set_new(object, "top_k", json_integer(defaults.top_k)) != 0;
    if (defaults.temperature >= 0 || defaults.do_sample >= 0)
        *failed |= json_object_set_new(object, "do_sample", json_boolean(defaults.do_sample)) != 0;
    return object;
}

/// Writes what the metadata of a GGUF file say of its tokenizer.
static enum nib_status convert_tokenizer(struct nib_folder *folder, struct nib_error *err)
{
    enum nib_status status;
    const struct nib_source *source = folder->plan->source;
    struct nib_arena arena = {0};
    struct nib_vocab vocab;
    json_t *tokenizer = NULL, *config = NULL, *generation = NULL;
    bool failed = false;
    if (!nib_source_tokenizer(source))
        return NIB_OK;
    NIB_TRY(nib_vocab_from_gguf(nib_source_gguf(source), &arena, &vocab, err));
    NIB_TRY(nib_tokenizer_to_files(&vocab, nib_source_config(source)->context, &tokenizer, &config,
                                   err));
    generation = generation_config(source, &failed);
    if (failed)
        NIB_TRY(nib_fail_memory(err));
    NIB_TRY(nib_folder_json(folder, "tokenizer.json", tokenizer, err));
    NIB_TRY(nib_folder_json(folder, "tokenizer_config.json", config, err));
    NIB_TRY(nib_folder_json(folder, "generation_config.json", generation, err));
fail:
    json_decref(tokenizer);
    json_decref(config);
    json_decref(generation);
    nib_arena_free(&arena);
    return status;
}

enum nib_status nib_folder_write_texts(struct nib_folder *folder, struct nib_error *err)
{
    enum nib_status status;
    const struct nib_compress_plan *plan = folder->plan;
    json_t *config = NULL;
    NIB_TRY(nib_folder_config(plan, &config, err));
    NIB_TRY(nib_folder_json(folder, "config.json", config, err));
    const json_t *quantization = json_object_get(config, "quantization_config");
    if (plan->params.container == NIB_QUANTIZE_AS_GPTQ && quantization) // where older loaders look
        NIB_TRY(nib_folder_json(folder, "quantize_config.json", quantization, err));
    if (nib_source_gguf(plan->source))
        NIB_TRY(convert_tokenizer(folder, err));
    else
        for (size_t i = 0; i < sizeof COPIED / sizeof COPIED[0]; i++)
            NIB_TRY(copy_file(folder, COPIED[i], err));
fail:
    json_decref(config);
    return status;
}
