/// What the parts of the operating system's layer ask of the machine's.
#ifndef RUNTIME_BASE_OS_MACHINE_H
#define RUNTIME_BASE_OS_MACHINE_H

#include <nibble/base.h>

/// Returns the bytes of a page of memory.
size_t nib_os_page_size(void);
/// Binds the calling thread to physical core number `core`, counted around among those that the
/// process may use; does nothing where the system cannot.
void nib_os_bind_thread(int core);

#endif
