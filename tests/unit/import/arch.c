#include "runtime/import/arch.h"

#include <criterion/criterion.h>
#include <string.h>

static const struct nib_arch *find(enum nib_container container, const char *name)
{
    return nib_arch_find(container, (struct nib_text){name, strlen(name)});
}

Test(arch, names_in_both_containers)
{
    cr_expect_eq(find(NIB_CONTAINER_GGUF, "gemma3"), find(NIB_CONTAINER_HF, "gemma3_text"));
    cr_expect_eq(find(NIB_CONTAINER_HF, "gemma3"), find(NIB_CONTAINER_HF, "gemma3_text"));
    cr_expect_not_null(find(NIB_CONTAINER_HF, "mistral"));
    cr_expect_null(find(NIB_CONTAINER_GGUF, "mistral"));
    cr_expect_null(find(NIB_CONTAINER_GGUF, ""));
    cr_expect_null(find(NIB_CONTAINER_HF, "llam"));
    cr_expect_null(nib_arch_find(NIB_CONTAINER_HF, (struct nib_text){NULL, 0}));
}

Test(arch, list_is_cut)
{
    char list[64];
    nib_arch_list(NIB_CONTAINER_GGUF, list, sizeof list);
    cr_expect_eq(strncmp(list, "llama, smollm3, qwen2", 21), 0, "%s", list);
    char small[8];
    nib_arch_list(NIB_CONTAINER_HF, small, sizeof small);
    cr_expect_str_eq(small, "llama, ");
}

Test(arch, tensor_names)
{
    static const struct {
        enum nib_container container;
        const char *arch;
        enum nib_role role;
        uint32_t layer;
        const char *name; ///< or NULL
    } cases[] = {
        {NIB_CONTAINER_GGUF, "llama", NIB_ROLE_Q, 12, "blk.12.attn_q.weight"},
        {NIB_CONTAINER_GGUF, "llama", NIB_ROLE_OUTPUT, 0, "output.weight"},
        {NIB_CONTAINER_GGUF, "llama", NIB_ROLE_OUTPUT, 1, NULL},
        {NIB_CONTAINER_GGUF, "llama", NIB_ROLE_FFN_GATE_UP, 0, NULL},
        {NIB_CONTAINER_GGUF, "phi3", NIB_ROLE_FFN_GATE_UP, 0, "blk.0.ffn_up.weight"},
        {NIB_CONTAINER_GGUF, "phi3", NIB_ROLE_FFN_UP, 0, NULL},
        {NIB_CONTAINER_GGUF, "gemma2", NIB_ROLE_FFN_POST_NORM, 3, "blk.3.post_ffw_norm.weight"},
        {NIB_CONTAINER_HF, "llama", NIB_ROLE_K, 0, "model.layers.0.self_attn.k_proj.weight"},
        {NIB_CONTAINER_HF, "llama", NIB_ROLE_FFN_NORM, 0,
         "model.layers.0.post_attention_layernorm.weight"},
        {NIB_CONTAINER_HF, "olmo2", NIB_ROLE_ATTENTION_POST_NORM, 0,
         "model.layers.0.post_attention_layernorm.weight"},
        {NIB_CONTAINER_HF, "gemma2", NIB_ROLE_FFN_NORM, 9,
         "model.layers.9.pre_feedforward_layernorm.weight"},
        {NIB_CONTAINER_HF, "phi3", NIB_ROLE_QKV, 1, "model.layers.1.self_attn.qkv_proj.weight"},
        {NIB_CONTAINER_HF, "llama", NIB_ROLE_TOKEN_EMBEDDING, 0, "model.embed_tokens.weight"},
        {NIB_CONTAINER_HF, "llama", NIB_ROLE_OUTPUT, 0, "lm_head.weight"},
        {NIB_CONTAINER_HF, "llama", NIB_ROLE_ROPE_FREQUENCIES, 0, NULL},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char name[NIB_ARCH_NAME_SIZE];
        bool has = nib_arch_tensor(find(cases[i].container, cases[i].arch), cases[i].container,
                                   nib_arch_prefix(cases[i].container, 0), cases[i].role,
                                   cases[i].layer, name);
        cr_assert_eq(has, cases[i].name != NULL, "case %zu", i);
        if (has)
            cr_expect_str_eq(name, cases[i].name);
    }
}

Test(arch, prefixes_of_models_inside_others)
{
    char name[NIB_ARCH_NAME_SIZE];
    const struct nib_arch_prefix *prefix = nib_arch_prefix(NIB_CONTAINER_HF, 1);
    cr_assert(nib_arch_tensor(find(NIB_CONTAINER_HF, "gemma3"), NIB_CONTAINER_HF, prefix,
                              NIB_ROLE_Q, 2, name));
    cr_expect_str_eq(name, "language_model.model.layers.2.self_attn.q_proj.weight");
    cr_expect_null(nib_arch_prefix(NIB_CONTAINER_HF, 4));
    cr_expect_null(nib_arch_prefix(NIB_CONTAINER_GGUF, 1));
}
