#include "runtime/base/half.h"
#include "runtime/ops/kv.h"

/// Returns what a scale or minimum is stored as.
static float stored(float x)
{
    return nib_f32_from_f16(nib_f16_from_f32(nib_kv_clean(x)));
}

/// Returns the sum of the squares of what a group loses in `format`.
static double find_loss(enum nib_kv_format format, const float *x)
{
    float low = x[0], high = x[0];
    for (uint32_t i = 1; i < NIB_KV_GROUP; i++) {
        low = x[i] < low ? x[i] : low;
        high = x[i] > high ? x[i] : high;
    }
    float most = high > -low ? high : -low;
    float first = format == NIB_KV_I8 ? 0 : stored(low);
    float scale = stored(format == NIB_KV_I8 ? most / 127.0f : (high - low) / 15.0f);
    float least_code = format == NIB_KV_I8 ? -127 : 0, most_code = format == NIB_KV_I8 ? 127 : 15;
    double loss = 0;
    for (uint32_t i = 0; i < NIB_KV_GROUP; i++) {
        float rest = x[i] - first;
        float code = scale > 0 ? rest / scale : 0;
        code = code < least_code ? least_code : code > most_code ? most_code : code;
        code = (float)(int32_t)(code < 0 ? code - 0.5f : code + 0.5f);
        loss += ((double)rest - (double)(code * scale)) * ((double)rest - (double)(code * scale));
    }
    return loss;
}

struct nib_kv_loss nib_kv_find_loss(enum nib_kv_format format, const float *x)
{
    // The transform makes numbers smaller by a factor of sqrt(2).
    float y[NIB_KV_GROUP];
    struct nib_kv_loss loss = {.plain = find_loss(format, x)};
    for (uint32_t i = 0; i < NIB_KV_GROUP; i++) {
        y[i] = x[i];
        loss.size += (double)x[i] * (double)x[i];
    }
    nib_kv_transform_group(y, NIB_KV_STORE_FACTOR);
    loss.transformed = 2 * find_loss(format, y);
    return loss;
}
