/// The parts of `nibble inspect`.
#ifndef TOOLS_NIBBLE_INSPECT_H
#define TOOLS_NIBBLE_INSPECT_H

#include "tools/nibble/json_out.h"
#include "tools/nibble/options.h"

/// Prints text of the file without what would break the table: control characters become U+FFFD.
void inspect_print_name(const char *name, int width);

/// Prints a bar chart of the bytes that each format takes. Errors: memory.
enum nib_status inspect_print_formats(const struct nib_model *model, struct nib_error *err);
/// Writes the member "formats". Errors: memory.
enum nib_status inspect_write_formats(struct json_out *json, const struct nib_model *model,
                                      struct nib_error *err);

/// Prints the tensors: all of them, or one line for those that differ in their layer alone.
/// Errors: memory.
enum nib_status inspect_print_tensors(const struct nib_model *model, bool all,
                                      struct nib_error *err);
/// Writes the member "tensors".
void inspect_write_tensors(struct json_out *json, const struct nib_model *model);

/// Prints what an engine takes by weight format, cache format and context; --ctx and --kv add a
/// column and rows. Errors: memory, argument.
enum nib_status inspect_print_memory(const struct nib_model *model, const struct options *options,
                                     struct nib_error *err);
/// Writes the member "memory". Errors: as above.
enum nib_status inspect_write_memory(struct json_out *json, const struct nib_model *model,
                                     const struct options *options, struct nib_error *err);

#endif
