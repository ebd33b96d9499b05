#include "runtime/compress/folder.h"
#include "runtime/compress/writer_gguf.h"

const struct nib_checkpoint_writer *nib_checkpoint_writer_get(enum nib_quantize_container container)
{
    switch (container) {
    case NIB_QUANTIZE_AS_GGUF:
        return &nib_writer_gguf;
    case NIB_QUANTIZE_AS_GPTQ:
    case NIB_QUANTIZE_AS_AWQ:
    case NIB_QUANTIZE_AS_BITSANDBYTES:
    case NIB_QUANTIZE_AS_COMPRESSED_TENSORS:
    case NIB_QUANTIZE_AS_SAFETENSORS:
        return &nib_folder_writer;
    case NIB_QUANTIZE_AS_DEFAULT:
        break;
    }
    return NULL;
}
