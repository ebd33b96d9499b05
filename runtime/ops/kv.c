#include "runtime/ops/kv.h"

uint32_t nib_kv_page_size(enum nib_kv_format format, uint32_t n_heads, uint32_t dim)
{
    uint64_t number_size = 0;
    switch (format) {
    case NIB_KV_F32:
        number_size = 4;
        break;
    case NIB_KV_DEFAULT:
    case NIB_KV_F16:
        number_size = 2;
        break;
    case NIB_KV_I8:
    case NIB_KV_I4:
        return 0;
    }
    uint64_t numbers = (uint64_t)n_heads * dim;
    if (numbers > UINT32_MAX / (NIB_KV_PAGE_TOKENS * 4))
        return 0;
    return (uint32_t)(numbers * NIB_KV_PAGE_TOKENS * number_size);
}
