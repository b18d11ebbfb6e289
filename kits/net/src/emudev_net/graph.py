"""What a kernel consists of: the functions it reaches, checked, and a digest of all of it.

The digest covers byte code and constants of the kernel, of each helper it reaches in whatever
file, and the values of the module constants they use. Compiled code that is stored under it can't
go stale.

Source: datapath.md section 7.
"""

from __future__ import annotations

import hashlib
import types
from collections.abc import Callable, Iterable
from typing import Any, Final

from emudev_core.errors import EmudevError

from .jit import INLINE, Kernel

__all__ = ["KernelError", "digest", "reach_functions"]

_BUILTINS: Final = frozenset({"min", "max", "abs", "range", "bool", "int"})
_MAX: Final = 1 << 63


class KernelError(EmudevError):
    """A kernel that can't be compiled: what it uses and where, or what its compiler said."""


def _label(function: Callable[..., Any]) -> str:
    return f"{function.__module__}.{function.__qualname__}"


def _check_int(value: int, where: str) -> None:
    if not -_MAX <= value < _MAX:
        raise KernelError(f"{where}: {value:#x} does not fit a signed 64-bit integer")


def _names(function: Callable[..., Any]) -> list[tuple[str, Any]]:
    """What a function takes from outside, by name, in a fixed order."""
    code = function.__code__
    known = function.__globals__
    found: list[tuple[str, Any]] = []
    for name in code.co_names:
        if name in known:
            value = known[name]
            if isinstance(value, types.ModuleType):
                # `module.NAME`: the names behind the dot are in co_names, too.
                found += [
                    (f"{name}.{n}", getattr(value, n)) for n in code.co_names if hasattr(value, n)
                ]
            else:
                found.append((name, value))
        elif name in _BUILTINS:
            found.append((name, None))
        elif not any(isinstance(v, types.ModuleType) for v in known.values()):
            raise KernelError(f"{_label(function)}: {name} is not defined")
    for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
        found.append((name, cell.cell_contents))
    return found


def reach_functions(
    kernels: Iterable[Callable[..., Any]], primitives: Iterable[Callable[..., Any]]
) -> list[Callable[..., Any]]:
    """All functions that have to be compiled for `kernels`, helpers before those that call them.

    Args:
        kernels: Plain functions.
        primitives: Functions that the compiler knows.

    Raises:
        KernelError: One of them uses something that kernels can't; names function and object.
    """
    known = set(primitives)
    order: dict[Callable[..., Any], None] = {}
    open_: list[Callable[..., Any]] = []

    def visit(function: Callable[..., Any]) -> None:
        if function in order:
            return
        label = _label(function)
        if function in open_:
            raise KernelError(f"{label} calls itself; kernels can't recurse")
        open_.append(function)
        for constant in function.__code__.co_consts:
            if type(constant) is int:
                _check_int(constant, label)
        for name, value in _names(function):
            if value is None or isinstance(value, type):
                continue
            if type(value) in (int, bool):
                _check_int(value, f"{label}: {name}")
            elif isinstance(value, Kernel):
                raise KernelError(
                    f"{label} calls the queue kernel {name}: put what both need into an inline"
                    " helper"
                )
            elif isinstance(value, types.FunctionType) and value in known:
                continue
            elif isinstance(value, types.FunctionType) and getattr(value, INLINE, False):
                visit(value)
            elif "." not in name:
                raise KernelError(
                    f"{label} uses {name}, a {type(value).__name__}: kernels take plain ints,"
                    " inline helpers and primitives"
                )
        open_.pop()
        order[function] = None

    for kernel in kernels:
        visit(kernel)
    return list(order)


def _constants(code: types.CodeType) -> str:
    constants = code.co_consts
    if constants and isinstance(constants[0], str):  # the docstring
        constants = constants[1:]
    said = (sorted(c, key=repr) if isinstance(c, frozenset) else c for c in constants)
    return ";".join(map(repr, said))


def digest(functions: Iterable[Callable[..., Any]], salt: Iterable[str]) -> str:
    """A digest of functions as `reach_functions` returns them, in hexadecimal.

    Args:
        functions: Helpers before those that call them.
        salt: What else matters: versions, the machine.
    """
    total = hashlib.sha256()
    for part in salt:
        total.update(part.encode() + b"\0")
    own: dict[Callable[..., Any], str] = {}
    for function in functions:
        code = function.__code__
        h = hashlib.sha256(code.co_code)
        h.update(_constants(code).encode())
        h.update(repr((code.co_names, code.co_varnames, code.co_argcount)).encode())
        h.update(repr(function.__annotations__.get("return")).encode())
        for name, value in _names(function):
            said = own.get(value, _label(value)) if isinstance(value, types.FunctionType) else value
            h.update(f"{name}={said!r};".encode() if not isinstance(said, type) else name.encode())
        own[function] = h.hexdigest()
        total.update(f"{_label(function)}={own[function]}\0".encode())
    return total.hexdigest()
