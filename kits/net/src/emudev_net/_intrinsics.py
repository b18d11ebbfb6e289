"""The compiled bodies of `primitives`: numba intrinsics, imported only where kernels are compiled.

Every intrinsic takes and returns int64. Loads zero-extend; stores truncate. Acquire loads and release
stores are plain moves on x86-64 and the right instructions elsewhere.
"""

from __future__ import annotations

import platform
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, overload

from . import primitives as p

_I64 = types.int64
_X86 = platform.machine() in ("x86_64", "AMD64")


def _pointer(builder: Any, address: Any, bits: int) -> Any:
    return builder.inttoptr(address, ir.IntType(bits).as_pointer())


def _widen(builder: Any, value: Any, bits: int) -> Any:
    return value if bits == 64 else builder.zext(value, ir.IntType(64))


def _narrow(builder: Any, value: Any, bits: int) -> Any:
    return value if bits == 64 else builder.trunc(value, ir.IntType(bits))


def _load(bits: int, order: str = "", swap: bool = False) -> Any:
    @intrinsic
    def load(typingctx: Any, address: Any) -> Any:
        def body(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            pointer = _pointer(builder, args[0], bits)
            if order:
                value = builder.load_atomic(pointer, order, bits // 8)
            else:
                value = builder.load(pointer, align=1)
            if swap:
                value = builder.bswap(value)
            return _widen(builder, value, bits)

        return _I64(_I64), body

    return load


def _store(bits: int, order: str = "", swap: bool = False) -> Any:
    @intrinsic
    def store(typingctx: Any, address: Any, value: Any) -> Any:
        def body(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            pointer = _pointer(builder, args[0], bits)
            number = _narrow(builder, args[1], bits)
            if swap:
                number = builder.bswap(number)
            if order:
                builder.store_atomic(number, pointer, order, bits // 8)
            else:
                builder.store(number, pointer, align=1)
            return ir.Constant(ir.IntType(64), 0)

        return _I64(_I64, _I64), body

    return store


def _rmw(operation: str) -> Any:
    @intrinsic
    def change(typingctx: Any, address: Any, value: Any) -> Any:
        def body(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return builder.atomic_rmw(operation, _pointer(builder, args[0], 64), args[1], "seq_cst")

        return _I64(_I64, _I64), body

    return change


@intrinsic
def _compare_exchange(typingctx: Any, address: Any, old: Any, new: Any) -> Any:
    def body(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointer = _pointer(builder, args[0], 64)
        pair = builder.cmpxchg(pointer, args[1], args[2], "seq_cst", "seq_cst")
        return builder.extract_value(pair, 0)

    return _I64(_I64, _I64, _I64), body


@intrinsic
def _fence(typingctx: Any) -> Any:
    def body(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        builder.fence("seq_cst")
        return ir.Constant(ir.IntType(64), 0)

    return _I64(), body


@intrinsic
def _pause(typingctx: Any) -> Any:
    def body(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        if _X86:
            kind = ir.FunctionType(ir.VoidType(), ())
            name = "llvm.x86.sse2.pause"
            builder.call(cgutils.get_or_insert_function(builder.module, kind, name), ())
        return ir.Constant(ir.IntType(64), 0)

    return _I64(), body


@intrinsic
def _copy(typingctx: Any, target: Any, source: Any, size: Any) -> Any:
    def body(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        byte = ir.IntType(8).as_pointer()
        to, fro = (builder.inttoptr(a, byte) for a in args[:2])
        cgutils.raw_memcpy(builder, to, fro, args[2], ir.IntType(64)(1))
        return ir.Constant(ir.IntType(64), 0)

    return _I64(_I64, _I64, _I64), body


@intrinsic
def _fill(typingctx: Any, target: Any, value: Any, size: Any) -> Any:
    def body(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointer = builder.inttoptr(args[0], ir.IntType(8).as_pointer())
        cgutils.memset(builder, pointer, args[2], builder.trunc(args[1], ir.IntType(8)))
        return ir.Constant(ir.IntType(64), 0)

    return _I64(_I64, _I64, _I64), body


@intrinsic
def _call3(typingctx: Any, address: Any, a: Any, b: Any, c: Any) -> Any:
    def body(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        word = ir.IntType(64)
        kind = ir.FunctionType(word, (word, word, word))
        return builder.call(builder.inttoptr(args[0], kind.as_pointer()), args[1:])

    return _I64(_I64, _I64, _I64, _I64), body


def _unsigned(name: str) -> Any:
    @intrinsic
    def divide(typingctx: Any, a: Any, b: Any) -> Any:
        def body(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return getattr(builder, name)(*args)

        return _I64(_I64, _I64), body

    return divide


@intrinsic
def _shift_right(typingctx: Any, value: Any, count: Any) -> Any:
    def body(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.lshr(*args)

    return _I64(_I64, _I64), body


@intrinsic
def _below(typingctx: Any, a: Any, b: Any) -> Any:
    def body(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.icmp_unsigned("<", *args)

    return types.boolean(_I64, _I64), body


_c_write = types.ExternalFunction("write", types.intp(types.int32, types.intp, types.uintp))
_c_read = types.ExternalFunction("read", types.intp(types.int32, types.intp, types.uintp))
_c_writev = types.ExternalFunction("writev", types.intp(types.int32, types.intp, types.int32))
_c_readv = types.ExternalFunction("readv", types.intp(types.int32, types.intp, types.int32))
_c_errno = types.ExternalFunction("__errno_location", types.intp())


def _one(plain: Callable[..., Any], made: Any, arguments: int) -> None:
    """Let compiled code call `made` where it calls the plain function."""
    bodies = {
        0: lambda: lambda: made(),
        1: lambda a: lambda a: made(a),
        2: lambda a, b: lambda a, b: made(a, b),
        3: lambda a, b, c: lambda a, b, c: made(a, b, c),
        4: lambda a, b, c, d: lambda a, b, c, d: made(a, b, c, d),
    }
    overload(plain, inline="always")(bodies[arguments])


for _bits in (8, 16, 32, 64):
    _one(getattr(p, f"load{_bits}"), _load(_bits), 1)
    _one(getattr(p, f"store{_bits}"), _store(_bits), 2)
for _bits in (16, 32, 64):
    _one(getattr(p, f"load{_bits}_be"), _load(_bits, swap=True), 1)
    _one(getattr(p, f"store{_bits}_be"), _store(_bits, swap=True), 2)
for _bits in (16, 32, 64):
    _one(getattr(p, f"load{_bits}_acquire"), _load(_bits, "acquire"), 1)
    _one(getattr(p, f"store{_bits}_release"), _store(_bits, "release"), 2)
_one(p.exchange64, _rmw("xchg"), 2)
_one(p.atomic_add64, _rmw("add"), 2)
_one(p.atomic_or64, _rmw("or"), 2)
_one(p.compare_exchange64, _compare_exchange, 3)
_one(p.fence, _fence, 0)
_one(p.pause, _pause, 0)
_one(p.copy, _copy, 3)
_one(p.fill, _fill, 3)
_one(p.unsigned_below, _below, 2)
_one(p.shift_right, _shift_right, 2)


# Typing and body of an overload must agree to the letter, annotations included: lambdas have none.
overload(p.write, inline="always")(lambda fd, at, size: lambda fd, at, size: _c_write(fd, at, size))
overload(p.read, inline="always")(lambda fd, at, size: lambda fd, at, size: _c_read(fd, at, size))
overload(p.writev, inline="always")(lambda fd, at, n: lambda fd, at, n: _c_writev(fd, at, n))
overload(p.readv, inline="always")(lambda fd, at, n: lambda fd, at, n: _c_readv(fd, at, n))
overload(p.errno, inline="always")(lambda: lambda: p.load32(_c_errno()))
_one(p._call3, _call3, 4)


@intrinsic
def _slot(typingctx: Any, value: Any) -> Any:
    """Address of a place on the stack that holds `value`."""

    def body(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        place = cgutils.alloca_once_value(builder, args[0])
        return builder.ptrtoint(place, ir.IntType(64))

    return _I64(_I64), body


overload(p.signal_eventfd, inline="always")(lambda fd: lambda fd: _c_write(fd, _slot(1), 8))
