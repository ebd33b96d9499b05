/// `nibble devices --self-test full`: every kernel of every Vulkan device, as a table or JSON.
#ifndef TOOLS_NIBBLE_DEVICE_CHECKS_H
#define TOOLS_NIBBLE_DEVICE_CHECKS_H

#include "tools/nibble/json_out.h"
#include "tools/nibble/options.h"
#include <nibble/device.h>

/// A check that was done.
struct device_check {
    uint32_t index; ///< N of vulkan:N
    char kernel[32];
    char work[200];
    double error;
    double limit;
    bool passed;
    uint64_t ns;
};
struct device_checks {
    struct device_check *items;
    uint32_t count;
    uint32_t n_failed;
    bool is_table; ///< each is printed as it is done
};

/// Checks the Vulkan devices among `infos` that can be used. Errors: memory, those of
/// nib_device_self_test.
enum nib_status device_checks_run(const struct options *options,
                                  const struct nib_device_info *infos, uint32_t count,
                                  struct device_checks *out_checks, struct nib_error *err);
void device_checks_free(struct device_checks *checks);
/// Writes them as the member "checks".
void device_checks_write(const struct device_checks *checks, struct json_out *json);

#endif
