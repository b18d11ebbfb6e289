"""Kernels: one source, compiled by numba or run as plain Python.

    @inline                       a function that kernels call; compiled into them
    @queue_kernel                 int64(int64 state, int64 burst, int64 rows), called by address

Nothing is compiled at import. `compile_now` compiles, or loads from the cache; `compile_later` does it in a
thread of its own. With ``EMUDEV_JIT=0``, or without numba, decorators return what runs as Python, and
addresses are 0.

The cache can't go stale: its folder is named after a hash of all sources of the kernel's package and of
this kit, so that a change in any file that a kernel could have inlined makes a new one. It lies in
``$EMUDEV_CACHE``, else in ``emudev/kernels`` of the user's cache folder, and may be shared by processes.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import logging
import os
import shutil
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar, cast

__all__ = [
    "COMPILED",
    "CompiledKernel",
    "compile_later",
    "compile_now",
    "inline",
    "queue_kernel",
]

log = logging.getLogger(__name__)

_F = TypeVar("_F", bound=Callable[..., Any])

#: Whether kernels are compiled in this process.
COMPILED: Final = (
    os.environ.get("EMUDEV_JIT", "1") != "0" and importlib.util.find_spec("numba") is not None
)

#: Names of the functions whose cache is ours.
_OURS: set[str] = set()


def inline(function: _F) -> _F:
    """A function over integers that kernels call; numba compiles it into them."""
    if not COMPILED:
        return function
    import numba

    return cast(_F, numba.njit(nogil=True, error_model="numpy")(function))


class CompiledKernel:
    """A queue kernel: see `queue_kernel`.

    Attributes:
        address: Native address, 0 until it was compiled.
        __wrapped__: The plain function; calls compiled helpers if there are any.
    """

    def __init__(self, function: Callable[[int, int, int], int]) -> None:
        functools.update_wrapper(self, function)
        self.__wrapped__ = function
        _OURS.add(f"{function.__module__}.{function.__qualname__}")
        self.address = 0
        self._keep: Any = None
        self._lock = threading.Lock()
        self._call: Callable[[int, int, int], int] = function

    def __call__(self, state: int, burst: int = 0, rows: int = 0, /) -> int:
        """Run it: compiled code without the interpreter's lock, or the plain function."""
        return self._call(state, burst, rows)

    def compile(self) -> None:
        """Compile, or load from the cache; does nothing if that was done or kernels are plain."""
        if not COMPILED:
            return
        with self._lock:
            if self.address:
                return
            try:
                made = self._make()
            except (EOFError, OSError, ValueError, AttributeError, ImportError, IndexError) as e:
                # Cut-off or foreign cache files: unpickling fails in many ways.
                log.warning("kernel cache %s is damaged and is made anew: %s", _folder(self), e)
                shutil.rmtree(_folder(self), ignore_errors=True)
                made = self._make()
            self._keep = made
            address = made.address
            from .primitives import call3

            call3(0, 0, 0, 0)
            self._call = lambda a, b, c: call3(address, a, b, c)
            self.address = address

    def _make(self) -> Any:
        import numba

        _install_locator()
        signature = numba.int64(numba.int64, numba.int64, numba.int64)
        return numba.cfunc(signature, cache=True, nopython=True, error_model="numpy")(
            self.__wrapped__
        )


def queue_kernel(function: Callable[[int, int, int], int]) -> CompiledKernel:
    """Make a kernel of the contract `emudev_core.queues.QueueKernel`.

    The function takes and returns int64 numbers only: no objects, exceptions, closures or allocation.
    """
    return CompiledKernel(function)


def compile_now(
    kernels: Iterable[CompiledKernel], progress: Callable[[int, int], None] | None = None
) -> None:
    """Compile kernels on this thread.

    Args:
        kernels: Which ones; those that are compiled cost nothing.
        progress: Called with (done, total) after each.
    """
    todo = list(dict.fromkeys(kernels))
    for i, kernel in enumerate(todo):
        kernel.compile()
        if progress is not None:
            progress(i + 1, len(todo))


def compile_later(
    kernels: Sequence[CompiledKernel],
    done: Callable[[BaseException | None], None],
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Compile kernels in a thread of their own.

    Args:
        kernels: Which ones.
        done: Called once, on that thread, with None or what went wrong; hand it to the loop with
            `Loop.call_threadsafe`. Called at once, on this thread, if nothing is to be done.
        progress: Called on that thread with (done, total) after each.
    """
    if not COMPILED or all(k.address for k in kernels):
        done(None)
        return

    def work() -> None:
        try:
            compile_now(kernels, progress)
        except Exception as error:
            done(error)
        else:
            done(None)

    threading.Thread(target=work, name="emudev-compile", daemon=True).start()


# -- the cache


@functools.cache
def _package_files(package: str) -> tuple[Path, ...]:
    module = sys.modules[package]
    roots = getattr(module, "__path__", None)
    if roots is None:
        return (Path(module.__file__),) if module.__file__ else ()
    return tuple(sorted(p for root in roots for p in Path(root).rglob("*.py")))


@functools.cache
def source_hash(package: str) -> str:
    """Hash of all Python sources of a top-level package and of this kit, 16 hex digits."""
    digest = hashlib.sha256(sys.version.encode())
    for name in sorted({package, __name__.partition(".")[0]}):
        for path in _package_files(name):
            digest.update(f"{name}/{path.name}\0".encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


@functools.cache
def cache_root() -> Path:
    """The folder of compiled kernels; a temporary one, with a warning, if it can't be written."""
    given = os.environ.get("EMUDEV_CACHE")
    user = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    root = Path(given) if given else Path(user) / "emudev" / "kernels"
    try:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=root):
            pass
    except OSError as error:
        log.warning("kernels are not cached: %s", error)
        root = Path(tempfile.mkdtemp(prefix="emudev-kernels-"))
    return root


def _folder(kernel: CompiledKernel) -> Path:
    package = kernel.__wrapped__.__module__.partition(".")[0]
    return cache_root() / f"{package}-{source_hash(package)}"


@functools.cache
def _install_locator() -> None:
    """Tell numba where kernels are cached, and what makes a cached one stale."""
    from numba.core import caching

    class KernelLocator(caching._CacheLocator):  # type: ignore[misc]  # numba has no types
        def __init__(self, function: Callable[..., Any]) -> None:
            package = function.__module__.partition(".")[0]
            self._stamp = source_hash(package)
            self._path = cache_root() / f"{package}-{self._stamp}"
            self._name = f"{function.__module__}-{function.__code__.co_firstlineno}"

        def get_cache_path(self) -> str:
            return str(self._path)

        def get_source_stamp(self) -> str:
            return self._stamp

        def get_disambiguator(self) -> str:
            return self._name

        @classmethod
        def from_function(cls, function: Any, file: str) -> Any:
            if function.__module__ + "." + function.__qualname__ not in _OURS:
                return None
            locator = cls(function)
            locator.ensure_cache_path()
            return locator

    caching.CacheImpl._locator_classes.insert(0, KernelLocator)
