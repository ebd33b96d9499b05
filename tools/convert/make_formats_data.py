#!/usr/bin/env python3
"""Writes tests/data/formats/*.gguf with the `gguf` package, one model of them in three parts.

    python3 tools/convert/make_formats_data.py OUT_FOLDER

Needs the packages gguf (0.19) and numpy. The output depends on them alone.
(package.safetensors there was written by the `safetensors` package.)
"""

import pathlib
import sys

import gguf
import numpy as np


def add_values(writer):
    writer.add_uint8("test.u8", 200)
    writer.add_int8("test.i8", -100)
    writer.add_uint16("test.u16", 60000)
    writer.add_int16("test.i16", -30000)
    writer.add_uint32("test.u32", 4000000000)
    writer.add_int32("test.i32", -2000000000)
    writer.add_uint64("test.u64", 1 << 63)
    writer.add_int64("test.i64", -(1 << 62))
    writer.add_float32("test.f32", 0.1)
    writer.add_float64("test.f64", 0.1)
    writer.add_bool("test.bool", True)
    writer.add_string("test.text", "Grüße")
    writer.add_array("test.texts", ["", "a", "naïve", "日本"])
    writer.add_array("test.numbers", [1, -2, 3])
    writer.add_array("test.reals", [0.5, -0.25])
    writer.add_array("test.flags", [True, False, True])


def add_tensors(writer):
    numbers = np.arange(6, dtype=np.float32).reshape(2, 3)
    writer.add_tensor("plain.f32", numbers)
    writer.add_tensor("plain.f16", numbers.astype(np.float16))
    writer.add_tensor("plain.i32", np.arange(24, dtype=np.int32).reshape(2, 3, 4))
    for kind in (gguf.GGMLQuantizationType.Q8_0, gguf.GGMLQuantizationType.Q4_1):
        block = gguf.quants.quantize(np.linspace(-1, 1, 128, dtype=np.float32).reshape(2, 64), kind)
        writer.add_tensor(f"block.{kind.name.lower()}", block, raw_dtype=kind)


def write(path, **options):
    writer = gguf.GGUFWriter(path, "llama", **options)
    add_values(writer)
    add_tensors(writer)
    writer.write_header_to_file(path=path)
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__.strip())
    folder = pathlib.Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    write(folder / "package.gguf")
    write(folder / "split.gguf", split_max_tensors=2)


if __name__ == "__main__":
    main()
