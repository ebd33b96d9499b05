/// What devices were measured to do at most: `--profile`, and `nibble devices --measure`.
#ifndef TOOLS_NIBBLE_DEVICE_LIMITS_H
#define TOOLS_NIBBLE_DEVICE_LIMITS_H

#include "tools/nibble/json_out.h"
#include "tools/nibble/options.h"
#include <nibble/nibble.h>
#include <stdio.h>

#define DEVICE_FLAG_SIZE 32

struct device_limits {
    char device[DEVICE_FLAG_SIZE]; ///< as for `--device`
    struct nib_device_limits limits;
};

/// Writes what `--device` calls the device.
void device_flag(const struct nib_device_info *info, char out[DEVICE_FLAG_SIZE]);
/// Measures a device that can be used, as the options mask it. One that fails has its name in
/// `out_limits` and no figures. Errors: those of nib_device_open and nib_device_measure.
enum nib_status device_limits_measure(const struct options *options,
                                      const struct nib_device_info *info,
                                      struct device_limits *out_limits, struct nib_error *err);
/// Takes the devices of a profiling engine's placements, each once, into memory to be freed.
/// Errors: memory.
enum nib_status device_limits_read(const struct nib_engine *engine,
                                   struct device_limits **out_limits, uint32_t *out_count,
                                   struct nib_error *err);
/// Writes them as the member "limits".
void device_limits_write(const struct device_limits *limits, uint32_t count, struct json_out *json);
/// Prints a line for a device behind `head`.
void device_limits_print(const struct device_limits *limits, const char *head, FILE *file);

#endif
