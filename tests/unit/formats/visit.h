/// Reads all that a parsed file offers, as its users would, for tests and fuzzers.
#ifndef TESTS_UNIT_FORMATS_VISIT_H
#define TESTS_UNIT_FORMATS_VISIT_H

#include "runtime/formats/gguf.h"
#include "runtime/formats/json.h"
#include "runtime/formats/safetensors.h"

/// Each calls every getter on every value, reads every byte of every tensor, and returns whether
/// all tensors lie within `data[0 .. size)`, are found by name, and have the sizes of their shapes.
bool visit_gguf(const struct nib_gguf *gguf, const uint8_t *data, size_t size);
bool visit_safetensors(const struct nib_safetensors *file, const uint8_t *data, size_t size);
/// Calls every getter on every member of an object.
void visit_json(json_t *json);

#endif
