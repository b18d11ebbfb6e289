"""What tests of kernels need: helpers called from Python, compiled and plain, and simple queues.

`PortContract` is the suite that every port passes, `FramePortContract` has packets in it, too, for
ports whose other side a test can play; `MemoryPort` a port whose other side is in the
hands of a test.

Name it in a conftest (``pytest_plugins = ["emudev_net.testing"]``) for the fixtures `jit` and
`compiled_or_plain`, which run a test twice: with compiled kernels and with the plain functions.
"""

from __future__ import annotations

import itertools
import linecache
from collections.abc import Callable, Iterator
from typing import Any, Final

import pytest

from .frame_port_contract import FramePortContract
from .jit import Kernel, compile_now, jit_wanted
from .memory_port import MemoryPort
from .port_contract import PortContract
from .primitives import Words, load64

__all__ = [
    "FramePortContract",
    "MemoryPort",
    "PortContract",
    "Probe",
    "compiled_or_plain",
    "jit",
    "probes",
]


class Probe:
    """An inline helper that Python calls with plain arguments, compiled or not.

    Args:
        function: A function marked `inline`, or a primitive, with at most 16 arguments.

    Attributes:
        kernel: The kernel around it; compile it with others, see `probes`.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        count = function.__code__.co_argcount
        arguments = ", ".join(f"load64(state + {8 * i})" for i in range(count))
        call = f"function({arguments})"
        result = function.__annotations__.get("return")
        body = f"    {call}\n    return 0\n" if result in (None, "None") else f"    return {call}\n"
        names: dict[str, Any] = {"function": function, "load64": load64, "__name__": __name__}
        text = f"def probe(state, burst, rows):\n{body}"
        file = f"<probe {next(_numbers)}>"
        linecache.cache[file] = (len(text), None, text.splitlines(keepends=True), file)
        exec(compile(text, file, "exec", dont_inherit=True), names)
        made: Callable[[int, int, int], int] = names["probe"]
        made.__qualname__ = f"probe of {function.__module__}.{function.__qualname__}"
        self.kernel = Kernel(made)
        self._words = Words(16)

    def __call__(self, *arguments: int) -> int:
        """Call it with int64 values; compiled if `kernel` is."""
        for i, value in enumerate(arguments):
            self._words[i] = value
        return self.kernel(self._words.address, 0, 0)


def probes(*functions: Callable[..., Any]) -> tuple[Probe, ...]:
    """A compiled probe (plain where nothing is compiled) of each function."""
    made = tuple(Probe(function) for function in functions)
    compile_now([probe.kernel for probe in made])
    return made


_numbers = itertools.count()
_PLAIN: Final = "plain"
_MODES: Final = ("compiled", _PLAIN)


@pytest.fixture(params=_MODES)
def jit(request: pytest.FixtureRequest) -> str:
    """Runs the test twice: ``"compiled"``, skipped where nothing is compiled, and ``"plain"``."""
    mode = str(request.param)
    if mode == "compiled" and not jit_wanted():
        pytest.skip("kernels are not compiled: llvmlite is missing or EMUDEV_JIT=0")
    return mode


@pytest.fixture
def compiled_or_plain(jit: str) -> Iterator[Callable[..., None]]:
    """Puts kernels into the mode of the test: call it with the `Kernel` objects that the test uses.

    Kernels that were plain are plain again afterwards, and those that were compiled, compiled.
    """
    before: list[tuple[Kernel, int]] = []

    def prepare(*kernels: Kernel) -> None:
        before.extend((kernel, kernel.address) for kernel in kernels)
        if jit == _PLAIN:
            for kernel in kernels:
                kernel.bind(0)
        else:
            compile_now(kernels)

    yield prepare
    for kernel, address in reversed(before):
        kernel.bind(address)
