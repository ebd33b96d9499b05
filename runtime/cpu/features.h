/// Instruction sets: what this CPU has, and up to which level kernels may use them.
#ifndef RUNTIME_CPU_FEATURES_H
#define RUNTIME_CPU_FEATURES_H

#include <nibble/base.h>

/// Levels that this build has kernels for, best last. Columns: identifier, name.
#if defined(NIB_CPU_HAS_X86)
#define NIB_CPU_LEVELS(X)         \
    X(SCALAR, "scalar")           \
    X(AVX2, "avx2")               \
    X(AVX_VNNI, "avx-vnni")       \
    X(AVX512, "avx512")           \
    X(AVX512_VNNI, "avx512-vnni") \
    X(AMX, "amx")
#elif defined(NIB_CPU_HAS_NEON)
#define NIB_CPU_LEVELS(X)           \
    X(SCALAR, "scalar")             \
    X(NEON, "neon")                 \
    X(NEON_DOTPROD, "neon-dotprod") \
    X(NEON_I8MM, "neon-i8mm")
#else
#define NIB_CPU_LEVELS(X) X(SCALAR, "scalar")
#endif

enum nib_cpu_level {
#define X(id, name) NIB_CPU_LEVEL_##id,
    NIB_CPU_LEVELS(X)
#undef X
        NIB_CPU_LEVEL_COUNT
};

/// Sets `*out_level` to the level called `mask`, or to the highest that this CPU has where `mask`
/// is NULL. Errors: unsupported (no such level, or this CPU lacks it; the message lists those there
/// are).
enum nib_status nib_cpu_level_find(const char *mask, enum nib_cpu_level *out_level,
                                   struct nib_error *err);

/// Writes the names of the instruction sets that kernels can profit from and that both the CPU and
/// the system support, separated by spaces, such as "avx avx2 f16c fma"; cut to fit.
void nib_cpu_features(char *out_text, size_t capacity);

#endif
