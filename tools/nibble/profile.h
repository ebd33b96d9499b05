/// `--profile`: time and traffic of every op, beside what the devices can do.
#ifndef TOOLS_NIBBLE_PROFILE_H
#define TOOLS_NIBBLE_PROFILE_H

#include "tools/nibble/device_limits.h"

/// Zeroed: no profile, which is neither written nor printed.
struct profile {
    struct nib_op_profile *ops;
    uint32_t n_ops;
    struct device_limits *devices;
    uint32_t n_devices;
};

/// Reads the profile of a profiling engine. Errors: state, memory.
enum nib_status profile_read(const struct nib_engine *engine, struct profile *out_profile,
                             struct nib_error *err);
void profile_free(struct profile *profile);
/// Writes the members "profile" and "limits".
void profile_write(const struct profile *profile, struct json_out *json);
/// Prints the profile to standard error: ops of the same kind in all layers summed up, the slowest
/// first. Errors: memory.
enum nib_status profile_print(const struct profile *profile, struct nib_error *err);

#endif
