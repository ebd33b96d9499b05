#include "tools/nibble/inspect.h"
#include "tools/nibble/message.h"
#include "tools/nibble/text.h"
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define NAME_COLUMNS 42

void inspect_print_name(const char *name, int width)
{
    size_t size = strlen(name);
    text_print_harmless(stdout, name, size);
    for (int columns = (int)(size < 1000 ? size : 1000); columns < width; columns++)
        putchar(' ');
}

static uint64_t elements(const struct nib_tensor_info *tensor)
{
    uint64_t count = 1;
    for (uint32_t i = 0; i < tensor->n_dims; i++)
        count *= tensor->dims[i];
    return count;
}

/// What all tensors of one format take.
struct format_sum {
    const char *format;
    uint64_t tensors, parameters, bytes;
};

static int compare_bytes(const void *left, const void *right)
{
    const struct format_sum *a = left, *b = right;
    return (a->bytes < b->bytes) - (a->bytes > b->bytes);
}

/// Sums up the formats, most bytes first, into memory to be freed.
static enum nib_status sum_formats(const struct nib_model *model, struct format_sum **out_sums,
                                   size_t *out_count, struct nib_error *err)
{
    struct format_sum *sums = NULL;
    size_t count = 0;
    for (uint32_t i = 0; i < nib_model_tensor_count(model); i++) {
        struct nib_tensor_info tensor;
        nib_model_get_tensor(model, i, &tensor);
        size_t at = 0;
        while (at < count && strcmp(sums[at].format, tensor.format) != 0)
            at++;
        if (at == count) {
            struct format_sum *grown = realloc(sums, (count + 1) * sizeof *sums);
            if (!grown) {
                free(sums);
                return fail_memory(err);
            }
            sums = grown;
            sums[count++] = (struct format_sum){.format = tensor.format};
        }
        sums[at].tensors++;
        sums[at].parameters += elements(&tensor);
        sums[at].bytes += tensor.size_bytes;
    }
    if (count > 0)
        qsort(sums, count, sizeof *sums, compare_bytes);
    *out_sums = sums;
    *out_count = count;
    return NIB_OK;
}

/// Prints a bar of `share` times `width` columns, in eighths of a column.
static void print_bar(double share, unsigned width)
{
    static const char *const parts[8] = {"",
                                         "\xE2\x96\x8F",
                                         "\xE2\x96\x8E",
                                         "\xE2\x96\x8D",
                                         "\xE2\x96\x8C",
                                         "\xE2\x96\x8B",
                                         "\xE2\x96\x8A",
                                         "\xE2\x96\x89"};
    unsigned eighths = (unsigned)(share * width * 8 + 0.5);
    for (unsigned i = 0; i < eighths / 8; i++)
        fputs("\xE2\x96\x88", stdout);
    fputs(parts[eighths % 8], stdout);
}

enum nib_status inspect_print_formats(const struct nib_model *model, struct nib_error *err)
{
    struct format_sum *sums;
    size_t count;
    enum nib_status status = sum_formats(model, &sums, &count, err);
    if (status != NIB_OK)
        return status;
    uint64_t total = 0;
    for (size_t i = 0; i < count; i++)
        total += sums[i].bytes;
    puts("\nbytes by format");
    for (size_t i = 0; i < count; i++) {
        char bytes[TEXT_NUMBER_SIZE], parameters[TEXT_NUMBER_SIZE];
        double share = total > 0 ? (double)sums[i].bytes / (double)total : 0;
        printf("  %-8s %10s %5.1f %%  %5" PRIu64 " tensors %9s weights  ", sums[i].format,
               text_bytes(bytes, sums[i].bytes), 100 * share, sums[i].tensors,
               text_count(parameters, sums[i].parameters));
        print_bar(share, 30);
        putchar('\n');
    }
    free(sums);
    return NIB_OK;
}

enum nib_status inspect_write_formats(struct json_out *json, const struct nib_model *model,
                                      struct nib_error *err)
{
    struct format_sum *sums;
    size_t count;
    enum nib_status status = sum_formats(model, &sums, &count, err);
    if (status != NIB_OK)
        return status;
    json_open_array(json, "formats");
    for (size_t i = 0; i < count; i++) {
        json_open_object(json, NULL);
        json_put_string(json, "format", sums[i].format);
        json_put_size(json, "tensors", sums[i].tensors);
        json_put_size(json, "parameters", sums[i].parameters);
        json_put_size(json, "bytes", sums[i].bytes);
        json_close_object(json);
    }
    json_close_array(json);
    free(sums);
    return NIB_OK;
}

void inspect_write_tensors(struct json_out *json, const struct nib_model *model)
{
    json_open_array(json, "tensors");
    for (uint32_t i = 0; i < nib_model_tensor_count(model); i++) {
        struct nib_tensor_info tensor;
        nib_model_get_tensor(model, i, &tensor);
        json_open_object(json, NULL);
        json_put_string(json, "name", tensor.name);
        json_put_string(json, "format", tensor.format);
        json_open_array(json, "shape");
        for (uint32_t d = 0; d < tensor.n_dims; d++)
            json_put_size(json, NULL, tensor.dims[d]);
        json_close_array(json);
        json_put_size(json, "bytes", tensor.size_bytes);
        json_close_object(json);
    }
    json_close_array(json);
}

/// A tensor whose name's first number, between dots, is that of its layer.
struct layer_tensor {
    struct nib_tensor_info info;
    uint32_t index; ///< in the file
    size_t prefix;  ///< characters before the number
    size_t suffix;  ///< offset of those behind it; equals `prefix` where there is no number
    uint64_t layer;
    uint32_t first;  ///< smallest index of its group
    uint32_t copies; ///< tensors of its group; 0 for all but the first one
};

static void split_name(struct layer_tensor *tensor)
{
    const char *name = tensor->info.name;
    tensor->prefix = tensor->suffix = strlen(name);
    for (const char *dot = strchr(name, '.'); dot; dot = strchr(dot + 1, '.')) {
        size_t digits = strspn(dot + 1, "0123456789");
        if (digits > 0 && digits < 10 && dot[1 + digits] == '.') {
            tensor->prefix = (size_t)(dot + 1 - name);
            tensor->suffix = tensor->prefix + digits;
            tensor->layer = strtoull(dot + 1, NULL, 10);
            return;
        }
    }
}

/// Orders tensors so that those which differ in their layer alone lie side by side.
static int compare_shape(const struct layer_tensor *a, const struct layer_tensor *b)
{
    size_t shorter = a->prefix < b->prefix ? a->prefix : b->prefix;
    int order = memcmp(a->info.name, b->info.name, shorter);
    if (order == 0)
        order = (a->prefix > b->prefix) - (a->prefix < b->prefix);
    if (order == 0)
        order = strcmp(a->info.name + a->suffix, b->info.name + b->suffix);
    if (order == 0)
        order = strcmp(a->info.format, b->info.format);
    if (order == 0)
        order = (a->info.n_dims > b->info.n_dims) - (a->info.n_dims < b->info.n_dims);
    for (uint32_t i = 0; order == 0 && i < a->info.n_dims; i++)
        order = (a->info.dims[i] > b->info.dims[i]) - (a->info.dims[i] < b->info.dims[i]);
    return order;
}

static int compare_tensors(const void *left, const void *right)
{
    const struct layer_tensor *a = left, *b = right;
    int order = compare_shape(a, b);
    if (order == 0)
        order = (a->layer > b->layer) - (a->layer < b->layer);
    return order != 0 ? order : (a->index > b->index) - (a->index < b->index);
}

/// Orders groups by their first tensor in the file.
static int compare_groups(const void *left, const void *right)
{
    const struct layer_tensor *a = left, *b = right;
    int order = (a->first > b->first) - (a->first < b->first);
    if (order == 0)
        order = (a->copies == 0) - (b->copies == 0);
    return order != 0 ? order : compare_tensors(left, right);
}

/// Finds the groups in sorted tensors and puts each one's members behind its first.
static void group(struct layer_tensor *tensors, uint32_t count)
{
    for (uint32_t begin = 0, end; begin < count; begin = end) {
        uint32_t first = tensors[begin].index;
        for (end = begin; end < count && compare_shape(&tensors[begin], &tensors[end]) == 0; end++)
            first = tensors[end].index < first ? tensors[end].index : first;
        for (uint32_t i = begin; i < end; i++) {
            tensors[i].first = first;
            tensors[i].copies = i == begin ? end - begin : 0;
        }
    }
    qsort(tensors, count, sizeof *tensors, compare_groups);
}

/// Writes the layers of a group, such as "0-2,5", and three dots for what does not fit.
static void describe_layers(const struct layer_tensor *tensors, char *out, size_t size)
{
    size_t used = 0;
    out[0] = '\0';
    for (uint32_t begin = 0, end; begin < tensors->copies; begin = end) {
        end = begin + 1;
        while (end < tensors->copies && tensors[end].layer == tensors[end - 1].layer + 1)
            end++;
        char range[32];
        uint64_t low = tensors[begin].layer, high = tensors[end - 1].layer;
        int length =
            snprintf(range, sizeof range, high > low ? "%s%" PRIu64 "-%" PRIu64 : "%s%" PRIu64,
                     begin > 0 ? "," : "", low, high);
        if (used + (size_t)length + sizeof ",..." > size) {
            snprintf(out + used, size - used, ",...");
            return;
        }
        memcpy(out + used, range, (size_t)length + 1);
        used += (size_t)length;
    }
}

/// Prints what stands in a line behind the name. `bytes` are those of all tensors in the line.
static void print_columns(const struct nib_tensor_info *info, uint64_t bytes, const char *layers)
{
    char shape[96] = "", size[TEXT_NUMBER_SIZE];
    size_t used = 0;
    for (uint32_t i = 0; i < info->n_dims; i++)
        used += (size_t)snprintf(shape + used, sizeof shape - used, "%s%" PRIu64,
                                 i > 0 ? " x " : "", info->dims[i]);
    printf(" %-7s %-16s %10s%s%s\n", info->format, shape, text_bytes(size, bytes),
           layers[0] ? "  " : "", layers);
}

/// Prints the line of the group that begins with `tensors[0]`.
static void print_group(const struct layer_tensor *tensors)
{
    char name[NAME_COLUMNS * 4], layers[40] = "";
    bool layered = tensors->suffix > tensors->prefix;
    int prefix = (int)(tensors->prefix < sizeof name ? tensors->prefix : sizeof name);
    snprintf(name, sizeof name, "%.*s%s%s", prefix, tensors->info.name, layered ? "*" : "",
             tensors->info.name + tensors->suffix);
    if (layered)
        describe_layers(tensors, layers, sizeof layers);
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < tensors->copies; i++)
        bytes += tensors[i].info.size_bytes;
    inspect_print_name(name, NAME_COLUMNS);
    print_columns(&tensors->info, bytes, layers);
}

enum nib_status inspect_print_tensors(const struct nib_model *model, bool all,
                                      struct nib_error *err)
{
    uint32_t count = nib_model_tensor_count(model);
    struct layer_tensor *tensors = calloc((size_t)count + 1, sizeof *tensors);
    if (!tensors)
        return fail_memory(err);
    for (uint32_t i = 0; i < count; i++) {
        nib_model_get_tensor(model, i, &tensors[i].info);
        tensors[i].index = i;
        split_name(&tensors[i]);
    }
    printf("\n%-*s %-7s %-16s %10s%s\n", NAME_COLUMNS, "tensor", "format", "shape", "bytes",
           all ? "" : "  layers");
    if (!all) {
        qsort(tensors, count, sizeof *tensors, compare_tensors);
        group(tensors, count);
    }
    for (uint32_t i = 0; i < count; i += all ? 1 : tensors[i].copies) {
        if (all) {
            inspect_print_name(tensors[i].info.name, NAME_COLUMNS);
            print_columns(&tensors[i].info, tensors[i].info.size_bytes, "");
        } else {
            print_group(&tensors[i]);
        }
    }
    free(tensors);
    return NIB_OK;
}
