/// Activations as integers: the specification that every backend's own code is compared with.
///
/// A value x becomes code = x / scale rounded to the nearest integer, ties to even. NaN becomes
/// code 0 and counts for no maximum; where the maximum is infinite, so is the scale, and the codes
/// are 0 (so that results are NaN). Thread-safety: safe.
#ifndef RUNTIME_QUANT_ACTIVATION_H
#define RUNTIME_QUANT_ACTIVATION_H

#include <nibble/base.h>

/// INT8_GROUP: quantizes a row in groups of NIB_ACTIVATION_GROUP values, the last one maybe short.
/// Writes `codes[cols]` (−127 to 127), and for each group its scale, max|x| / 127, and the sum of
/// its codes. Codes are x · (127 / max|x|), a product, since devices do not divide exactly; a group
/// whose max|x| is below 2^-100 counts as all zero: scale and codes are 0.
void nib_activation_quantize_groups(const float *x, uint64_t cols, int8_t *codes, float *scale,
                                    int32_t *sum);

/// INT16_GROUP: the same with codes of −32639 to 32639, so that a code is 256 · high + low with
/// both parts in −128 .. 127: what multiplies bytes multiplies these as two rows.
void nib_activation_quantize_groups_16(const float *x, uint64_t cols, int16_t *codes, float *scale,
                                       int32_t *sum);
/// The largest code of INT16_GROUP: 127 · 256 + 127.
#define NIB_ACTIVATION_MAX_16 32639

/// INT8_TOKEN, after compressed-tensors: returns the row's scale, max|x| / 127.5, and writes codes
/// x / scale clamped to −128 .. 127. The maximum becomes 127 or −128 (−127 where the quotient is
/// rounded down).
float nib_activation_quantize_token(const float *x, uint64_t cols, int8_t *codes);

/// INT8_STATIC: writes codes x / scale clamped to −128 .. 127.
void nib_activation_quantize_static(const float *x, uint64_t cols, float scale, int8_t *codes);

/// LLM_INT8 (Dettmers et al. 2022, "LLM.int8()"), one row of several; the caller has rounded x to
/// binary16 where the checkpoint's tool does so. Returns the scale, max|x| / 127 over the values
/// whose magnitude is below `threshold` (0: over all finite values), and writes their codes. A
/// value at or above it gets code 0 and sets `outlier[column]` to 1; the rest of `outlier[cols]`
/// stays as it is. The caller clears `outlier` before the first row, and leaves the columns that
/// are set after the last row out of the integer product.
float nib_activation_quantize_regular(const float *x, uint64_t cols, float threshold, int8_t *codes,
                                      uint8_t *outlier);

#endif
