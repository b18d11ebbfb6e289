"""Names and ids of devices."""

import pytest

from emudev_core.errors import DeviceError, LifecycleError
from emudev_core.registry import Registry, device_name


def test_a_name_says_stem_and_id():
    device = Registry().allocate(device_name("avf", 12))
    assert (device.name, device.stem, device.id) == ("avf_emudev_12", "avf", 12)


def test_a_taken_name_is_an_error_that_says_who_has_it():
    registry = Registry()
    registry.allocate("avf_emudev_0", "emudev-avf 0.1.0")
    with pytest.raises(DeviceError, match=r"avf_emudev_0 exists already.*emudev-avf 0\.1\.0"):
        registry.allocate("avf_emudev_0", "somebody")


@pytest.mark.parametrize("name", ["", "avf", "avf_emudev_", "avf_emudev_01", "A_emudev_0", "_-_"])
def test_other_names_are_refused(name):
    with pytest.raises(DeviceError, match="expected a device name"):
        Registry().allocate(name)


def test_devices_are_found_in_the_order_of_allocation_until_released():
    registry = Registry()
    devices = [registry.allocate(name) for name in ("b_emudev_0", "a_emudev_0", "a_emudev_1")]
    assert list(registry) == devices
    assert registry.find("a_emudev_1") is devices[2]
    assert registry.find("a_emudev_2") is None
    registry.release(devices[1])
    assert "a_emudev_0" not in registry
    assert [device.id for device in registry] == [0, 1]
    assert registry.allocate("a_emudev_0") is not devices[1]


def test_an_unknown_name_gets_the_nearest_one():
    registry = Registry()
    with pytest.raises(DeviceError, match="there are no devices"):
        registry.get("avf_emudev_0")
    registry.allocate("avf_emudev_0")
    with pytest.raises(DeviceError, match="did you mean avf_emudev_0"):
        registry.get("avf_emudev_1")


def test_a_device_is_closed_before_it_is_released_and_released_once():
    registry = Registry()
    device = registry.allocate("avf_emudev_0")
    device.configure()
    with pytest.raises(LifecycleError, match="close it first"):
        registry.release(device)
    device.close()
    registry.release(device)
    with pytest.raises(DeviceError):
        registry.release(device)
