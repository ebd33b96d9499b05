/// Probes: tiny plans around the kernels of one op, with weights and inputs chosen to hurt, that a
/// device and the scalar CPU code both run.
#ifndef RUNTIME_VULKAN_PROBE_H
#define RUNTIME_VULKAN_PROBE_H

#include "runtime/vulkan/instance.h"
#include "runtime/vulkan/vulkan_backend.h"

#define NIB_VK_PROBE_OPS 6
#define NIB_VK_PROBE_WEIGHTS 3
#define NIB_VK_PROBE_NAME 160
#define NIB_VK_PROBE_STEPS 5

/// What a matmul multiplies, and what stands before and behind it.
struct nib_vk_probe_matmul {
    struct nib_format format; ///< with the group wanted
    enum nib_activation activation;
    float activation_scale;
    float outlier_threshold;
    bool has_permutation;
    bool has_bias;
    bool has_add;                ///< its output is added to something
    uint32_t cols;               ///< of the model's; a probe has fewer that are cut in the same way
    const struct nib_op *source; ///< the norm or activation whose output it reads alone, or NULL
    bool source_has_weight;      ///< the norm has one
};

/// Attention over a cache of these layers, and what writes to it.
struct nib_vk_probe_attention {
    struct nib_kv_layer layer;
    enum nib_kv_format key_format;
    enum nib_kv_format value_format;
    uint32_t recent_pages;
    uint32_t first_pages;
    uint32_t n_heads;
    float scale;
    float softcap;
    const struct nib_op_rope *rope; ///< what turns the queries before, and the keys; NULL: nothing
    const struct nib_rope_table *table; ///< its angles; NULL: some
};

struct nib_vk_probe {
    char name[NIB_VK_PROBE_NAME]; ///< the same for the same kernels
    bool is_draw;                 ///< of the kernels that draw tokens
    double limit; ///< of the difference from the scalar code, as a part of a row's largest number
    bool is_head; ///< its ops are the head's, and the logits its output
    uint32_t
        n_rows[NIB_VK_PROBE_STEPS]; ///< of the steps that are run, all of one sequence; 0: no more
    struct nib_plan plan;
    struct nib_op ops[NIB_VK_PROBE_OPS];
    struct nib_weight weights[NIB_VK_PROBE_WEIGHTS];
    struct nib_row_reader readers[NIB_VK_PROBE_WEIGHTS];
    struct nib_row_block blocks[NIB_VK_PROBE_WEIGHTS];
    void *memory[NIB_VK_PROBE_WEIGHTS];
    uint32_t *permutation;
    struct nib_segment segments[3];
    struct nib_kv_layer kv_layer;
    struct nib_rope_table rope;
    float frequency[64];
    uint64_t random;
};

/// Make a probe; memory alone can fail. nib_vk_probe_free frees it in any case.
enum nib_status nib_vk_probe_make_matmul(const struct nib_vk_probe_matmul *params,
                                         struct nib_vk_probe *out_probe, struct nib_error *err);
enum nib_status nib_vk_probe_make_attention(const struct nib_vk_probe_attention *params,
                                            struct nib_vk_probe *out_probe, struct nib_error *err);
/// Of an op without a cache or matmul. `op` belongs to `plan`; NULL `plan`: it names no weight or
/// table.
enum nib_status nib_vk_probe_make_op(const struct nib_op *op, const struct nib_plan *plan,
                                     struct nib_vk_probe *out_probe, struct nib_error *err);
/// Of drawing tokens.
void nib_vk_probe_make_draw(struct nib_vk_probe *out_probe);
void nib_vk_probe_free(struct nib_vk_probe *probe);

/// What came out.
struct nib_vk_probe_result {
    double error;     ///< as the probe's limit; infinite for what is no number
    uint32_t kernels; ///< bits of nib_vk_choices.distrusted: those that ran
};
/// The CPU backend with a device of its scalar code.
struct nib_vk_reference {
    const struct nib_backend *backend;
    void *device;
};
/// Opens the device. Errors: memory.
enum nib_status nib_vk_reference_open(const struct nib_backend *backend,
                                      struct nib_vk_reference *out_reference,
                                      struct nib_error *err);
/// A zeroed one is accepted.
void nib_vk_reference_close(struct nib_vk_reference *reference);

/// Runs the probe with the kernels that `choices` leaves, and on the reference. Errors: those of
/// both.
enum nib_status nib_vk_probe_run(const struct nib_vk_probe *probe, struct nib_vk_device *device,
                                 const struct nib_vk_choices *choices,
                                 const struct nib_vk_reference *reference,
                                 struct nib_vk_probe_result *out_result, struct nib_error *err);
/// The same for one of drawing tokens; the sampler is the reference.
enum nib_status nib_vk_probe_run_draw(const struct nib_vk_probe *probe,
                                      struct nib_vk_device *device,
                                      const struct nib_vk_choices *choices,
                                      struct nib_vk_probe_result *out_result,
                                      struct nib_error *err);

#endif
