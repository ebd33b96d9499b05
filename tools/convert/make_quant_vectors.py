#!/usr/bin/env python3
"""Writes tests/data/quant/: what the `gguf` package makes of blocks of every type.

    python3 tools/convert/make_quant_vectors.py [OUT_FOLDER]

Needs the packages gguf (0.19) and numpy. The output depends on them alone.

unpack_NAME.bin  blocks as stored, then their weights as little-endian fp32
pack_NAME.bin    fp32 weights, then the blocks that gguf's quantize makes of them

The number of blocks follows from the file's size. The first blocks of unpack_NAME.bin hold
scales that catch mistakes (zeros, denormals, infinities, NaN) and codes that are all ones or all
zeros; the rest is random.
"""

import pathlib
import sys

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, quants

# Name: offsets of the block's binary16 numbers.
HALVES = {
    "q4_0": [0],
    "q4_1": [0, 2],
    "q5_0": [0],
    "q5_1": [0, 2],
    "q8_0": [0],
    "q2_k": [80, 82],
    "q3_k": [108],
    "q4_k": [0, 2],
    "q5_k": [0, 2],
    "q6_k": [208],
    "iq4_nl": [0],
    "iq4_xs": [0],
    "mxfp4": [],
}
FLOATS = ["f16", "bf16"]
PACKED = FLOATS + ["q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "mxfp4"]

SPECIAL = [0x0000, 0x8000, 0x0001, 0x83FF, 0x0400, 0x7BFF, 0xFBFF, 0x7C00, 0xFC00, 0x7E01, 0xBC00]
EXPONENTS = [0, 1, 2, 3, 127, 128, 253, 254, 255]


def quant_type(name):
    return GGMLQuantizationType[name.upper()]


def make_blocks(name, rng):
    weights, size = GGML_QUANT_SIZES[quant_type(name)]
    n_random = 3 if weights == 256 else 24
    special = EXPONENTS if name == "mxfp4" else SPECIAL
    n = len(special) + 2 + n_random
    blocks = rng.integers(0, 256, (n, size), dtype=np.uint8)
    blocks[len(special)] = 0xFF
    blocks[len(special) + 1] = 0x00
    for i in range(n):
        if i < len(special) and name == "mxfp4":
            blocks[i, 0] = special[i]
        for field, at in enumerate(HALVES[name]):
            # Ordinary numbers in the random blocks; other specials in the second field.
            value = np.uint16(0x2000 + rng.integers(0, 0x1000) + 0x8000 * rng.integers(0, 2))
            if i < len(special):
                value = np.uint16(special[(i + 3 * field) % len(special)])
            elif i < len(special) + 2:
                value = np.uint16(0x3555)
            blocks[i, at : at + 2] = np.frombuffer(value.tobytes(), np.uint8)
    return blocks


def make_floats(name, rng):
    bits = rng.integers(0, 1 << 16, 256, dtype=np.uint16)
    bits[: len(SPECIAL)] = SPECIAL
    return bits.view(np.uint8).reshape(-1, 2)


def make_weights(name, rng):
    blocks = [
        rng.standard_normal((16, 32)) * 0.05,
        rng.standard_normal((4, 32)) * 3000,
        rng.standard_normal((4, 32)) * 1e-5,
        np.zeros((1, 32)),
        np.full((1, 32), -0.75),
        np.arange(32).reshape(1, 32) - 12.5,
        np.round(rng.standard_normal((5, 32)) * 4) / 2,
    ]
    if name in FLOATS:
        # Ties between neighbours, and the ends of binary16's range.
        blocks.append(np.resize([1 + 2**-11, 1 + 3 * 2**-11, 65519, 65520, 2**-25, 1.5 * 2**-24,
                                 1 + 2**-8, 1 + 3 * 2**-8], (1, 32)))
    return np.concatenate(blocks).astype(np.float32)


def main():
    out = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else "tests/data/quant")
    out.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(20240229)
    with np.errstate(all="ignore"):
        for name in FLOATS + list(HALVES):
            blocks = make_floats(name, rng) if name in FLOATS else make_blocks(name, rng)
            weights = quants.dequantize(blocks, quant_type(name))
            (out / f"unpack_{name}.bin").write_bytes(blocks.tobytes() + weights.tobytes())
        for name in PACKED:
            weights = make_weights(name, rng)
            blocks = quants.quantize(weights, quant_type(name))
            (out / f"pack_{name}.bin").write_bytes(weights.tobytes() + blocks.tobytes())


if __name__ == "__main__":
    main()
