#include <criterion/criterion.h>
#include <string.h>

#include "runtime/ops/plan.h"

Test(ops_names, every_op_has_its_own)
{
    for (int i = 0; i < NIB_OP_COUNT; i++) {
        cr_assert_not_null(nib_op_name((enum nib_op_kind)i));
        for (int k = 0; k < i; k++)
            cr_assert_str_neq(nib_op_name((enum nib_op_kind)i), nib_op_name((enum nib_op_kind)k));
    }
    cr_assert_str_eq(nib_op_name(NIB_OP_KV_STORE), "kv_store");
}

Test(ops_names, every_role_has_its_own)
{
    for (int i = 0; i < NIB_ROLE_COUNT; i++) {
        cr_assert_not_null(nib_role_name((enum nib_role)i));
        for (int k = 0; k < i; k++)
            cr_assert_str_neq(nib_role_name((enum nib_role)i), nib_role_name((enum nib_role)k));
    }
    cr_assert_str_eq(nib_role_name(NIB_ROLE_FFN_GATE_UP), "ffn_gate_up");
}

Test(ops_names, norms_and_biases_are_vectors)
{
    for (int i = 0; i < NIB_ROLE_COUNT; i++) {
        const char *name = nib_role_name((enum nib_role)i);
        bool is_vector = strstr(name, "norm") || strstr(name, "bias") || strstr(name, "rope");
        cr_assert_eq(nib_role_is_matrix((enum nib_role)i), !is_vector, "%s", name);
    }
}
