#include "runtime/compress/scaling.h"

#include "runtime/base/status.h"
#include <math.h>
#include <string.h>

/// Returns the layer's entry of `role`, or UINT32_MAX.
static uint32_t find_entry(const struct nib_layer_work *work, enum nib_role role)
{
    const struct nib_layer *layer = &work->layer;
    for (uint32_t i = 0; i < layer->n; i++) {
        if (layer->plan->entries[layer->first + i].role == role)
            return i;
    }
    return UINT32_MAX;
}

/// Finds what makes the input.
static bool find_producer(struct nib_layer_work *work, enum nib_role input,
                          struct nib_scaled_input *out)
{
    const struct nib_model_config *c = nib_source_config(work->run->plan.source);
    enum nib_role bias = NIB_ROLE_COUNT;
    out->heads = 1;
    out->bias = UINT32_MAX;
    switch (input) {
    case NIB_ROLE_Q:
    case NIB_ROLE_QKV:
        out->producer = find_entry(work, NIB_ROLE_ATTENTION_NORM);
        break;
    case NIB_ROLE_FFN_GATE:
    case NIB_ROLE_FFN_GATE_UP:
        out->producer = find_entry(work, NIB_ROLE_FFN_NORM);
        break;
    case NIB_ROLE_ATTENTION_OUT:
        out->heads = c->n_heads / c->n_kv_heads;
        out->head_dim = c->value_dim;
        bias = NIB_ROLE_V_BIAS;
        out->producer = find_entry(work, NIB_ROLE_V);
        if (out->producer == UINT32_MAX) {
            bias = NIB_ROLE_QKV_BIAS;
            out->producer = find_entry(work, NIB_ROLE_QKV);
            out->first = (uint64_t)(c->n_heads + c->n_kv_heads) * c->key_dim;
        }
        break;
    case NIB_ROLE_FFN_DOWN:
        bias = NIB_ROLE_FFN_UP_BIAS;
        out->producer = find_entry(work, NIB_ROLE_FFN_UP);
        if (out->producer == UINT32_MAX) {
            out->producer = find_entry(work, NIB_ROLE_FFN_GATE_UP);
            out->first = c->ffn_size;
        }
        break;
    default:
        return false;
    }
    if (bias != NIB_ROLE_COUNT)
        out->bias = find_entry(work, bias);
    return out->producer != UINT32_MAX;
}

bool nib_scaled_input_find(struct nib_layer_work *work, enum nib_role input,
                           struct nib_scaled_input *out)
{
    const struct nib_layer *layer = &work->layer;
    bool is_quantized = false;
    *out = (struct nib_scaled_input){.work = work, .input = input};
    for (uint32_t i = 0; i < layer->n; i++) {
        const struct nib_compress_entry *entry = &layer->plan->entries[layer->first + i];
        if (!nib_role_is_matrix(entry->role) ||
            nib_calibration_input(work->run->calibration, entry->role) != input)
            continue;
        out->matrices[out->n_matrices++] = i;
        out->cols = entry->cols;
        is_quantized |= entry->is_quantized;
    }
    out->head_dim = (uint32_t)out->cols;
    return is_quantized && find_producer(work, input, out);
}

uint64_t nib_scaled_source(const struct nib_scaled_input *scaled, uint64_t column)
{
    const uint64_t head = column / scaled->head_dim;
    return head / scaled->heads * scaled->head_dim + column % scaled->head_dim;
}

void nib_scaled_share(const struct nib_scaled_input *scaled, float *s)
{
    const uint64_t dim = scaled->head_dim, group = dim * scaled->heads;
    for (uint64_t first = 0; scaled->heads > 1 && first < scaled->cols; first += group) {
        for (uint64_t i = 0; i < dim; i++) {
            double sum = 0;
            for (uint64_t h = 0; h < scaled->heads; h++)
                sum += log((double)s[first + h * dim + i]);
            for (uint64_t h = 0; h < scaled->heads; h++)
                s[first + h * dim + i] = (float)exp(sum / scaled->heads);
        }
    }
}

/// Divides row `row`, of `size` numbers, of entry `index` by `s`.
static void divide_row(const struct nib_scaled_input *scaled, uint32_t index, uint64_t row,
                       uint64_t size, float s)
{
    float *values = scaled->work->layer.values[index] + row * size;
    for (uint64_t i = 0; i < size; i++)
        values[i] /= s;
}

/// Scales what calibration has summed up: x becomes x / s.
static void scale_stats(struct nib_input_stats *stats, const float *s)
{
    for (uint64_t i = 0; stats->mean_abs && i < stats->cols; i++) {
        stats->mean_abs[i] /= s[i];
        stats->mean_square[i] /= s[i] * s[i];
        stats->max_abs[i] /= s[i];
    }
    for (uint64_t i = 0; stats->hessian && i < stats->cols; i++) {
        for (uint64_t j = 0; j < stats->cols; j++)
            stats->hessian[i * stats->cols + j] /= s[i] * s[j];
    }
}

static enum nib_status give(const struct nib_scaled_input *scaled, uint32_t index,
                            struct nib_error *err)
{
    const struct nib_layer *layer = &scaled->work->layer;
    return nib_calibration_set(scaled->work->run->calibration,
                               layer->plan->entries[layer->first + index].role,
                               layer->values[index], err);
}

enum nib_status nib_scaled_apply(const struct nib_scaled_input *scaled, const float *s,
                                 struct nib_error *err)
{
    const struct nib_layer *layer = &scaled->work->layer;
    const struct nib_compress_entry *producer =
        &layer->plan->entries[layer->first + scaled->producer];
    const uint64_t width = nib_role_is_matrix(producer->role) ? producer->cols : 1;
    for (uint64_t i = 0; i < scaled->cols; i++) {
        // Columns that share a row of the producer have one factor: the row is divided once.
        const uint64_t source = nib_scaled_source(scaled, i);
        if (i / scaled->head_dim % scaled->heads != 0)
            continue;
        divide_row(scaled, scaled->producer, scaled->first + source, width, s[i]);
        if (scaled->bias != UINT32_MAX)
            divide_row(scaled, scaled->bias, scaled->first + source, 1, s[i]);
    }
    enum nib_status status = give(scaled, scaled->producer, err);
    if (status == NIB_OK && scaled->bias != UINT32_MAX)
        status = give(scaled, scaled->bias, err);
    for (uint32_t m = 0; status == NIB_OK && m < scaled->n_matrices; m++) {
        const uint32_t index = scaled->matrices[m];
        float *values = layer->values[index];
        const uint64_t rows = layer->plan->entries[layer->first + index].rows;
        for (uint64_t r = 0; r < rows; r++) {
            for (uint64_t i = 0; i < scaled->cols; i++)
                values[r * scaled->cols + i] *= s[i];
        }
        status = give(scaled, index, err);
    }
    scale_stats(&scaled->work->stats[scaled->input].stats, s);
    return status;
}

enum nib_status nib_scaled_fail(const struct nib_scaled_input *scaled, struct nib_error *err)
{
    const struct nib_layer *layer = &scaled->work->layer;
    return nib_fail(err, NIB_ERROR_FORMAT,
                    "%s: weights and inputs are far too large for an error to be measured",
                    layer->plan->entries[layer->first + scaled->matrices[0]].name);
}
