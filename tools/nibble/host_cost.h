/// What a decode step costs the host.
#ifndef TOOLS_NIBBLE_HOST_COST_H
#define TOOLS_NIBBLE_HOST_COST_H

#include "tools/nibble/options.h"

/// Has one sequence generate -n tokens (default: 1000) and prints what a step took the host, from
/// one submission to the next; most meaningful where the driver executes nothing. Errors: those of
/// the engine.
enum nib_status host_cost(const struct options *options, struct nib_error *err);

#endif
