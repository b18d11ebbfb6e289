"""Prompts and engines for tests, with ports in memory."""

import sys
from pathlib import Path

import pytest

from emudev_core.loop import Loop
from emudev_net import flow, memory_queues
from emudev_net.jit import compile_now, jit_wanted

sys.path.insert(0, str(Path(__file__).parent))

from engines import Ports
from prompts import Prompt


@pytest.fixture
def plain_loop(monkeypatch):
    """A loop; kernels that are made meanwhile are plain functions."""
    monkeypatch.setenv("EMUDEV_JIT", "0")
    made = Loop()
    yield made
    made.close()


@pytest.fixture
def make_prompt(plain_loop):
    """Makes prompts whose ports are up."""
    made = []

    def make(*arguments, **options):
        made.append(Prompt(plain_loop, *arguments, **options))
        made[-1].application.bring_up()
        made[-1].turn()
        made[-1].take()
        return made[-1]

    yield make
    for prompt in made:
        prompt.engine.close()


@pytest.fixture
def prompt(make_prompt):
    """A prompt of two ports."""
    return make_prompt()


@pytest.fixture(params=["compiled", "plain"])
def compiled(request, monkeypatch):
    """Whether kernels, with the `KERNELS` of the test's module, are compiled; both ways."""
    if request.param == "compiled":
        if not jit_wanted():
            pytest.skip("kernels are not compiled here")
        own = getattr(request.module, "KERNELS", ())
        compile_now([*flow.KERNELS, *memory_queues.KERNELS, *own])
        return True
    monkeypatch.setenv("EMUDEV_JIT", "0")
    monkeypatch.setattr(flow.pump, "address", 0)
    return False


@pytest.fixture
def make_engine(compiled):
    """Makes `Ports` whose packets move on the loop's thread."""
    made = []

    def build(*args, **keys):
        made.append(Ports(*args, **keys))
        return made[-1]

    yield build
    for one in made:
        one.engine.close()
        one.loop.close()


@pytest.fixture
def running(make_engine):
    """Two ports that forward to each other."""
    one = make_engine()
    one.engine.port_start()
    one.engine.start()
    return one
