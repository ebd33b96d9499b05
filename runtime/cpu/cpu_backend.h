/// The CPU backend's entry: the only header of this folder that others include.
#ifndef RUNTIME_CPU_CPU_BACKEND_H
#define RUNTIME_CPU_CPU_BACKEND_H

#include "runtime/ops/backend.h"

extern const struct nib_backend nib_cpu_backend;

#endif
