#include "runtime/ops/ops.h"

#include "runtime/ops/plan.h"

const char *nib_op_name(enum nib_op_kind kind)
{
    static const char *const names[NIB_OP_COUNT] = {
#define X(id, name) [NIB_OP_##id] = #name,
        NIB_OPS(X)
#undef X
    };
    return names[kind];
}

const char *nib_role_name(enum nib_role role)
{
    static const char *const names[NIB_ROLE_COUNT] = {
#define X(id, name, matrix) [NIB_ROLE_##id] = name,
        NIB_ROLES(X)
#undef X
    };
    return names[role];
}

bool nib_role_is_matrix(enum nib_role role)
{
    static const bool matrices[NIB_ROLE_COUNT] = {
#define X(id, name, matrix) [NIB_ROLE_##id] = matrix,
        NIB_ROLES(X)
#undef X
    };
    return matrices[role];
}
