/// Nibble: quantized language models on the CPU and on any Vulkan GPU.
/// This umbrella brings every stable public header except <nibble/vulkan.h>, the only one that
/// names Vulkan types.
#ifndef NIBBLE_NIBBLE_H
#define NIBBLE_NIBBLE_H

#include <nibble/base.h>
#include <nibble/device.h>
#include <nibble/engine.h>
#include <nibble/evaluate.h>
#include <nibble/model.h>
#include <nibble/quantize.h>
#include <nibble/session.h>
#include <nibble/tokenizer.h>

#endif
