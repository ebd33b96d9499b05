"""Mesa's drivers over its no-op DRM shims: real shader compilers for GPUs that are not there.

A root is the folder of a Debian system with the packages mesa-vulkan-drivers and mesa-drm-shim,
run through its own loader, or None for this machine.
"""
import os
import pathlib
import re
import subprocess

LIBRARIES = "usr/lib/x86_64-linux-gnu"
RADV = ["polaris10", "vega10", "raven", "renoir", "navi10", "navi21", "vangogh", "navi31",
        "gfx1150", "gfx1201"]
NVK = {"turing": "162", "ampere": "172", "ada": "192"}
TURNIP = ["adreno630", "adreno730", "adreno740", "adreno750"]
DEVICES = [*RADV, *NVK, *TURNIP, "m1"]
NEWER_NAMES = {"gfx1150": "strix1"}  # what Mesa's shim has called it since 25.1


def _driver(device):
    """Returns the shim, the driver and the variables that choose the device."""
    if device in RADV or device in NEWER_NAMES.values():
        return "amdgpu", "radeon", {"AMDGPU_GPU_ID": device}
    if device in NVK:
        return "nouveau", "nouveau", {"NOUVEAU_CHIPSET": NVK[device],
                                      "NVK_I_WANT_A_BROKEN_VULKAN_DRIVER": "1"}
    if device in TURNIP:
        return "freedreno", "freedreno", {"FD_GPU_ID": device[len("adreno"):]}
    return "asahi", "asahi", {}


def find_driver(root, device):
    """Returns paths of the shim and of the driver's description, or None where one is missing."""
    shim, driver, _ = _driver(device)
    base = pathlib.Path(root or "/")
    library = base / LIBRARIES / ("lib%s_noop_drm_shim.so" % shim)
    files = sorted((base / "usr/share/vulkan/icd.d").glob("%s_icd*.json" % driver))
    return (library, files[0]) if library.exists() and files else None


def run(root, device, command, variables=None, **options):
    """Runs a command where Vulkan shows `device` alone; returns a CompletedProcess.

    Standard output and standard error are one text.
    """
    library, description = find_driver(root, device)
    newer = NEWER_NAMES.get(device)
    if newer and newer.encode() in library.read_bytes():
        device = newer
    environment = {**os.environ, **_driver(device)[2], **(variables or {}),
                   "VK_ICD_FILENAMES": str(description), "MESA_SHADER_CACHE_DISABLE": "true"}
    if root:
        base = pathlib.Path(root)
        path = "%s:%s/llama:/%s" % (base / LIBRARIES, base / LIBRARIES, LIBRARIES)
        command = [str(base / "lib64/ld-linux-x86-64.so.2"), "--library-path", path, "--preload",
                   str(library), *command]
    else:
        environment["LD_PRELOAD"] = str(library)
    return subprocess.run(command, env=environment, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, errors="replace", check=False,
                          **options)


def read_shaders(text):
    """Returns what RADV_DEBUG=shaders,shaderstats printed, a dictionary for each shader.

    `name` is what stood behind the last "@ ", `lines` the disassembly, `stats` numbers by name.
    """
    shaders, name, lines, stats = [], "", [], None
    in_disassembly = False
    for line in text.splitlines():
        if line.startswith("@ "):
            name = line[2:]
        elif line == "disasm:":
            lines, in_disassembly = [], True
        elif "SHADER STATS" in line:
            stats, in_disassembly = {}, False
        elif stats is not None and line.startswith("****"):
            shaders.append({"name": name, "lines": lines, "stats": stats})
            lines, stats = [], None
        elif in_disassembly:
            lines.append(line)
        elif stats is not None:
            match = re.match(r"([^:]+): (\d+)", line)
            if match:
                stats[match[1]] = int(match[2])
    return shaders
