/// What turns ops into passes shares: the segment that is being built, and what a pass is made of.
#ifndef RUNTIME_VULKAN_PASSES_H
#define RUNTIME_VULKAN_PASSES_H

#include "runtime/vulkan/instance.h"
#include "runtime/vulkan/variants.h"

/// Buffers that a pass binds; those left at size 0 are bound to the step block.
struct bindings {
    const struct nib_vk_range *range[NIB_BINDINGS];
    bool has_texels; ///< bound as texel buffers too, where there is one
};

/// The segment that is being built.
struct builder {
    struct nib_vk_instance *self;
    const struct nib_plan *plan;
    struct nib_vk_segment *segment;
    uint32_t op;
    uint32_t end_op; ///< one behind the segment's last op
    bool is_lines;   ///< a gather stands before
    /// What the prepared input holds, if anything.
    bool has_prepared;
    struct nib_view prepared_view;
    struct nib_vk_kernel prepared_kernel;
    float prepared_scale;
    struct nib_vk_pass *prepared_by;
    /// An op that every prepare of its output computes anew, so that it needs no pass of its own.
    const struct nib_op *deferred;            ///< norm or activation, or NULL
    uint32_t deferred_end;                    ///< the last op that reads its output
    struct nib_vk_pass *stored_by;            ///< the pass that turns and stores, or NULL
    const struct nib_op_rope *stored_queries; ///< that it turns
};

/// Passes of an op without weights, at most: those of attention.
#define NIB_VK_OP_PASSES 5

/// What a pass is made of.
struct pass_params {
    const char *name; ///< of a pass that belongs to no op, or NULL; static
    struct nib_vk_kernel kernel;
    struct bindings bind;
    const void *push;
    uint32_t push_size;
    uint64_t groups; ///< workgroups; of a matmul tiles
    bool is_matmul;
    const struct nib_vk_variant *variants; ///< [NIB_VK_MAX_COLUMNS], of a matmul
    const struct nib_vk_tile *tile;        ///< of its variants with cooperative matrices
};

/// Appends a pass; its accesses are added by the caller. `*out_pass` stays valid.
enum nib_status nib_vk_pass_add(struct builder *b, const struct pass_params *params,
                                struct nib_vk_pass **out_pass, struct nib_error *err);

static inline void add_access(struct nib_vk_pass *pass, uint32_t resource, uint32_t begin,
                              uint32_t end, bool is_write)
{
    pass->accesses[pass->n_accesses++] = (struct nib_vk_access){resource, begin, end, is_write};
}

static inline void reads(struct nib_vk_pass *pass, const struct nib_view *view)
{
    add_access(pass, view->value, view->offset, view->offset + view->width, false);
}

static inline bool views_overlap(const struct nib_view *a, const struct nib_view *b)
{
    return a->value == b->value && a->offset < b->offset + b->width &&
           b->offset < a->offset + a->width;
}

static inline bool is_same_view(const struct nib_view *a, const struct nib_view *b)
{
    return a->value == b->value && a->offset == b->offset && a->width == b->width;
}

/// Notes a write, after which a prepared input made of these columns is out of date.
static inline void writes(struct builder *b, struct nib_vk_pass *pass, const struct nib_view *view)
{
    add_access(pass, view->value, view->offset, view->offset + view->width, true);
    if (views_overlap(&b->prepared_view, view))
        b->has_prepared = false;
}

static inline const struct nib_vk_range *value_of(const struct builder *b,
                                                  const struct nib_view *view)
{
    return &b->self->values[view->value];
}

static inline uint32_t stride_of(const struct builder *b, const struct nib_view *view)
{
    return b->plan->values[view->value].width;
}

/// Widens `range` so that it holds `other` too; returns false where they lie in different blocks or
/// take more than `most` bytes.
bool nib_vk_range_widen(struct nib_vk_range *range, const struct nib_vk_range *other,
                        uint64_t most);
/// Returns the function's number as kernels have it: NIB_ELEMENTWISE_*.
uint32_t nib_vk_gate_function(enum nib_gate_function function);

/// Builds a matmul with all that makes its input ready, and the `*out_taken` ops behind it with it.
/// Errors: unsupported, memory, device.
enum nib_status nib_vk_build_matmul(struct builder *b, const struct nib_op_matmul *op,
                                    uint32_t *out_taken, struct nib_error *err);
/// Returns whether the op needs no pass: it is a norm or an activation that matmuls alone read.
bool nib_vk_defer(struct builder *b, const struct nib_op *op);

/// Returns whether the pass that stores keys and values can also turn the keys and, in place, the
/// queries, by the same angles.
bool nib_vk_store_turns(const struct builder *b, const struct nib_op_kv_store *op,
                        const struct nib_op_rope *keys, const struct nib_op_rope *queries);
/// Returns what kernels get of the heads that an op turns, in a binding of `range`.
struct nib_rope_part nib_vk_rope_part(const struct builder *b, const struct nib_op_rope *op,
                                      const struct nib_vk_range *range);
/// Returns where a table's angles lie in the step block.
uint32_t nib_vk_angles_at(const struct builder *b, uint32_t table);
/// Build the passes of the cache's ops. Where `queries` is not NULL, its op and that of the keys
/// are done as well (nib_vk_store_turns). Errors: unsupported, memory, device.
enum nib_status nib_vk_build_kv_store(struct builder *b, const struct nib_op_kv_store *op,
                                      const struct nib_op_rope *queries, struct nib_error *err);
enum nib_status nib_vk_build_attention(struct builder *b, const struct nib_op_attention *op,
                                       struct nib_error *err);
/// Has attention over many rows of a sequence, which is `usual` for few, done by cooperative
/// matrices where they serve. Errors: memory, device.
enum nib_status nib_vk_take_attention_coop(struct builder *b, const struct nib_op_attention *op,
                                           const struct nib_vk_kernel *usual,
                                           struct nib_vk_pass *pass, struct nib_error *err);
/// Returns the bytes that attention over parts of the pages takes for results of the parts.
uint64_t nib_vk_attention_partials(const struct nib_vk_instance *instance);

#endif
