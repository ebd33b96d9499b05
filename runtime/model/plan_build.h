/// What plan.c writes a plan with: views, weights and ops, one call each.
#ifndef RUNTIME_MODEL_PLAN_BUILD_H
#define RUNTIME_MODEL_PLAN_BUILD_H

#include "runtime/model/model.h"

/// A plan in the making. The first failure is kept in `status` and `err`, and what is called after
/// it does nothing, so that a model's layers read as a list.
struct nib_plan_builder {
    const struct nib_source *source;
    const struct nib_model_config *config;
    struct nib_plan_params params; ///< no zeros left
    struct nib_plan *plan;
    struct nib_arena *arena; ///< the plan's
    struct nib_op *ops;
    struct nib_segment *segments;
    struct nib_weight *weights;
    uint32_t max_ops;
    uint32_t max_weights;
    uint32_t layer; ///< of the segment in the making
    enum nib_status status;
    struct nib_error *err;
};

/// Takes room for the plan of `config`.
void nib_build_begin(struct nib_plan_builder *b);
/// Begins the next segment; ops go there from now on.
void nib_build_segment(struct nib_plan_builder *b, enum nib_segment_kind kind, uint32_t layer);

/// Returns the value called `name`, all of it; it is made at the first call.
struct nib_view nib_build_value(struct nib_plan_builder *b, const char *name, uint32_t width);
/// Returns columns [offset, offset + width) of `view`.
struct nib_view nib_build_part(struct nib_view view, uint32_t offset, uint32_t width);
/// Returns whether the checkpoint has `role` in the current layer.
bool nib_build_has(const struct nib_plan_builder *b, enum nib_role role);
/// Returns whether what a matmul with this matrix gives for a row depends on the sequence's others:
/// LLM_INT8 finds its outliers in all of them.
bool nib_build_looks_at_rows(struct nib_plan_builder *b, enum nib_role role);

/// Each adds an op. Weights are those of the current layer; biases are used where they are there.
void nib_build_embed(struct nib_plan_builder *b, struct nib_view out);
void nib_build_norm(struct nib_plan_builder *b, struct nib_view in, struct nib_view out,
                    enum nib_role role, uint32_t n_groups);
/// `bias` NIB_ROLE_COUNT: the matrix never has one.
void nib_build_matmul(struct nib_plan_builder *b, struct nib_view in, struct nib_view out,
                      enum nib_role role, enum nib_role bias);
void nib_build_rope(struct nib_plan_builder *b, struct nib_view x, uint32_t n_heads,
                    uint32_t table);
void nib_build_op(struct nib_plan_builder *b, const struct nib_op *op);

#endif
