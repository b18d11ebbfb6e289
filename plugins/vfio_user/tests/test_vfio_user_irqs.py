"""SET_IRQS in all its shapes; who owns the eventfds."""

from __future__ import annotations

import os
from typing import Any

import pytest

from emudev_core.errors import PeerError

NONE, BOOL, EVENTFD, MASK, UNMASK, TRIGGER = 1, 2, 4, 8, 0x10, 0x20


def _count() -> int:
    return len(os.listdir("/proc/self/fd"))


def _irq_calls(bench: Any) -> list[tuple[Any, ...]]:
    return [c for c in bench.model.calls if c[0] in ("bound", "masked", "trigger")]


def test_info_shows_each_group_and_size_0_for_those_that_are_not_there(bench: Any) -> None:
    groups = bench.client().irq_groups()
    assert [(g.index, g.count, g.maskable, g.automasked) for g in groups] == [
        (0, 1, True, True),
        (1, 0, False, False),
        (2, 3, False, False),
        (3, 1, False, False),
        (4, 1, False, False),
    ]


def test_vectors_are_bound_and_a_signal_arrives(bench: Any, eventfds: Any) -> None:
    client = bench.client()
    fds = eventfds(3)
    client.set_irqs(EVENTFD | TRIGGER, 2, 0, 3, fds=fds)
    assert _irq_calls(bench) == [("bound", 2, i, True) for i in range(3)]
    os.eventfd_write(bench.model.vectors[2, 1], 1)
    assert [client.wait(fd, 0) for fd in fds] == [False, True, False]


def test_a_descriptor_that_is_replaced_is_closed_after_the_device_was_told(
    bench: Any, eventfds: Any
) -> None:
    client = bench.client()
    before = _count()
    fds = eventfds(2)
    client.irq_bind(2, 0, fds[0])
    former = bench.model.vectors[2, 0]
    client.irq_bind(2, 0, fds[1])
    assert bench.model.vectors[2, 0] != former
    assert _count() == before + 2 + 1
    os.eventfd_write(bench.model.vectors[2, 0], 1)
    assert client.wait(fds[1], 0)


@pytest.mark.parametrize(
    "shape",
    [
        {"flags": EVENTFD | TRIGGER, "start": 0, "count": 3},
        {"flags": NONE | TRIGGER, "start": 0, "count": 0},
    ],
    ids=["eventfd data without descriptors", "no data and count 0"],
)
def test_every_shape_of_disabling_closes_the_descriptors(
    bench: Any, eventfds: Any, shape: dict[str, int]
) -> None:
    client = bench.client()
    before = _count()
    fds = eventfds(3)
    client.set_irqs(EVENTFD | TRIGGER, 2, 0, 3, fds=fds)
    client.set_irqs(shape["flags"], 2, shape["start"], shape["count"])
    assert bench.model.vectors == {}
    assert _irq_calls(bench)[3:] == [("bound", 2, i, False) for i in range(3)]
    assert _count() == before + 3


def test_a_descriptor_that_the_loop_cant_look_at_is_closed(
    bench: Any, eventfds: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = bench.client()
    fds = eventfds(1)
    before = _count()

    def refuse(*_: Any) -> None:
        raise OSError(28, "No space left on device")  # epoll_ctl(2): max_user_watches

    monkeypatch.setattr(bench.loop, "watch", refuse)
    with pytest.raises(PeerError):
        client.set_irqs(EVENTFD | MASK, 0, 0, 1, fds=fds)
    assert _count() == before


def test_one_vector_is_unbound_without_harm_to_the_others(bench: Any, eventfds: Any) -> None:
    client = bench.client()
    client.set_irqs(EVENTFD | TRIGGER, 2, 0, 3, fds=eventfds(3))
    client.irq_bind(2, 1, None)
    assert sorted(bench.model.vectors) == [(2, 0), (2, 2)]
    client.irq_bind(2, 1, None)  # again: nothing to tell
    assert len(_irq_calls(bench)) == 4


def test_groups_do_not_share_vectors(bench: Any, eventfds: Any) -> None:
    client = bench.client()
    fds = eventfds(2)
    client.irq_bind(0, 0, fds[0])
    client.irq_bind(2, 0, fds[1])
    client.irq_disable(0)
    assert list(bench.model.vectors) == [(2, 0)]


def test_disabling_a_group_without_vectors_succeeds(bench: Any) -> None:
    bench.client().irq_disable(1)


def test_no_data_and_booleans_fire_and_mask(bench: Any) -> None:
    client = bench.client()
    client.set_irqs(NONE | TRIGGER, 2, 1, 2)
    client.set_irqs(BOOL | TRIGGER, 2, 0, 3, data=b"\1\0\1")
    client.irq_mask(0, 0, masked=True)
    client.set_irqs(BOOL | UNMASK, 0, 0, 1, data=b"\1")
    client.set_irqs(BOOL | MASK, 0, 0, 1, data=b"\0")
    assert _irq_calls(bench) == [
        ("trigger", 2, 1),
        ("trigger", 2, 2),
        ("trigger", 2, 0),
        ("trigger", 2, 2),
        ("masked", 0, 0, True),
        ("masked", 0, 0, False),
    ]


def test_a_resample_descriptor_unmasks_each_time_the_client_signals_it(
    bench: Any, eventfds: Any
) -> None:
    client = bench.client()
    before = _count()
    resample = eventfds(1)[0]
    client.set_irqs(EVENTFD | UNMASK, 0, 0, 1, fds=[resample])
    for n in range(1, 3):
        os.eventfd_write(resample, 1)
        bench.turn()
        assert _irq_calls(bench) == [("masked", 0, 0, False)] * n
    client.set_irqs(EVENTFD | UNMASK, 0, 0, 1)
    os.eventfd_write(resample, 1)
    bench.turn()
    assert len(_irq_calls(bench)) == 2
    assert _count() == before + 1


def test_a_client_that_goes_leaves_no_descriptor(bench: Any, eventfds: Any) -> None:
    before = _count()
    fds = eventfds(5)
    client = bench.client()
    client.set_irqs(EVENTFD | TRIGGER, 2, 0, 3, fds=fds[:3])
    client.set_irqs(EVENTFD | UNMASK, 0, 0, 1, fds=fds[3:4])
    client.irq_bind(0, 0, fds[4])
    client.close()
    bench.turn()
    assert bench.model.vectors == {}
    assert _count() == before + 5


def test_a_bound_eventfd_never_blocks_the_device(bench: Any) -> None:
    client = bench.client()
    full = os.eventfd(0)
    client.irq_bind(2, 0, full)
    os.eventfd_write(full, 2**64 - 2)
    with pytest.raises(BlockingIOError):
        os.eventfd_write(bench.model.vectors[2, 0], 1)
    os.close(full)


def test_a_device_that_refuses_a_vector_does_not_leak_the_rest(bench: Any, eventfds: Any) -> None:
    client = bench.client()
    before = _count()
    fds = eventfds(3)
    bench.server.session.irqs._device = Refusing()
    with pytest.raises(PeerError):
        client.set_irqs(EVENTFD | TRIGGER, 2, 0, 3, fds=fds)
    assert _count() == before + 3 + 1


class Refusing:
    def irq_bound(self, group: int, vector: int, fd: int | None) -> None:
        raise PeerError("no")

    def status_changed(self, what: str) -> None: ...
