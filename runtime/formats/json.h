/// JSON files of checkpoints, parsed by jansson with the flags that real files need: big integers
/// as reals, NUL bytes in strings, a limit on the file's size.
#ifndef RUNTIME_FORMATS_JSON_H
#define RUNTIME_FORMATS_JSON_H

#include <jansson.h>
#include <nibble/base.h>

/// Parses `data[0 .. size)`; `path` is for messages. Free with json_decref. Numbers are reals.
/// Errors: format (line and column named; over 256 MiB; jansson also reports some failed
/// allocations so), memory. Safe for untrusted input.
enum nib_status nib_json_parse(const char *data, size_t size, const char *path, json_t **out_json,
                               struct nib_error *err);
/// Maps and parses `folder`/`name`. A missing file: not found where `required`, else OK with
/// `*out_json` NULL.
enum nib_status nib_json_open(const char *folder, const char *name, bool required,
                              json_t **out_json, struct nib_error *err);

/// As nib_json_open of a required file, but whole numbers stay such, for what is written again; one
/// beyond 64 bits is an error of format.
enum nib_status nib_json_open_exact(const char *folder, const char *name, json_t **out_json,
                                    struct nib_error *err);
/// Writes `json` to `path`, indented, whole or not at all. Errors: io, memory.
enum nib_status nib_json_write(const char *path, const json_t *json, struct nib_error *err);

/// Each reads member `key` of `object` (NULL or no object: nothing there) and returns whether it is
/// there with the type asked for and in range; `*out` is untouched otherwise.
bool nib_json_get_u32(const json_t *object, const char *key, uint32_t *out);
bool nib_json_get_f32(const json_t *object, const char *key, float *out);
bool nib_json_get_bool(const json_t *object, const char *key, bool *out);
/// The text belongs to the JSON value.
bool nib_json_get_text(const json_t *object, const char *key, struct nib_text *out);

#endif
