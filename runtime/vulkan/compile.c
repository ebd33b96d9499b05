#include "runtime/vulkan/compile.h"

#include <glslang/Include/glslang_c_interface.h>
#include <glslang/Public/resource_limits_c.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/base/buffer.h"
#include "runtime/base/os.h"
#include "runtime/base/status.h"
#include "runtime/vulkan/cache_file.h"

#define MAX_FILES 32
#define MAX_DEPTH 8
#define MAX_PATH 128 // of a file below the folder

/// A shader's text with its includes in their places. Includes are numbered, as #line has it.
struct text {
    const char *folder;
    char files[MAX_FILES][MAX_PATH];
    uint32_t n_files;
    struct nib_buffer buffer;
};

static enum nib_status expand(struct text *text, const char *path, uint32_t depth,
                              struct nib_error *err);

/// Returns the file that a line includes, with its size, or NULL.
static const char *included(const char *line, const char *end, size_t *out_size)
{
    static const char word[] = "#include \"";
    if ((size_t)(end - line) < sizeof word || memcmp(line, word, sizeof word - 1) != 0)
        return NULL;
    const char *name = line + sizeof word - 1, *quote = memchr(name, '"', (size_t)(end - name));
    *out_size = quote ? (size_t)(quote - name) : 0;
    return quote ? name : NULL;
}

/// Writes the path of `name`, as file `from` includes it, with ".." taken out.
static void join(const char *from, const char *name, size_t size, char out[MAX_PATH])
{
    const char *slash = strrchr(from, '/');
    size_t folder = slash ? (size_t)(slash - from) + 1 : 0;
    while (size >= 3 && memcmp(name, "../", 3) == 0 && folder > 0) {
        name += 3;
        size -= 3;
        for (folder--; folder > 0 && from[folder - 1] != '/'; folder--) {}
    }
    snprintf(out, MAX_PATH, "%.*s%.*s", (int)folder, from, (int)size, name);
}

static enum nib_status expand_lines(struct text *text, const struct nib_file_map *map,
                                    uint32_t file, uint32_t depth, struct nib_error *err)
{
    enum nib_status status = NIB_OK;
    const char *line = (const char *)map->data, *all_end = line + map->size;
    for (uint32_t number = 1; line < all_end && status == NIB_OK; number++) {
        const char *end = memchr(line, '\n', (size_t)(all_end - line));
        end = end ? end + 1 : all_end;
        size_t size;
        const char *name = included(line, end, &size);
        if (name) {
            char path[MAX_PATH];
            join(text->files[file], name, size, path);
            status = expand(text, path, depth + 1, err);
            if (status == NIB_OK)
                status = nib_buffer_printf(&text->buffer, err, "#line %u %u\n", number + 1, file);
        } else {
            status = nib_buffer_append(&text->buffer, line, (size_t)(end - line), err);
        }
        line = end;
    }
    return status;
}

/// Appends a file. A #version must stay the first line of all.
static enum nib_status expand(struct text *text, const char *path, uint32_t depth,
                              struct nib_error *err)
{
    char whole[1024];
    struct nib_file_map map;
    uint32_t file = text->n_files;
    if (file == MAX_FILES || depth == MAX_DEPTH)
        return nib_fail(err, NIB_ERROR_FORMAT, "%s/%s: too many files are included", text->folder,
                        path);
    snprintf(text->files[text->n_files++], MAX_PATH, "%s", path);
    snprintf(whole, sizeof whole, "%s/%s", text->folder, path);
    enum nib_status status = nib_file_map_open(whole, &map, err);
    if (status != NIB_OK)
        return status;
    if (file > 0)
        status = nib_buffer_printf(&text->buffer, err, "#line 1 %u\n", file);
    if (status == NIB_OK)
        status = expand_lines(text, &map, file, depth, err);
    if (status == NIB_OK)
        status = nib_buffer_append(&text->buffer, "\n", 1, err);
    nib_file_map_close(&map);
    return status;
}

enum nib_status nib_vk_source_hash(const char *folder, const struct nib_vk_shader *shader,
                                   uint64_t *out_hash, struct nib_error *err)
{
    struct text text = {.folder = folder};
    enum nib_status status = expand(&text, shader->source, 0, err);
    *out_hash = nib_vk_hash(NIB_VK_HASH_BEGIN, text.buffer.data, text.buffer.size);
    nib_buffer_free(&text.buffer);
    return status;
}

/// Writes "#define ROWS 2" for each of the shader's "ROWS=2".
static enum nib_status make_preamble(const struct nib_vk_shader *shader, struct nib_buffer *out,
                                     struct nib_error *err)
{
    enum nib_status status = NIB_OK;
    for (const char *macro = shader->macros; *macro && status == NIB_OK;) {
        size_t size = strcspn(macro, " "), name = strcspn(macro, "= ");
        bool has_value = name < size;
        status = nib_buffer_printf(out, err, "#define %.*s %.*s\n", (int)name, macro,
                                   has_value ? (int)(size - name - 1) : 1,
                                   has_value ? macro + name + 1 : "1");
        macro += size;
        macro += strspn(macro, " ");
    }
    return status == NIB_OK ? nib_buffer_append(out, "", 1, err) : status;
}

/// Fails with the first line of the compiler's, which begins "ERROR: FILE:LINE: ".
static enum nib_status fail_with_log(const struct text *text, const char *log,
                                     struct nib_error *err)
{
    unsigned file = 0, line = 0;
    int begin = 0;
    if (sscanf(log, "ERROR: %u:%u: %n", &file, &line, &begin) < 2 || file >= text->n_files)
        return nib_fail(err, NIB_ERROR_FORMAT, "%s/%s: %.*s", text->folder, text->files[0],
                        (int)strcspn(log, "\n"), log);
    log += begin;
    return nib_fail(err, NIB_ERROR_FORMAT, "%s/%s:%u: %.*s", text->folder, text->files[file], line,
                    (int)strcspn(log, "\n"), log);
}

static enum nib_status take_words(glslang_program_t *program, uint32_t **out_words,
                                  size_t *out_size, struct nib_error *err)
{
    glslang_spv_options_t options = {.strip_debug_info = true, .disable_optimizer = true};
    glslang_program_SPIRV_generate_with_options(program, GLSLANG_STAGE_COMPUTE, &options);
    *out_size = glslang_program_SPIRV_get_size(program) * sizeof **out_words;
    *out_words = malloc(*out_size + 1);
    if (!*out_words)
        return nib_fail_memory(err);
    glslang_program_SPIRV_get(program, *out_words);
    return NIB_OK;
}

static enum nib_status translate(const struct text *text, const char *preamble,
                                 uint32_t **out_words, size_t *out_size, struct nib_error *err)
{
    const glslang_input_t input = {
        .language = GLSLANG_SOURCE_GLSL,
        .stage = GLSLANG_STAGE_COMPUTE,
        .client = GLSLANG_CLIENT_VULKAN,
        .client_version = GLSLANG_TARGET_VULKAN_1_1,
        .target_language = GLSLANG_TARGET_SPV,
        .target_language_version = GLSLANG_TARGET_SPV_1_3,
        .code = (const char *)text->buffer.data,
        .default_version = 450,
        .default_profile = GLSLANG_NO_PROFILE,
        .messages = GLSLANG_MSG_SPV_RULES_BIT | GLSLANG_MSG_VULKAN_RULES_BIT,
        .resource = (const glslang_resource_t *)glslang_default_resource(),
    };
    enum nib_status status = NIB_OK;
    glslang_shader_t *shader = glslang_shader_create(&input);
    glslang_program_t *program = glslang_program_create();
    if (!shader || !program)
        NIB_TRY(nib_fail_memory(err));
    glslang_shader_set_preamble(shader, preamble);
    if (!glslang_shader_preprocess(shader, &input) || !glslang_shader_parse(shader, &input))
        NIB_TRY(fail_with_log(text, glslang_shader_get_info_log(shader), err));
    glslang_program_add_shader(program, shader);
    if (!glslang_program_link(program, input.messages))
        NIB_TRY(fail_with_log(text, glslang_program_get_info_log(program), err));
    NIB_TRY(take_words(program, out_words, out_size, err));
fail:
    if (program)
        glslang_program_delete(program);
    if (shader)
        glslang_shader_delete(shader);
    return status;
}

enum nib_status nib_vk_compile(const char *folder, const struct nib_vk_shader *shader,
                               uint32_t **out_words, size_t *out_size, struct nib_error *err)
{
    struct text text = {.folder = folder};
    struct nib_buffer preamble = {0};
    enum nib_status status = NIB_OK;
    *out_words = NULL;
    glslang_initialize_process();
    NIB_TRY(expand(&text, shader->source, 0, err));
    NIB_TRY(nib_buffer_append(&text.buffer, "", 1, err));
    NIB_TRY(make_preamble(shader, &preamble, err));
    NIB_TRY(translate(&text, (const char *)preamble.data, out_words, out_size, err));
fail:
    glslang_finalize_process();
    nib_buffer_free(&text.buffer);
    nib_buffer_free(&preamble);
    return status;
}
