#include "runtime/cpu/features.h"

#include <string.h>

#include "runtime/base/os.h"
#include "runtime/base/status.h"

/// Appends " name", or "name" at the text's start, if it fits.
static void append(char *text, size_t capacity, const char *name)
{
    size_t used = strlen(text), size = strlen(name), space = used != 0;
    if (used + space + size >= capacity)
        return;
    if (space)
        text[used] = ' ';
    memcpy(text + used + space, name, size + 1);
}

#if defined(__GNUC__) && (defined(__x86_64__) || defined(__i386__))

#include <cpuid.h>

/// Where CPUID shows an instruction set: a bit of a register of a leaf. Intel SDM, volume 2, CPUID;
/// `state` is what XCR0 must have set, so that the system saves the registers it uses.
struct feature {
    const char *name;
    uint32_t leaf, subleaf, reg, bit, state;
};
enum { EAX, EBX, ECX, EDX };
#define STATE_YMM 0x06u
#define STATE_ZMM 0xe6u
#define STATE_AMX 0x60000u

static const struct feature features[] = {
    {"ssse3", 1, 0, ECX, 9, 0},
    {"sse4.1", 1, 0, ECX, 19, 0},
    {"avx", 1, 0, ECX, 28, STATE_YMM},
    {"f16c", 1, 0, ECX, 29, STATE_YMM},
    {"fma", 1, 0, ECX, 12, STATE_YMM},
    {"avx2", 7, 0, EBX, 5, STATE_YMM},
    {"avx_vnni", 7, 1, EAX, 4, STATE_YMM},
    {"avx512f", 7, 0, EBX, 16, STATE_ZMM},
    {"avx512dq", 7, 0, EBX, 17, STATE_ZMM},
    {"avx512bw", 7, 0, EBX, 30, STATE_ZMM},
    {"avx512vl", 7, 0, EBX, 31, STATE_ZMM},
    {"avx512vbmi", 7, 0, ECX, 1, STATE_ZMM},
    {"avx512_vnni", 7, 0, ECX, 11, STATE_ZMM},
    {"avx512_bf16", 7, 1, EAX, 5, STATE_ZMM},
    {"amx_tile", 7, 0, EDX, 24, STATE_AMX},
    {"amx_int8", 7, 0, EDX, 25, STATE_AMX},
};

/// Returns the low half of XCR0, or 0 where the system does not use it.
static uint32_t saved_state(void)
{
    uint32_t eax, ebx, ecx, edx;
    if (!__get_cpuid(1, &eax, &ebx, &ecx, &edx) || !(ecx >> 27 & 1))
        return 0;
    __asm__("xgetbv" : "=a"(eax), "=d"(edx) : "c"(0));
    return eax;
}

void nib_cpu_features(char *out_text, size_t capacity)
{
    if (capacity == 0)
        return;
    out_text[0] = '\0';
    uint32_t saved = saved_state();
    for (size_t i = 0; i < sizeof features / sizeof *features; i++) {
        const struct feature *f = &features[i];
        uint32_t regs[4];
        if (__get_cpuid_count(f->leaf, f->subleaf, &regs[EAX], &regs[EBX], &regs[ECX],
                              &regs[EDX]) &&
            (regs[f->reg] >> f->bit & 1) && (saved & f->state) == f->state)
            append(out_text, capacity, f->name);
    }
}

#else

void nib_cpu_features(char *out_text, size_t capacity)
{
    if (capacity == 0)
        return;
    out_text[0] = '\0';
    uint32_t present = nib_arm_features();
    // What the compiler was told it may use; every such CPU has it.
#if defined(__ARM_FEATURE_DOTPROD)
    present |= NIB_ARM_DOTPROD;
#endif
#if defined(__ARM_FEATURE_MATMUL_INT8)
    present |= NIB_ARM_I8MM;
#endif
#if defined(__ARM_NEON) || defined(_M_ARM64)
    append(out_text, capacity, "neon");
#endif
    if (present & NIB_ARM_DOTPROD)
        append(out_text, capacity, "dotprod");
    if (present & NIB_ARM_I8MM)
        append(out_text, capacity, "i8mm");
}

#endif

/// The instruction sets of each level.
#define AVX2 "avx2 fma f16c"
#define AVX512 AVX2 " avx512f avx512bw avx512vl avx512dq"
static const char *const needs[NIB_CPU_LEVEL_COUNT] = {
    [NIB_CPU_LEVEL_SCALAR] = "",
#ifdef NIB_CPU_HAS_X86
    [NIB_CPU_LEVEL_AVX2] = AVX2,
    [NIB_CPU_LEVEL_AVX_VNNI] = AVX2 " avx_vnni",
    [NIB_CPU_LEVEL_AVX512] = AVX512,
    [NIB_CPU_LEVEL_AVX512_VNNI] = AVX512 " avx512_vnni",
    [NIB_CPU_LEVEL_AMX] = AVX512 " avx512_vnni amx_tile amx_int8",
#endif
#ifdef NIB_CPU_HAS_NEON
    [NIB_CPU_LEVEL_NEON] = "neon",
    [NIB_CPU_LEVEL_NEON_DOTPROD] = "neon dotprod",
    [NIB_CPU_LEVEL_NEON_I8MM] = "neon dotprod i8mm",
#endif
};

/// Returns whether each word of `words` is one of `present`.
static bool has_all(const char *present, const char *words)
{
    for (const char *word = words; *word;) {
        size_t size = strcspn(word, " ");
        const char *place = present;
        while (*place && !(strcspn(place, " ") == size && memcmp(place, word, size) == 0)) {
            place += strcspn(place, " ");
            place += *place == ' ';
        }
        if (!*place)
            return false;
        word += size;
        word += *word == ' ';
    }
    return true;
}

/// Returns whether the system lets this process use a level whose instructions the CPU has.
static bool is_allowed(int level)
{
#ifdef NIB_CPU_HAS_X86
    return level != NIB_CPU_LEVEL_AMX || nib_amx_enable();
#else
    (void)level;
    return true;
#endif
}

enum nib_status nib_cpu_level_find(const char *mask, enum nib_cpu_level *out_level,
                                   struct nib_error *err)
{
    static const char *const names[NIB_CPU_LEVEL_COUNT] = {
#define X(id, name) [NIB_CPU_LEVEL_##id] = name,
        NIB_CPU_LEVELS(X)
#undef X
    };
    char present[256], list[128] = "";
    bool is_found = false;
    nib_cpu_features(present, sizeof present);
    *out_level = NIB_CPU_LEVEL_SCALAR;
    for (int i = 0; i < NIB_CPU_LEVEL_COUNT; i++) {
        const bool is_wanted = !mask || strcmp(names[i], mask) == 0;
        if (!has_all(present, needs[i]) || (is_wanted && !is_allowed(i)))
            continue;
        append(list, sizeof list, names[i]);
        if (is_wanted) {
            *out_level = (enum nib_cpu_level)i;
            is_found = true;
        }
    }
    if (is_found)
        return NIB_OK;
    return nib_fail(err, NIB_ERROR_UNSUPPORTED,
                    "there are no CPU kernels of level '%s' here; there are: %s", mask, list);
}
