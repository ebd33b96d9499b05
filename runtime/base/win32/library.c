#define _WIN32_WINNT 0x0602 // Windows 8
#define WIN32_LEAN_AND_MEAN

#include "runtime/base/os.h"
#include "runtime/base/status.h"

#include <stdlib.h>
#include <windows.h>

struct nib_library {
    HMODULE module;
};

enum nib_status nib_library_open(const char *name, struct nib_library **out_library,
                                 struct nib_error *err)
{
    *out_library = NULL;
    HMODULE module = LoadLibraryA(name);
    if (!module)
        return nib_fail(err, NIB_ERROR_NOT_FOUND, "%s: error %lu", name, GetLastError());
    struct nib_library *library = malloc(sizeof *library);
    if (!library) {
        FreeLibrary(module);
        return nib_fail_memory(err);
    }
    library->module = module;
    *out_library = library;
    return NIB_OK;
}

void nib_library_close(struct nib_library **library)
{
    if (!*library)
        return;
    FreeLibrary((*library)->module);
    free(*library);
    *library = NULL;
}

void (*nib_library_function(const struct nib_library *library, const char *symbol))(void)
{
    return (void (*)(void))GetProcAddress(library->module, symbol);
}
