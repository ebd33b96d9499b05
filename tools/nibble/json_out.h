/// Writes JSON to a stream as it comes; docs/json.md says what each command writes.
/// Text that is not UTF-8 becomes U+FFFD, a number that is not finite `null`.
#ifndef TOOLS_NIBBLE_JSON_OUT_H
#define TOOLS_NIBBLE_JSON_OUT_H

#include <nibble/base.h>
#include <stdio.h>

/// The schema of every output (docs/json.md).
#define JSON_SCHEMA 1

/// A writer; make it with the stream alone. Errors stay in the stream.
struct json_out {
    FILE *file;
    bool follows; ///< something stands before the next value, so that a comma comes first
};

// In each function `key` names a member of the open object, or is NULL in an array and for the
// outermost value.

void json_open_object(struct json_out *json, const char *key);
void json_close_object(struct json_out *json);
void json_open_array(struct json_out *json, const char *key);
void json_close_array(struct json_out *json);

void json_put_text(struct json_out *json, const char *key, const char *text, size_t size);
/// NULL is written as `null`.
void json_put_string(struct json_out *json, const char *key, const char *string);
void json_put_integer(struct json_out *json, const char *key, int64_t value);
void json_put_size(struct json_out *json, const char *key, uint64_t value);
void json_put_real(struct json_out *json, const char *key, double value);
void json_put_null(struct json_out *json, const char *key);
void json_put_boolean(struct json_out *json, const char *key, bool value);
/// Writes an array of integers.
void json_put_ids(struct json_out *json, const char *key, const int32_t *ids, size_t count);

/// Begins a command's object with its schema.
struct json_out json_begin(FILE *file);
/// Ends the object and the line.
void json_end(struct json_out *json);

#endif
