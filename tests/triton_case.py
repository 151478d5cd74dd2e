"""A Triton kernel compiled for GPUs that are not here, and what the assembler says of it."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

ARCHITECTURES = [75, 80, 86, 89, 90, 100, 120]

_COMPILE = """
import importlib, json, sys, triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

folder, module, name, variants, *architectures = sys.argv[1:]
kernel = getattr(importlib.import_module(module), name)
for variant, (pointers, constants, *options) in json.loads(variants).items():
    types = {}
    for argument in kernel.arg_names:
        if argument.isupper():
            types[argument] = "constexpr"
        elif argument.endswith("_ptr"):
            types[argument] = "*" + pointers.get(argument, "fp32")
        elif pointers.get("numbers") == "1" and argument not in pointers:
            types[argument] = "constexpr"
            constants[argument] = 1
        else:
            types[argument] = pointers.get(argument, "i64" if argument.startswith("stride") else "i32")
    aligned = {(i,): [["tt.divisibility", 16]] for i, a in enumerate(kernel.arg_names) if a.endswith("_ptr")}
    source = ASTSource(kernel, types, constants, aligned)
    for architecture in architectures:
        built = triton.compile(source, target=GPUTarget("cuda", int(architecture), 32), options=dict(*options))
        assert len(built.asm["cubin"]) > 1000
        with open(f"{folder}/{architecture}-{variant}.ptx", "w") as file:
            file.write(built.asm["ptx"])
"""

Variants = dict[str, tuple[dict[str, Any], ...]]


def compile_offline(
    module: str, kernel: str, variants: Variants, folder: Path, architectures: list[int] = ARCHITECTURES
) -> Path:
    """Write the PTX of each variant for each architecture into `folder`; gives `folder`.

    A process of its own does it: what the interpreter decorates cannot be compiled. Arguments in capitals are
    constants, `*_ptr` pointers to float32, `stride*` 64 bits and the others 32, unless named.
    Where "numbers" is "1", those numbers are 1, which Triton compiles in as it does at a launch.

    Args:
        module, kernel: where the kernel is and its name.
        variants: name -> (argument -> Triton's word for its type or what it points to, constants, and
            perhaps options of the compiler such as num_warps).
        folder: an empty one.
    """
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(folder / "cache")
    command = [sys.executable, "-c", _COMPILE, folder, module, kernel, json.dumps(variants), *map(str, architectures)]
    subprocess.run(command, env=environment, check=True)
    return folder


def need_no_spills(folder: Path, architecture: int, count: int, scratch: Path) -> None:
    """AssertionError unless `count` kernels of the architecture are in `folder` and keep all values in registers."""
    import triton

    program = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "ptxas"
    blackwell = program.with_name("ptxas-blackwell")
    assembler = blackwell if architecture >= 100 and blackwell.is_file() else program
    codes = sorted(folder.glob(f"{architecture}-*.ptx"))
    assert len(codes) == count
    for code in codes:
        target = re.search(r"\.target (sm_\w+)", code.read_text())[1]
        command = [assembler, "-v", f"-arch={target}", str(code), "-o", str(scratch / "code.cubin")]
        told = subprocess.run(command, capture_output=True, text=True, check=True).stderr
        assert re.findall(r"(\d+) bytes spill", told) == ["0", "0"], told
