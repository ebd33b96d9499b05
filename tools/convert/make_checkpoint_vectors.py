#!/usr/bin/env python3
"""Writes tests/data/checkpoints/weights.json: sums of what the weights of each folder are in fp32.

    python3 tools/convert/make_checkpoint_vectors.py [FOLDER]

Needs numpy. For each quantized folder of tests/data/checkpoints and each of its quantized
matrices the file holds the CRC-32 of its weights, dequantized to little-endian fp32, row after
row. The decoders are written after the tools' own formats, apart from Nibble's.
"""

import json
import pathlib
import struct
import sys
import zlib

import numpy as np

DTYPES = {
    "F32": "<f4",
    "F16": "<f2",
    "BF16": "<u2",
    "I64": "<i8",
    "I32": "<i4",
    "I8": "i1",
    "U8": "u1",
}


def load(path):
    data = path.read_bytes()
    size = struct.unpack("<Q", data[:8])[0]
    tensors = {}
    for name, entry in json.loads(data[8 : 8 + size]).items():
        if name == "__metadata__":
            continue
        begin, end = entry["data_offsets"]
        array = np.frombuffer(data[8 + size + begin : 8 + size + end], DTYPES[entry["dtype"]])
        if entry["dtype"] == "BF16":
            array = (array.astype(np.uint32) << 16).view(np.float32)
        if entry["dtype"] == "F16":
            array = array.astype(np.float32)
        tensors[name] = array.reshape(entry["shape"])
    return tensors


def unpack(words, bits):
    """Takes words apart along the last axis, lowest bits first."""
    shifts = np.arange(0, 32, bits, dtype=np.uint32)
    fields = words.astype(np.uint32)[..., None] >> shifts & np.uint32((1 << bits) - 1)
    return fields.reshape(*words.shape[:-1], -1).astype(np.int32)


def gptq(get, config):
    bits = config["bits"]
    codes = unpack(get("qweight").T, bits)
    words = get("qzeros").astype(np.uint32)
    if config["checkpoint_format"] == "gptq":
        words = words + np.uint32(0x11111111 if bits == 4 else 0x01010101)
    group = get("g_idx")
    zeros = unpack(words, bits).T[:, group]
    return get("scales").T[:, group] * (codes - zeros).astype(np.float32)


def awq(get, config):
    def outputs(words):
        fields = unpack(words, 4).reshape(*words.shape, 8)
        return fields[..., [0, 4, 1, 5, 2, 6, 3, 7]].reshape(words.shape[0], -1).T

    group = np.arange(get("qweight").shape[0]) // config["group_size"]
    codes, zeros = outputs(get("qweight")), outputs(get("qzeros"))
    return get("scales").T[:, group] * (codes - zeros[:, group]).astype(np.float32)


def bnb_4bit(get, config):
    part = "weight.quant_state.bitsandbytes__" + config["bnb_4bit_quant_type"]
    state = json.loads(get(part).tobytes())
    packed = get("weight").ravel()
    codes = np.stack([packed >> 4, packed & 15], axis=1).ravel()
    absmax = get("weight.absmax")
    if config["bnb_4bit_use_double_quant"]:
        block = np.arange(absmax.size) // state["nested_blocksize"]
        absmax = get("weight.nested_quant_map")[absmax] * get("weight.nested_absmax")[block]
        absmax = absmax + np.float32(state["nested_offset"])
    scale = absmax[np.arange(codes.size) // state["blocksize"]]
    return (get("weight.quant_map")[codes] * scale).reshape(state["shape"])


def bnb_int8(get, config):
    # The product with one factor a row: within an ulp or two of q * SCB / 127.
    return get("weight").astype(np.float32) * (get("SCB") / np.float32(127))[:, None]


def compressed(get, config):
    (group,) = config["config_groups"].values()
    weights = group["weights"]
    bits = weights["num_bits"]
    scale = get("weight_scale")
    if group["format"] == "int-quantized":
        return get("weight").astype(np.float32) * scale
    rows, cols = get("weight_shape")
    codes = unpack(get("weight_packed"), bits)[:, :cols] - (1 << bits - 1)
    if not weights["symmetric"]:
        zeros = unpack(get("weight_zero_point").T, bits).T[:rows] - (1 << bits - 1)
    else:
        zeros = np.zeros(scale.shape, np.int32)
    of = np.arange(cols) // weights["group_size"] if weights["group_size"] else np.zeros(cols, int)
    return (codes - zeros[:, of]).astype(np.float32) * scale[:, of]


def method(config):
    name = config["quant_method"]
    if name == "bitsandbytes":
        return (bnb_4bit, ".weight.absmax") if config["load_in_4bit"] else (bnb_int8, ".SCB")
    return {
        "gptq": (gptq, ".qweight"),
        "awq": (awq, ".qweight"),
        "compressed-tensors": (compressed, ".weight_scale"),
    }[name]


def main():
    root = pathlib.Path(__file__).resolve().parents[2] / "tests/data/checkpoints"
    root = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else root
    sums = {}
    for folder in sorted(path.parent for path in root.glob("*/config.json")):
        config = json.loads((folder / "config.json").read_text()).get("quantization_config")
        if not config:
            continue
        tensors = load(folder / "model.safetensors")
        decode, suffix = method(config)
        sums[folder.name] = {}
        for module in sorted(name[: -len(suffix)] for name in tensors if name.endswith(suffix)):
            weights = decode(lambda part: tensors[module + "." + part], config)
            assert weights.dtype == np.float32
            data = np.ascontiguousarray(weights).astype("<f4").tobytes()
            sums[folder.name][module] = {"shape": list(weights.shape), "crc32": zlib.crc32(data)}
    (root / "weights.json").write_text(json.dumps(sums, indent=1) + "\n")


if __name__ == "__main__":
    main()
