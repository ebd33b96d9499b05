#include "tests/unit/import/tiny.h"

#include "tests/unit/formats/bytes.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

const struct tiny_kind tiny_kinds[] = {
    {.arch = "llama"},
    {.arch = "smollm3"},
    {.arch = "qwen2", .biased = true},
    {.arch = "qwen3", .qk_norm = 1},
    {.arch = "gemma2", .post_norm = true},
    {.arch = "gemma3", .post_norm = true, .qk_norm = 1},
    {.arch = "phi3", .fused = true},
    {.arch = "olmo2", .post_norm = true, .no_pre_norm = true, .qk_norm = 2},
    {.arch = "granite"},
};
const uint32_t n_tiny_kinds = sizeof tiny_kinds / sizeof tiny_kinds[0];

/// Writes the key's name and counts it; returns false where it is left out.
static bool begin_value(struct tiny *tiny, const char *key)
{
    char full[128];
    if (tiny->without && strcmp(tiny->without, key) == 0)
        return false;
    snprintf(full, sizeof full, "%s.%s", tiny->arch, key);
    put_text(&tiny->values, full);
    tiny->n_values++;
    return true;
}

void tiny_u32(struct tiny *tiny, const char *key, uint32_t value)
{
    if (!begin_value(tiny, key))
        return;
    put_u32(&tiny->values, NIB_GGUF_U32);
    put_u32(&tiny->values, value);
}

void tiny_f32(struct tiny *tiny, const char *key, float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    if (!begin_value(tiny, key))
        return;
    put_u32(&tiny->values, NIB_GGUF_F32);
    put_u32(&tiny->values, bits);
}

void tiny_text(struct tiny *tiny, const char *key, const char *value)
{
    if (!begin_value(tiny, key))
        return;
    put_u32(&tiny->values, NIB_GGUF_STRING);
    put_text(&tiny->values, value);
}

void tiny_flags(struct tiny *tiny, const char *key, const bool *flags, uint32_t count)
{
    if (!begin_value(tiny, key))
        return;
    put_u32(&tiny->values, NIB_GGUF_ARRAY);
    put_u32(&tiny->values, NIB_GGUF_BOOL);
    put_u64(&tiny->values, count);
    for (uint32_t i = 0; i < count; i++)
        put_u8(&tiny->values, flags[i]);
}

void tiny_begin(struct tiny *tiny, const char *arch, const char *without)
{
    *tiny = (struct tiny){.arch = "general", .without = without};
    tiny_text(tiny, "architecture", arch);
    tiny->arch = arch;
    tiny_u32(tiny, "block_count", TINY_LAYERS);
    tiny_u32(tiny, "embedding_length", TINY_HIDDEN);
    tiny_u32(tiny, "feed_forward_length", TINY_FFN);
    tiny_u32(tiny, "attention.head_count", TINY_HEADS);
    tiny_u32(tiny, "attention.head_count_kv", TINY_KV_HEADS);
    tiny_u32(tiny, "context_length", TINY_CONTEXT);
}

void tiny_tensor(struct tiny *tiny, const char *name, uint32_t rows, uint32_t cols)
{
    if (tiny->without && strcmp(tiny->without, name) == 0)
        return;
    put_text(&tiny->tensors, name);
    put_u32(&tiny->tensors, rows ? 2 : 1);
    put_u64(&tiny->tensors, cols); // the fastest first
    if (rows)
        put_u64(&tiny->tensors, rows);
    put_u32(&tiny->tensors, 0); // f32
    put_u64(&tiny->tensors, tiny->data_size);
    uint64_t size = (uint64_t)(rows ? rows : 1) * cols * 4;
    tiny->data_size += (size + 31) / 32 * 32;
    tiny->n_tensors++;
}

static void layer_tensor(struct tiny *tiny, uint32_t layer, const char *name, uint32_t rows,
                         uint32_t cols)
{
    char full[128];
    snprintf(full, sizeof full, "blk.%" PRIu32 ".%s", layer, name);
    tiny_tensor(tiny, full, rows, cols);
}

static void attention_tensors(struct tiny *tiny, const struct tiny_kind *kind, uint32_t layer)
{
    const uint32_t q = TINY_HEADS * TINY_HEAD_DIM;
    const uint32_t kv = TINY_KV_HEADS * TINY_HEAD_DIM;
    if (kind->fused) {
        layer_tensor(tiny, layer, "attn_qkv.weight", q + 2 * kv, TINY_HIDDEN);
    } else {
        layer_tensor(tiny, layer, "attn_q.weight", q, TINY_HIDDEN);
        layer_tensor(tiny, layer, "attn_k.weight", kv, TINY_HIDDEN);
        layer_tensor(tiny, layer, "attn_v.weight", kv, TINY_HIDDEN);
    }
    if (kind->biased) {
        layer_tensor(tiny, layer, "attn_q.bias", 0, q);
        layer_tensor(tiny, layer, "attn_k.bias", 0, kv);
        layer_tensor(tiny, layer, "attn_v.bias", 0, kv);
    }
    if (kind->qk_norm) {
        layer_tensor(tiny, layer, "attn_q_norm.weight", 0, kind->qk_norm == 1 ? TINY_HEAD_DIM : q);
        layer_tensor(tiny, layer, "attn_k_norm.weight", 0, kind->qk_norm == 1 ? TINY_HEAD_DIM : kv);
    }
    layer_tensor(tiny, layer, "attn_output.weight", TINY_HIDDEN, q);
}

void tiny_layers(struct tiny *tiny, const struct tiny_kind *kind)
{
    tiny_tensor(tiny, "token_embd.weight", TINY_VOCABULARY, TINY_HIDDEN);
    tiny_tensor(tiny, "output_norm.weight", 0, TINY_HIDDEN);
    for (uint32_t layer = 0; layer < TINY_LAYERS; layer++) {
        if (!kind->no_pre_norm) {
            layer_tensor(tiny, layer, "attn_norm.weight", 0, TINY_HIDDEN);
            layer_tensor(tiny, layer, "ffn_norm.weight", 0, TINY_HIDDEN);
        }
        if (kind->post_norm) {
            layer_tensor(tiny, layer, "post_attention_norm.weight", 0, TINY_HIDDEN);
            layer_tensor(tiny, layer, "post_ffw_norm.weight", 0, TINY_HIDDEN);
        }
        attention_tensors(tiny, kind, layer);
        if (!kind->fused)
            layer_tensor(tiny, layer, "ffn_gate.weight", TINY_FFN, TINY_HIDDEN);
        layer_tensor(tiny, layer, "ffn_up.weight", (kind->fused ? 2 : 1) * TINY_FFN, TINY_HIDDEN);
        layer_tensor(tiny, layer, "ffn_down.weight", TINY_HIDDEN, TINY_FFN);
    }
}

void tiny_end(struct tiny *tiny, struct nib_buffer *out)
{
    *out = (struct nib_buffer){0};
    put_gguf_header(out, tiny->n_tensors, tiny->n_values);
    nib_buffer_append(out, tiny->values.data, tiny->values.size, NULL);
    nib_buffer_append(out, tiny->tensors.data, tiny->tensors.size, NULL);
    put_padding(out, 32);
    for (uint64_t i = 0; i < tiny->data_size; i += 4)
        put_u32(out, 0x3f000000); // 0.5f
    nib_buffer_free(&tiny->values);
    nib_buffer_free(&tiny->tensors);
    *tiny = (struct tiny){0};
}
