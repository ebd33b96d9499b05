#include "runtime/compress/block_quantize.h"
#include "runtime/compress/quantizers.h"

const struct nib_quantizer *nib_quantizer_get(const struct nib_compress_plan *plan,
                                              const struct nib_compress_entry *entry)
{
    const struct nib_format *format = &entry->scheme.format;
    if (format->block_bytes != 0 && !(plan->params.method == NIB_QUANTIZE_GPTQ &&
                                      format->code == NIB_CODE_UNIFORM && format->super == 0))
        return &nib_quantizer_blocks;
    if (format->code == NIB_CODE_BOOK)
        return &nib_quantizer_book;
    if (plan->params.method == NIB_QUANTIZE_LLM_INT8)
        return &nib_quantizer_llm_int8;
    return plan->params.method == NIB_QUANTIZE_GPTQ ? &nib_quantizer_gptq : &nib_quantizer_rtn;
}
