"""The device ``emu_null`` under a guest's hands, over each transport."""

import pytest

from emudev_null.registers import DONE, ERROR, FETCH, STORE


@pytest.fixture
def null(emudev_function):
    return emudev_function("emu_null,id=0,vectors=3")


def test_it_says_who_it_is(null):
    assert (null.vendor, null.device) == (0x1234, 0x0E00)
    assert null.bar[0].read(0, 4) == b"NULL"
    assert len(null.vectors) == 3


def test_scratch_keeps_what_is_written_until_a_reset(null):
    null.bar[0].SCRATCH = 0xDEADBEEF
    assert null.bar[0].SCRATCH == 0xDEADBEEF
    null.reset()
    assert null.bar[0].SCRATCH == 0


def test_the_counter_counts_rings_and_is_cleared_by_reading(null):
    for value in range(5):
        null.bar[0].DOORBELL = value
    assert null.bar[0].COUNTER == 5
    assert null.bar[0].COUNTER == 0
    assert null.bar[0].DOORBELL == 4


def test_a_ring_raises_the_last_vector_if_that_is_wanted(null):
    null.vectors[2].enable()
    null.bar[0].DOORBELL = 1
    assert not null.vectors[2].wait(0.01)
    null.bar[0].SCRATCH = 1
    null.bar[0].DOORBELL = 1
    assert null.vectors[2].wait(1) == 1


@pytest.mark.parametrize("by_message", [False, True])
def test_numbers_go_to_memory_and_back(null, by_message):
    page = null.map_memory(4096, by_message=by_message)
    null.vectors[0].enable()
    null.bar[0].ADDRESS = page.address + 16
    null.bar[0].DATA = 0x01020304
    null.bar[0].COMMAND = STORE
    assert null.vectors[0].wait(1)
    null.pause(0.01)
    assert page.read(16, 4) == bytes([4, 3, 2, 1])
    assert null.bar[0].STATUS == DONE
    page.write_u32(16, 99)
    null.bar[0].COMMAND = FETCH
    assert null.vectors[0].wait(1)
    assert null.bar[0].DATA == 99
    null.bar[0].STATUS = DONE
    assert null.bar[0].STATUS == 0


@pytest.mark.parametrize("command", [STORE, FETCH, 3, 0, 0xFFFFFFFF])
def test_mistakes_of_the_guest_end_in_the_status(null, command, emudev_host):
    null.bar[0].ADDRESS = 0x1000
    null.bar[0].COMMAND = command
    assert null.vectors[0].wait(1)
    assert null.bar[0].STATUS == ERROR
    (device,) = emudev_host.registry
    assert device.state.value == "started"
    assert device.get_attr("commands") == 0
