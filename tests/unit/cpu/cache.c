// Pages of the KV cache: copied, exported and imported.
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "tiny_model.h"

static const struct tiny_params params = {NIB_FORMAT_Q4_0, NIB_ACTIVATION_F32, NIB_KV_F16,
                                          NIB_KV_F32, false};
enum { PREFIX = 40, REST = 10, NUMBERS = REST * TINY_VOCABULARY };

/// Where tiny_run puts page i of sequence 0 in a class.
static uint32_t page_of(uint32_t kv_class, uint32_t i, uint32_t offset)
{
    return ((i + kv_class) % TINY_TABLE + offset) % TINY_PAGES;
}

static void run_rest(struct tiny_instance *t, uint32_t page_offset, float *logits)
{
    struct tiny_chunk chunk = {.first = PREFIX, .n = REST};
    struct tiny_step step = {.chunks = &chunk, .n_chunks = 1, .page_offset = page_offset};
    tiny_run(t, &step, logits);
}

Test(cpu_cache, a_copied_page_serves_as_the_first)
{
    struct tiny_model m;
    struct tiny_instance t;
    float prefix[PREFIX * TINY_VOCABULARY], first[NUMBERS], second[NUMBERS];
    tiny_model_init(&m, &params);
    tiny_open(&t, &m, 2, 0, TINY_SEGMENTS);
    tiny_run_chunk(&t, 0, 0, PREFIX, prefix);
    for (uint32_t kv_class = 0; kv_class < 2; kv_class++) {
        for (uint32_t i = 0; i < 2; i++) {
            cr_assert_eq(nib_cpu_backend.kv_copy(t.self, kv_class, page_of(kv_class, i, 0),
                                                 page_of(kv_class, i, 10), NULL),
                         NIB_OK);
        }
    }
    run_rest(&t, 0, first);
    run_rest(&t, 10, second);
    cr_assert_eq(memcmp(first, second, sizeof first), 0);
    tiny_close(&t);
    tiny_model_free(&m);
}

Test(cpu_cache, pages_move_to_another_instance)
{
    struct tiny_model m;
    struct tiny_instance from, to;
    struct nib_error error;
    float prefix[PREFIX * TINY_VOCABULARY], first[NUMBERS], second[NUMBERS];
    tiny_model_init(&m, &params);
    tiny_open(&from, &m, 1, 0, TINY_SEGMENTS);
    tiny_open(&to, &m, 1, 0, TINY_SEGMENTS);
    tiny_run_chunk(&from, 0, 0, PREFIX, prefix);
    for (uint32_t layer = 0; layer < TINY_LAYERS; layer++) {
        const struct nib_kv_layer *l = &m.kv_layers[layer];
        size_t size = (size_t)l->key_page_size + l->value_page_size;
        uint8_t *bytes = malloc(size);
        for (uint32_t i = 0; i < 2; i++) {
            struct nib_kv_page source = {.kv_layer = layer, .page = page_of(layer, i, 0)};
            struct nib_kv_page target = {.kv_layer = layer, .page = page_of(layer, i, 5)};
            cr_assert_eq(nib_cpu_backend.kv_export(from.self, source, bytes, &error), NIB_OK);
            cr_assert_eq(nib_cpu_backend.kv_import(to.self, target, bytes, &error), NIB_OK);
        }
        free(bytes);
    }
    run_rest(&from, 0, first);
    run_rest(&to, 5, second);
    cr_assert_eq(memcmp(first, second, sizeof first), 0);
    tiny_close(&from);
    tiny_close(&to);
    tiny_model_free(&m);
}

Test(cpu_cache, a_layer_of_another_placement_has_no_pages)
{
    struct tiny_model m;
    struct tiny_instance t;
    struct nib_error error = {0};
    uint8_t byte = 0;
    tiny_model_init(&m, &params);
    tiny_open(&t, &m, 1, 2, 1);
    cr_assert_eq(nib_cpu_backend.kv_export(t.self, (struct nib_kv_page){.page = 0}, &byte, &error),
                 NIB_ERROR_STATE);
    cr_assert(strstr(error.message, "KV layer 0"));
    cr_assert_eq(nib_cpu_backend.kv_import(t.self, (struct nib_kv_page){.page = 0}, &byte, NULL),
                 NIB_ERROR_STATE);
    struct nib_instance_memory memory;
    nib_cpu_backend.memory(t.self, &memory);
    const struct nib_kv_layer *l = &m.kv_layers[1];
    cr_assert_eq(memory.kv, (uint64_t)TINY_PAGES * (l->key_page_size + l->value_page_size));
    tiny_close(&t);
    tiny_model_free(&m);
}
