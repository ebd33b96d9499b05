/// The quantizers of this folder; quantizer.c chooses among them.
#ifndef RUNTIME_COMPRESS_QUANTIZERS_H
#define RUNTIME_COMPRESS_QUANTIZERS_H

#include "runtime/compress/compress.h"

/// Uniform codes, each weight rounded to the nearest value of its group's grid.
extern const struct nib_quantizer nib_quantizer_rtn;
/// GPTQ (Frantar et al. 2022, arXiv 2210.17323).
extern const struct nib_quantizer nib_quantizer_gptq;
/// Returns whether its matrix for `entry` has a permutation: groups are of neighbours in an order
/// of their own, and there is more than one.
bool nib_gptq_permutes(const struct nib_compress_plan *plan,
                       const struct nib_compress_entry *entry);
/// LLM.int8 (Dettmers et al. 2022, arXiv 2208.07339): codes as bitsandbytes rounds them.
extern const struct nib_quantizer nib_quantizer_llm_int8;
/// NF4 and FP4 in blocks of 64 (Dettmers et al. 2023, arXiv 2305.14314), as bitsandbytes rounds.
extern const struct nib_quantizer nib_quantizer_book;

#endif
