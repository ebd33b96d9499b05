/// What commands that run a model tell about the run.
#ifndef TOOLS_NIBBLE_REPORT_H
#define TOOLS_NIBBLE_REPORT_H

#include "tools/nibble/json_out.h"
#include <nibble/nibble.h>

/// Writes the member "execution".
void report_execution(struct json_out *json, const struct nib_engine *engine);
/// Writes the member "memory".
void report_memory(struct json_out *json, const struct nib_engine_info *info);

/// Reads the profile of a profiling engine into memory to be freed. Errors: state, memory.
enum nib_status report_read_profile(const struct nib_engine *engine,
                                    struct nib_op_profile **out_profiles, uint32_t *out_count,
                                    struct nib_error *err);
/// Writes the member "profile".
void report_profile(struct json_out *json, const struct nib_op_profile *profiles, uint32_t count);
/// Prints the profile to standard error: ops of the same kind in all layers summed up, the slowest
/// first. Errors: memory.
enum nib_status report_print_profile(const struct nib_op_profile *profiles, uint32_t count,
                                     struct nib_error *err);

/// Returns `count` a second, NaN for no time.
double report_rate(uint64_t count, uint64_t ns);
/// Returns the tokens a second after the first one, NaN where there are none.
double report_decode_rate(const struct nib_generation *generation);

#endif
