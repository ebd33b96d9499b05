#include "tiny_model.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/quant/pack.h"

/// Values of the plan.
enum { HIDDEN, NORMED, QKV, ATTENTION, FFN, LOGITS, N_VALUES };

static void *new_zeros(uint64_t count, size_t size)
{
    void *memory = calloc(count ? count : 1, size);
    cr_assert_not_null(memory);
    return memory;
}

static uint32_t next_random(struct tiny_model *m)
{
    m->random = m->random * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (uint32_t)(m->random >> 33);
}

static float random_float(struct tiny_model *m, float size)
{
    return ((float)next_random(m) / 1073741824.0f - 1.0f) * size;
}

static enum nib_status read_block(const struct nib_row_reader *reader, uint64_t first,
                                  struct nib_row_block *block, struct nib_error *err)
{
    (void)err;
    const struct nib_row_block *from = reader->source;
    uint64_t n = block->rows, groups = nib_format_groups(&reader->format, reader->cols);
    memcpy(block->codes, from->codes + first * from->cols, n * from->cols);
    memcpy(block->scale, from->scale + first * groups, n * groups * sizeof(float));
    if (block->zero)
        memcpy(block->zero, from->zero + first * groups, n * groups * sizeof(int16_t));
    return NIB_OK;
}

/// Random codes for a format that is not stored in blocks.
static void make_block(struct tiny_model *m, uint32_t index)
{
    struct nib_row_reader *reader = &m->readers[index];
    struct nib_row_block *block = &m->blocks[index];
    const struct nib_format *format = &reader->format;
    m->memory[index] = new_zeros(nib_row_block_size(format, reader->rows, reader->cols), 1);
    nib_row_block_init(block, format, reader->rows, reader->cols, m->memory[index]);
    uint64_t groups = reader->rows * nib_format_groups(format, reader->cols);
    uint32_t codes = 1u << format->bits;
    for (uint64_t i = 0; i < reader->rows * reader->cols; i++)
        block->codes[i] = (uint8_t)(next_random(m) % codes);
    for (uint64_t i = 0; i < groups; i++)
        block->scale[i] = (float)(1 + next_random(m) % 8) / (float)(256 * codes);
    for (uint64_t i = 0; block->zero && i < groups; i++)
        block->zero[i] = (int16_t)(codes / 2 + next_random(m) % 3);
    reader->source = block;
    reader->read = read_block;
}

/// Random rows in the container's own blocks.
static void make_raw(struct tiny_model *m, uint32_t index)
{
    struct nib_row_reader *reader = &m->readers[index];
    uint64_t row_bytes;
    cr_assert(nib_format_row_bytes(&reader->format, reader->cols, &row_bytes));
    uint8_t *raw = new_zeros(reader->rows, row_bytes);
    float *row = new_zeros(reader->cols, sizeof(float));
    for (uint64_t r = 0; r < reader->rows; r++) {
        for (uint64_t i = 0; i < reader->cols; i++)
            row[i] = random_float(m, 0.2f) + (reader->rows == 1 ? 1.0f : 0.0f);
        cr_assert(nib_row_pack(&reader->format, row, reader->cols, raw + r * row_bytes));
    }
    free(row);
    m->memory[index] = raw;
    reader->raw = raw;
    reader->read = nib_row_reader_read_raw;
}

static uint32_t add_weight(struct tiny_model *m, enum nib_role role, uint32_t segment,
                           uint64_t rows, uint64_t cols)
{
    uint32_t index = m->plan.n_weights++;
    bool is_layer = segment != 0 && segment != TINY_SEGMENTS - 1;
    enum nib_format_id id = !nib_role_is_matrix(role) ? NIB_FORMAT_F32
                            : is_layer                ? m->params.format
                                                      : NIB_FORMAT_Q8_0;
    const struct nib_format *format = nib_format_get(id);
    m->readers[index] = (struct nib_row_reader){
        .name = nib_role_name(role),
        .format = *format,
        .rows = rows,
        .cols = cols,
        .permutation = is_layer && rows > 1 ? m->permutation : NULL,
        .activation_scale = 0.02f,
        .outlier_threshold = 3.0f,
    };
    m->weights[index] = (struct nib_weight){.role = role,
                                            .layer = is_layer ? segment - 1 : 0,
                                            .segment = segment,
                                            .shared_with = NIB_NO_WEIGHT,
                                            .rows = rows,
                                            .cols = cols,
                                            .format = *format};
    m->weights[index].bytes = nib_format_packed_bytes(format, rows, cols);
    if (format->block_bytes)
        make_raw(m, index);
    else
        make_block(m, index);
    return index;
}

static struct nib_op *add_op(struct tiny_model *m, enum nib_op_kind kind, uint32_t segment)
{
    struct nib_op *op = &m->ops[m->plan.n_ops++];
    *op = (struct nib_op){.kind = kind, .segment = segment};
    return op;
}

static struct nib_view view(const struct tiny_model *m, uint32_t value)
{
    return (struct nib_view){.value = value, .width = m->plan.values[value].width};
}

static struct nib_view part(uint32_t value, uint32_t offset, uint32_t width)
{
    return (struct nib_view){.value = value, .offset = offset, .width = width};
}

static void add_norm(struct tiny_model *m, enum nib_role role, uint32_t segment, struct nib_view in,
                     struct nib_view out)
{
    add_op(m, NIB_OP_NORM, segment)->norm =
        (struct nib_op_norm){.in = in,
                             .out = out,
                             .weight = add_weight(m, role, segment, 1, in.width),
                             .n_groups = 1,
                             .epsilon = 1e-5f};
}

static void add_matmul(struct tiny_model *m, enum nib_role role, uint32_t segment,
                       struct nib_view in, struct nib_view out)
{
    add_op(m, NIB_OP_MATMUL, segment)->matmul = (struct nib_op_matmul){
        .in = in,
        .out = out,
        .weight = add_weight(m, role, segment, out.width, in.width),
        .bias = role == NIB_ROLE_QKV ? add_weight(m, NIB_ROLE_QKV_BIAS, segment, 1, out.width)
                                     : NIB_NO_WEIGHT,
        .activation = m->params.activation,
        .experts = NIB_NO_WEIGHT,
        .tap = NIB_NO_WEIGHT,
    };
}

static void add_layer(struct tiny_model *m, uint32_t layer)
{
    const uint32_t segment = layer + 1, q = m->plan.hidden_size, kv = q / 2, dim = q / TINY_HEADS;
    struct nib_view hidden = view(m, HIDDEN), normed = view(m, NORMED);
    uint32_t ffn = m->plan.values[FFN].width / 2;
    add_norm(m, NIB_ROLE_ATTENTION_NORM, segment, hidden, normed);
    add_matmul(m, NIB_ROLE_QKV, segment, normed, view(m, QKV));
    add_op(m, NIB_OP_ROPE, segment)->rope =
        (struct nib_op_rope){.x = part(QKV, 0, q), .n_heads = TINY_HEADS, .head_dim = dim};
    add_op(m, NIB_OP_ROPE, segment)->rope = (struct nib_op_rope){
        .x = part(QKV, q, kv), .n_heads = TINY_KV_HEADS, .head_dim = dim, .interleaved = false};
    add_op(m, NIB_OP_KV_STORE, segment)->kv_store = (struct nib_op_kv_store){
        .key = part(QKV, q, kv), .value = part(QKV, q + kv, kv), .kv_layer = layer};
    add_op(m, NIB_OP_ATTENTION, segment)->attention =
        (struct nib_op_attention){.query = part(QKV, 0, q),
                                  .out = view(m, ATTENTION),
                                  .kv_layer = layer,
                                  .n_heads = TINY_HEADS,
                                  .scale = 0.3f};
    add_matmul(m, NIB_ROLE_ATTENTION_OUT, segment, view(m, ATTENTION), normed);
    add_op(m, NIB_OP_ADD, segment)->add =
        (struct nib_op_add){.in = normed, .out = hidden, .scale = 1.0f};
    add_norm(m, NIB_ROLE_FFN_NORM, segment, hidden, normed);
    add_matmul(m, NIB_ROLE_FFN_GATE_UP, segment, normed, view(m, FFN));
    add_op(m, NIB_OP_ACTIVATE, segment)->activate = (struct nib_op_activate){
        .gate = part(FFN, 0, ffn), .up = part(FFN, ffn, ffn), .out = part(FFN, 0, ffn)};
    add_matmul(m, NIB_ROLE_FFN_DOWN, segment, part(FFN, 0, ffn), normed);
    add_op(m, NIB_OP_ADD, segment)->add =
        (struct nib_op_add){.in = normed, .out = hidden, .scale = 0.5f};
}

static void add_ops(struct tiny_model *m)
{
    const uint32_t head = TINY_SEGMENTS - 1, hidden = m->plan.hidden_size;
    uint32_t embedding = add_weight(m, NIB_ROLE_TOKEN_EMBEDDING, 0, TINY_VOCABULARY, hidden);
    add_op(m, NIB_OP_EMBED, 0)->embed =
        (struct nib_op_embed){.weight = embedding, .out = view(m, HIDDEN), .scale = 4.0f};
    for (uint32_t layer = 0; layer < TINY_LAYERS; layer++)
        add_layer(m, layer);
    add_op(m, NIB_OP_GATHER, head)->gather =
        (struct nib_op_gather){.in = view(m, HIDDEN), .out = view(m, NORMED)};
    add_norm(m, NIB_ROLE_OUTPUT_NORM, head, view(m, NORMED), view(m, NORMED));
    add_matmul(m, NIB_ROLE_OUTPUT, head, view(m, NORMED), view(m, LOGITS));
    uint32_t output = m->plan.n_weights - 1;
    m->weights[output].shared_with = embedding;
    m->readers[output] = m->readers[embedding];
    add_op(m, NIB_OP_SCALE, head)->scale =
        (struct nib_op_scale){.x = view(m, LOGITS), .factor = 0.5f};
    add_op(m, NIB_OP_SOFTCAP, head)->softcap =
        (struct nib_op_softcap){.x = view(m, LOGITS), .cap = 20.0f};
}

static void init_segments(struct tiny_model *m)
{
    for (uint32_t s = 0, op = 0; s < TINY_SEGMENTS; s++) {
        uint32_t first = op;
        while (op < m->plan.n_ops && m->ops[op].segment == s)
            op++;
        enum nib_segment_kind kind = s == 0                   ? NIB_SEGMENT_EMBEDDING
                                     : s == TINY_SEGMENTS - 1 ? NIB_SEGMENT_HEAD
                                                              : NIB_SEGMENT_LAYER;
        m->segments[s] = (struct nib_segment){.kind = kind,
                                              .layer = kind == NIB_SEGMENT_LAYER ? s - 1 : 0,
                                              .first_op = first,
                                              .n_ops = op - first};
    }
}

static void init_tables(struct tiny_model *m, uint32_t dim)
{
    m->frequency = new_zeros(dim / 2, sizeof(float));
    for (uint32_t j = 0; j < dim / 2; j++)
        m->frequency[j] = 1.0f / (float)(1 + 3 * j);
    m->rope = (struct nib_rope_table){.dims = dim, .frequency = m->frequency, .magnitude = 1.0f};
    for (uint32_t i = 0; i < TINY_LAYERS; i++) {
        m->kv_layers[i] = (struct nib_kv_layer){
            .n_heads = TINY_KV_HEADS,
            .key_dim = dim,
            .value_dim = dim,
            .window = i ? 20 : 0,
            .kv_class = i,
        };
        (void)nib_kv_layer_size(&m->kv_layers[i], m->params.key_format, m->params.value_format);
    }
}

void tiny_model_init(struct tiny_model *m, const struct tiny_params *params)
{
    *m = (struct tiny_model){.params = *params, .random = 12345};
    const uint32_t hidden = nib_format_get(params->format)->block_weights == 256 ? 256 : 64;
    m->plan = (struct nib_plan){
        .values = {{"hidden", hidden},
                   {"normed", hidden},
                   {"qkv", 2 * hidden},
                   {"attention", hidden},
                   {"ffn", 2 * hidden},
                   {"logits", TINY_VOCABULARY}},
        .n_values = N_VALUES,
        .ops = m->ops,
        .segments = m->segments,
        .n_segments = TINY_SEGMENTS,
        .weights = m->weights,
        .ropes = &m->rope,
        .n_ropes = 1,
        .kv_layers = m->kv_layers,
        .n_kv_layers = TINY_LAYERS,
        .n_kv_classes = TINY_LAYERS,
        .logits_value = LOGITS,
        .hidden_size = hidden,
        .vocabulary = TINY_VOCABULARY,
        .context = TINY_CONTEXT,
        .max_rows = TINY_MAX_ROWS,
        .key_format = params->key_format,
        .value_format = params->value_format,
    };
    if (params->has_permutation) {
        m->permutation = new_zeros(hidden, sizeof *m->permutation);
        for (uint32_t i = 0; i < hidden; i++)
            m->permutation[i] = (i * 13 + 5) % hidden;
    }
    init_tables(m, hidden / TINY_HEADS);
    add_ops(m);
    init_segments(m);
    struct nib_error error;
    cr_assert_eq(nib_plan_validate(&m->plan, &error), NIB_OK, "%s", error.message);
}

void tiny_model_free(struct tiny_model *m)
{
    for (uint32_t i = 0; i < TINY_MAX_WEIGHTS; i++)
        free(m->memory[i]);
    free(m->frequency);
    free(m->permutation);
}

void tiny_open_on(struct tiny_instance *t, const struct tiny_model *m,
                  const struct nib_backend *backend, void *device, uint32_t first_segment,
                  uint32_t n_segments)
{
    struct nib_error error;
    *t = (struct tiny_instance){.model = m, .backend = backend};
    struct nib_instance_params params = {.plan = &m->plan,
                                         .device = device,
                                         .first_segment = first_segment,
                                         .n_segments = n_segments,
                                         .n_pages = {TINY_PAGES, TINY_PAGES},
                                         .max_sequences = 3,
                                         .max_logits = TINY_MAX_ROWS,
                                         .profile = true};
    cr_assert_eq(backend->create(&params, &t->self, &error), NIB_OK, "%s", error.message);
    for (uint32_t w = 0; w < m->plan.n_weights; w++) {
        if (m->weights[w].shared_with == NIB_NO_WEIGHT) {
            cr_assert_eq(backend->pack(t->self, w, &m->readers[w], &error), NIB_OK, "%s",
                         error.message);
        }
    }
}

void tiny_open(struct tiny_instance *t, const struct tiny_model *m, uint32_t threads,
               uint32_t first_segment, uint32_t n_segments)
{
    struct nib_error error;
    void *device;
    cr_assert_eq(
        nib_cpu_backend.device_open(nib_device_params(.threads = threads), &device, &error), NIB_OK,
        "%s", error.message);
    tiny_open_on(t, m, &nib_cpu_backend, device, first_segment, n_segments);
    t->device = device;
}

void tiny_close(struct tiny_instance *t)
{
    t->backend->destroy(t->self);
    if (t->device)
        t->backend->device_close(t->device);
}

/// Waits for what a run has begun.
static void finish(struct tiny_instance *t)
{
    struct nib_error error;
    if (t->backend->wait)
        cr_assert_eq(t->backend->wait(t->self, &error), NIB_OK, "%s", error.message);
}

/// Lays out the rows of a step; returns their number, and that of the lines of logits.
static uint32_t make_rows(const struct tiny_step *in, struct nib_step_row *rows,
                          struct nib_step_sequence *sequences, uint32_t *out_lines)
{
    uint32_t n = 0;
    *out_lines = 0;
    for (uint32_t i = 0; i < in->n_chunks; i++) {
        const struct tiny_chunk *chunk = &in->chunks[i];
        sequences[i] = (struct nib_step_sequence){.kv_length = chunk->first + chunk->n,
                                                  .page_table = chunk->sequence * 2 * TINY_TABLE,
                                                  .first_row = n,
                                                  .n_rows = chunk->n};
        for (uint32_t k = 0; k < chunk->n; k++, n++) {
            uint32_t position = chunk->first + k;
            rows[n] = (struct nib_step_row){
                .token = (7 * position + 11 * chunk->sequence + position * position / 5) %
                         TINY_VOCABULARY,
                .position = position,
                .sequence = i,
                .logit_row = k < chunk->n_silent ? NIB_NONE : (*out_lines)++};
        }
    }
    for (uint32_t i = 0; i < in->n_padding; i++)
        rows[n + i] = (struct nib_step_row){.sequence = NIB_NONE, .logit_row = NIB_NONE};
    return n;
}

void tiny_run(struct tiny_instance *t, const struct tiny_step *in, float *logits)
{
    struct nib_step_row rows[TINY_MAX_ROWS];
    struct nib_step_sequence sequences[3];
    uint32_t tables[3 * 2 * TINY_TABLE];
    struct nib_error error;
    const struct nib_backend *backend = t->backend;
    for (uint32_t i = 0; i < 3 * 2 * TINY_TABLE; i++) {
        uint32_t sequence = i / (2 * TINY_TABLE), kv_class = i / TINY_TABLE % 2;
        uint32_t page = sequence * TINY_TABLE + (i % TINY_TABLE + kv_class) % TINY_TABLE;
        tables[i] = (page + in->page_offset) % TINY_PAGES;
    }
    uint32_t n_lines, n = make_rows(in, rows, sequences, &n_lines);
    struct nib_step step = {.header = {.n_rows = n + in->n_padding,
                                       .n_used_rows = n,
                                       .n_sequences = in->n_chunks,
                                       .page_table_stride = TINY_TABLE},
                            .rows = rows,
                            .sequences = sequences,
                            .page_tables = tables};
    cr_assert_eq(backend->run(t->self, 0, TINY_SEGMENTS - 2, &step, NULL, NULL, &error), NIB_OK,
                 "%s", error.message);
    finish(t);
    uint32_t most = in->max_logits ? in->max_logits : n_lines;
    for (uint32_t first = 0; first < n_lines; first += most) {
        step.header.first_logit = first;
        step.header.n_logits = n_lines - first < most ? n_lines - first : most;
        step.logits = logits + (size_t)first * TINY_VOCABULARY;
        cr_assert_eq(
            backend->run(t->self, TINY_SEGMENTS - 1, TINY_SEGMENTS - 1, &step, NULL, NULL, &error),
            NIB_OK, "%s", error.message);
        finish(t);
    }
}

void tiny_run_chunk(struct tiny_instance *t, uint32_t sequence, uint32_t first, uint32_t n,
                    float *logits)
{
    struct tiny_chunk chunk = {.sequence = sequence, .first = first, .n = n};
    tiny_run(t, &(struct tiny_step){.chunks = &chunk, .n_chunks = 1}, logits);
}
