#include "runtime/compress/block_quantize.h"

const struct nib_quantizer *nib_quantizer_get(const struct nib_compress_plan *plan,
                                              const struct nib_compress_entry *entry)
{
    (void)plan;
    return entry->scheme.format.block_bytes ? &nib_quantizer_blocks : NULL;
}
