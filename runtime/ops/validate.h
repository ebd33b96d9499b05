/// Checks of one op, for nib_plan_validate.
#ifndef RUNTIME_OPS_VALIDATE_H
#define RUNTIME_OPS_VALIDATE_H

#include "runtime/ops/plan.h"

/// Checks op `index` of a plan whose values, weights, tables and KV layers are in order already.
/// Errors: argument, naming the op and the reason.
enum nib_status nib_plan_validate_op(const struct nib_plan *plan, uint32_t index,
                                     struct nib_error *err);

#endif
