#include "runtime/base/os.h"
#include "runtime/base/status.h"

#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>

struct nib_library {
    void *handle;
};

enum nib_status nib_library_open(const char *name, struct nib_library **out_library,
                                 struct nib_error *err)
{
    *out_library = NULL;
    void *handle = dlopen(name, RTLD_NOW | RTLD_LOCAL);
    if (!handle)
        return nib_fail(err, NIB_ERROR_NOT_FOUND, "%s", dlerror());
    struct nib_library *library = malloc(sizeof *library);
    if (!library) {
        dlclose(handle);
        return nib_fail_memory(err);
    }
    library->handle = handle;
    *out_library = library;
    return NIB_OK;
}

void nib_library_close(struct nib_library **library)
{
    if (!*library)
        return;
    dlclose((*library)->handle);
    free(*library);
    *library = NULL;
}

void (*nib_library_function(const struct nib_library *library, const char *symbol))(void)
{
    // ISO C has no cast from an object's address to a function's; POSIX says they are alike.
    void *address = dlsym(library->handle, symbol);
    void (*function)(void);
    _Static_assert(sizeof function == sizeof address, "POSIX");
    memcpy(&function, &address, sizeof function);
    return function;
}
