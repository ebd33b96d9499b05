#include "runtime/import/source_parts.h"
#include "runtime/model/model.h"
#include "tests/unit/formats/bytes.h"
#include "tests/unit/import/tiny.h"

#include <criterion/criterion.h>
#include <string.h>

/// Finds the matmul with a matrix of `role` in `layer`.
static const struct nib_op_matmul *find_matmul(const struct nib_plan *plan, enum nib_role role,
                                               uint32_t layer)
{
    for (uint32_t i = 0; i < plan->n_ops; i++) {
        const struct nib_op *op = &plan->ops[i];
        if (op->kind != NIB_OP_MATMUL)
            continue;
        const struct nib_weight *weight = &plan->weights[op->matmul.weight];
        if (weight->role == role && weight->layer == layer)
            return &op->matmul;
    }
    cr_assert_fail("no matmul of %s", nib_role_name(role));
    return NULL;
}

Test(activations, int8_for_quantized_matrices_unless_precise)
{
    struct tiny tiny;
    struct nib_buffer file;
    struct nib_gguf *gguf;
    struct nib_source *source;
    tiny_begin(&tiny, "llama", NULL);
    tiny_layers(&tiny, &tiny_kinds[0]);
    tiny_end(&tiny, &file);
    cr_assert_eq(nib_gguf_parse((uint8_t *)file.data, file.size, "tiny", &gguf, NULL), NIB_OK);
    // What the tests look at is the type alone; no row is read.
    for (uint32_t i = 0; i < gguf->directory.n_tensors; i++) {
        struct nib_tensor *tensor = &gguf->directory.tensors[i];
        if (tensor->dims[0] == TINY_FFN || strcmp(tensor->name, "token_embd.weight") == 0)
            tensor->dtype = NIB_DTYPE_Q8_0;
    }
    cr_assert_eq(nib_source_from_gguf(gguf, &source, NULL), NIB_OK);
    for (int precise = 0; precise < 2; precise++) {
        const struct nib_plan_params params = {.precise = precise};
        struct nib_plan *plan;
        cr_assert_eq(nib_plan_create(source, &params, &plan, NULL), NIB_OK);
        cr_expect_eq(find_matmul(plan, NIB_ROLE_FFN_UP, 0)->activation,
                     precise ? NIB_ACTIVATION_F32 : NIB_ACTIVATION_INT8_GROUP);
        cr_expect_eq(find_matmul(plan, NIB_ROLE_FFN_UP, TINY_LAYERS - 1)->activation,
                     precise ? NIB_ACTIVATION_F32 : NIB_ACTIVATION_INT16_GROUP, "the last layer");
        cr_expect_eq(find_matmul(plan, NIB_ROLE_FFN_DOWN, 0)->activation, NIB_ACTIVATION_F32,
                     "a float matrix");
        cr_expect_eq(find_matmul(plan, NIB_ROLE_TOKEN_EMBEDDING, 0)->activation,
                     precise ? NIB_ACTIVATION_F32 : NIB_ACTIVATION_INT16_GROUP, "the head");
        nib_plan_destroy(&plan);
    }
    nib_source_destroy(&source);
    nib_gguf_destroy(&gguf);
    nib_buffer_free(&file);
}
