"""Attaching to real interfaces: flags that agree and disagree, names, permissions."""

import errno
import fcntl
import os

import pytest

from emudev_core.errors import BackendError
from emudev_core.queues import Offload
from emudev_tap_backend import tap as module
from emudev_tap_backend.config import TapConfig
from emudev_tap_backend.links import change_link, find_link
from emudev_tap_backend.tap import IFF_MULTI_QUEUE, IFF_NO_PI, IFF_TAP, IFF_VNET_HDR, Tap, plan

root = pytest.mark.root


@pytest.fixture
def attach(host):
    """Attach as the configuration says; closed after the test."""
    made = []

    def do(pairs=1, **keys):
        config = TapConfig(iface="tap0", **keys)
        wanted = plan(config, find_link("tap0"), pairs)
        made.append(Tap.open("tap0", wanted, vnet_hdr=config.vnet_hdr, sndbuf=config.sndbuf))
        return made[-1]

    yield do
    for tap in made:
        tap.close()


def other_program(name, flags):
    """A descriptor attached by somebody else."""
    fd = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(fd, module.TUNSETIFF, module._IFREQ.pack(name, flags))
    return fd


@root
def test_a_missing_interface_is_created_and_goes_with_the_last_descriptor(attach):
    tap = attach()
    link = find_link("tap0")
    assert link.is_tap
    assert (link.tun.vnet_hdr, link.tun.multi_queue, link.tun.persist) == (True, False, False)
    assert tap.header == 10
    assert Offload.CSUM | Offload.TSO4 | Offload.TSO6 in tap.takes
    assert Offload.VLAN not in tap.takes
    tap.close()
    assert find_link("tap0") is None


@root
def test_a_created_interface_has_a_queue_a_pair(attach):
    tap = attach(pairs=3)
    assert len(tap.fds) == 3
    assert find_link("tap0").tun.attached == 3


@root
def test_a_persistent_interface_is_attached_with_a_header_whoever_made_it(host, attach):
    host.ip("tuntap add tap0 mode tap")
    assert not find_link("tap0").tun.vnet_hdr
    assert attach().header == 10
    assert find_link("tap0").tun.vnet_hdr


@root
def test_without_header_nothing_is_taken(host, attach):
    host.ip("tuntap add tap0 mode tap vnet_hdr")
    tap = attach(vnet_hdr="off")
    assert (tap.header, tap.takes) == (0, Offload.NONE)


@root
def test_multi_queue_follows_the_interface(host, attach):
    host.ip("tuntap add tap0 mode tap multi_queue")
    assert len(attach(pairs=2).fds) == 2


@root
def test_a_device_with_several_pairs_gets_one_queue_of_an_interface_with_one(host, attach):
    host.ip("tuntap add tap0 mode tap")
    assert len(attach(pairs=4).fds) == 1


@root
def test_an_interface_that_disagrees_on_multi_queue_is_named(host):
    host.ip("tuntap add tap0 mode tap multi_queue")
    stale = module.Plan(exists=True, multi_queue=False, queues=1, shared=False)
    with pytest.raises(BackendError, match=r"can't attach to interface tap0: .*number of queues"):
        Tap.open("tap0", stale)


@root
def test_an_interface_with_one_queue_that_is_taken_is_busy(host, attach):
    host.ip("tuntap add tap0 mode tap")
    fd = other_program(b"tap0", IFF_TAP | IFF_NO_PI)
    with pytest.raises(BackendError, match="another program is attached"):
        attach()
    os.close(fd)


@root
def test_a_further_queue_adapts_to_what_the_first_attach_chose(host, attach):
    host.ip("tuntap add tap0 mode tap multi_queue")
    fd = other_program(b"tap0", IFF_TAP | IFF_NO_PI | IFF_MULTI_QUEUE)
    tap = attach()
    assert (tap.header, tap.takes) == (0, Offload.NONE)
    with pytest.raises(BackendError, match="vnet_hdr=on, but another program"):
        attach(vnet_hdr="on")
    os.close(fd)


@root
def test_a_header_that_the_first_attach_chose_is_used_with_its_size(host, attach):
    host.ip("tuntap add tap0 mode tap multi_queue")
    fd = other_program(b"tap0", IFF_TAP | IFF_NO_PI | IFF_MULTI_QUEUE | IFF_VNET_HDR)
    module._set(fd, module.TUNSETVNETHDRSZ, 12)
    assert attach().header == 12
    assert module._get(fd, module.TUNGETVNETHDRSZ) == 12
    with pytest.raises(BackendError, match="vnet_hdr=off, but another program"):
        attach(vnet_hdr="off")
    os.close(fd)


@root
def test_a_header_size_that_an_earlier_owner_left_is_set_again(host, attach):
    host.ip("tuntap add tap0 mode tap")
    fd = other_program(b"tap0", IFF_TAP | IFF_NO_PI | IFF_VNET_HDR)
    module._set(fd, module.TUNSETVNETHDRSZ, 12)
    os.close(fd)
    assert attach().header == 10


@root
def test_packet_information_of_the_first_attach_is_refused(host, attach):
    host.ip("tuntap add tap0 mode tap multi_queue")
    fd = other_program(b"tap0", IFF_TAP | IFF_MULTI_QUEUE)
    with pytest.raises(BackendError, match="packet information"):
        attach()
    os.close(fd)


@root
def test_no_descriptor_is_left_after_a_failure(host, attach):
    host.ip("tuntap add tap0 mode tap multi_queue")
    fd = other_program(b"tap0", IFF_TAP | IFF_MULTI_QUEUE)
    before = os.listdir("/proc/self/fd")
    for _ in range(3):
        with pytest.raises(BackendError):
            attach()
    assert os.listdir("/proc/self/fd") == before
    os.close(fd)


@root
def test_attaching_leaves_the_carrier_off_and_it_follows(host, attach):
    tap = attach()
    change_link(find_link("tap0").index, name="tap0", up=True)
    assert not host.carrier("tap0")
    tap.set_carrier(True)
    assert host.carrier("tap0")
    tap.set_carrier(False)
    assert not host.carrier("tap0")


@root
def test_mtu_and_state_are_changed_over_netlink(host, attach):
    attach()
    index = find_link("tap0").index
    change_link(index, name="tap0", mtu=9000, up=True)
    link = find_link("tap0")
    assert (link.mtu, link.up) == (9000, True)
    with pytest.raises(BackendError, match="interface tap0: can't set mtu 70000: Invalid argument"):
        change_link(index, name="tap0", mtu=70000)


@root
def test_a_detached_queue_takes_no_part_and_the_first_one_always_does(host, attach):
    tap = attach(pairs=2)
    tap.set_queue(0, False)
    tap.set_queue(1, False)
    assert "numqueues 1 numdisabled 1" in host.ip("-d link show tap0")
    tap.set_queue(1, True)
    assert "numqueues 2 numdisabled 0" in host.ip("-d link show tap0")


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (errno.ENOENT, r"can't open /dev/net/tun: .* \(load the module tun\)"),
        (errno.EACCES, r"can't open /dev/net/tun: .* \(this user may not open it\)"),
    ],
)
def test_a_device_node_that_cannot_be_opened_is_explained(monkeypatch, number, message):
    def refuse(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(module.os, "open", refuse)
    with pytest.raises(BackendError, match=message):
        Tap.open("tap0", plan(TapConfig(iface="tap0"), None, 1))


def test_a_missing_permission_says_what_would_help(monkeypatch):
    reader, writer = os.pipe()

    def refuse(fd, request, argument):
        if request == module.TUNSETIFF:
            raise PermissionError(errno.EPERM, "Operation not permitted")
        return bytes(4)

    monkeypatch.setattr(module.os, "open", lambda *_: reader)
    monkeypatch.setattr(module.fcntl, "ioctl", refuse)
    with pytest.raises(BackendError, match=r"can't create interface tap0: not permitted \(CAP_NET"):
        Tap.open("tap0", plan(TapConfig(iface="tap0"), None, 1))
    os.close(writer)
    with pytest.raises(OSError, match="Bad file"):
        os.close(reader)
