/// What tensors a configuration needs, and of what shape.
#ifndef RUNTIME_IMPORT_ROLES_H
#define RUNTIME_IMPORT_ROLES_H

#include "runtime/import/config.h"

/// Rows (outputs) and columns (inputs) of a matrix; a vector has one row.
struct nib_shape {
    uint64_t rows;
    uint64_t cols;
};
/// Returns the shape that a tensor of `role` must have. The vocabulary must be known.
struct nib_shape nib_role_shape(const struct nib_model_config *config, enum nib_role role);

enum nib_need {
    NIB_NEED_NO,  ///< has no place in the architecture
    NIB_NEED_MAY, ///< used where it is there
    NIB_NEED_MUST,
    NIB_NEED_UNFUSED ///< needed where the matrix that holds it with others is not there
};
/// Returns whether the configuration has a use for tensors of `role`; `biased`: Q, K and V must
/// have biases. The head must be there unless it is tied, which the caller knows.
enum nib_need nib_role_need(const struct nib_model_config *config, bool biased, enum nib_role role);
/// Returns the role of the matrix or vector that may hold `role` together with others, or `role`.
enum nib_role nib_role_fused(enum nib_role role);
/// Returns whether tensors of `role` are weights of norms.
bool nib_role_is_norm(enum nib_role role);

#endif
