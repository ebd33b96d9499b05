#ifdef __linux__
#define _GNU_SOURCE // gettid through syscall
#else
#define _POSIX_C_SOURCE 200809L
#define _DARWIN_C_SOURCE
#endif

#include "runtime/base/os.h"
#include "runtime/base/os_machine.h"
#include "runtime/base/status.h"

#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#ifdef __linux__
#include <sys/syscall.h>
#endif
#include <time.h>
#include <unistd.h>

struct nib_thread {
    pthread_t handle;
    void (*run)(void *user);
    void *user;
    int core;
};

struct nib_mutex {
    pthread_mutex_t handle;
};

struct nib_condition {
    pthread_cond_t handle;
};

static void *thread_main(void *argument)
{
    const struct nib_thread *thread = argument;
    if (thread->core >= 0)
        nib_os_bind_thread(thread->core);
    thread->run(thread->user);
    return NULL;
}

enum nib_status nib_thread_create(void (*run)(void *user), void *user, int core,
                                  struct nib_thread **out_thread, struct nib_error *err)
{
    *out_thread = NULL;
    struct nib_thread *thread = malloc(sizeof *thread);
    if (!thread)
        return nib_fail_memory(err);
    thread->run = run;
    thread->user = user;
    thread->core = core;

    // The application's signals are for its own threads; the new one inherits the mask.
    sigset_t all, old;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    int error = pthread_create(&thread->handle, NULL, thread_main, thread);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (error) {
        free(thread);
        return nib_fail(err, NIB_ERROR_IO, "cannot start a thread: %s", strerror(error));
    }
    *out_thread = thread;
    return NIB_OK;
}

void nib_thread_join(struct nib_thread **thread)
{
    if (!*thread)
        return;
    pthread_join((*thread)->handle, NULL);
    free(*thread);
    *thread = NULL;
}

void nib_thread_lower_priority(void)
{
#ifdef __linux__
    // Against POSIX, Linux counts niceness by thread.
    setpriority(PRIO_PROCESS, (id_t)syscall(SYS_gettid), 10);
#endif
}

uint64_t nib_thread_id(void)
{
    return (uint64_t)(uintptr_t)pthread_self();
}

enum nib_status nib_mutex_create(struct nib_mutex **out_mutex, struct nib_error *err)
{
    *out_mutex = NULL;
    struct nib_mutex *mutex = malloc(sizeof *mutex);
    if (!mutex || pthread_mutex_init(&mutex->handle, NULL) != 0) {
        free(mutex);
        return nib_fail_memory(err);
    }
    *out_mutex = mutex;
    return NIB_OK;
}

void nib_mutex_destroy(struct nib_mutex **mutex)
{
    if (!*mutex)
        return;
    pthread_mutex_destroy(&(*mutex)->handle);
    free(*mutex);
    *mutex = NULL;
}

void nib_mutex_lock(struct nib_mutex *mutex)
{
    pthread_mutex_lock(&mutex->handle);
}

bool nib_mutex_try_lock(struct nib_mutex *mutex)
{
    return pthread_mutex_trylock(&mutex->handle) == 0;
}

void nib_mutex_unlock(struct nib_mutex *mutex)
{
    pthread_mutex_unlock(&mutex->handle);
}

/// Makes a condition whose waits end by the clock of nib_clock_ns, where the system can.
static bool init_condition(pthread_cond_t *out_condition)
{
#ifdef __APPLE__
    return pthread_cond_init(out_condition, NULL) == 0;
#else
    pthread_condattr_t attributes;
    if (pthread_condattr_init(&attributes) != 0)
        return false;
    bool is_good = pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC) == 0 &&
                   pthread_cond_init(out_condition, &attributes) == 0;
    pthread_condattr_destroy(&attributes);
    return is_good;
#endif
}

enum nib_status nib_condition_create(struct nib_condition **out_condition, struct nib_error *err)
{
    *out_condition = NULL;
    struct nib_condition *condition = malloc(sizeof *condition);
    if (!condition || !init_condition(&condition->handle)) {
        free(condition);
        return nib_fail_memory(err);
    }
    *out_condition = condition;
    return NIB_OK;
}

void nib_condition_destroy(struct nib_condition **condition)
{
    if (!*condition)
        return;
    pthread_cond_destroy(&(*condition)->handle);
    free(*condition);
    *condition = NULL;
}

void nib_condition_wait(struct nib_condition *condition, struct nib_mutex *mutex)
{
    pthread_cond_wait(&condition->handle, &mutex->handle);
}

bool nib_condition_wait_until(struct nib_condition *condition, struct nib_mutex *mutex,
                              uint64_t end_ns)
{
#ifdef __APPLE__
    uint64_t now = nib_clock_ns(), rest = end_ns > now ? end_ns - now : 0;
    struct timespec time = {.tv_sec = (time_t)(rest / 1000000000u),
                            .tv_nsec = (long)(rest % 1000000000u)};
    return pthread_cond_timedwait_relative_np(&condition->handle, &mutex->handle, &time) == 0;
#else
    struct timespec time = {.tv_sec = (time_t)(end_ns / 1000000000u),
                            .tv_nsec = (long)(end_ns % 1000000000u)};
    return pthread_cond_timedwait(&condition->handle, &mutex->handle, &time) == 0;
#endif
}

void nib_condition_broadcast(struct nib_condition *condition)
{
    pthread_cond_broadcast(&condition->handle);
}
