#include "tests/unit/api/checkpoint.h"

#include "tests/support/folder.h"

#include <criterion/criterion.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char *const checkpoint_names[CHECKPOINT_FILES] = {"config.json", "generation_config.json",
                                                        "model.safetensors", "tokenizer.json",
                                                        "tokenizer_config.json"};

static void copy_file(const char *from, const char *name)
{
    static char bytes[1 << 20];
    FILE *file = fopen(from, "rb");
    if (!file)
        return;
    size_t size = fread(bytes, 1, sizeof bytes, file);
    if (strstr(name, ".json") && bytes[size - 1] == '\n')
        size--; // which JSON can do without
    put_file(path_in_folder(name), bytes, size);
    fclose(file);
}

static void add_tokenizer(const char *name)
{
    static const char config[] =
        "{\"add_bos_token\":true,\"bos_token\":\"<s>\",\"eos_token\":\"</s>\",\"chat_template\":"
        "\"{% for m in messages %}<|im_start|>{{ m.role }}\\n{% endfor %}\"}";
    static const char generation[] = "{\"eos_token_id\":[2,3],\"temperature\":0.5,\"top_k\":40,"
                                     "\"top_p\":0.9,\"do_sample\":true}";
    char path[400];
    snprintf(path, sizeof path, "%s/tokenizer/hf/%s.json", NIB_TEST_DATA, name);
    json_t *root = json_load_file(path, JSON_ALLOW_NUL, NULL);
    cr_assert_not_null(root);
    char *text = json_dumps(json_object_get(root, "tokenizer"), JSON_COMPACT | JSON_ENSURE_ASCII);
    cr_assert_not_null(text);
    put_file(path_in_folder("tokenizer.json"), text, strlen(text));
    put_file(path_in_folder("tokenizer_config.json"), config, sizeof config - 1);
    put_file(path_in_folder("generation_config.json"), generation, sizeof generation - 1);
    free(text);
    json_decref(root);
}

void checkpoint_copy(const char *folder, const char *tokenizer)
{
    char path[400];
    for (size_t i = 0; i < CHECKPOINT_FILES; i++) {
        snprintf(path, sizeof path, "%s/%s/%s", NIB_TEST_DATA, folder, checkpoint_names[i]);
        copy_file(path, checkpoint_names[i]);
    }
    if (tokenizer)
        add_tokenizer(tokenizer);
}
