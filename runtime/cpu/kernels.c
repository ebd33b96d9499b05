#include "runtime/cpu/kernels.h"

void nib_cpu_kernels_init(struct nib_cpu_kernels *out_kernels, enum nib_cpu_level level)
{
    *out_kernels = (struct nib_cpu_kernels){
#define X(name, args) .name = nib_cpu_scalar_##name,
        NIB_CPU_KERNELS(X)
#undef X
            .f32_peak = nib_cpu_scalar_f32_peak,
        .store_panel = nib_panel_store,
    };
#ifdef NIB_CPU_HAS_X86
    if (level == NIB_CPU_LEVEL_AVX2)
        nib_cpu_avx2_fill(out_kernels);
    else if (level == NIB_CPU_LEVEL_AVX_VNNI)
        nib_cpu_avx_vnni_fill(out_kernels);
    else if (level == NIB_CPU_LEVEL_AVX512)
        nib_cpu_avx512_fill(out_kernels);
    else if (level == NIB_CPU_LEVEL_AVX512_VNNI)
        nib_cpu_avx512_vnni_fill(out_kernels);
    else if (level == NIB_CPU_LEVEL_AMX)
        nib_cpu_amx_fill(out_kernels);
#endif
#ifdef NIB_CPU_HAS_NEON
    if (level == NIB_CPU_LEVEL_NEON)
        nib_cpu_neon_fill(out_kernels);
    else if (level == NIB_CPU_LEVEL_NEON_DOTPROD)
        nib_cpu_neon_dotprod_fill(out_kernels);
    else if (level == NIB_CPU_LEVEL_NEON_I8MM)
        nib_cpu_neon_i8mm_fill(out_kernels);
#endif
    (void)level;
}

bool nib_cpu_input_has_codes(enum nib_activation activation, const struct nib_format *format)
{
    bool has_integers = format->code == NIB_CODE_UNIFORM || format->book_int;
    return activation != NIB_ACTIVATION_F32 && has_integers;
}

bool nib_cpu_input_has_values(enum nib_activation activation, const struct nib_format *format,
                              bool has_permutation)
{
    if (activation == NIB_ACTIVATION_F32)
        return has_permutation;
    return activation == NIB_ACTIVATION_LLM_INT8 || has_permutation ||
           !nib_cpu_input_has_codes(activation, format);
}

bool nib_cpu_prepares_blocks(enum nib_activation activation, const struct nib_cpu_matrix *weight)
{
    return nib_activation_has_groups(activation) && !weight->permutation && weight->has_panels &&
           weight->panels.has_even_groups && nib_cpu_input_has_codes(activation, &weight->format);
}

uint32_t nib_cpu_runs(enum nib_activation activation, const struct nib_format *format,
                      uint64_t cols, struct nib_cpu_run *out_runs)
{
    uint64_t group = format->group ? format->group : cols;
    uint64_t input_group = nib_activation_has_groups(activation) ? NIB_ACTIVATION_GROUP : cols;
    uint32_t n_runs = 0;
    for (uint64_t begin = 0; begin < cols; n_runs++) {
        uint64_t end = (begin / group + 1) * group;
        uint64_t input_end = (begin / input_group + 1) * input_group;
        end = input_end < end ? input_end : end;
        end = begin + NIB_CPU_MAX_RUN < end ? begin + NIB_CPU_MAX_RUN : end;
        end = cols < end ? cols : end;
        if (out_runs) {
            out_runs[n_runs] =
                (struct nib_cpu_run){.end = (uint32_t)end, .group = (uint32_t)(begin / group)};
        }
        begin = end;
    }
    return n_runs;
}
