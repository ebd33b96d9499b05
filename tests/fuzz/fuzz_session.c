// Files of saved sessions from any bytes: what parses has all its parts in bounds. Each input is
// taken as it is, and once more with size and checksum made right, so that the checks behind them
// are reached.
#include "runtime/base/bytes.h"
#include "runtime/engine/session_file.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const struct nib_kv_layer layers[2] = {
    {.n_heads = 1,
     .key_dim = 2,
     .value_dim = 2,
     .key_page_size = 128,
     .value_page_size = 128,
     .key_scale_page_size = 64,
     .recent_key_page_size = 128},
    {.n_heads = 1,
     .key_dim = 2,
     .value_dim = 2,
     .window = 20,
     .kv_class = 1,
     .key_page_size = 128,
     .value_page_size = 128,
     .recent_key_page_size = 128},
};
static const struct nib_plan plan = {
    .kv_layers = layers,
    .n_kv_layers = 2,
    .n_kv_classes = 3,
    .recent_pages = 2,
    .first_pages = 1,
    .vocabulary = 1000,
    .context = 256,
    .key_format = NIB_KV_I8,
    .value_format = NIB_KV_F16,
};
static const struct nib_kv_reach reach[NIB_KV_MAX_CLASSES] = {
    {.window = 0}, {.window = 20}, {.recent = 2, .first = 1}};

/// Reads all that a file is said to hold, the end of its pages being that of the file.
static void read_content(const struct nib_session_content *content, const uint8_t *data,
                         size_t size)
{
    uint64_t sum = 0;
    for (uint32_t i = 0; i < content->n_tokens; i++) {
        uint32_t id = nib_load_u32(content->tokens + (size_t)i * 4);
        if (id >= plan.vocabulary)
            abort();
        sum += id;
    }
    const uint8_t *end = content->pages;
    for (uint32_t l = 0; l < plan.n_kv_layers; l++) {
        struct nib_kv_places places = nib_kv_needed(reach[layers[l].kv_class], content->n_computed);
        end += (size_t)nib_kv_count(&places) *
               ((size_t)layers[l].key_page_size + layers[l].value_page_size +
                layers[l].key_scale_page_size);
        places = nib_kv_needed(reach[2], content->n_computed);
        end += (size_t)nib_kv_count(&places) * layers[l].recent_key_page_size;
    }
    for (const uint8_t *byte = content->pages; byte < end; byte++)
        sum += *byte;
    if (end != data + size || content->n_tokens > plan.context || sum == UINT64_MAX)
        abort();
}

static void parse(const uint8_t *data, size_t size)
{
    const struct nib_session_shape shape = {
        .plan = &plan, .reach = reach, .model = 7, .cache = 9, .precise = true};
    struct nib_session_content content;
    struct nib_error error;
    if (nib_session_parse(&shape, data, size, "fuzz", &content, &error) == NIB_OK)
        read_content(&content, data, size);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    parse(data, size);
    if (size < NIB_SESSION_HEADER_SIZE)
        return 0;
    uint8_t *copy = malloc(size);
    if (!copy)
        return 0;
    memcpy(copy, data, size);
    nib_store_u64(copy + 16, size);
    nib_store_u64(copy + NIB_SESSION_CHECKSUM,
                  nib_session_checksum(0, copy + NIB_SESSION_CHECKED, size - NIB_SESSION_CHECKED));
    parse(copy, size);
    free(copy);
    return 0;
}
