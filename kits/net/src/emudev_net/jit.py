"""Kernels: plain Python functions over integers that can be compiled.

Two decorators mark them, and only record:

- `inline`: a helper, ``(int, ...) -> int`` or ``-> None``, positional arguments only;
- `queue_kernel`: an entry point, ``(state, burst, rows) -> int``. It becomes a `Kernel`: callable
  from Python at any time, with a native address once it is compiled.

A kernel may use int locals, constants of its module below 2**63, `min`, `max`, `abs` and `range`,
other inline helpers and the functions of `emudev_net.primitives` and `emudev_net.system_calls`:
integers only, nothing else. All values are int64 when compiled: sums wrap at 64 bits and shifts
drop bits, which Python's integers don't (see `frontend`).

`compile_now` and `compile_all` compile what they are given, or load it from the cache on disk.
Without llvmlite, or with EMUDEV_JIT=0 in the environment, they do nothing and everything runs as
plain Python.

The rules are those of datapath.md, sections 4, 6 and 7.
"""

from __future__ import annotations

import ctypes
import importlib.util
import logging
import os
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any, Final, TypeVar

__all__ = [
    "Compilation",
    "Kernel",
    "compile_all",
    "compile_now",
    "inline",
    "jit_wanted",
    "queue_kernel",
]

log = logging.getLogger(__name__)

_F = TypeVar("_F", bound=Callable[..., Any])
_Progress = Callable[[str], None]

#: The attribute that marks a helper.
INLINE: Final = "__emudev_inline__"

_NATIVE: Final = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64)
_lock = threading.Lock()


def jit_wanted() -> bool:
    """Whether kernels are to be compiled: llvmlite is installed and EMUDEV_JIT is not 0."""
    if os.environ.get("EMUDEV_JIT") == "0":
        return False
    return importlib.util.find_spec("llvmlite") is not None


def inline(function: _F) -> _F:
    """Mark a helper that kernels may call; the function itself stays as it is."""
    setattr(function, INLINE, True)
    return function


class Kernel:
    """A queue kernel: ``int64(int64 state, int64 burst, int64 rows)``.

    A call runs the compiled code (without the interpreter's lock) if there is some, else the plain
    function.

    Attributes:
        function: The plain Python function.
        address: Native address, 0 if it isn't compiled. It is good for the rest of the process.
    """

    __slots__ = ("__name__", "_call", "address", "function")

    def __init__(self, function: Callable[[int, int, int], int]) -> None:
        self.function = function
        self.address = 0
        self._call: Callable[[int, int, int], int] = function
        self.__name__ = function.__name__

    def __call__(self, state: int, burst: int, rows: int, /) -> int:
        """Run it; any thread, as far as its state allows."""
        return self._call(state, burst, rows)

    def __repr__(self) -> str:
        return f"<kernel {self.label} at {self.address:#x}>"

    @property
    def label(self) -> str:
        """Module and name, as errors and cache files say it."""
        return f"{self.function.__module__}.{self.function.__qualname__}"

    def compile(self) -> bool:
        """Compile this one now; see `compile_now`."""
        return compile_now([self])

    def bind(self, address: int) -> None:
        """Use compiled code; 0 goes back to the plain function.

        Args:
            address: Native address of an ``int64(int64, int64, int64)`` function.
        """
        self._call = _NATIVE(address) if address else self.function
        self.address = address


def queue_kernel(function: Callable[[int, int, int], int]) -> Kernel:
    """Make a function of ``(state, burst, rows)`` a queue kernel; nothing is compiled here."""
    return Kernel(function)


def compile_now(kernels: Iterable[Any], progress: _Progress | None = None) -> bool:
    """Compile kernels, or load them from the cache, and wait for it. Any thread.

    What is compiled already is left alone, and so are None and kernels of another make. The kernels
    of a package make one object file, so give all that a device needs in one call.

    Args:
        kernels: `Kernel` objects.
        progress: Told in words what is done when it takes longer, on this thread.

    Returns:
        Whether all are compiled now; False where compilation isn't wanted.

    Raises:
        KernelError: A kernel uses something that kernels can't.
    """
    return _compile(list(kernels), progress, lambda: False)


def _compile(kernels: list[Any], progress: _Progress | None, stop: Callable[[], bool]) -> bool:
    todo = [k for k in dict.fromkeys(k for k in kernels if isinstance(k, Kernel)) if not k.address]
    if not todo:
        return jit_wanted()
    if not jit_wanted():
        return False
    from .objects import load_or_build  # llvmlite is imported here at the earliest

    packages: dict[str, list[Kernel]] = {}
    for kernel in todo:
        packages.setdefault(kernel.function.__module__.partition(".")[0], []).append(kernel)
    with _lock:
        for package, members in packages.items():
            left = sorted((k for k in members if not k.address), key=lambda k: k.label)
            if stop():
                return False
            if not left:
                continue
            start = time.perf_counter()
            addresses = load_or_build(package, [k.function for k in left], progress, stop)
            if addresses is None:
                return False
            for kernel, address in zip(left, addresses, strict=True):
                kernel.bind(address)
            took = 1e3 * (time.perf_counter() - start)
            log.debug("%d kernels of %s ready after %.0f ms", len(left), package, took)
    return True


class Compilation:
    """A compilation in a thread of its own, made by `compile_all`."""

    def __init__(
        self,
        kernels: list[Any],
        done: Callable[[Exception | None], None] | None,
        progress: _Progress | None,
    ) -> None:
        self._kernels = kernels
        self._done = done
        self._progress = progress
        self._cancelled = False
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin; where nothing is to be compiled, `done` is called at once, on this thread."""
        pending = any(isinstance(k, Kernel) and not k.address for k in self._kernels)
        if pending and jit_wanted():
            # Not a daemon: LLVM must not be at work while its library is torn down at exit.
            self._thread = threading.Thread(target=self._run, name="emudev-kernels")
            self._thread.start()
        elif self._done is not None:
            self._done(None)

    def _stop(self) -> bool:
        return self._cancelled or not threading.main_thread().is_alive()

    def _run(self) -> None:
        error: Exception | None = None
        try:
            _compile(self._kernels, self._progress, self._stop)
        except Exception as e:
            log.warning("kernels stay uncompiled, traffic will be slow: %s", e)
            error = e
        if self._done is not None and not self._stop():
            self._done(error)

    def cancel(self) -> None:
        """Stop at the next step and never call `done`; waits for nothing."""
        self._cancelled = True

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for the end; returns whether it has come within `timeout` seconds."""
        if self._thread is not None:
            self._thread.join(timeout)
            return not self._thread.is_alive()
        return True


def compile_all(
    kernels: Iterable[Any],
    done: Callable[[Exception | None], None] | None = None,
    progress: _Progress | None = None,
) -> Compilation:
    """Compile kernels in the background.

    Args:
        kernels: As for `compile_now`.
        done: Called when all are compiled (or none is to be) with None, or with what went wrong;
            the plain functions work on in that case. Runs on the compiling thread (or on this one
            if there is nothing to do): use it to call ``loop.call_threadsafe``.
        progress: Told in words what is done when it takes longer, on the compiling thread.
    """
    compilation = Compilation(list(kernels), done, progress)
    compilation.start()
    return compilation
