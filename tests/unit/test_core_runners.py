"""Runners: kernels on other threads rest while a provider changes what they look at."""

from contextlib import contextmanager

import pytest

from emudev_core.device import Device
from emudev_core.errors import BackendError


class Worker:
    def __init__(self, broken=False):
        self.depth = 0
        self.pauses = 0
        self.broken = broken

    @contextmanager
    def pause(self):
        if self.broken:
            raise BackendError("it does not come to rest")
        self.depth += 1
        self.pauses += 1
        try:
            yield
        finally:
            self.depth -= 1


@pytest.fixture
def device():
    return Device("dice_emudev_0", 0, "dice")


def test_without_runners_a_pause_is_nothing(device):
    with device.paused(), device.paused():
        pass


def test_all_runners_rest_within_the_context_and_go_on_after_it(device):
    workers = [Worker(), Worker()]
    for worker in workers:
        device.add_runner(worker)
        device.add_runner(worker)
    with device.paused():
        assert [w.depth for w in workers] == [1, 1]
        with device.paused():
            assert [w.depth for w in workers] == [2, 2]
    assert [w.depth for w in workers] == [0, 0]


def test_they_go_on_after_an_error_in_the_context(device):
    worker = Worker()
    device.add_runner(worker)
    with pytest.raises(ZeroDivisionError), device.paused():
        raise ZeroDivisionError
    assert worker.depth == 0


def test_one_that_does_not_rest_is_an_error_and_the_others_go_on(device):
    worker = Worker()
    device.add_runner(worker)
    device.add_runner(Worker(broken=True))
    entered = False
    with pytest.raises(BackendError), device.paused():
        entered = True
    assert not entered
    assert worker.depth == 0


def test_one_that_was_removed_is_left_alone(device):
    worker = Worker()
    device.add_runner(worker)
    device.remove_runner(worker)
    device.remove_runner(worker)
    with device.paused():
        assert worker.pauses == 0


def test_one_that_is_removed_within_the_context_is_released_after_it(device):
    worker = Worker()
    device.add_runner(worker)
    with device.paused():
        device.remove_runner(worker)
        assert worker.depth == 1
    assert worker.depth == 0
