import pytest

from emudev_net.instructions import BODIES
from emudev_net.jit import jit_wanted
from emudev_net.testing import Probe, compiled_or_plain, jit
from emudev_net.testing import probes as compile_probes

__all__ = ["compiled_or_plain", "jit"]


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
