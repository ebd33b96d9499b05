#define _WIN32_WINNT 0x0602 // Windows 8
#define WIN32_LEAN_AND_MEAN
#define _CRT_RAND_S

#include "runtime/base/os.h"
#include "runtime/base/os_machine.h"

#include <stdio.h>
#include <stdlib.h>
#include <windows.h>

size_t nib_os_page_size(void)
{
    SYSTEM_INFO info;
    GetSystemInfo(&info);
    return info.dwPageSize;
}

uint64_t nib_clock_ns(void)
{
    LARGE_INTEGER frequency, ticks;
    QueryPerformanceFrequency(&frequency);
    QueryPerformanceCounter(&ticks);
    uint64_t rate = (uint64_t)frequency.QuadPart;
    uint64_t count = (uint64_t)ticks.QuadPart;
    return count / rate * 1000000000u + count % rate * 1000000000u / rate;
}

/// Writes to `out_masks`, up to `capacity`, the logical CPUs of each core that the process may use,
/// and returns how many cores there are; 0 if unknown. Cores beyond the process's group of 64
/// logical CPUs are not counted.
static uint32_t list_cores(DWORD_PTR *out_masks, uint32_t capacity)
{
    DWORD_PTR allowed, installed;
    if (!GetProcessAffinityMask(GetCurrentProcess(), &allowed, &installed))
        return 0;
    DWORD size = 0;
    GetLogicalProcessorInformation(NULL, &size);
    SYSTEM_LOGICAL_PROCESSOR_INFORMATION *items = malloc(size ? size : 1);
    if (!items)
        return 0;
    uint32_t n_cores = 0;
    if (GetLogicalProcessorInformation(items, &size)) {
        for (DWORD i = 0; i < size / sizeof *items; i++) {
            DWORD_PTR mask = items[i].ProcessorMask & allowed;
            if (items[i].Relationship != RelationProcessorCore || mask == 0)
                continue;
            if (n_cores < capacity)
                out_masks[n_cores] = mask;
            n_cores++;
        }
    }
    free(items);
    return n_cores;
}

void nib_os_bind_thread(int core)
{
    DWORD_PTR masks[sizeof(DWORD_PTR) * 8];
    uint32_t n_cores = list_cores(masks, sizeof masks / sizeof *masks);
    if (n_cores > 0)
        SetThreadAffinityMask(GetCurrentThread(), masks[(uint32_t)core % n_cores]);
}

uint32_t nib_cpu_cores(void)
{
    uint32_t n_cores = list_cores(NULL, 0);
    return n_cores > 0 ? n_cores : 1;
}

uint64_t nib_memory_size(void)
{
    MEMORYSTATUSEX memory = {.dwLength = sizeof memory};
    return GlobalMemoryStatusEx(&memory) ? memory.ullTotalPhys : 0;
}

bool nib_amx_enable(void)
{
    return false;
}

uint32_t nib_arm_features(void)
{
    return 0;
}

void nib_cpu_name(char *out_name, size_t capacity)
{
    wchar_t name[128];
    DWORD size = sizeof name;
    LSTATUS result =
        RegGetValueW(HKEY_LOCAL_MACHINE, L"HARDWARE\\DESCRIPTION\\System\\CentralProcessor\\0",
                     L"ProcessorNameString", RRF_RT_REG_SZ, NULL, name, &size);
    char text[512];
    if (result != ERROR_SUCCESS ||
        WideCharToMultiByte(CP_UTF8, 0, name, -1, text, sizeof text, NULL, NULL) <= 0) {
        snprintf(text, sizeof text, "CPU");
    }
    snprintf(out_name, capacity, "%s", text);
}

uint64_t nib_entropy(void)
{
    unsigned low, high;
    if (rand_s(&low) == 0 && rand_s(&high) == 0)
        return (uint64_t)high << 32 | low;
    return nib_clock_ns() * 0x9e3779b97f4a7c15u ^ (uint64_t)GetCurrentProcessId() << 32 ^
           (uintptr_t)&low;
}

void *nib_pages_alloc(size_t size)
{
    return size ? VirtualAlloc(NULL, size, MEM_RESERVE | MEM_COMMIT, PAGE_READWRITE) : NULL;
}

void *nib_pages_alloc_large(size_t size)
{
    return nib_pages_alloc(size); // large pages need a privilege that few processes have
}

void nib_pages_free(void *pages, size_t size)
{
    (void)size;
    if (pages)
        VirtualFree(pages, 0, MEM_RELEASE);
}
