"""Ports that fail under the engine: they go down, the others go on."""

import pytest
from engines import FRAME

from emudev_core.errors import BackendError
from emudev_core.loop import Loop
from emudev_core.queues import QueueKernels
from emudev_net.jit import queue_kernel
from emudev_net.memory_port import MemoryPort
from emudev_net.port import PortState
from emudev_net.primitives import Words, load64
from emudev_testpmd.records import ForwardError, NoticeKind


@queue_kernel
def broken(state: int, burst: int, rows: int) -> int:
    """A kernel that fails as soon as its word says so."""
    return load64(state)


KERNELS = (broken,)


class FailingPort(MemoryPort):
    """A port whose kernels of one direction fail when told to."""

    def __init__(self, name, loop, *, rx=False, tx=False):
        super().__init__(name, loop)
        self.rx_breaks, self.tx_breaks = rx, tx
        self.word = Words(1)
        self.stopped_at = None

    def source(self, queue):
        made = super().source(queue)
        if self.rx_breaks:
            return QueueKernels(self.word.address, broken, None, made.release, None)
        return made

    def sink(self, queue):
        if self.tx_breaks:
            return QueueKernels(self.word.address, None, broken, None, None)
        return super().sink(queue)


# -- what goes wrong


def failing(make_engine, **breaks):
    loop = Loop(spin=0)
    bad = FailingPort("net_memory_1", loop, **breaks)
    good = [MemoryPort(f"net_memory_{n}", loop) for n in (0, 2, 3)]
    one = make_engine(made=[good[0], bad, good[1], good[2]])
    for port in one.ports:
        port.loop = one.loop
    loop.close()
    one.engine.port_start()
    one.engine.start()
    return one, bad


@pytest.mark.parametrize("breaks", [{"rx": True}, {"tx": True}])
def test_a_port_whose_kernel_fails_goes_down_and_the_others_go_on(make_engine, breaks):
    one, bad = failing(make_engine, **breaks)
    bad.word[0] = -5
    one.ports[0].arrive([FRAME])
    bad.arrive([FRAME])
    one.turn()
    assert bad.state is PortState.FAILED
    assert "failed and answered -5" in bad.error
    (text,) = one.told(NoticeKind.FAILED)
    assert text.startswith("Port 1: error event: a kernel of P=")
    assert one.ports[0].state is PortState.STARTED
    one.ports[2].arrive([FRAME] * 2)
    one.turn()
    assert len(one.ports[3].sent()) == 2
    assert one.engine.running
    totals = one.engine.stop()
    assert totals.streams[2].tx_packets == 2
    with pytest.raises(ForwardError, match="Not all ports were started: port 1 is failed: a kern"):
        one.engine.start()
    bad.word[0] = 0
    one.engine.port_start(1)
    one.engine.start()


def test_a_port_that_fails_by_itself_rests_and_may_be_closed(running):
    running.ports[1].fail("its cable was cut", removed=True)
    (text,) = running.told(NoticeKind.FAILED)
    assert text == "Port 1: device removal event: its cable was cut"
    running.ports[0].arrive([FRAME])
    running.turn()
    assert running.engine.streams()[0].rx_packets == 0
    with pytest.raises(ForwardError, match="Please stop forwarding first: port 1 failed"):
        running.engine.port_start(1)
    running.engine.port_close(1)
    totals = running.engine.stop()
    assert [p.port for p in totals.ports] == [0, 1]
    assert list(running.engine.ports) == [0]


def test_what_a_closed_port_counted_stays_in_the_totals(running):
    running.ports[1].arrive([FRAME] * 4)
    running.turn()
    running.ports[1].fail("gone")
    running.engine.port_close(1)
    assert running.engine.stop().ports[1].stats.ipackets == 4


def test_a_port_that_can_not_start_says_why(make_engine, monkeypatch):
    one = make_engine()

    def refuse():
        raise BackendError("no such cable")

    monkeypatch.setattr(one.ports[1], "on_start", refuse)
    with pytest.raises(BackendError, match="no such cable"):
        one.engine.port_start()
    assert one.ports[0].state is PortState.STARTED
    with pytest.raises(ForwardError, match="Not all ports"):
        one.engine.start()


def test_closing_the_engine_stops_and_closes_everything(running):
    running.engine.close()
    assert not running.engine.running
    assert {p.state for p in running.ports} == {PortState.CLOSED}
    running.engine.close()
