"""Compiled kernels as object files: loaded from a cache, built where they are missing.

A file holds the machine code of all kernels that one package asked for. Its name has a digest of
all that the code depends on (see `graph`), so that a file is never changed and never stale,
whoever shares the folder: it is written under another name and renamed. Its first 32 bytes are the
SHA-256 of the rest. One that is cut off or damaged is built anew.

Source: datapath.md section 7.
"""

from __future__ import annotations

import hashlib
import logging
import os
import stat
import tempfile
import time
from collections.abc import Callable
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import llvmlite.binding as llvm

from .graph import KernelError, digest, reach_functions
from .instructions import BODIES
from .lowering import build, target_machine

__all__ = ["cache_folder", "load_or_build"]

log = logging.getLogger(__name__)

#: Files that nobody loaded for so long are removed when one is written, seconds.
_KEEP: Final = 60 * 86400

#: They own the machine code, for the rest of the process.
_engines: Final[list[Any]] = []


@cache
def cache_folder() -> Path:
    """Where object files are kept: $EMUDEV_CACHE, or emudev/kernels below $XDG_CACHE_HOME.

    A folder that can't be written, or that others may write, is not used: compiled code comes out
    of it. A temporary one of this process takes its place then, with a warning.
    """
    chosen = os.environ.get("EMUDEV_CACHE")
    if chosen:
        folder = Path(chosen)
    else:
        home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
        folder = Path(home) / "emudev" / "kernels"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        info = folder.stat()
        if info.st_uid not in (0, os.geteuid()) or info.st_mode & stat.S_IWOTH:
            raise PermissionError(f"it belongs to user {info.st_uid} or others may write it")
        handle, probe = tempfile.mkstemp(dir=folder)
        os.close(handle)
        os.unlink(probe)
    except OSError as error:
        import atexit
        import shutil

        folder = Path(tempfile.mkdtemp(prefix="emudev-kernels-"))
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        log.warning(
            "the kernel cache can't be used, kernels are compiled at each start: %s"
            " (EMUDEV_CACHE names another folder)",
            error,
        )
    return folder


def _digest_compiler() -> str:
    own = hashlib.sha256()
    for name in ("emitter.py", "frontend.py", "instructions.py", "lowering.py"):
        own.update((Path(__file__).parent / name).read_bytes())
    return own.hexdigest()


#: The compiler itself, as it was when it was imported.
_COMPILER: Final = _digest_compiler()


@cache
def _salt() -> tuple[str, ...]:
    """What compiled code depends on beside its source."""
    return (
        _COMPILER,
        version("llvmlite"),
        llvm.get_process_triple(),
        llvm.get_host_cpu_name(),
        llvm.get_host_cpu_features().flatten(),
    )


def _read(path: Path) -> bytes | None:
    try:
        data = path.read_bytes()
    except OSError:
        return None
    if len(data) <= 32 or hashlib.sha256(data[32:]).digest() != data[:32]:
        log.info("kernel cache: %s is damaged; building it anew", path)
        return None
    if time.time() - path.stat().st_mtime > _KEEP / 4:
        _touch(path)
    return data[32:]


def _touch(path: Path) -> None:
    try:
        os.utime(path)
    except OSError as error:
        log.debug("kernel cache: %s", error)


def _write(path: Path, code: bytes) -> None:
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=".new-")
        with os.fdopen(handle, "wb") as file:
            file.write(hashlib.sha256(code).digest() + code)
        os.replace(name, path)
        limit = time.time() - _KEEP
        for old in path.parent.iterdir():
            if old.suffix == ".o" or old.name.startswith(".new-"):
                try:
                    if old.stat().st_mtime < limit:
                        old.unlink()
                except OSError:  # another process was faster
                    continue
    except OSError as error:
        log.warning("kernel cache: can't write %s: %s", path, error)


def _load(code: bytes, symbols: list[str]) -> list[int]:
    # An engine for each file: one that has finalised a file does not expect another.
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), target_machine(), use_lmm=False)
    _engines.append(engine)
    engine.add_object_file(llvm.ObjectFileRef.from_data(code))
    engine.finalize_object()
    return [engine.get_function_address(symbol) for symbol in symbols]


def load_or_build(
    package: str,
    functions: list[Callable[..., Any]],
    progress: Callable[[str], None] | None,
    stop: Callable[[], bool],
) -> list[int] | None:
    """Native addresses of kernels; they are good for the rest of the process.

    Args:
        package: Name that the file gets.
        functions: The plain functions, in a fixed order.
        progress: Told before something takes longer.
        stop: Asked now and then; True ends the work.

    Returns:
        The addresses in order, or None if it was stopped.

    Raises:
        KernelError: They can't be compiled.
    """
    reached = reach_functions(functions, BODIES)
    key = digest(reached, _salt())
    symbols = [f"emudev_{key[:24]}_{i}" for i in range(len(functions))]
    path = cache_folder() / f"{package}-{key[:32]}.o"
    code = _read(path)
    if code is None:
        if progress is not None:
            progress(f"compiling {len(functions)} kernels of {package}")
        try:
            code = build(functions, reached, symbols)
        except RuntimeError as error:
            raise KernelError(f"LLVM can't compile the kernels of {package}: {error}") from error
        if stop():
            return None
        _write(path, code)
    return _load(code, symbols)
