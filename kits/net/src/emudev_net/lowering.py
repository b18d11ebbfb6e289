"""From kernels to machine code: all functions of a package in one LLVM module, optimised at once.

Everything but the entry points is internal, so that LLVM inlines and removes at will. The machine
code refers to libc only. Only a cold cache leads here.
"""

from __future__ import annotations

import functools
import platform
from collections.abc import Callable
from typing import Any

import llvmlite.binding as llvm

from .frontend import translate_function
from .graph import KernelError
from .instructions import BODIES, DECLARATIONS

__all__ = ["build", "target_machine", "to_llvm"]


@functools.cache
def _prepare() -> None:
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()


def target_machine() -> Any:
    """LLVM's description of this machine.

    The large code model: all references are whole addresses. The others keep 32-bit distances,
    between parts of an object and to libc, which gigabytes of guest memory in between could break,
    and they take addresses of libc from a table (GOT) that MCJIT mixes up between objects.
    """
    _prepare()
    return llvm.Target.from_default_triple().create_target_machine(
        cpu=llvm.get_host_cpu_name(),
        features=llvm.get_host_cpu_features().flatten(),
        opt=2,
        reloc="static",
        codemodel="large",
    )


def to_llvm(
    functions: list[Callable[..., Any]],
    reached: list[Callable[..., Any]],
    symbols: list[str],
) -> str:
    """Kernels and all that they reach in LLVM's language; arguments as for `build`."""
    names = dict(zip(functions, symbols, strict=True))
    for primitive in BODIES:
        names[primitive] = f"p.{primitive.__name__}"
    for i, function in enumerate(reached):
        names.setdefault(function, f"f{i}.{function.__name__}")
    parts = [DECLARATIONS]
    machine = platform.machine()
    if machine in ("x86_64", "AMD64"):
        parts.append("declare void @llvm.x86.sse2.pause()")
    elif machine == "aarch64":
        parts.append("declare void @llvm.aarch64.hint(i32)")
    for primitive, body in BODIES.items():
        count = primitive.__code__.co_argcount
        arguments = ", ".join(f"i64 %{'abcdef'[i]}" for i in range(count))
        head = f"define internal i64 @{names[primitive]}({arguments}) alwaysinline nounwind {{"
        parts.append(f"{head}\n{body}\n}}")
    entries = set(functions)
    for function in reached:
        linkage = "dso_local" if function in entries else "internal"
        parts.append(translate_function(function, names, linkage))
    return "\n".join(parts)


def build(
    functions: list[Callable[..., Any]],
    reached: list[Callable[..., Any]],
    symbols: list[str],
) -> bytes:
    """Compile kernels into one object file.

    Args:
        functions: The kernels' plain functions.
        reached: They and all helpers; see `graph.reach_functions`.
        symbols: Names that the entry points get.

    Raises:
        KernelError: One can't be compiled; names it.
    """
    machine = target_machine()
    text = to_llvm(functions, reached, symbols)
    try:
        module = llvm.parse_assembly(text)
        module.triple = llvm.get_process_triple()
        module.data_layout = str(machine.target_data)
        module.verify()
    except RuntimeError as error:
        raise KernelError(f"LLVM refuses what the kernels became: {error}") from error
    tuning = llvm.PipelineTuningOptions(speed_level=2)
    tuning.loop_vectorization = True
    tuning.slp_vectorization = False
    tuning.loop_unrolling = True
    builder = llvm.create_pass_builder(machine, tuning)
    builder.getModulePassManager().run(module, builder)
    return bytes(machine.emit_object(module))
