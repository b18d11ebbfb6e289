"""The compiler of kernels: numba types and lowers them, LLVM optimises all of a package at once.

Each helper has one signature, all int64, so nothing is inferred between functions. Helpers and
kernels go into one LLVM module, unoptimised, where everything but the entry points is internal; it is
optimised once, and no wrapper that raises Python exceptions gets in. That is several times as fast as
one numba function each, and the machine code refers to libc only.

This module imports numba; only a cold cache leads here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import llvmlite.binding as llvm
from llvmlite import ir
from numba.core import cgutils as _cgutils
from numba.core import compiler as _compiler
from numba.core import registry, types
from numba.core import typing as _typing
from numba.core.compiler_lock import global_compiler_lock
from numba.core.typing.templates import ConcreteTemplate

from . import primitives as p
from .graph import KernelError

__all__ = ["build"]

# What numba leaves untyped.
cgutils: Any = _cgutils
compiler: Any = _compiler
signature: Any = _typing.signature

_INT: Final = types.int64
_I64: Final = ir.IntType(64)
_I32: Final = ir.IntType(32)
_I8: Final = ir.IntType(8)
_PTR: Final = ir.IntType(8).as_pointer()

_Emit = Callable[[Any, tuple[Any, ...]], Any]

#: Functions that numba knows already, with what their helpers compiled to.
_known: dict[Callable[..., Any], Any] = {}


# -- primitives


def _pointer(builder: Any, address: Any, width: int) -> Any:
    return builder.inttoptr(address, ir.IntType(width).as_pointer())


def _load(width: int, ordering: str | None = None, swap: bool = False) -> _Emit:
    def emit(builder: Any, args: tuple[Any, ...]) -> Any:
        pointer = _pointer(builder, args[0], width)
        if ordering is None:
            value = builder.load(pointer)
            value.align = 1
        else:
            value = builder.load_atomic(pointer, ordering, width // 8)
        if swap:
            value = builder.bswap(value)
        return value if width == 64 else builder.zext(value, _I64)

    return emit


def _store(width: int, ordering: str | None = None, swap: bool = False) -> _Emit:
    def emit(builder: Any, args: tuple[Any, ...]) -> None:
        pointer = _pointer(builder, args[0], width)
        value = args[1] if width == 64 else builder.trunc(args[1], ir.IntType(width))
        if swap:
            value = builder.bswap(value)
        if ordering is None:
            builder.store(value, pointer).align = 1
        else:
            builder.store_atomic(value, pointer, ordering, width // 8)

    return emit


def _atomic(operation: str) -> _Emit:
    def emit(builder: Any, args: tuple[Any, ...]) -> Any:
        return builder.atomic_rmw(operation, _pointer(builder, args[0], 64), args[1], "seq_cst")

    return emit


def _compare_exchange(builder: Any, args: tuple[Any, ...]) -> Any:
    pointer = _pointer(builder, args[0], 64)
    return builder.extract_value(
        builder.cmpxchg(pointer, args[1], args[2], "seq_cst", "seq_cst"), 0
    )


def _fence(builder: Any, args: tuple[Any, ...]) -> None:
    builder.fence("seq_cst")


def _copy(builder: Any, args: tuple[Any, ...]) -> None:
    kind = ir.FunctionType(ir.VoidType(), [_PTR, _PTR, _I64, ir.IntType(1)])
    function = builder.module.declare_intrinsic("llvm.memcpy", [_PTR, _PTR, _I64], kind)
    to, source = _pointer(builder, args[0], 8), _pointer(builder, args[1], 8)
    builder.call(function, [to, source, args[2], ir.Constant(ir.IntType(1), 0)])


def _fill(builder: Any, args: tuple[Any, ...]) -> None:
    kind = ir.FunctionType(ir.VoidType(), [_PTR, _I8, _I64, ir.IntType(1)])
    function = builder.module.declare_intrinsic("llvm.memset", [_PTR, _I64], kind)
    value = builder.trunc(args[1], _I8)
    builder.call(
        function, [_pointer(builder, args[0], 8), value, args[2], ir.Constant(ir.IntType(1), 0)]
    )


def _pause(builder: Any, args: tuple[Any, ...]) -> None:
    triple = llvm.get_process_triple()
    kind = ir.FunctionType(ir.VoidType(), [])
    if triple.startswith(("x86_64", "i686")):
        builder.call(
            cgutils.get_or_insert_function(builder.module, kind, "llvm.x86.sse2.pause"), []
        )
    elif triple.startswith("aarch64"):
        kind = ir.FunctionType(ir.VoidType(), [_I32])
        hint = cgutils.get_or_insert_function(builder.module, kind, "llvm.aarch64.hint")
        builder.call(hint, [ir.Constant(_I32, 1)])


def _libc(name: str, result: Any, parameters: list[Any]) -> _Emit:
    """A call of libc; integers are cut to the parameter's width, the result is sign-extended."""

    def emit(builder: Any, args: tuple[Any, ...]) -> Any:
        kind = ir.FunctionType(result, parameters)
        function = cgutils.get_or_insert_function(builder.module, kind, name)
        values = []
        for value, parameter in zip(args, parameters, strict=True):
            if isinstance(parameter, ir.PointerType):
                value = builder.inttoptr(value, parameter)
            elif parameter.width < 64:
                value = builder.trunc(value, parameter)
            values.append(value)
        answer = builder.call(function, values)
        return answer if answer.type == _I64 else builder.sext(answer, _I64)

    return emit


def _errno(builder: Any, args: tuple[Any, ...]) -> Any:
    kind = ir.FunctionType(_I32.as_pointer(), [])
    function = cgutils.get_or_insert_function(builder.module, kind, "__errno_location")
    return builder.sext(builder.load(builder.call(function, [])), _I64)


def _now(builder: Any, args: tuple[Any, ...]) -> Any:
    pair = cgutils.alloca_once(builder, ir.ArrayType(_I64, 2))
    kind = ir.FunctionType(_I32, [_I32, pair.type])
    function = cgutils.get_or_insert_function(builder.module, kind, "clock_gettime")
    builder.call(function, [ir.Constant(_I32, 1), pair])
    value = builder.load(pair)
    seconds = builder.mul(builder.extract_value(value, 0), ir.Constant(_I64, 10**9))
    return builder.add(seconds, builder.extract_value(value, 1))


def _signal_eventfd(builder: Any, args: tuple[Any, ...]) -> Any:
    one = cgutils.alloca_once_value(builder, ir.Constant(_I64, 1))
    kind = ir.FunctionType(_I64, [_I32, _PTR, _I64])
    function = cgutils.get_or_insert_function(builder.module, kind, "write")
    address = builder.bitcast(one, _PTR)
    return builder.call(function, [builder.trunc(args[0], _I32), address, ir.Constant(_I64, 8)])


def _call3(builder: Any, args: tuple[Any, ...]) -> Any:
    kind = ir.FunctionType(_I64, [_I64, _I64, _I64])
    return builder.call(builder.inttoptr(args[0], kind.as_pointer()), args[1:])


def _count(operation: str) -> _Emit:
    """Leading or trailing zero bits; 64 for zero."""

    def emit(builder: Any, args: tuple[Any, ...]) -> Any:
        return getattr(builder, operation)(args[0], ir.Constant(ir.IntType(1), 0))

    return emit


def _swap(width: int) -> _Emit:
    def emit(builder: Any, args: tuple[Any, ...]) -> Any:
        return builder.zext(builder.bswap(builder.trunc(args[0], ir.IntType(width))), _I64)

    return emit


def _below(builder: Any, args: tuple[Any, ...]) -> Any:
    return builder.zext(builder.icmp_unsigned("<", *args), _I64)


def _shift_right(builder: Any, args: tuple[Any, ...]) -> Any:
    return builder.lshr(args[0], args[1])


_EMIT: Final[dict[Callable[..., Any], _Emit]] = {
    p.load8: _load(8),
    p.load16: _load(16),
    p.load32: _load(32),
    p.load64: _load(64),
    p.load16be: _load(16, swap=True),
    p.load32be: _load(32, swap=True),
    p.load64be: _load(64, swap=True),
    p.load16_acquire: _load(16, "acquire"),
    p.load32_acquire: _load(32, "acquire"),
    p.load64_acquire: _load(64, "acquire"),
    p.load64_relaxed: _load(64, "monotonic"),
    p.store8: _store(8),
    p.store16: _store(16),
    p.store32: _store(32),
    p.store64: _store(64),
    p.store16be: _store(16, swap=True),
    p.store32be: _store(32, swap=True),
    p.store16_release: _store(16, "release"),
    p.store32_release: _store(32, "release"),
    p.store64_release: _store(64, "release"),
    p.store64_relaxed: _store(64, "monotonic"),
    p.exchange64: _atomic("xchg"),
    p.atomic_add64: _atomic("add"),
    p.atomic_or64: _atomic("or"),
    p.atomic_and64: _atomic("and"),
    p.compare_exchange64: _compare_exchange,
    p.fence: _fence,
    p.copy: _copy,
    p.fill: _fill,
    p.pause: _pause,
    p.now_ns: _now,
    p.call3: _call3,
    p.trailing_zeros64: _count("cttz"),
    p.shift_right64: _shift_right,
    p.unsigned_below: _below,
    p.swap16: _swap(16),
    p.swap32: _swap(32),
    p.errno: _errno,
    p.signal_eventfd: _signal_eventfd,
    p.read: _libc("read", _I64, [_I32, _PTR, _I64]),
    p.write: _libc("write", _I64, [_I32, _PTR, _I64]),
    p.readv: _libc("readv", _I64, [_I32, _PTR, _I32]),
    p.writev: _libc("writev", _I64, [_I32, _PTR, _I32]),
}


# -- teaching numba


def _flags() -> Any:
    flags = compiler.Flags()
    flags.error_model = "numpy"  # no exception at a division by zero
    flags.no_compile = True
    flags.no_cpython_wrapper = True
    flags.no_cfunc_wrapper = True
    return flags


def _result(function: Callable[..., Any]) -> Any:
    return types.none if function.__annotations__.get("return") in (None, "None") else _INT


def _teach(function: Callable[..., Any], result: Any, lower: Callable[..., Any]) -> None:
    """Have numba take calls of a plain function for one of this signature, lowered by `lower`."""
    arguments = (_INT,) * function.__code__.co_argcount
    form = signature(result, *arguments)
    template = type(
        f"Template_{function.__name__}", (ConcreteTemplate,), {"key": function, "cases": [form]}
    )
    registry.cpu_target.typing_context.insert_global(function, types.Function(template))
    registry.cpu_target.target_context.insert_func_defn([(lower, function, arguments)])


def _teach_primitive(function: Callable[..., Any], emit: _Emit) -> None:
    result = types.none if function in p.NO_RESULT else _INT

    def lower(context: Any, builder: Any, form: Any, args: tuple[Any, ...]) -> Any:
        value = emit(builder, args)
        return context.get_dummy_value() if value is None else value

    _teach(function, result, lower)


def _teach_inline(function: Callable[..., Any]) -> None:
    result = _result(function)

    def lower(context: Any, builder: Any, form: Any, args: tuple[Any, ...]) -> Any:
        compiled = _known[function]
        if compiled is None:
            compiled = _known[function] = _compile(function, result)
        context.active_code_library.add_linking_library(compiled.library)
        return context.call_internal(builder, compiled.fndesc, form, args)

    _teach(function, result, lower)


def _compile(function: Callable[..., Any], result: Any) -> Any:
    target = registry.cpu_target.target_context
    library = target.codegen().create_library(function.__name__)
    arguments = (_INT,) * function.__code__.co_argcount
    try:
        return compiler.compile_internal(
            registry.cpu_target.typing_context,
            target,
            library,
            function,
            arguments,
            result,
            _flags(),
            locals={},
        )
    except Exception as error:
        raise KernelError(f"{function.__module__}.{function.__qualname__}: {error}") from error


# -- putting it together


def _entry(symbol: str, compiled: Any) -> str:
    """LLVM text of an entry point that calls a compiled function by numba's convention."""
    name = compiled.fndesc.mangled_name
    return (
        f'declare i32 @"{name}"(ptr, ptr, i64, i64, i64)\n'
        f'define i64 @"{symbol}"(i64 %a, i64 %b, i64 %c) {{\n'
        "  %result = alloca i64\n  store i64 0, ptr %result\n  %excuse = alloca ptr\n"
        f'  %status = call i32 @"{name}"(ptr %result, ptr %excuse, i64 %a, i64 %b, i64 %c)\n'
        "  %value = load i64, ptr %result\n  ret i64 %value\n}\n"
    )


def _link(module: Any, library: Any, seen: set[int]) -> None:
    """Link a library, unoptimised, and what it needs into `module`."""
    if id(library) in seen:
        return
    seen.add(id(library))
    module.link_in(library._final_module.clone())
    for needed in library._linking_libraries:
        _link(module, needed, seen)


def _allowed(name: str) -> bool:
    return name.startswith("llvm.") or llvm.address_of_symbol(name) is not None


def build(
    functions: list[Callable[..., Any]],
    reached: list[Callable[..., Any]],
    symbols: list[str],
    stop: Callable[[], bool],
) -> bytes | None:
    """Compile kernels into one object file.

    Args:
        functions: The kernels' plain functions.
        reached: They and all helpers, helpers first; see `graph.reach_functions`.
        symbols: Names that the entry points get.
        stop: Asked between functions; True ends the work.

    Returns:
        The object file, or None if it was stopped.

    Raises:
        KernelError: One can't be compiled; names it.
    """
    with global_compiler_lock:
        registry.cpu_target.typing_context.refresh()
        registry.cpu_target.target_context.refresh()
        if not _known:
            for primitive, emit in _EMIT.items():
                _teach_primitive(primitive, emit)
                _known[primitive] = primitive
        kernels = set(functions)
        for function in reached:
            if function not in kernels and function not in _known:
                _known[function] = None
                _teach_inline(function)
        compiled = []
        for function in functions:
            if stop():
                return None
            compiled.append(_compile(function, _INT))
        codegen = registry.cpu_target.target_context.codegen()
        module = llvm.parse_assembly(str(codegen._create_empty_module("emudev")))
        seen: set[int] = set()
        for result in compiled:
            _link(module, result.library, seen)
        for symbol, result in zip(symbols, compiled, strict=True):
            module.link_in(llvm.parse_assembly(_entry(symbol, result)))
        return _emit_object(codegen, module, set(symbols))


def _emit_object(codegen: Any, module: Any, symbols: set[str]) -> bytes:
    for function in module.functions:
        if function.is_declaration or function.name in symbols:
            continue
        function.linkage = llvm.Linkage.internal
    for variable in module.global_variables:
        if not variable.is_declaration:
            variable.linkage = llvm.Linkage.internal
    module.verify()
    passes, builder = codegen._module_pass_manager()
    passes.run(module, builder)
    strange = [f.name for f in module.functions if f.is_declaration and not _allowed(f.name)]
    if strange:
        raise KernelError(f"kernels need {', '.join(strange)}: something in them may raise")
    machine = llvm.Target.from_default_triple().create_target_machine(
        cpu=codegen._get_host_cpu_name(),
        features=codegen._get_host_cpu_features(),
        opt=2,
        reloc="pic",
        codemodel="jitdefault",
    )
    return bytes(machine.emit_object(module))
