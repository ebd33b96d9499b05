/// Everything that is asked of the operating system: files, memory maps, clock, processors,
/// threads. The files in posix and win32 are the only ones that call it.
#ifndef RUNTIME_BASE_OS_H
#define RUNTIME_BASE_OS_H

#include <nibble/base.h>

/// A file mapped for reading.
struct nib_file_map {
    const uint8_t *data; ///< page-aligned; NULL for an empty file
    size_t size;
    void *handle;
};
/// Maps `path`. Errors: io (the message names the path and the system's reason; a folder is
/// refused).
enum nib_status nib_file_map_open(const char *path, struct nib_file_map *out_map,
                                  struct nib_error *err);
/// Unmaps; a zeroed map is accepted.
void nib_file_map_close(struct nib_file_map *map);
/// Tells the system that [offset, offset + size) will be read soon, or will not be read again: its
/// pages may leave memory at once (and are read again from the file if they are touched).
void nib_file_map_will_need(const struct nib_file_map *map, size_t offset, size_t size);
void nib_file_map_drop(const struct nib_file_map *map, size_t offset, size_t size);

enum nib_path_kind { NIB_PATH_ABSENT, NIB_PATH_FILE, NIB_PATH_FOLDER, NIB_PATH_OTHER };
/// Returns what `path` names, following links.
enum nib_path_kind nib_path_kind(const char *path);

/// A file that appears whole or not at all: written beside its place under another name, synced,
/// and renamed by the commit.
struct nib_file_writer;
/// Errors: io, memory.
enum nib_status nib_file_writer_open(const char *path, struct nib_file_writer **out_writer,
                                     struct nib_error *err);
enum nib_status nib_file_writer_append(struct nib_file_writer *writer, const void *bytes,
                                       size_t size, struct nib_error *err);
/// Overwrites bytes that were appended before. Errors: io, argument (beyond the end).
enum nib_status nib_file_writer_patch(struct nib_file_writer *writer, uint64_t offset,
                                      const void *bytes, size_t size, struct nib_error *err);
/// Returns the bytes appended so far.
uint64_t nib_file_writer_size(const struct nib_file_writer *writer);
/// Puts the file in its place and frees the writer, which it does on failure too.
enum nib_status nib_file_writer_commit(struct nib_file_writer **writer, struct nib_error *err);
/// Removes what was written and frees the writer.
void nib_file_writer_destroy(struct nib_file_writer **writer);

/// Returns nanoseconds of a clock that never goes back.
uint64_t nib_clock_ns(void);
/// Returns the number of physical cores this process may run on, at least 1.
uint32_t nib_cpu_cores(void);
/// Returns the machine's memory in bytes (a container's limit where there is one), 0 if unknown.
uint64_t nib_memory_size(void);
/// Writes the CPU's own name ("AMD Ryzen 7 5800X"), or "CPU" if it is unknown.
void nib_cpu_name(char *out_name, size_t capacity);
/// Instruction sets of 64-bit ARM beyond its base. On x86 programs ask the CPU itself.
enum nib_arm_feature { NIB_ARM_DOTPROD = 1, NIB_ARM_I8MM = 2 };
/// Returns the sum of those that the system says this process may use: 0 on other CPUs, and on
/// systems that are not asked (all but Linux).
uint32_t nib_arm_features(void);
/// Asks the system to let the process' threads use the tiles of AMX, whose registers it saves only
/// for those that asked; returns whether it does.
bool nib_amx_enable(void);
/// Returns bytes that differ from process to process, to seed hashes; not for secrets.
uint64_t nib_entropy(void);

/// Zeroed, page-aligned memory for large blocks (KV pool, scratch), taken from the system page by
/// page as it is touched. Returns NULL where there is none.
void *nib_pages_alloc(size_t size);
/// As nib_pages_alloc, for memory that is used up to its end: where the system has pages of 2 MiB,
/// it is aligned to them and made of them, which spares reads most of their address translation.
void *nib_pages_alloc_large(size_t size);
void nib_pages_free(void *pages, size_t size);

/// A shared library that is loaded by name at run time.
struct nib_library;
/// Loads library `name`, found as the system finds libraries. Errors: not found (the message has
/// the system's reason), memory.
enum nib_status nib_library_open(const char *name, struct nib_library **out_library,
                                 struct nib_error *err);
void nib_library_close(struct nib_library **library);
/// Returns the function called `symbol`, to be cast to its type, or NULL.
void (*nib_library_function(const struct nib_library *library, const char *symbol))(void);

/// Threads.
struct nib_thread;
struct nib_mutex;
struct nib_condition;
/// Starts `run(user)`; `core` >= 0 binds the thread to that core of those the process may use.
/// Errors: memory, io (the system refused).
enum nib_status nib_thread_create(void (*run)(void *user), void *user, int core,
                                  struct nib_thread **out_thread, struct nib_error *err);
/// Waits for the thread's end and frees it.
void nib_thread_join(struct nib_thread **thread);
/// Lets others go before the calling thread, where the system can: for work that may take longer.
void nib_thread_lower_priority(void);
/// Returns a number that no other living thread of the process has; never 0.
uint64_t nib_thread_id(void);
enum nib_status nib_mutex_create(struct nib_mutex **out_mutex, struct nib_error *err);
void nib_mutex_destroy(struct nib_mutex **mutex);
void nib_mutex_lock(struct nib_mutex *mutex);
/// Takes the mutex if it is free and returns whether it did.
bool nib_mutex_try_lock(struct nib_mutex *mutex);
void nib_mutex_unlock(struct nib_mutex *mutex);
enum nib_status nib_condition_create(struct nib_condition **out_condition, struct nib_error *err);
void nib_condition_destroy(struct nib_condition **condition);
void nib_condition_wait(struct nib_condition *condition, struct nib_mutex *mutex);
/// As nib_condition_wait, until `end_ns` of nib_clock_ns at the latest. Systems whose timers are
/// coarse return earlier rather than later. Returns false where the time is over.
bool nib_condition_wait_until(struct nib_condition *condition, struct nib_mutex *mutex,
                              uint64_t end_ns);
void nib_condition_broadcast(struct nib_condition *condition);

#endif
