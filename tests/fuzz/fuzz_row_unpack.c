// Blocks of every format from any bytes: the first byte names the format, the rest is a row. What
// is unpacked must dequantize, and pack again, without a fault.
#include <stdlib.h>

#include "runtime/quant/pack.h"
#include "runtime/quant/row_reader.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 1 || size > 1 << 16)
        return 0;
    const struct nib_format *format = nib_format_get(data[0] % NIB_FORMAT_COUNT);
    if (!format->block_bytes)
        return 0;
    uint64_t n_blocks = (size - 1) / format->block_bytes;
    uint64_t cols = n_blocks * format->block_weights;
    uint64_t groups = nib_format_groups(format, cols);
    // Heap blocks of exactly the sizes promised, so that a sanitizer sees any step beyond them.
    void *memory = malloc(nib_row_block_size(format, 1, cols));
    float *weights = malloc(cols * sizeof *weights + 1);
    float *scales = malloc(2 * groups * sizeof *scales + 1);
    uint8_t *raw = malloc(n_blocks * format->block_bytes + 1);
    if (memory && weights && scales && raw) {
        struct nib_row_block block;
        nib_row_block_init(&block, format, 1, cols, memory);
        nib_row_unpack(format, data + 1, 0, &block);
        nib_row_dequantize(format, &block, 0, weights);
        nib_row_group_scales(format, &block, 0, scales, scales + groups);
        if (!nib_row_pack(format, weights, cols, raw))
            abort();
    }
    free(raw);
    free(scales);
    free(weights);
    free(memory);
    return 0;
}
