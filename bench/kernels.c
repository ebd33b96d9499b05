// nibble-bench-kernels: speed of the CPU's matmuls, for each format and activation mode.
//
// Each line is one matmul of the backend, with the quantization of its input: milliseconds (the
// fastest of its runs), multiply-adds and bytes of weights a second. The bytes are also given as
// a part of the bandwidth at which the same threads read memory, measured first, and the
// multiply-adds as a part of what the level's instructions for bytes can do on as many threads with
// exact sums: AVX2 and AVX-512 without VNNI widen 16-bit sums after each 32 columns, and take twice
// the instructions where codes have more than four bits, so that there are two such peaks; another
// line says what AVX2 does where each product is widened by itself.
// With one thread, its processor time is measured, so that other programs disturb little.
#ifndef _WIN32
#define _POSIX_C_SOURCE 199309L
#endif
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#ifdef __x86_64__
#include <immintrin.h>
#endif

#include "runtime/base/os.h"
#include "runtime/cpu/cpu_backend.h"
#include "runtime/cpu/instance.h"
#include "runtime/quant/pack.h"

enum { MAX_RUNS = 1000 };

struct options {
    uint32_t threads; ///< 0: one per core
    uint32_t rows;    ///< of the input; 0: 1 and 64
    uint64_t out;
    uint64_t in;
    double seconds;     ///< for each line
    const char *level;  ///< of kernels, or NULL
    const char *format; ///< or NULL: all
    int64_t group;      ///< of formats without blocks of their own; negative: their default
};

/// One matmul as a plan of its own: input and output are columns of the hidden state.
struct bench {
    const struct options *options;
    void *device;
    double read_bandwidth; ///< bytes a second
    double peak;           ///< multiply-adds of bytes a second
    double byte_peak;      ///< of weights of more than four bits
    struct nib_weight weight;
    struct nib_op op;
    struct nib_segment segments[3];
    struct nib_plan plan;
    struct nib_row_reader reader;
    uint8_t *raw;
    struct nib_row_block row; ///< what the reader gives for every row where there is no `raw`
    void *row_memory;
};

static void *new_zeros(uint64_t count, size_t size)
{
    void *memory = calloc(count, size);
    if (!memory) {
        fprintf(stderr, "out of memory\n");
        exit(1);
    }
    return memory;
}

static void stop_at(enum nib_status status, const struct nib_error *error)
{
    if (status == NIB_OK)
        return;
    fprintf(stderr, "%s\n", error->message);
    exit(1);
}

/// Returns nanoseconds: of this thread's work where there is no other.
static uint64_t read_clock(uint32_t threads)
{
#ifdef CLOCK_THREAD_CPUTIME_ID
    struct timespec t;
    if (threads == 1 && clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t) == 0)
        return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
#endif
    (void)threads;
    return nib_clock_ns();
}

static enum nib_status read_same_row(const struct nib_row_reader *reader, uint64_t first,
                                     struct nib_row_block *block, struct nib_error *err)
{
    (void)first;
    (void)err;
    const struct nib_row_block *row = reader->source;
    uint64_t cols = reader->cols, groups = nib_format_groups(&reader->format, cols);
    for (uint64_t r = 0; r < block->rows; r++) {
        memcpy(block->codes + r * cols, row->codes, cols);
        memcpy(block->scale + r * groups, row->scale, groups * sizeof(float));
        if (block->zero)
            memcpy(block->zero + r * groups, row->zero, groups * sizeof(int16_t));
    }
    return NIB_OK;
}

/// Makes a matrix whose rows are all alike: values do not change the speed, memory does.
static void create_weights(struct bench *b)
{
    const struct nib_format *format = &b->reader.format;
    uint64_t rows = b->reader.rows, cols = b->reader.cols, row_bytes;
    float *row = new_zeros(cols, sizeof *row);
    for (uint64_t i = 0; i < cols; i++)
        row[i] = (float)((i * 37) % 101) * 0.01f - 0.5f;
    if (nib_format_row_bytes(format, cols, &row_bytes)) {
        b->raw = new_zeros(rows, row_bytes);
        for (uint64_t r = 0; r < rows; r++) {
            if (r == 0)
                nib_row_pack(format, row, cols, b->raw);
            else
                memcpy(b->raw + r * row_bytes, b->raw, row_bytes);
        }
        b->reader.raw = b->raw;
        b->reader.read = nib_row_reader_read_raw;
    } else {
        b->row_memory = new_zeros(nib_row_block_size(format, 1, cols), 1);
        nib_row_block_init(&b->row, format, 1, cols, b->row_memory);
        for (uint64_t i = 0; i < cols; i++)
            b->row.codes[i] = (uint8_t)(i * 7 % (1u << format->bits));
        for (uint64_t g = 0; g < nib_format_groups(format, cols); g++)
            b->row.scale[g] = 0.125f;
        b->reader.source = &b->row;
        b->reader.read = read_same_row;
    }
    free(row);
}

static void create_plan(struct bench *b, const struct nib_format *format,
                        enum nib_activation activation, uint32_t rows)
{
    uint32_t in = (uint32_t)b->options->in, out = (uint32_t)b->options->out;
    b->reader = (struct nib_row_reader){.name = "bench",
                                        .format = *format,
                                        .rows = out,
                                        .cols = in,
                                        .activation_scale = 0.01f,
                                        .outlier_threshold = 6.0f};
    b->weight = (struct nib_weight){.role = NIB_ROLE_FFN_UP,
                                    .segment = 1,
                                    .shared_with = NIB_NO_WEIGHT,
                                    .rows = out,
                                    .cols = in,
                                    .format = *format};
    b->op = (struct nib_op){.kind = NIB_OP_MATMUL,
                            .segment = 1,
                            .matmul = {.in = {.width = in},
                                       .out = {.offset = in, .width = out},
                                       .bias = NIB_NO_WEIGHT,
                                       .activation = activation,
                                       .experts = NIB_NO_WEIGHT,
                                       .tap = NIB_NO_WEIGHT}};
    b->segments[0] = (struct nib_segment){.kind = NIB_SEGMENT_EMBEDDING};
    b->segments[1] = (struct nib_segment){.kind = NIB_SEGMENT_LAYER, .n_ops = 1};
    b->segments[2] = (struct nib_segment){.kind = NIB_SEGMENT_HEAD, .first_op = 1};
    b->plan = (struct nib_plan){.values = {{"hidden", in + out}, {"logits", 1}},
                                .n_values = 2,
                                .ops = &b->op,
                                .n_ops = 1,
                                .segments = b->segments,
                                .n_segments = 3,
                                .weights = &b->weight,
                                .n_weights = 1,
                                .logits_value = 1,
                                .hidden_size = in + out,
                                .vocabulary = 1,
                                .context = 1,
                                .max_rows = rows,
                                .key_format = NIB_KV_F16,
                                .value_format = NIB_KV_F16};
    struct nib_error error;
    stop_at(nib_plan_validate(&b->plan, &error), &error);
}

/// Returns the nanoseconds of the fastest run.
static double measure(const struct bench *b, void *self, uint32_t rows)
{
    struct nib_error error;
    struct nib_step_row *step_rows = new_zeros(rows, sizeof *step_rows);
    float *hidden = new_zeros((uint64_t)rows * b->plan.hidden_size, sizeof *hidden);
    for (uint64_t i = 0; i < (uint64_t)rows * b->plan.hidden_size; i++)
        hidden[i] = (float)(i % 61) * 0.03f - 0.9f;
    // One in a thousand columns holds outliers, as Dettmers et al. 2022 found.
    for (uint64_t i = 5;
         i < b->plan.hidden_size && b->op.matmul.activation == NIB_ACTIVATION_LLM_INT8; i += 1000)
        hidden[i] = 9.0f;
    struct nib_step step = {.header = {.n_rows = rows, .n_used_rows = rows}, .rows = step_rows};
    stop_at(nib_cpu_backend.run(self, 1, 1, &step, hidden, NULL, &error), &error);
    uint32_t threads = b->options->threads;
    uint64_t best = UINT64_MAX, start = nib_clock_ns();
    for (int i = 0; i < MAX_RUNS; i++) {
        uint64_t before = read_clock(threads);
        stop_at(nib_cpu_backend.run(self, 1, 1, &step, NULL, NULL, &error), &error);
        uint64_t ns = read_clock(threads) - before;
        best = ns < best ? ns : best;
        if ((double)(nib_clock_ns() - start) > b->options->seconds * 1e9)
            break;
    }
    free(step_rows);
    free(hidden);
    return (double)best;
}

static void bench_one(struct bench *b, const struct nib_format *format,
                      enum nib_activation activation, uint32_t rows)
{
    struct nib_error error;
    struct nib_instance_memory memory;
    void *self;
    create_plan(b, format, activation, rows);
    create_weights(b);
    struct nib_instance_params params = {
        .plan = &b->plan, .device = b->device, .first_segment = 1, .n_segments = 1};
    stop_at(nib_cpu_backend.create(&params, &self, &error), &error);
    stop_at(nib_cpu_backend.pack(self, 0, &b->reader, &error), &error);
    nib_cpu_backend.memory(self, &memory);
    double ns = measure(b, self, rows);
    double macs = (double)b->reader.rows * (double)b->reader.cols * rows;
    double bandwidth = (double)memory.weights / ns * 1e9;
    bool is_wide =
        format->code == NIB_CODE_BOOK || (format->code != NIB_CODE_FLOAT && format->bits > 4);
    double peak = is_wide ? b->byte_peak : b->peak;
    printf("%-10s %-11s %5" PRIu32 " %10.3f %10.2f %9.2f %6.1f %6.1f\n", format->name,
           nib_activation_name(activation), rows, ns * 1e-6, macs / ns, bandwidth * 1e-9,
           100 * bandwidth / b->read_bandwidth, 1e11 * macs / ns / peak);
    fflush(stdout);
    nib_cpu_backend.destroy(self);
    free(b->raw);
    free(b->row_memory);
    b->raw = NULL;
    b->row_memory = NULL;
}

/// Reads "4096x1024" as out x in.
static bool parse_shape(const char *text, struct options *o)
{
    char *end;
    o->out = strtoull(text, &end, 10);
    if (*end != 'x')
        return false;
    o->in = strtoull(end + 1, &end, 10);
    return *end == '\0' && o->out > 0 && o->out < 1 << 23 && o->in > 0 && o->in < 1 << 23;
}

static bool parse(int argc, char **argv, struct options *o)
{
    for (int i = 1; i < argc; i += 2) {
        const char *name = argv[i], *value = i + 1 < argc ? argv[i + 1] : NULL;
        if (!value)
            return false;
        if (strcmp(name, "--threads") == 0)
            o->threads = (uint32_t)strtoul(value, NULL, 10);
        else if (strcmp(name, "--rows") == 0)
            o->rows = (uint32_t)strtoul(value, NULL, 10);
        else if (strcmp(name, "--seconds") == 0)
            o->seconds = strtod(value, NULL);
        else if (strcmp(name, "--cpu-mask") == 0)
            o->level = value;
        else if (strcmp(name, "--format") == 0)
            o->format = value;
        else if (strcmp(name, "--group") == 0)
            o->group = (int64_t)strtoul(value, NULL, 10);
        else if (strcmp(name, "--shape") != 0 || !parse_shape(value, o))
            return false;
    }
    return o->rows <= NIB_STEP_MAX_ROWS && (!o->format || nib_format_find(o->format));
}

static void bench_format(struct bench *b, const struct nib_format *format)
{
    static const enum nib_activation activations[] = {NIB_ACTIVATION_F32, NIB_ACTIVATION_INT8_GROUP,
                                                      NIB_ACTIVATION_INT8_TOKEN,
                                                      NIB_ACTIVATION_LLM_INT8};
    const uint32_t rows[] = {1, 64};
    if (format->block_weights && b->options->in % format->block_weights)
        return;
    for (int a = 0; a < (format->code == NIB_CODE_FLOAT ? 1 : 4); a++) {
        if (b->options->rows) {
            bench_one(b, format, activations[a], b->options->rows);
            continue;
        }
        for (int r = 0; r < 2; r++)
            bench_one(b, format, activations[a], rows[r]);
    }
}

#ifdef __x86_64__
#define EACH_SUM(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7)

/// Returns multiply-adds a second of one thread where vpmaddubsw, vpmaddwd and vpaddd stand for
/// VNNI's one instruction: each product is widened to 32 bits before it is added, which kernels
/// need not do whose codes have four bits.
__attribute__((target("avx2"))) static double measure_widened_peak(void)
{
    enum { ROUNDS = 4000000, SUMS = 8 };
    const __m256i x = _mm256_set1_epi8(5), one = _mm256_set1_epi16(1);
    __m256i w = _mm256_set1_epi8(3);
#define BEGIN(i) __m256i s##i = _mm256_setzero_si256();
#define ADD(i)                                                                         \
    s##i = _mm256_add_epi32(s##i, _mm256_madd_epi16(_mm256_maddubs_epi16(w, x), one)); \
    __asm__ volatile("" : "+x"(s##i), "+x"(w)); /* else compilers multiply once */
    EACH_SUM(BEGIN)
    uint64_t start = nib_clock_ns();
    for (int i = 0; i < ROUNDS; i++) {
        EACH_SUM(ADD)
    }
    double seconds = (double)(nib_clock_ns() - start + 1) * 1e-9;
#undef BEGIN
#undef ADD
    return 32.0 * ROUNDS * SUMS / seconds;
}
#endif

int main(int argc, char **argv)
{
    struct options options = {.out = 8192, .in = 4096, .seconds = 0.5, .group = -1};
    if (!parse(argc, argv, &options)) {
        fprintf(stderr, "usage: nibble-bench-kernels [--threads N] [--rows N] [--shape OUTxIN] "
                        "[--format NAME] [--group N] [--cpu-mask LEVEL] "
                        "[--seconds S]\n");
        return 2;
    }
    struct nib_error error;
    struct nib_device_info info;
    struct bench b = {.options = &options};
    stop_at(nib_cpu_backend.device_open(
                nib_device_params(.threads = options.threads, .cpu_mask = options.level), &b.device,
                &error),
            &error);
    nib_cpu_backend.device_info(b.device, &info);
    uint32_t threads = options.threads ? options.threads : info.threads;
    struct nib_device_limits limits;
    stop_at(nib_cpu_backend.measure(b.device, &limits, &error), &error);
    b.read_bandwidth = limits.read_bytes;
    b.peak = limits.int8_macs;
    b.byte_peak = nib_cpu_measure_byte_peak(b.device);
    printf("%s, %" PRIu32
           " threads, read bandwidth %.1f GB/s, peak %.1f GMAC/s (of more than 4 bits "
           "%.1f), matrix %" PRIu64 "x%" PRIu64 "\n",
           info.name, threads, b.read_bandwidth * 1e-9, b.peak * 1e-9, b.byte_peak * 1e-9,
           options.out, options.in);
#ifdef __x86_64__
    if (__builtin_cpu_supports("avx2"))
        printf("AVX2, products widened one by one: %.1f GMAC/s\n",
               measure_widened_peak() * threads * 1e-9);
#endif
    printf("%-10s %-11s %5s %10s %10s %9s %6s %6s\n", "format", "activation", "rows", "ms",
           "GMAC/s", "GB/s", "%read", "%peak");
    for (int i = 0; i < NIB_FORMAT_COUNT; i++) {
        struct nib_format format = *nib_format_get((enum nib_format_id)i);
        if (options.format && strcmp(options.format, format.name) != 0)
            continue;
        if (options.group >= 0 && format.block_weights == 0)
            format.group = (uint32_t)options.group;
        bench_format(&b, &format);
    }
    nib_cpu_backend.device_close(b.device);
    return 0;
}
