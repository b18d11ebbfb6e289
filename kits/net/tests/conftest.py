"""What tests of kernels share; they import helpers that stand beside this file, too."""

import contextlib
import sys
from pathlib import Path

import pytest

from emudev_core.loop import Loop
from emudev_net.instructions import BODIES
from emudev_net.jit import compile_now, jit_wanted
from emudev_net.testing import Probe, compiled_or_plain, jit
from emudev_net.testing import probes as compile_probes
from emudev_net.workers import WorkerPool

__all__ = ["compiled_or_plain", "jit"]

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="session")
def all_native():
    """A compiled probe of everything that compiled code may call."""
    functions = sorted(BODIES, key=lambda f: f.__name__)
    return dict(zip(functions, compile_probes(*functions), strict=True))


@pytest.fixture(params=["compiled", "plain"])
def call(request, all_native):
    """`call(primitive or system call, ...)`, compiled or plain."""
    if request.param == "plain":
        return lambda function, *a: Probe(function)(*a)
    if not jit_wanted():
        pytest.skip("kernels are not compiled here")
    return lambda function, *a: all_native[function](*a)


@pytest.fixture
def loop():
    """A loop that does not spin."""
    made = Loop(spin=0)
    yield made
    made.close()


@pytest.fixture
def kernels(request, jit, compiled_or_plain):
    """Puts the `KERNELS` of the test's module into the mode of the test; which one it is."""
    compiled_or_plain(*request.module.KERNELS)
    return jit


@pytest.fixture(scope="module")
def compiled_mode(request):
    """The `KERNELS` of the test's module are compiled, where kernels are compiled at all."""
    compile_now(request.module.KERNELS)


@pytest.fixture(scope="module", params=["compiled", "plain"])
def run(request):
    """A probe of each of the `FUNCTIONS` of the test's module: first compiled, then plain."""
    functions = request.module.FUNCTIONS
    if request.param == "plain":
        return {function: Probe(function) for function in functions}
    if not jit_wanted():
        pytest.skip("kernels are not compiled here")
    return dict(zip(functions, compile_probes(*functions), strict=True))


@pytest.fixture
def make_pool():
    """Makes pools of workers that are closed after the test."""
    with contextlib.ExitStack() as closing:

        def make(count=1, **keys):
            pool = WorkerPool(count, "test", **keys)
            closing.callback(pool.close)
            return pool

        yield make
