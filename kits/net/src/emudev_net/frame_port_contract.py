"""A suite for ports whose other side a test can play: packets, both ways.

from emudev_net.testing import FramePortContract

class TestMyPort(FramePortContract):
    vdev = "net_mine"

    def arrive(self, other, port, frames): ...

    def sent(self, other, port): ...
"""

from __future__ import annotations

import abc
import contextlib
from typing import Any, ClassVar

from emudev_core.host import Host
from emudev_core.testing.contract import turn_until

from .burst import Burst
from .flow import Flow
from .memory_port import MemoryPort
from .port import Port, PortStats
from .port_contract import GROUP, PortContract, frame

__all__ = ["FramePortContract"]


class FramePortContract(PortContract, abc.ABC):
    """What applications rely on, packets included.

    Attributes:
        largest: Bytes of the largest frame that the tests send.
    """

    largest: ClassVar[int] = 1514

    def address(self, other: Any) -> bytes:
        """Where frames are to go that the other end takes in; to a group."""
        return GROUP

    @abc.abstractmethod
    def arrive(self, other: Any, port: Port, frames: list[bytes]) -> None:
        """Let frames arrive at receive queue 0 of the port."""

    @abc.abstractmethod
    def sent(self, other: Any, port: Port) -> list[bytes]:
        """Take the frames that have left by transmit queue 0 since the last call, in order."""

    def send(
        self, host: Host, port: Port, other: Any, frames: list[bytes], split: int = 0
    ) -> list[bytes]:
        """Send frames, in segments of `split` bytes, and look for them until all have arrived."""
        burst = Burst.of(frames, split)
        taken = 0
        got: list[bytes] = []

        def complete() -> bool:
            nonlocal taken
            if taken < burst.count:  # a peer may have to look before there is room
                rest = Burst.of(frames[len(burst.packets(taken)) :], split)
                taken += port.tx_burst(0, rest)
            got.extend(f for f in self.sent(other, port) if f in frames)
            return len(got) >= len(frames)

        turn_until(host, complete)
        return got

    def test_packets_arrive_as_they_are_and_wait_for_their_release(
        self, host: Host, started: Port, other: Any
    ) -> None:
        """In order, byte for byte, and each is counted once."""
        frames = [frame(length) for length in (60, 61, 600, self.largest)]
        self.arrive(other, started, frames)
        burst = Burst(64)
        turn_until(host, lambda: started.rx_burst(0, burst) >= 4)
        assert [p.data for p in burst.packets()] == frames
        assert started.rx_burst(0, burst) == burst.count
        assert [p.data for p in burst.packets()] == frames
        first = len(burst.packets()[0].segments)
        started.rx_release(0, burst, first)
        started.rx_burst(0, burst)
        assert [p.data for p in burst.packets()] == frames[1:]
        started.rx_release(0, burst)
        assert started.rx_burst(0, burst) == 0
        stats = started.stats()
        assert (stats.ipackets, stats.ibytes) == (4, sum(map(len, frames)))

    def test_packets_leave_as_they_are(self, host: Host, started: Port, other: Any) -> None:
        """In order, byte for byte, in one segment or many, and each is counted once."""
        target = self.address(other)
        frames = [frame(length, target) for length in (60, 61, 600, self.largest)]
        got: list[bytes] = []
        for split in (0, 200):
            got += self.send(host, started, other, frames, split)
        assert got == frames + frames
        stats = started.stats()
        assert (stats.opackets, stats.obytes) == (8, 2 * sum(map(len, frames)))

    def test_a_flow_joins_it_to_another_port(self, host: Host, started: Port, other: Any) -> None:
        """By the kernels of its queues, woken by what arrives."""
        peer = MemoryPort("net_memory_9", host.loop)
        peer.configure(1, 1)
        peer.start()
        turn_until(host, lambda: peer.ready, 30)
        with contextlib.ExitStack() as stack:
            for one, two in ((started, peer), (peer, started)):
                flow = Flow(host.loop, one.rx_queue(0), two.tx_queue(0))
                stack.callback(flow.close)
                stack.callback(one.subscribe_rx(0, flow.kick))
                stack.callback(two.subscribe_tx(0, flow.kick))
                flow.kick()
            target = self.address(other)
            there, back = [frame(100), frame(90)], [frame(80, target), frame(70, target)]
            self.arrive(other, started, there)
            peer.arrive(back)
            got: list[bytes] = []

            def came_back() -> bool:
                got.extend(f for f in self.sent(other, started) if f in back)
                return len(got) >= 2

            turn_until(host, lambda: peer.sinks[0].frames == 2)
            turn_until(host, came_back)
            assert [p.data for p in peer.sent()] == there
            assert got == back
        peer.close()

    def test_packets_pass_after_a_stop_and_a_start(
        self, host: Host, started: Port, other: Any
    ) -> None:
        """As before."""
        started.stop()
        started.start()
        turn_until(host, lambda: started.link().up, 30)
        sent = [frame(77, self.address(other))]
        assert self.send(host, started, other, sent) == sent

    def test_packets_are_counted_where_they_pass_and_anew_after_a_reset(
        self, host: Host, started: Port, other: Any
    ) -> None:
        """By the port, and by the queue."""
        self.arrive(other, started, [frame(60)])
        burst = Burst(8)
        turn_until(host, lambda: started.rx_burst(0, burst) == 1)
        assert started.stats().ipackets == 0
        started.rx_release(0, burst)
        found = started.xstats()
        assert found["rx_good_packets"] == found["rx_q0_packets"] == 1
        assert found["rx_good_bytes"] == found["rx_q0_bytes"] == 60
        self.send(host, started, other, [frame(61, self.address(other))])
        found = started.xstats()
        assert found["tx_good_packets"] == found["tx_q0_packets"] == 1
        assert found["tx_good_bytes"] == found["tx_q0_bytes"] == 61
        started.reset_stats()
        assert started.stats() == PortStats()
