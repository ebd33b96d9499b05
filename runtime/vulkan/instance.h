/// Instances: a run of a plan's segments with its weights, cache, buffers and recorded commands.
#ifndef RUNTIME_VULKAN_INSTANCE_H
#define RUNTIME_VULKAN_INSTANCE_H

#include "runtime/ops/backend.h"
#include "runtime/vulkan/matrix.h"
#include "runtime/vulkan/points.h"
#include "runtime/vulkan/variants.h"

/// Buckets of rows: powers of two up to NIB_STEP_MAX_ROWS; of lines of logits: up to the first of
/// NIB_STEP_MAX_LOGITS on.
#define NIB_VK_MAX_BUCKETS 10

/// What a pass reads or writes: columns of a value, or a whole resource.
struct nib_vk_access {
    uint32_t resource;
    uint32_t begin;
    uint32_t end;
    bool is_write;
};
#define NIB_VK_MAX_ACCESSES 8
/// Resources besides the plan's values, which are numbered from 0.
#define NIB_VK_PREPARED NIB_PLAN_MAX_VALUES
#define NIB_VK_PARTIALS (NIB_PLAN_MAX_VALUES + 1)
#define NIB_VK_MASK (NIB_PLAN_MAX_VALUES + 2)
#define NIB_VK_CACHES (NIB_PLAN_MAX_VALUES + 3) ///< keys, then values, of each layer

/// One dispatch, whatever the bucket.
struct nib_vk_pass {
    uint32_t op;                              ///< number into the plan's ops
    const char *name;                         ///< of a pass that belongs to no op, or NULL; static
    VkPipeline pipelines[NIB_VK_MAX_BUCKETS]; ///< for 2^i rows; all the same but for a matmul
    bool is_matmul;
    bool is_lines;                       ///< works on lines of logits, not on the step's rows
    uint32_t groups[NIB_VK_MAX_BUCKETS]; ///< workgroups across, with each of the pipelines
    uint32_t height[NIB_VK_MAX_BUCKETS]; ///< workgroups in y for each bucket; 0: left out
    uint32_t depth[NIB_VK_MAX_BUCKETS];  ///< in z
    VkDescriptorSet set;
    uint32_t push[32];
    uint32_t push_size; ///< bytes
    struct nib_vk_access accesses[NIB_VK_MAX_ACCESSES];
    uint32_t n_accesses;
};

/// A range bound as a texel buffer.
struct nib_vk_view {
    VkBuffer buffer;
    uint64_t offset;
    uint64_t size;
    VkBufferView view;
};

/// The cache of one layer.
struct nib_vk_cache {
    bool is_used;
    struct nib_vk_range keys; ///< pages, and behind them those of newest tokens
    struct nib_vk_range values;
    struct nib_vk_range key_scales; ///< size 0: the format has none
    struct nib_vk_range value_scales;
};

/// Passes and recorded commands of one segment.
struct nib_vk_segment {
    uint32_t first_pass;
    uint32_t n_passes;
    uint32_t first_command; ///< [bucket of rows][bucket of lines], where it gathers lines
    bool has_lines;
};

/// Where the parts of the step block lie in words behind its rows, as kernels count them.
struct nib_vk_step_layout {
    uint32_t sequences_at;
    uint32_t tables_at;
    uint32_t n_tables; ///< entries of all page tables
    uint32_t draws_at; ///< how tokens are drawn, for each line
    uint32_t angles_at;
    uint32_t n_words;
};

/// Runs that may be under way at once, each with a place of its own for what the host writes and
/// reads.
#define NIB_VK_SLOTS 3

/// A run that is under way, and where its outputs go.
struct nib_vk_flight {
    uint64_t value; ///< of the clock when it is done
    uint64_t submit_ns;
    uint32_t work;   ///< rows times segments
    uint32_t n_rows; ///< that are no padding
    uint32_t n_lines;
    uint32_t first; ///< segment
    uint32_t last;
    float *logits;   ///< or NULL, as the next two
    uint32_t *drawn; ///< tokens
    float *hidden;
};

/// A run whose commands a host records into its own command buffers.
struct nib_vk_host_step {
    uint32_t slot;
    uint32_t row_bucket;
    uint32_t line_bucket;
    bool is_drawn;
    bool is_sampled;
    uint32_t n_pieces; ///< recorded so far
    uint32_t number;   ///< which each piece leaves behind when it is executed; never 0
};

struct nib_vk_instance {
    const struct nib_plan *plan;
    struct nib_vk_device *device;
    struct nib_log log;
    uint32_t first_segment;
    uint32_t n_segments;
    uint32_t max_rows;  ///< a bucket
    uint32_t max_lines; ///< a bucket
    uint32_t max_sequences;
    uint32_t n_pages[NIB_KV_MAX_CLASSES];

    struct nib_vk_pool memory;   ///< the device's
    struct nib_vk_pool upload;   ///< written by the host for each step
    struct nib_vk_pool readback; ///< read by it
    struct nib_vk_transfer transfer;

    struct nib_vk_matrix *weights; ///< [plan->n_weights]
    bool *is_used;                 ///< [plan->n_weights]
    uint32_t n_missing;            ///< weights in use that pack has not seen
    struct nib_vk_cache *caches;   ///< [plan->n_kv_layers]
    struct nib_vk_range values[NIB_PLAN_MAX_VALUES];
    struct nib_vk_range prepared; ///< a matmul's input, and its scales and sums
    struct nib_vk_range sums;
    struct nib_vk_range partials; ///< attention's, of parts of the pages
    struct nib_vk_range outliers; ///< what LLM.int8 multiplies in fp32, as `prepared`; or size 0
    struct nib_vk_range mask;     ///< its columns: [sequence or line][mask_stride]
    uint32_t mask_stride;
    struct nib_vk_range step;
    struct nib_vk_range step_upload[NIB_VK_SLOTS];
    struct nib_vk_range drawn; ///< token of each line, drawn by the last run
    struct nib_vk_range draw_scratch;
    struct nib_vk_range drawn_readback; ///< [slot][line]
    struct nib_vk_range hidden_upload;
    struct nib_vk_range hidden_readback;
    struct nib_vk_range logits_readback;
    struct nib_vk_step_layout step_layout;
    uint64_t weights_bytes;
    uint64_t kv_bytes;

    struct nib_vk_pass *passes;
    uint32_t n_passes;
    struct nib_vk_segment *segments; ///< [n_segments]
    struct nib_vk_view *views;
    size_t n_views;
    size_t views_capacity;
    VkDescriptorPool sets;
    VkCommandPool command_pool;
    VkCommandBuffer *commands;
    uint32_t n_commands;
    uint32_t first_step_command;       ///< [slot][bucket of rows]: the step's upload
    uint32_t first_logits_command;     ///< [bucket of lines]: read back
    uint32_t first_draw_command;       ///< [greedy, sampled][bucket of lines]
    uint32_t first_hidden_in_command;  ///< [bucket of rows]
    uint32_t first_hidden_out_command; ///< [bucket of rows]
    VkCommandBuffer *batch;            ///< [n_segments + 4] of one submission
    uint32_t first_advance_pass;       ///< [slot]: one each
    uint32_t first_draw_pass;
    bool has_draw;    ///< tokens can be drawn here
    uint32_t n_ready; ///< segments that are recorded
    bool is_ready;

    uint32_t generation; ///< of the shaders that its pipelines are made from
    struct nib_vk_choices choices;
    bool is_trusted;  ///< `choices` stand
    uint32_t *probes; ///< [n_probes] ops whose kernels are to be checked, or NULL: not known yet
    uint32_t n_probes;
    uint32_t next_probe;
    uint32_t n_checked; ///< in earlier lists, which ended where a kernel was replaced
    uint32_t kernels;   ///< bits of those that are used
    const char *replaced[NIB_VK_KERNEL_COUNT];
    uint32_t n_replaced;

    struct nib_vk_clock clock;
    struct nib_vk_points waits;   ///< of the host, for the next step
    struct nib_vk_points signals; ///< for its end
    uint64_t row_ns;              ///< time of a segment for a row, as measured; 0: unknown
    uint64_t idle_ns;             ///< when the last run that was waited for was done
    struct nib_vk_flight flights[NIB_VK_SLOTS];
    uint32_t first_flight; ///< the oldest, and its slot
    uint32_t n_flights;
    struct nib_vk_host_step host_step;
    struct nib_vk_range receipts; ///< [n_segments] what the host's pieces leave; size 0: no host
    bool precise;                 ///< nothing in fp16
    bool profile;
    VkQueryPool queries;  ///< of timestamps; null without --profile
    uint64_t *timestamps; ///< room for those of a segment
    uint64_t *op_calls;   ///< [plan->n_ops], NULL without --profile
    uint64_t *op_ns;
    uint32_t *op_counted_as; ///< as nib_op_times.counted_as
    uint64_t n_dispatches;
    uint64_t host_ns;
};

/// Returns the number of the bucket that holds `n` >= 1: ceil(log2(n)).
uint32_t nib_vk_bucket(uint32_t n);

/// As the entries of nib_backend.
enum nib_status nib_vk_instance_create(const struct nib_instance_params *params, void **out_self,
                                       struct nib_error *err);
void nib_vk_instance_destroy(void *self);
enum nib_status nib_vk_instance_pack(void *self, uint32_t weight,
                                     const struct nib_row_reader *reader, struct nib_error *err);
enum nib_status nib_vk_instance_ready(void *self, uint64_t budget_ns, bool *out_ready,
                                      struct nib_error *err);
enum nib_status nib_vk_run(void *self, uint32_t first, uint32_t last, const struct nib_step *step,
                           const float *hidden_in, float *hidden_out, struct nib_error *err);
enum nib_status nib_vk_wait_oldest(void *self, struct nib_error *err);
enum nib_status nib_vk_host_step_begin(void *self, uint32_t last, const struct nib_step *step,
                                       struct nib_error *err);
void nib_vk_host_step_record(void *self, uint32_t first, uint32_t last, VkCommandBuffer buffer);
enum nib_status nib_vk_host_step_end(void *self, struct nib_error *err);
/// Waits for all runs. Errors: device lost.
enum nib_status nib_vk_instance_wait(struct nib_vk_instance *instance, struct nib_error *err);
enum nib_status nib_vk_kv_copy(void *self, uint32_t kv_class, uint32_t source, uint32_t target,
                               struct nib_error *err);
enum nib_status nib_vk_kv_export(void *self, struct nib_kv_page page, void *out_bytes,
                                 struct nib_error *err);
enum nib_status nib_vk_kv_import(void *self, struct nib_kv_page page, const void *bytes,
                                 struct nib_error *err);

/// The parts of a run around what is submitted. The first one makes the instance ready, waits for a
/// slot and writes the step into it; `last` is the last segment of the run. Errors: those of
/// nib_backend.run.
enum nib_status nib_vk_run_begin(struct nib_vk_instance *instance, uint32_t first, uint32_t last,
                                 const struct nib_step *step, uint32_t *out_slot,
                                 struct nib_error *err);
/// The other one adds up times and copies what a run that is done wrote. Errors: device lost,
/// memory.
enum nib_status nib_vk_run_end(struct nib_vk_instance *instance, uint32_t slot,
                               struct nib_error *err);
/// Adds up the dispatches of a segment, and of drawing.
void nib_vk_count_segment(struct nib_vk_instance *instance, uint32_t segment, uint32_t row_bucket,
                          uint32_t line_bucket);
void nib_vk_count_draw(struct nib_vk_instance *instance, bool is_sampled);
/// Returns whether some token of the step is sampled.
bool nib_vk_is_sampled(const struct nib_step *step);

/// Returns weight `weight`, or the one it shares, or NULL for NIB_NO_WEIGHT.
const struct nib_vk_matrix *nib_vk_instance_weight(const struct nib_vk_instance *instance,
                                                   uint32_t weight);

/// Makes the passes of one segment behind those there are. Errors: unsupported, memory, device.
enum nib_status nib_vk_segment_build(struct nib_vk_instance *instance, uint32_t segment,
                                     struct nib_error *err);
/// Returns an upper bound of the passes that all segments take.
uint32_t nib_vk_count_passes(const struct nib_vk_instance *instance);

/// Takes all command buffers, unless they are there, and records those that copy or draw. Errors:
/// memory, device.
enum nib_status nib_vk_record_copies(struct nib_vk_instance *instance, struct nib_error *err);
/// Makes the passes that bring a step into the step block and, where the head is here, those that
/// draw tokens. Errors: unsupported, memory, device.
enum nib_status nib_vk_draw_build(struct nib_vk_instance *instance, struct nib_error *err);
/// Returns the number of passes that they are.
uint32_t nib_vk_draw_count(void);
/// Returns the words of scratch that drawing takes.
uint64_t nib_vk_draw_scratch(const struct nib_vk_instance *instance);
/// Record them: header and rows of a slot's step; drawing, for 2^line_bucket lines.
void nib_vk_record_rows(const struct nib_vk_instance *instance, VkCommandBuffer buffer,
                        uint32_t slot, uint32_t n_rows);
void nib_vk_record_draw(const struct nib_vk_instance *instance, VkCommandBuffer buffer,
                        bool is_sampled, uint32_t line_bucket);
/// Records one pass.
void nib_vk_record_pass(const struct nib_vk_instance *instance, VkCommandBuffer buffer,
                        const struct nib_vk_pass *pass, uint32_t bucket);
/// Records a barrier between kernels.
void nib_vk_record_barrier(const struct nib_vk_instance *instance, VkCommandBuffer buffer);

/// Records a segment's passes for 2^row_bucket rows and 2^line_bucket lines into any command buffer
/// of the device that is being recorded, ours or a host's, primary or secondary, outside a render
/// pass. It ends with a barrier, so segments may follow one another in one buffer.
void nib_vk_record(const struct nib_vk_instance *instance, uint32_t segment, uint32_t row_bucket,
                   uint32_t line_bucket, VkCommandBuffer buffer);
/// Records, in the same way, how the step of a slot, of 2^row_bucket rows, comes to where the
/// segments read it.
void nib_vk_record_advance(const struct nib_vk_instance *instance, VkCommandBuffer buffer,
                           uint32_t slot, uint32_t row_bucket);
/// Records, in the same way, how 2^line_bucket lines of logits are read back behind the head.
void nib_vk_record_logits(const struct nib_vk_instance *instance, uint32_t line_bucket,
                          VkCommandBuffer buffer);
/// Records a segment's passes for every bucket into our own buffers. Errors: memory, device.
enum nib_status nib_vk_record_segment(struct nib_vk_instance *instance, uint32_t segment,
                                      struct nib_error *err);

#endif
