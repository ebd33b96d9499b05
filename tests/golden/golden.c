#include "tests/golden/golden.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void require(enum nib_status status, const struct nib_error *error)
{
    cr_assert_eq(status, NIB_OK, "%s", status == NIB_OK ? "" : error->message);
}

/// Opens the Vulkan devices that NIB_TEST_VULKAN numbers; else the CPU with the instruction sets
/// that NIB_TEST_CPU_MASK allows; else none, which is the CPU with all of them.
static void open_devices(struct golden *golden)
{
    struct nib_error error;
    const char *index = getenv("NIB_TEST_VULKAN"), *mask = getenv("NIB_TEST_CPU_MASK");
    golden->n_devices = 0;
    if (!index && mask) {
        require(nib_device_open(nib_device_params(.backend = NIB_BACKEND_CPU, .cpu_mask = mask),
                                &golden->devices[0], &error),
                &error);
        golden->n_devices = 1;
    }
    while (index && golden->n_devices < GOLDEN_MAX_DEVICES) {
        char *end;
        enum nib_status status =
            nib_device_open(nib_device_params(.backend = NIB_BACKEND_VULKAN,
                                              .index = (uint32_t)strtoul(index, &end, 10),
                                              .vulkan_mask = getenv("NIB_TEST_VULKAN_MASK"),
                                              .vulkan_variant = getenv("NIB_TEST_VULKAN_VARIANT")),
                            &golden->devices[golden->n_devices], &error);
        if (status == NIB_ERROR_NOT_FOUND)
            cr_skip_test("no Vulkan device: %s", error.message);
        require(status, &error);
        golden->n_devices++;
        index = *end == ',' ? end + 1 : NULL;
    }
}

/// Requires that the devices run all there is, in their order, that nothing fell back and no
/// kernel was replaced.
static void check_execution(const struct golden *golden)
{
    struct nib_error error;
    struct nib_engine_info info;
    nib_engine_get_info(golden->engine, &info);
    cr_assert_eq(info.n_placements, golden->n_devices);
    cr_assert_eq(info.execution.cpu_layers > 0, getenv("NIB_TEST_VULKAN") == NULL);
    cr_assert_eq(info.execution.n_fallbacks, 0u);
    cr_assert_eq(info.execution.n_replaced, 0u);
    for (uint32_t i = 0; i < golden->n_devices; i++) {
        struct nib_engine_placement placement;
        struct nib_device_info device;
        require(nib_engine_get_placement(golden->engine, i, &placement, &error), &error);
        nib_device_get_info(golden->devices[i], &device);
        cr_assert_eq(placement.device.index, device.index);
        cr_assert_str_eq(placement.device.name, device.name);
        cr_assert_geq(placement.layers, 1u);
    }
}

void golden_open(struct golden *golden, const char *path, const struct nib_engine_params *params)
{
    struct nib_error error;
    struct nib_engine_info info;
    struct nib_placement placements[GOLDEN_MAX_DEVICES] = {{.device = NULL}};
    open_devices(golden);
    require(nib_model_open(path, NULL, &golden->model, &error), &error);
    struct nib_engine_params placed = params ? *params : *nib_engine_params(.precise = false);
    for (uint32_t i = 0; i < golden->n_devices; i++)
        placements[i].device = golden->devices[i];
    if (golden->n_devices > 0) {
        placed.placements = placements;
        placed.n_placements = golden->n_devices;
    }
    enum nib_status status = nib_engine_create(golden->model, &placed, &golden->engine, &error);
    // A forced variant has not all kernels, and two devices want two layers.
    const bool may_skip = golden->n_devices > 1 || getenv("NIB_TEST_VULKAN_VARIANT") ||
                          getenv("NIB_TEST_VULKAN_MASK");
    if (golden->n_devices > 0 && may_skip && status == NIB_ERROR_UNSUPPORTED)
        cr_skip_test("%s", error.message);
    require(status, &error);
    if (golden->n_devices > 0)
        check_execution(golden);
    require(nib_session_create(golden->engine, &golden->session, &error), &error);
    nib_engine_get_info(golden->engine, &info);
    golden->vocabulary = info.vocabulary;
}

void golden_open_precise(struct golden *golden, const char *path)
{
    golden_open(
        golden, path,
        nib_engine_params(.precise = true, .key_format = NIB_KV_F32, .value_format = NIB_KV_F32));
}

void golden_close(struct golden *golden)
{
    nib_session_destroy(&golden->session);
    nib_engine_destroy(&golden->engine);
    nib_model_destroy(&golden->model);
    while (golden->n_devices > 0)
        nib_device_destroy(&golden->devices[--golden->n_devices]);
}

void golden_model_path(const char *name, char *out_path, size_t capacity)
{
    snprintf(out_path, capacity, "%s/%s", NIB_MODELS, name);
    FILE *file = fopen(out_path, "rb");
    if (!file)
        cr_skip_test("models/%s is absent; tools/fetch-model brings it", name);
    fclose(file);
}

static bool collect(void *user, uint32_t position, const float *logits, uint32_t vocabulary)
{
    struct golden_rows *rows = user;
    cr_assert_eq(position, rows->first + rows->count);
    cr_assert_lt(rows->count, rows->capacity);
    memcpy(rows->logits + (size_t)rows->count++ * vocabulary, logits, vocabulary * sizeof *logits);
    return true;
}

struct golden_rows golden_forward(struct golden *golden, const int32_t *ids, uint32_t n_ids,
                                  uint32_t chunk, uint32_t first)
{
    struct nib_error error;
    struct golden_rows rows = {
        .vocabulary = golden->vocabulary, .first = first, .capacity = n_ids - first};
    rows.logits = malloc((size_t)rows.capacity * rows.vocabulary * sizeof(float));
    cr_assert_not_null(rows.logits);
    require(nib_session_truncate(golden->session, 0, &error), &error);
    for (uint32_t done = 0; done < n_ids;) {
        uint32_t count = chunk == 0 || chunk > n_ids - done ? n_ids - done : chunk;
        require(nib_session_append(golden->session, ids + done, count, &error), &error);
        require(nib_session_forward(golden->session, first, collect, &rows, &error), &error);
        done += count;
    }
    cr_assert_eq(rows.count, rows.capacity);
    return rows;
}

void golden_rows_free(struct golden_rows *rows)
{
    free(rows->logits);
    *rows = (struct golden_rows){0};
}

const float *golden_row(const struct golden_rows *rows, uint32_t position)
{
    return rows->logits + (size_t)(position - rows->first) * rows->vocabulary;
}

void golden_greedy(struct golden *golden, const int32_t *ids, uint32_t n_ids, uint32_t n,
                   int32_t *out)
{
    struct nib_error error;
    struct nib_generation generation;
    require(nib_session_truncate(golden->session, 0, &error), &error);
    require(nib_session_append(golden->session, ids, n_ids, &error), &error);
    require(nib_session_generate(golden->session,
                                 nib_generate_params(.max_tokens = n, .ignore_eos = true),
                                 &generation, &error),
            &error);
    cr_assert_eq(generation.stop, NIB_STOP_LENGTH);
    cr_assert_eq(generation.n_generated, n);
    size_t count;
    const int32_t *tokens = nib_session_tokens(golden->session, &count);
    cr_assert_eq(count, n_ids + n);
    memcpy(out, tokens + n_ids, n * sizeof *out);
}

uint32_t golden_certain(const json_t *margins, double least)
{
    uint32_t count = 0;
    while (count < json_array_size(margins) &&
           json_number_value(json_array_get(margins, count)) >= least)
        count++;
    return count;
}

json_t *golden_json(const char *path)
{
    char full[1024];
    json_error_t error;
    snprintf(full, sizeof full, "%s/%s", NIB_TEST_DATA, path);
    json_t *json = json_load_file(full, 0, &error);
    cr_assert_not_null(json, "%s: %s", full, error.text);
    return json;
}

uint32_t golden_ids(const json_t *array, int32_t *out, uint32_t capacity)
{
    uint32_t count = (uint32_t)json_array_size(array);
    cr_assert_leq(count, capacity);
    for (uint32_t i = 0; i < count; i++)
        out[i] = (int32_t)json_integer_value(json_array_get(array, i));
    return count;
}
