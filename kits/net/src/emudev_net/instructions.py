"""The machine side of `primitives` and `system_calls`: small LLVM functions, always inlined.

All take and return int64, like everything in compiled kernels; what has no result returns 0.

Source: datapath.md sections 5 and 6; LLVM Language Reference.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from typing import Any, Final

from . import primitives as p
from . import system_calls as s

__all__ = ["BODIES", "DECLARATIONS", "SYMBOLS"]

#: Functions of libc that compiled code may refer to.
SYMBOLS: Final = (
    "read",
    "write",
    "readv",
    "writev",
    "recv",
    "epoll_wait",
    "poll",
    "mmap",
    "sigaction",
    "raise",
    "__errno_location",
    "clock_gettime",
    "timerfd_settime",
)

DECLARATIONS: Final = """
declare i16 @llvm.bswap.i16(i16)
declare i32 @llvm.bswap.i32(i32)
declare i64 @llvm.bswap.i64(i64)
declare i64 @llvm.cttz.i64(i64, i1)
declare i64 @llvm.smin.i64(i64, i64)
declare i64 @llvm.smax.i64(i64, i64)
declare i64 @llvm.abs.i64(i64, i1)
declare void @llvm.memcpy.p0.p0.i64(ptr, ptr, i64, i1)
declare void @llvm.memset.p0.i64(ptr, i8, i64, i1)
declare i64 @read(i32, ptr, i64)
declare i64 @write(i32, ptr, i64)
declare i64 @readv(i32, ptr, i32)
declare i64 @writev(i32, ptr, i32)
declare i64 @recv(i32, ptr, i64, i32)
declare i32 @epoll_wait(i32, ptr, i32, i32)
declare i32 @poll(ptr, i64, i32)
declare ptr @mmap(ptr, i64, i32, i32, i32, i64)
declare i32 @sigaction(i32, ptr, ptr)
declare i32 @raise(i32)
@static = internal global [8 x i64] zeroinitializer, align 64
declare ptr @__errno_location()
declare i32 @clock_gettime(i32, ptr)
declare i32 @timerfd_settime(i32, i32, ptr, ptr)
"""


def _load(width: int, order: str = "", swap: bool = False) -> str:
    kind = f"i{width}"
    lines = ["%p = inttoptr i64 %a to ptr"]
    if order:
        lines.append(f"%v = load atomic {kind}, ptr %p {order}, align {width // 8}")
    else:
        lines.append(f"%v = load {kind}, ptr %p, align 1")
    name = "%v"
    if swap:
        lines.append(f"%s = call {kind} @llvm.bswap.{kind}({kind} %v)")
        name = "%s"
    if width < 64:
        lines.append(f"%r = zext {kind} {name} to i64")
        name = "%r"
    return "\n".join([*lines, f"ret i64 {name}"])


def _store(width: int, order: str = "", swap: bool = False) -> str:
    kind = f"i{width}"
    lines = ["%p = inttoptr i64 %a to ptr"]
    name = "%b"
    if width < 64:
        lines.append(f"%t = trunc i64 %b to {kind}")
        name = "%t"
    if swap:
        lines.append(f"%s = call {kind} @llvm.bswap.{kind}({kind} {name})")
        name = "%s"
    if order:
        lines.append(f"store atomic {kind} {name}, ptr %p {order}, align {width // 8}")
    else:
        lines.append(f"store {kind} {name}, ptr %p, align 1")
    return "\n".join([*lines, "ret i64 0"])


def _atomic(operation: str) -> str:
    return (
        "%p = inttoptr i64 %a to ptr\n"
        f"%v = atomicrmw {operation} ptr %p, i64 %b seq_cst\nret i64 %v"
    )


def _io(name: str, count: str) -> str:
    lines = ["%f = trunc i64 %a to i32", "%p = inttoptr i64 %b to ptr"]
    argument = "%c"
    if count == "i32":
        lines.append("%n = trunc i64 %c to i32")
        argument = "%n"
    lines.append(f"%r = call i64 @{name}(i32 %f, ptr %p, {count} {argument})")
    return "\n".join([*lines, "ret i64 %r"])


def _swap(width: int) -> str:
    return (
        f"%t = trunc i64 %a to i{width}\n%s = call i{width} @llvm.bswap.i{width}(i{width} %t)\n"
        f"%r = zext i{width} %s to i64\nret i64 %r"
    )


def _pause() -> str:
    machine = platform.machine()
    if machine in ("x86_64", "AMD64"):
        return "call void @llvm.x86.sse2.pause()\nret i64 0"
    if machine == "aarch64":
        return "call void @llvm.aarch64.hint(i32 1)\nret i64 0"
    return "ret i64 0"


_COMPARE_EXCHANGE: Final = """%p = inttoptr i64 %a to ptr
%x = cmpxchg ptr %p, i64 %b, i64 %c seq_cst seq_cst
%v = extractvalue { i64, i1 } %x, 0
ret i64 %v"""

_COPY: Final = """%t = inttoptr i64 %a to ptr
%s = inttoptr i64 %b to ptr
call void @llvm.memcpy.p0.p0.i64(ptr %t, ptr %s, i64 %c, i1 false)
ret i64 0"""

_FILL: Final = """%t = inttoptr i64 %a to ptr
%v = trunc i64 %b to i8
call void @llvm.memset.p0.i64(ptr %t, i8 %v, i64 %c, i1 false)
ret i64 0"""


def _clock(number: int) -> str:
    return f"""%t = alloca [2 x i64]
%r = call i32 @clock_gettime(i32 {number}, ptr %t)
%s = load i64, ptr %t
%q = getelementptr i64, ptr %t, i64 1
%n = load i64, ptr %q
%m = mul i64 %s, 1000000000
%v = add i64 %m, %n
ret i64 %v"""


_SIGNAL: Final = """%one = alloca i64
store i64 1, ptr %one
%f = trunc i64 %a to i32
%r = call i64 @write(i32 %f, ptr %one, i64 8)
ret i64 %r"""

# An absolute time, once: struct itimerspec is a pause of two words, then seconds and ns.
_TIMER: Final = """%t = alloca [4 x i64]
%s = udiv i64 %b, 1000000000
%n = urem i64 %b, 1000000000
store i64 0, ptr %t
%u = getelementptr i64, ptr %t, i64 1
store i64 0, ptr %u
%v = getelementptr i64, ptr %t, i64 2
store i64 %s, ptr %v
%w = getelementptr i64, ptr %t, i64 3
store i64 %n, ptr %w
%f = trunc i64 %a to i32
%x = call i32 @timerfd_settime(i32 %f, i32 1, ptr %t, ptr null)
%r = sext i32 %x to i64
ret i64 %r"""

_RECEIVE: Final = """%f = trunc i64 %a to i32
%p = inttoptr i64 %b to ptr
%g = trunc i64 %d to i32
%r = call i64 @recv(i32 %f, ptr %p, i64 %c, i32 %g)
ret i64 %r"""

_EPOLL_WAIT: Final = """%f = trunc i64 %a to i32
%p = inttoptr i64 %b to ptr
%n = trunc i64 %c to i32
%t = trunc i64 %d to i32
%r = call i32 @epoll_wait(i32 %f, ptr %p, i32 %n, i32 %t)
%v = sext i32 %r to i64
ret i64 %v"""

# nfds_t is an unsigned long: 64 bits wherever this is compiled.
_POLL: Final = """%p = inttoptr i64 %a to ptr
%t = trunc i64 %c to i32
%r = call i32 @poll(ptr %p, i64 %b, i32 %t)
%v = sext i32 %r to i64
ret i64 %v"""

_MMAP: Final = """%p = inttoptr i64 %a to ptr
%q = trunc i64 %c to i32
%g = trunc i64 %d to i32
%h = trunc i64 %e to i32
%m = call ptr @mmap(ptr %p, i64 %b, i32 %q, i32 %g, i32 %h, i64 %f)
%r = ptrtoint ptr %m to i64
ret i64 %r"""

_SIGACTION: Final = """%s = trunc i64 %a to i32
%p = inttoptr i64 %b to ptr
%q = inttoptr i64 %c to ptr
%v = call i32 @sigaction(i32 %s, ptr %p, ptr %q)
%r = sext i32 %v to i64
ret i64 %r"""

_RAISE: Final = """%s = trunc i64 %a to i32
%v = call i32 @raise(i32 %s)
%r = sext i32 %v to i64
ret i64 %r"""

_SET_ERRNO: Final = """%p = call ptr @__errno_location()
%v = trunc i64 %a to i32
store i32 %v, ptr %p
ret i64 0"""

#: All that kernels may call beside inline helpers: the body of each; its arguments are %a, %b, ...
BODIES: Final[dict[Callable[..., Any], str]] = {
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
    p.compare_exchange64: _COMPARE_EXCHANGE,
    p.fence: "fence seq_cst\nret i64 0",
    p.copy: _COPY,
    p.fill: _FILL,
    p.pause: _pause(),
    p.now_ns: _clock(time.CLOCK_MONOTONIC),
    p.realtime_ns: _clock(time.CLOCK_REALTIME),
    p.call3: ("%p = inttoptr i64 %a to ptr\n%r = call i64 %p(i64 %b, i64 %c, i64 %d)\nret i64 %r"),
    p.trailing_zeros64: "%r = call i64 @llvm.cttz.i64(i64 %a, i1 false)\nret i64 %r",
    p.shift_right64: "%m = and i64 %b, 63\n%r = lshr i64 %a, %m\nret i64 %r",
    p.unsigned_below: "%x = icmp ult i64 %a, %b\n%r = zext i1 %x to i64\nret i64 %r",
    p.swap16: _swap(16),
    p.swap32: _swap(32),
    p.static_words: "%r = ptrtoint ptr @static to i64\nret i64 %r",
    s.errno: (
        "%p = call ptr @__errno_location()\n%v = load i32, ptr %p\n"
        "%r = sext i32 %v to i64\nret i64 %r"
    ),
    s.set_errno: _SET_ERRNO,
    s.receive: _RECEIVE,
    s.epoll_wait: _EPOLL_WAIT,
    s.poll: _POLL,
    s.mmap: _MMAP,
    s.sigaction: _SIGACTION,
    s.raise_signal: _RAISE,
    s.signal_eventfd: _SIGNAL,
    s.set_timer: _TIMER,
    s.read: _io("read", "i64"),
    s.write: _io("write", "i64"),
    s.readv: _io("readv", "i32"),
    s.writev: _io("writev", "i32"),
}
