#define _WIN32_WINNT 0x0602 // Windows 8
#define WIN32_LEAN_AND_MEAN

#include "runtime/base/os.h"
#include "runtime/base/os_machine.h"
#include "runtime/base/status.h"

#include <process.h>
#include <stdlib.h>
#include <windows.h>

struct nib_thread {
    HANDLE handle;
    void (*run)(void *user);
    void *user;
    int core;
};

struct nib_mutex {
    SRWLOCK lock;
};

struct nib_condition {
    CONDITION_VARIABLE variable;
};

static unsigned __stdcall thread_main(void *argument)
{
    const struct nib_thread *thread = argument;
    if (thread->core >= 0)
        nib_os_bind_thread(thread->core);
    thread->run(thread->user);
    return 0;
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
    thread->handle = (HANDLE)_beginthreadex(NULL, 0, thread_main, thread, 0, NULL);
    if (!thread->handle) {
        free(thread);
        return nib_fail(err, NIB_ERROR_IO, "cannot start a thread: the system refused");
    }
    *out_thread = thread;
    return NIB_OK;
}

void nib_thread_join(struct nib_thread **thread)
{
    if (!*thread)
        return;
    WaitForSingleObject((*thread)->handle, INFINITE);
    CloseHandle((*thread)->handle);
    free(*thread);
    *thread = NULL;
}

void nib_thread_lower_priority(void)
{
    SetThreadPriority(GetCurrentThread(), THREAD_PRIORITY_BELOW_NORMAL);
}

uint64_t nib_thread_id(void)
{
    return GetCurrentThreadId();
}

enum nib_status nib_mutex_create(struct nib_mutex **out_mutex, struct nib_error *err)
{
    *out_mutex = malloc(sizeof **out_mutex);
    if (!*out_mutex)
        return nib_fail_memory(err);
    InitializeSRWLock(&(*out_mutex)->lock);
    return NIB_OK;
}

void nib_mutex_destroy(struct nib_mutex **mutex)
{
    free(*mutex);
    *mutex = NULL;
}

void nib_mutex_lock(struct nib_mutex *mutex)
{
    AcquireSRWLockExclusive(&mutex->lock);
}

bool nib_mutex_try_lock(struct nib_mutex *mutex)
{
    return TryAcquireSRWLockExclusive(&mutex->lock);
}

void nib_mutex_unlock(struct nib_mutex *mutex)
{
    ReleaseSRWLockExclusive(&mutex->lock);
}

enum nib_status nib_condition_create(struct nib_condition **out_condition, struct nib_error *err)
{
    *out_condition = malloc(sizeof **out_condition);
    if (!*out_condition)
        return nib_fail_memory(err);
    InitializeConditionVariable(&(*out_condition)->variable);
    return NIB_OK;
}

void nib_condition_destroy(struct nib_condition **condition)
{
    free(*condition);
    *condition = NULL;
}

void nib_condition_wait(struct nib_condition *condition, struct nib_mutex *mutex)
{
    SleepConditionVariableSRW(&condition->variable, &mutex->lock, INFINITE, 0);
}

/// A wait can last so much longer than asked for: a tick of the system's timer.
#define TICK_NS 16000000u

bool nib_condition_wait_until(struct nib_condition *condition, struct nib_mutex *mutex,
                              uint64_t end_ns)
{
    uint64_t now = nib_clock_ns();
    if (now + TICK_NS >= end_ns)
        return false;
    uint64_t rest_ms = (end_ns - now - TICK_NS) / 1000000u;
    DWORD ms = rest_ms < INFINITE - 1 ? (DWORD)rest_ms : INFINITE - 1;
    return SleepConditionVariableSRW(&condition->variable, &mutex->lock, ms, 0) != 0;
}

void nib_condition_broadcast(struct nib_condition *condition)
{
    WakeAllConditionVariable(&condition->variable);
}
