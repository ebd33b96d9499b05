/// Kernels against a reference: random and adversarial arguments, guard bands, seeds to replay.
///
/// The scalar kernels are compared with sums in double precision written down here once more;
/// kernels of any other level with the scalar ones. Each output has a bound: the sum of the
/// magnitudes of its terms, times a tolerance that follows from the number of roundings.
#ifndef TESTS_CHECK_CHECK_H
#define TESTS_CHECK_CHECK_H

#include "runtime/cpu/kernels.h"

/// One unit in the last place of 1, halved: the relative error of one rounding to fp32.
#define ROUNDING 0x1p-24

/// A run of the harness.
struct check {
    const struct nib_cpu_kernels *kernels; ///< under test
    const struct nib_cpu_kernels *oracle;  ///< scalar; NULL where those are under test
    const char *level;
    const char *only; ///< run cases whose name contains this; NULL: all
    uint64_t seed;

    char name[160];  ///< of the case that is running
    uint64_t random; ///< state of the generator, seeded by the case's name
    uint64_t n_run;
    uint64_t n_failed;
    bool has_failed; ///< the running case
};

/// Begins a case with a name made by printf's rules; returns whether it is to be run.
bool check_begin(struct check *c, const char *format, ...) NIB_PRINTF(2, 3);
/// Reports a failure of the running case, once.
void check_fail(struct check *c, const char *format, ...) NIB_PRINTF(2, 3);

uint64_t random_u64(struct check *c);
/// Returns a number in [0, n).
uint32_t random_below(struct check *c, uint32_t n);
/// Returns a float in [-size, size).
float random_float(struct check *c, float size);
/// Returns n floats from malloc of size about 1, among them zeros, -0, denormals and large numbers.
float *random_floats(struct check *c, uint64_t n);
/// calloc that ends the program where memory has run out.
void *new_zeros(uint64_t count, size_t size);

/// A kernel's call and what should come out.
struct kernel_case {
    /// Runs items [first, last) of `kernels`' kernel; what a kernel needs before (a matmul's
    /// prepared input) is done where first is 0.
    void (*call)(const struct nib_cpu_kernels *kernels, const void *args, uint64_t first,
                 uint64_t last, uint32_t thread);
    const void *args;
    struct nib_cpu_rows *out; ///< in args; pointed to guarded memory by check_kernel
    uint64_t n_items;
    uint64_t n_rows;
    uint64_t width;
    const float *initial;   ///< [n_rows][width] what `out` holds before, or NULL
    const double *expected; ///< [n_rows][width]
    const double *bound;    ///< [n_rows][width] magnitude of the terms
    double tolerance;       ///< of error / bound
};

/// Runs the case whole and in random pieces on two threads' buffers in turn: outputs must be as
/// expected, equal bit for bit between the two, and nothing else may be written.
void check_kernel(struct check *c, const struct kernel_case *k);

/// A random matrix [rows, cols], as canonical rows and as the backend's own.
struct weights {
    struct nib_row_block block;
    void *memory; ///< of the block
    uint32_t *permutation;
    struct nib_row_reader reader;
    struct nib_cpu_matrix matrix;
};
enum weights_style {
    WEIGHTS_RANDOM,
    WEIGHTS_LARGEST, ///< all codes and zero points at their ends
    WEIGHTS_TINY,    ///< scales that are denormal, zero or negative
    WEIGHTS_STYLES
};
/// What to make.
struct weights_params {
    const struct nib_format *format; ///< with the group wanted
    uint64_t rows, cols;
    enum weights_style style;
    bool has_permutation;
};
void weights_create(struct check *c, const struct weights_params *params, struct weights *out);
void weights_destroy(struct weights *w);
/// Returns weight (row, col) in double, col counting codes; `*out_size` is the magnitude of its
/// terms.
double weights_get(const struct weights *w, uint64_t row, uint64_t col, double *out_size);

/// Scratch for two threads.
struct nib_cpu_scratch *new_scratch(const struct nib_format *format, uint64_t cols);
void free_scratch(struct nib_cpu_scratch *scratch);

void check_matmul(struct check *c);
void check_embed(struct check *c);
void check_attention(struct check *c);
void check_elementwise(struct check *c);

#endif
