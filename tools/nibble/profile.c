#include "tools/nibble/profile.h"
#include "tools/nibble/message.h"
#include "tools/nibble/text.h"
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static enum nib_status read_ops(const struct nib_engine *engine, struct profile *profile,
                                struct nib_error *err)
{
    enum nib_status status = nib_engine_get_profile(engine, NULL, 0, &profile->n_ops, err);
    if (status != NIB_OK)
        return status;
    profile->ops = calloc((size_t)profile->n_ops + 1, sizeof *profile->ops);
    if (!profile->ops)
        return fail_memory(err);
    return nib_engine_get_profile(engine, profile->ops, profile->n_ops, &profile->n_ops, err);
}

enum nib_status profile_read(const struct nib_engine *engine, struct profile *out_profile,
                             struct nib_error *err)
{
    *out_profile = (struct profile){0};
    enum nib_status status = read_ops(engine, out_profile, err);
    if (status == NIB_OK)
        status = device_limits_read(engine, &out_profile->devices, &out_profile->n_devices, err);
    if (status != NIB_OK)
        profile_free(out_profile);
    return status;
}

void profile_free(struct profile *profile)
{
    free(profile->ops);
    free(profile->devices);
    *profile = (struct profile){0};
}

/// Returns the part of what the device could do that it did; NaN where that is not known.
static double roofline(const struct nib_op_profile *op)
{
    return op->ns > 0 && op->limit_ns > 0 ? (double)op->limit_ns / (double)op->ns : NAN;
}

void profile_write(const struct profile *profile, struct json_out *json)
{
    if (!profile->ops)
        return;
    json_open_array(json, "profile");
    for (uint32_t i = 0; i < profile->n_ops; i++) {
        const struct nib_op_profile *op = &profile->ops[i];
        json_open_object(json, NULL);
        json_put_string(json, "name", op->name);
        json_put_size(json, "calls", op->calls);
        json_put_real(json, "seconds", (double)op->ns / 1e9);
        json_put_size(json, "bytes", op->bytes);
        json_put_size(json, "macs", op->macs);
        json_put_real(json, "roofline", roofline(op));
        json_close_object(json);
    }
    json_close_array(json);
    device_limits_write(profile->devices, profile->n_devices, json);
}

/// Returns an op's name without the number of its layer.
static const char *kind_of(const char *name)
{
    static const char prefix[] = "layer ";
    if (strncmp(name, prefix, sizeof prefix - 1) != 0)
        return name;
    const char *end = name + sizeof prefix - 1;
    end += strspn(end, "0123456789");
    return *end == ' ' ? end + 1 : name;
}

/// Adds `from` to the sum of its kind, or begins one.
static uint32_t add_profile(struct nib_op_profile *sums, uint32_t count,
                            const struct nib_op_profile *from)
{
    const char *kind = kind_of(from->name);
    uint32_t i = 0;
    while (i < count && strcmp(sums[i].name, kind) != 0)
        i++;
    if (i == count)
        sums[count++] = (struct nib_op_profile){.name = kind};
    sums[i].calls += from->calls;
    sums[i].ns += from->ns;
    sums[i].bytes += from->bytes;
    sums[i].macs += from->macs;
    sums[i].limit_ns += from->limit_ns;
    return count;
}

static int compare_time(const void *left, const void *right)
{
    const struct nib_op_profile *a = left, *b = right;
    return (a->ns < b->ns) - (a->ns > b->ns);
}

static void print_sum(const struct nib_op_profile *sum, uint64_t total_ns)
{
    char bytes[TEXT_NUMBER_SIZE], part[16] = "-";
    double ns = sum->ns > 0 ? (double)sum->ns : NAN;
    if (!isnan(roofline(sum)))
        snprintf(part, sizeof part, "%.1f %%", 100 * roofline(sum));
    fprintf(stderr, "%-36s %9" PRIu64 " %11.2f %11s %8.2f %8.2f %5.1f %% %9s\n", sum->name,
            sum->calls, ns / 1e6, text_bytes(bytes, sum->bytes), (double)sum->bytes / ns,
            (double)sum->macs / ns, 100 * ns / (double)total_ns, part);
}

enum nib_status profile_print(const struct profile *profile, struct nib_error *err)
{
    if (!profile->ops)
        return NIB_OK;
    struct nib_op_profile *sums = calloc((size_t)profile->n_ops + 1, sizeof *sums);
    if (!sums)
        return fail_memory(err);
    uint32_t n_sums = 0;
    uint64_t total_ns = 0;
    for (uint32_t i = 0; i < profile->n_ops; i++) {
        n_sums = add_profile(sums, n_sums, &profile->ops[i]);
        total_ns += profile->ops[i].ns;
    }
    qsort(sums, n_sums, sizeof *sums, compare_time);
    fprintf(stderr, "%-36s %9s %11s %11s %8s %8s %7s %9s\n", "op", "calls", "ms", "bytes", "GB/s",
            "GMAC/s", "share", "roofline");
    // What was done within other ops has no time of its own.
    for (uint32_t i = 0; i < n_sums && sums[i].ns > 0; i++)
        print_sum(&sums[i], total_ns);
    for (uint32_t i = 0; i < profile->n_devices; i++)
        device_limits_print(&profile->devices[i], profile->devices[i].device, stderr);
    free(sums);
    return NIB_OK;
}
