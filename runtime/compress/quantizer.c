#include "runtime/compress/block_quantize.h"
#include "runtime/compress/quantizers.h"

const struct nib_quantizer *nib_quantizer_get(const struct nib_compress_plan *plan,
                                              const struct nib_compress_entry *entry)
{
    const struct nib_format *format = &entry->scheme.format;
    // Inputs of the embedding and the head are not looked at.
    const bool is_gptq = plan->params.method == NIB_QUANTIZE_GPTQ &&
                         format->code == NIB_CODE_UNIFORM && format->super == 0 &&
                         nib_arch_in_layer(entry->role);
    if (is_gptq)
        return &nib_quantizer_gptq;
    if (format->block_bytes != 0)
        return &nib_quantizer_blocks;
    if (format->code == NIB_CODE_BOOK)
        return &nib_quantizer_book;
    return plan->params.method == NIB_QUANTIZE_LLM_INT8 ? &nib_quantizer_llm_int8
                                                        : &nib_quantizer_rtn;
}
