/// What tests of the Vulkan backend share: its device, and one matrix as a plan of its own.
#ifndef TESTS_UNIT_VULKAN_RIG_H
#define TESTS_UNIT_VULKAN_RIG_H

#include "runtime/cpu/cpu_backend.h"
#include "runtime/vulkan/vulkan_backend.h"

/// Opens the Vulkan device that NIB_TEST_VULKAN numbers (0 without it), capped by `mask` (may be
/// NULL); skips the test where there is none.
void *rig_open(const char *mask);
/// The same with one family of matmul kernels before all others; skips the test where the device
/// cannot run it.
void *rig_open_variant(const char *variant);
void rig_close(void *device);
/// Returns whether case `i` of a test is left out because NIB_TEST_SHORT asks for one in `n`: for
/// drivers that compile for seconds.
bool rig_leaves_out(uint32_t i, uint32_t n);

/// Numbers at the ends of their ranges.
enum rig_extreme {
    RIG_RANDOM,
    RIG_MOST_CODES,      ///< every code and input the largest: sums as large as they get
    RIG_ZERO_SCALES,     ///< scales of zero, but for every fifth
    RIG_DENORMAL_SCALES, ///< as small as the type has them, with large inputs
    RIG_LARGE_INPUTS,    ///< inputs beyond what fp16 holds
    RIG_EXTREMES
};

/// A layer that adds weight · hidden to the first columns of the hidden state.
struct rig_matmul {
    struct nib_format format; ///< with the group wanted
    enum nib_activation activation;
    uint32_t rows; ///< of the weight, at most `cols`
    uint32_t cols;
    uint32_t n_inputs;
    uint32_t n_sequences; ///< that the inputs belong to; 0: one
    bool is_apart;        ///< the output replaces the hidden state, in a pass of its own
    bool has_permutation;
    bool has_bias;
    enum rig_extreme extreme;
};
/// Runs it on both backends and returns the largest difference, as a part of the largest output.
double rig_compare(void *device, const struct rig_matmul *params);

/// Runs the matmul of `reader`, with its activation mode, on [n_inputs][cols] numbers of one
/// sequence and writes [n_inputs][rows] outputs.
void rig_probe(void *device, const struct nib_row_reader *reader, uint32_t n_inputs,
               const float *in, float *out);

#endif
