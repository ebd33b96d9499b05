#!/usr/bin/env python3
"""Compares what `nibble quantize` writes with what other tools make of it (tools/round-trip).

    round_trip.py [--only WORD] NIBBLE MODEL.gguf TINY_FOLDER WORK_DIR

Each way to quantize a model has two rows. The folder is loaded by the tool that is named, and the
logits of a prompt are compared with `nibble run --precise`, as a share of their standard deviation:
those of the whole model, then those of each layer alone, whose input is the tool's own, so that no
earlier rounding shows. Where the tool computes in half precision alone, its own dequantization
in fp32 is run by transformers ("dequantized"), so that the limit can be that of fp32.
"""

import argparse
import contextlib
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

# No hub, no compiler at run time, no pool of more threads than cores.
os.environ.update(HF_HUB_OFFLINE="1", TORCHDYNAMO_DISABLE="1", GPTQMODEL_CPU_WORKERS="2",
                  TQDM_DISABLE="1", TOKENIZERS_PARALLELISM="false")

PROMPT = [(i * 37 + 11) % 500 + 5 for i in range(24)]
# Largest difference and root mean square, in standard deviations of the logits: the order of
# summation; 16-bit floats; codes of int8 activations that turn where an input's last bit does. A
# whole model may also differ by three times as much as the tool's own logits move with inputs that
# are off by a millionth, which is more where it is hardly a model any more (2 bits). For layers
# alone the limit stands as it is.
FP32 = (2e-4, 1e-4)
HALF = (0.15, 0.03)
INT8 = (0.35, 0.05)
# A layer alone whose activations have codes: a code may turn inside of it, which shows in its own
# position and in those that attend to it. So this share of all positions, and some position of each
# layer, must be within FP32, and the others within the limit of a few turned codes.
INT8_LAYER = (0.1, 0.005)
SHARE = 0.8
HEAD_ROWS = 512 # of the vocabulary, whose logits a layer alone is compared by


def transformers_model(folder, **options):
    import torch
    from transformers import AutoModelForCausalLM
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32,
                                                attn_implementation="eager", **options)


def load_plain(folder):
    return transformers_model(folder)


def load_packed(folder):
    """transformers 5.23 cannot load packed zero points, be they the tool's own; its rows go through
    compressed-tensors' decompression in fp32."""
    import torch
    from compressed_tensors.compressors.pack_quantized.base import PackedQuantizationCompressor
    from compressed_tensors.quantization import QuantizationConfig
    from safetensors.torch import load_file
    from transformers import AutoConfig, AutoModelForCausalLM
    tensors = load_file(folder / "model.safetensors")
    config = AutoConfig.from_pretrained(folder)
    scheme, = QuantizationConfig.model_validate(config.quantization_config).config_groups.values()
    del config.quantization_config
    weights = {}
    for name, tensor in tensors.items():
        module, _, part = name.rpartition(".")
        if part == "weight_packed":
            parts = {key[len(module) + 1:]: value for key, value in tensors.items()
                     if key.startswith(module + ".")}
            parts["weight_scale"] = parts["weight_scale"].float()
            done = PackedQuantizationCompressor.decompress(parts, scheme)
            weights[module + ".weight"] = done["weight"].float()
        elif part in ("weight", "bias"):
            weights[name] = tensor.float()
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32,
                                             attn_implementation="eager")
    model.load_state_dict(weights, strict=False)
    model.tie_weights()
    return model


def load_bitsandbytes(folder):
    """As the tool runs, in the element type of the model."""
    return transformers_model(folder)


OVERRIDES = [] # of torch's operators, in force as long as they are here


def load_bitsandbytes_int8(folder):
    """transformers loads such folders in fp16 whatever it is told, and the tool's CPU code has a
    rounded 1/127²: either moves the logits by half of their deviation, since codes turn. Here
    everything but the matrices is fp32, and the constant is exact."""
    import torch
    model = transformers_model(folder)
    for tensor in model.parameters():
        if tensor.is_floating_point():
            tensor.data = tensor.data.float()
    if not OVERRIDES:
        OVERRIDES.append(torch.library.Library("bitsandbytes", "IMPL"))
        OVERRIDES[0].impl("int8_mm_dequant", exact_dequant, "CPU", allow_override=True)
    return model


def exact_dequant(sums, row_stats, col_stats, dtype=None, bias=None):
    import torch
    scale = row_stats.double().reshape(-1, 1) * col_stats.double().reshape(1, -1) / 127 ** 2
    out = sums.view(-1, sums.shape[-1]).double() * scale
    return (out if bias is None else out + bias).to(dtype or torch.float16)


def load_bitsandbytes_weights(folder):
    import torch
    from bitsandbytes.functional import dequantize_4bit
    model = transformers_model(folder)
    for name, module in list(model.named_modules()):
        if type(module).__name__ != "Linear4bit":
            continue
        state = module.weight.quant_state
        state.dtype = torch.float32
        replace(model, name, dequantize_4bit(module.weight.data, state), module.bias)
    for tensor in model.parameters(): # the class itself refuses to be converted
        tensor.data = tensor.data.float()
    return model


def replace(model, name, weight, bias):
    """Puts a plain linear layer of fp32 in the place of module `name`."""
    import torch
    linear = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    linear.weight.data = weight.float().contiguous()
    if bias is not None:
        linear.bias.data = bias.float()
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, linear)


def load_gptqmodel(folder):
    """Its modules multiply in half precision; their own dequantization is taken in fp32."""
    import torch
    from gptqmodel import BACKEND, GPTQModel
    config = json.loads((folder / "config.json").read_text())["quantization_config"]
    is_awq = config["quant_method"] == "awq"
    model = GPTQModel.load(str(folder), device="cpu", dtype=torch.float16,
                           backend=BACKEND.TORCH_AWQ if is_awq else BACKEND.TORCH).model
    for name, module in list(model.named_modules()):
        if not hasattr(module, "qweight"):
            continue
        module.scales = module.scales.float()
        weight = awq_weight(module) if is_awq else module.dequantize_weight()
        replace(model, name, weight.t(), module.bias)
    return model.float()


def awq_weight(module):
    from gptqmodel.quantization.awq.utils.packing_utils import dequantize_gemm
    return dequantize_gemm(qweight=module.qweight, qzeros=module.qzeros, scales=module.scales,
                           bits=module.bits, group_size=module.group_size)


# Name, loader and what it is called, limit, flags of `nibble quantize`.
GROUP = "{group}"
CASES = [
    ("f16", load_plain, "transformers", FP32, "--as safetensors --format f16"),
    ("bf16", load_plain, "transformers", FP32, "--as safetensors --format bf16"),
    ("gptq-int4", load_gptqmodel, "GPTQModel, dequantized", FP32,
     "--method rtn --as gptq --group " + GROUP),
    ("gptq-int4-asym", load_gptqmodel, "GPTQModel, dequantized", FP32,
     "--method rtn --as gptq --asym --group " + GROUP),
    ("gptq-int8", load_gptqmodel, "GPTQModel, dequantized", FP32,
     "--method rtn --as gptq --bits 8 --group " + GROUP),
    ("gptq-int3", load_gptqmodel, "GPTQModel, dequantized", FP32,
     "--method rtn --as gptq --bits 3 --group " + GROUP),
    ("gptq-int3-asym", load_gptqmodel, "GPTQModel, dequantized", FP32,
     "--method rtn --as gptq --bits 3 --asym --group " + GROUP),
    ("gptq-int2-asym", load_gptqmodel, "GPTQModel, dequantized", FP32,
     "--method rtn --as gptq --bits 2 --asym --group " + GROUP),
    ("gptq-act-order", load_gptqmodel, "GPTQModel, dequantized", FP32,
     "--method gptq --act-order --no-static-groups --group " + GROUP + " {calib}"),
    ("awq", load_gptqmodel, "GPTQModel, dequantized", FP32,
     "--method awq --as awq --group " + GROUP + " {calib}"),
    ("awq-rtn", load_gptqmodel, "GPTQModel, dequantized", FP32,
     "--method rtn --as awq --group " + GROUP),
    ("bnb-nf4-run", load_bitsandbytes, "bitsandbytes", HALF, "--method nf4"),
    ("bnb-nf4", load_bitsandbytes_weights, "bitsandbytes, dequantized", FP32, "--method nf4"),
    ("bnb-nf4-single", load_bitsandbytes_weights, "bitsandbytes, dequantized", FP32,
     "--method nf4 --single-quant"),
    ("bnb-fp4", load_bitsandbytes_weights, "bitsandbytes, dequantized", FP32, "--method fp4"),
    ("bnb-int8", load_bitsandbytes_int8, "bitsandbytes, in fp32", INT8, "--method llm-int8"),
    ("ct-w4a16", load_plain, "compressed-tensors", FP32,
     "--method rtn --as compressed-tensors --group " + GROUP),
    ("ct-w4a16-asym", load_packed, "compressed-tensors, dequantized", FP32,
     "--method rtn --as compressed-tensors --asym --group " + GROUP),
    ("ct-w3a16-asym", load_packed, "compressed-tensors, dequantized", FP32,
     "--method rtn --as compressed-tensors --bits 3 --asym --group " + GROUP),
    ("ct-w2a16", load_packed, "compressed-tensors, dequantized", FP32,
     "--method rtn --as compressed-tensors --bits 2 --group " + GROUP),
    ("ct-w8a16", load_plain, "compressed-tensors", FP32,
     "--method rtn --as compressed-tensors --bits 8"),
    ("ct-mixed", load_plain, "compressed-tensors", FP32,
     "--method rtn --as compressed-tensors --group " + GROUP + " --mix ffn_down=int8,*@0=keep"),
    ("ct-w8a8-dynamic", load_plain, "compressed-tensors", INT8,
     "--method rtn --as compressed-tensors --activations dynamic"),
    ("ct-w8a8-static", load_plain, "compressed-tensors", INT8, "--method smoothquant {calib}"),
]


def run(*command):
    done = subprocess.run([str(part) for part in command], stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode:
        sys.exit("round-trip: %s\n%s" % (" ".join(map(str, command)), done.stdout))


def our_logits(nibble, folder, ids=tuple(PROMPT)):
    from safetensors.torch import load_file
    out = folder.parent / "logits.safetensors"
    run(nibble, "run", folder, "--prompt-ids", ",".join(map(str, ids)), "-n", 1, "--precise",
        "--kv", "f32", "--greedy", "--device", "cpu", "--save-logits", out)
    return load_file(str(out))["logits"][:len(ids)].float()


def their_logits(model):
    import torch
    with torch.no_grad():
        return model(torch.tensor([PROMPT])).logits[0].float()


def measure(error, theirs):
    error = error / theirs.std()
    return error.abs().max().item(), error.square().mean().sqrt().item()


def noise(model, theirs):
    """How far logits move where the token embeddings are off by a millionth."""
    import torch
    embedding = model.get_input_embeddings()
    torch.manual_seed(1)
    shift = embedding.register_forward_hook(
        lambda module, inputs, out: out * (1 + 1e-6 * torch.randn_like(out)))
    moved = their_logits(model)
    shift.remove()
    return measure(moved - theirs, theirs)


def compare(nibble, folder, model, limit):
    """Returns the difference of the whole model, and the limit that holds for it."""
    theirs = their_logits(model)
    limit = tuple(max(a, 3 * b) for a, b in zip(limit, noise(model, theirs)))
    return measure(our_logits(nibble, folder) - theirs, theirs), limit


def layer_states(model):
    """Returns the input of each layer and its output, [positions, hidden size] each."""
    states = []
    def keep(_, arguments, kwargs, out):
        first = arguments[0] if arguments else kwargs["hidden_states"]
        last = out[0] if isinstance(out, tuple) else out
        states.append((first.reshape(len(PROMPT), -1), last.reshape(len(PROMPT), -1)))
    hooks = [layer.register_forward_hook(keep, with_kwargs=True) for layer in model.model.layers]
    their_logits(model)
    for hook in hooks:
        hook.remove()
    return states


def lone_layer(folder, tensors, layer, state, head):
    """Makes a folder of one layer of another, whose token embeddings are that layer's inputs."""
    from safetensors.torch import save_file
    alone = folder.with_name(folder.name + "-layer")
    shutil.rmtree(alone, ignore_errors=True)
    alone.mkdir()
    prefix = "model.layers.%d." % layer
    kept = {key.replace(prefix, "model.layers.0."): value for key, value in tensors.items()
            if key.startswith(prefix) or key == "model.norm.weight"}
    kept["model.embed_tokens.weight"] = state.new_zeros(HEAD_ROWS, state.shape[1])
    kept["model.embed_tokens.weight"][:len(state)] = state
    kept["lm_head.weight"] = head
    save_file(kept, alone / "model.safetensors", metadata={"format": "pt"})
    text = re.sub(r"model\.layers\.(\d+)\.", lambda match: "model.layers.%s." % (
        0 if int(match[1]) == layer else "none"), (folder / "config.json").read_text())
    config = json.loads(text)
    config.update(num_hidden_layers=1, vocab_size=HEAD_ROWS, tie_word_embeddings=False)
    (alone / "config.json").write_text(json.dumps(config))
    return alone


def compare_layers(nibble, folder, model):
    """Returns the differences of all layers, [layers, positions, logits], in deviations."""
    import torch
    from safetensors.torch import load_file
    tensors = load_file(folder / "model.safetensors")
    step = model.lm_head.weight.shape[0] // HEAD_ROWS
    head = model.lm_head.weight.detach()[::step][:HEAD_ROWS].float().contiguous()
    errors = []
    with torch.no_grad():
        for layer, (first, last) in enumerate(layer_states(model)):
            theirs = model.model.norm(last).float() @ head.t()
            alone = lone_layer(folder, tensors, layer, first, head)
            ours = our_logits(nibble, alone, range(len(PROMPT)))
            errors.append((ours - theirs) / theirs.std())
            shutil.rmtree(alone)
    return torch.stack(errors)


def check(arguments, source, name, case):
    """Quantizes, loads, compares, prints the two rows and returns whether they are well."""
    word, load, tool, limit, flags = case
    folder = arguments.work / ("%s-%s" % (name, word))
    shutil.rmtree(folder, ignore_errors=True)
    text = pathlib.Path(__file__).resolve().parents[2] / "README.md"
    calib = "--calib %s --calib-windows 4 --calib-ctx 128" % text
    flags = flags.format(group=64 if name == "smollm2" else 32, calib=calib)
    run(arguments.nibble, "quantize", source, folder, *flags.split())
    if not (folder / "tokenizer.json").exists(): # which GPTQModel insists on
        for file in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(arguments.work / "tokenizer" / file, folder / file)
    label = "%-9s %-16s %-32s"
    try:
        with contextlib.redirect_stdout(sys.stderr): # where the tools' own talk goes
            model = load(folder).eval()
        good = show(label % (name, word, tool),
                    *compare(arguments.nibble, folder, model, limit))
        good &= show_layers(label % ("", "layers alone", ""), limit,
                            compare_layers(arguments.nibble, folder, model))
    except Exception as reason:  # the tool's own error is the row's result
        print("%s FAILED: %s" % (label % (name, word, tool), str(reason).splitlines()[:1]))
        good = False
    shutil.rmtree(folder)
    return good


def show(label, errors, limit, note="", also=True):
    """Prints a row and returns whether it is well."""
    good = also and all(a <= b for a, b in zip(errors, limit))
    print("%s %9.2g %9.2g %9.2g  %s%s" % (label, *errors, limit[0], "ok" if good else "DIFFERS",
                                          note), flush=True)
    return good


def show_layers(label, limit, errors):
    total = errors.abs().max().item(), errors.square().mean().sqrt().item()
    if limit is not INT8:
        return show(label, total, limit)
    exact = (errors.abs().amax(dim=2) <= FP32[0]).float() # of each layer and position
    share = exact.mean().item()
    also = share >= SHARE and exact.amax(dim=1).min().item() == 1
    note = ", %.0f %% of positions within %g" % (100 * share, FP32[0])
    return show(label, total, INT8_LAYER, note, also)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", default="")
    parser.add_argument("nibble", type=pathlib.Path)
    parser.add_argument("model", type=pathlib.Path)
    parser.add_argument("tiny", type=pathlib.Path)
    parser.add_argument("work", type=pathlib.Path)
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    import transformers
    transformers.logging.set_verbosity_error()

    tokenizer = arguments.work / "tokenizer"
    shutil.rmtree(tokenizer, ignore_errors=True)
    run(arguments.nibble, "quantize", arguments.model, tokenizer, "--as", "safetensors")
    print("%-9s %-16s %-32s %9s %9s %9s" % ("model", "folder", "loaded by", "max", "rms", "limit"))
    failed = n = 0
    for name, source in (("tiny", arguments.tiny), ("smollm2", arguments.model)):
        for case in CASES:
            needs_text = "{calib}" in case[4] and name == "tiny" # which has no tokenizer
            if needs_text or arguments.only not in "%s-%s" % (name, case[0]):
                continue
            n += 1
            failed += not check(arguments, source, name, case)
    shutil.rmtree(tokenizer)
    print("%d passed, %d failed" % (n - failed, failed))
    return 1 if failed or not n else 0


if __name__ == "__main__":
    sys.exit(main())
