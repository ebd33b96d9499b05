/// Devices: what this machine can run a model on.
#ifndef NIBBLE_DEVICE_H
#define NIBBLE_DEVICE_H

#include <nibble/base.h>

#ifdef __cplusplus
extern "C" {
#endif

/// What executes: the CPU's vector units, or one physical device through Vulkan.
enum nib_backend_kind { NIB_BACKEND_CPU = 0, NIB_BACKEND_VULKAN = 1 };

/// What a device is made of; Vulkan's own classes, and `cpu` for software drivers too.
enum nib_device_type {
    NIB_DEVICE_TYPE_CPU = 0,
    NIB_DEVICE_TYPE_DISCRETE = 1,
    NIB_DEVICE_TYPE_INTEGRATED = 2,
    NIB_DEVICE_TYPE_VIRTUAL = 3,
    NIB_DEVICE_TYPE_OTHER = 4
};

/// One device as `nibble devices` lists it.
struct nib_device_info {
    enum nib_backend_kind backend;
    enum nib_device_type type;
    bool is_usable;        ///< models can run on it; else `features` says why not
    uint32_t index;        ///< N of `--device vulkan:N`; 0 for the CPU
    uint32_t threads;      ///< CPU: physical cores this process may use; Vulkan: 0
    uint64_t memory_bytes; ///< memory that a model may take: RAM, or the device-local heap
    char name[256];        ///< "AMD Ryzen 7 5800X", "Radeon RX 7900 XTX (RADV NAVI31)"
    char driver[256];      ///< Vulkan: driver name and version; CPU: ""
    char features[512];    ///< CPU: instruction sets, "avx2 f16c fma"; Vulkan: the tier and what is
                           ///< to be known of its kernels, with "; " between
};

/// Writes up to `capacity` devices to `out_infos` (may be NULL where `capacity` is 0) and the
/// number that exist to `*out_count`. The CPU always comes first; Vulkan devices follow in the
/// loader's order, by which `index` counts.
/// Errors: memory. A broken or absent Vulkan loader means no Vulkan devices, not an error.
/// Thread-safety: safe.
NIB_API enum nib_status nib_devices_list(struct nib_device_info *out_infos, uint32_t capacity,
                                         uint32_t *out_count, struct nib_error *err);

/// A device opened for engines: the CPU's thread pool, or a Vulkan device.
/// Engines hold a reference, so it may be destroyed before them.
/// Thread-safety: safe; engines on one device share its threads or queue.
struct nib_device;

/// When kernels are checked against the scalar code before they are trusted.
enum nib_self_test {
    NIB_SELF_TEST_CACHED = 0, ///< on a driver's first use; the verdict is kept in `cache_dir`
    NIB_SELF_TEST_FULL = 1,   ///< on this use too, whatever was kept
    NIB_SELF_TEST_OFF = 2     ///< never; for drivers that execute nothing
};

struct nib_device_params {
    uint32_t struct_size;
    struct nib_log log;
    enum nib_backend_kind backend;
    uint32_t index;          ///< which Vulkan device, as nib_devices_list counts them
    uint32_t threads;        ///< CPU: threads, the caller's included; 0: one per physical core
    bool pin_threads;        ///< CPU: bind each thread to a core
    const char *cpu_mask;    ///< CPU: highest instruction set to use ("scalar", "avx2", "avx512",
                             ///< "neon", ...); NULL: whatever the CPU has. The system is asked for
                             ///< the registers of "amx" where that is what is used
    const char *vulkan_mask; ///< Vulkan: "baseline" caps the device to the baseline's limits; NULL
    enum nib_self_test self_test;
    const char *cache_dir;      ///< folder for pipelines and verdicts; NULL: nothing is kept
    const char *vulkan_variant; ///< Vulkan: the matmul kernels ("wide", "dot", "tall", "texel",
        ///< "single", "sub", "coop8", "coop16", "half") that go before those that the device would
        ///< choose, where they serve; for tests; NULL: none
    const char *shader_dir; ///< Vulkan, builds with NIB_RUNTIME_COMPILE: a folder like Nibble's own
                            ///< shaders, whose kernels are taken instead of those that are built
                            ///< in, and again, between steps, when one of its files has changed;
                            ///< nothing is kept in `cache_dir` then. NULL: those that are built in
    uint32_t hang_ms; ///< Vulkan: milliseconds after which what was submitted counts as hung, and
                      ///< the device as lost; 0: a minute, an hour on a driver of type CPU
};
#define nib_device_params(...) \
    (&(struct nib_device_params){.struct_size = sizeof(struct nib_device_params), __VA_ARGS__})

/// Opens a device; params NULL: the CPU with every default.
/// Errors: not found (no such index), unsupported (mask name, a variant that does not exist or run
/// there, or a build without the backend), memory, argument (more than 1024 threads, no such
/// backend).
NIB_API enum nib_status nib_device_open(const struct nib_device_params *params,
                                        struct nib_device **out_device, struct nib_error *err);
NIB_API void nib_device_destroy(struct nib_device **device);

/// The most that a device was measured to do; 0: not measured.
struct nib_device_limits {
    double read_bytes; ///< bytes of memory beyond caches that it moves in a second, all of it
                       ///< together: those of the better of a kernel that reads and a copy
    double int8_macs;  ///< multiply-adds of int8 codes a second, in registers, by the fastest
                       ///< instructions that the device's kernels may use: packed dot products,
                       ///< cooperative matrices, or fp32
    double f32_macs;   ///< of fp32 numbers
};
/// Measures them, for nib_op_profile too, whose limits are those of the first measurement of the
/// device, which is made before the steps. Takes some tenths of a second, on all threads or in
/// submissions of at most 20 ms (on a host's device half its submit_ns). What else the machine does
/// makes them smaller. Takes 256 MiB of memory, on Vulkan up to 512 MiB of the device's, for the
/// time of the call.
/// Errors: memory, device memory, those of the device.
NIB_API enum nib_status nib_device_measure(struct nib_device *device,
                                           struct nib_device_limits *out_limits,
                                           struct nib_error *err);
/// One kernel's check against the scalar code, on shapes and numbers that are chosen to hurt.
struct nib_kernel_check {
    const char *kernel; ///< "matmul dot"; "" where there is one for the work alone
    const char *work;   ///< "matmul q4_1 of 32, int8-group, 96 columns"
    double error;       ///< largest difference in a row, as a part of the row's largest number
    double limit;       ///< that it must not exceed
    bool passed;
    uint64_t ns;    ///< time of the check, compilation included
    uint32_t done;  ///< checks so far, this one included
    uint32_t total; ///< of all; some may turn out to be another kernel's and are not told
};
/// Gets one check, alive for the call; returns false to stop.
typedef bool nib_kernel_check_fn(void *user, const struct nib_kernel_check *check);
/// Checks every kernel that can run on the device, those too that it would not choose; on the CPU
/// there is nothing to check. What fails is told and not remembered.
/// Errors: cancelled, memory, those of the device.
NIB_API enum nib_status nib_device_self_test(struct nib_device *device,
                                             nib_kernel_check_fn *on_check, void *user,
                                             struct nib_error *err);
/// Describes an open device.
NIB_API void nib_device_get_info(const struct nib_device *device, struct nib_device_info *out_info);

#ifdef __cplusplus
}
#endif
#endif
