/// What commands that run a model tell about the run.
#ifndef TOOLS_NIBBLE_REPORT_H
#define TOOLS_NIBBLE_REPORT_H

#include "tools/nibble/json_out.h"
#include <nibble/nibble.h>

/// Writes the member "execution".
void report_execution(struct json_out *json, const struct nib_engine *engine);
/// Writes the member "memory".
void report_memory(struct json_out *json, const struct nib_engine_info *info);

/// Returns `count` a second, NaN for no time.
double report_rate(uint64_t count, uint64_t ns);
/// Returns the tokens a second after the first one, NaN where there are none.
double report_decode_rate(const struct nib_generation *generation);

#endif
