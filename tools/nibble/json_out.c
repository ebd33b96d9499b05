#include "tools/nibble/json_out.h"
#include "tools/nibble/text.h"
#include <inttypes.h>
#include <math.h>
#include <string.h>

static void write_quoted(FILE *file, const char *text, size_t size)
{
    fputc('"', file);
    while (size > 0) {
        size_t length = text_character(text, size);
        unsigned char first = (unsigned char)text[0];
        if (length == 0)
            fputs(TEXT_REPLACEMENT, file);
        else if (first == '"' || first == '\\')
            fprintf(file, "\\%c", first);
        else if (first == '\n')
            fputs("\\n", file);
        else if (first < 0x20 || first == 0x7F)
            fprintf(file, "\\u%04x", first);
        else
            fwrite(text, 1, length, file);
        length = length == 0 ? 1 : length;
        text += length;
        size -= length;
    }
    fputc('"', file);
}

/// Writes what stands before a value.
static void begin_value(struct json_out *json, const char *key)
{
    if (json->follows)
        fputc(',', json->file);
    json->follows = true;
    if (key) {
        write_quoted(json->file, key, strlen(key));
        fputc(':', json->file);
    }
}

static void open_value(struct json_out *json, const char *key, char bracket)
{
    begin_value(json, key);
    fputc(bracket, json->file);
    json->follows = false;
}

static void close_value(struct json_out *json, char bracket)
{
    fputc(bracket, json->file);
    json->follows = true;
}

void json_open_object(struct json_out *json, const char *key)
{
    open_value(json, key, '{');
}

void json_close_object(struct json_out *json)
{
    close_value(json, '}');
}

void json_open_array(struct json_out *json, const char *key)
{
    open_value(json, key, '[');
}

void json_close_array(struct json_out *json)
{
    close_value(json, ']');
}

void json_put_text(struct json_out *json, const char *key, const char *text, size_t size)
{
    begin_value(json, key);
    write_quoted(json->file, text, size);
}

void json_put_string(struct json_out *json, const char *key, const char *string)
{
    if (string)
        json_put_text(json, key, string, strlen(string));
    else
        json_put_null(json, key);
}

void json_put_integer(struct json_out *json, const char *key, int64_t value)
{
    begin_value(json, key);
    fprintf(json->file, "%" PRId64, value);
}

void json_put_size(struct json_out *json, const char *key, uint64_t value)
{
    begin_value(json, key);
    fprintf(json->file, "%" PRIu64, value);
}

void json_put_real(struct json_out *json, const char *key, double value)
{
    if (!isfinite(value)) {
        json_put_null(json, key);
        return;
    }
    begin_value(json, key);
    fprintf(json->file, "%.10g", value);
}

void json_put_null(struct json_out *json, const char *key)
{
    begin_value(json, key);
    fputs("null", json->file);
}

void json_put_boolean(struct json_out *json, const char *key, bool value)
{
    begin_value(json, key);
    fputs(value ? "true" : "false", json->file);
}

void json_put_ids(struct json_out *json, const char *key, const int32_t *ids, size_t count)
{
    json_open_array(json, key);
    for (size_t i = 0; i < count; i++)
        json_put_integer(json, NULL, ids[i]);
    json_close_array(json);
}

struct json_out json_begin(FILE *file)
{
    struct json_out json = {.file = file};
    json_open_object(&json, NULL);
    json_put_integer(&json, "schema", JSON_SCHEMA);
    return json;
}

void json_end(struct json_out *json)
{
    json_close_object(json);
    fputc('\n', json->file);
}
