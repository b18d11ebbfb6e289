"""What users may say, and what they are told about mistakes."""

from __future__ import annotations

import pytest

from emudev_core.errors import ConfigError
from emudev_core.host import Host
from emudev_memif.config import MemifConfig


def parse(host: Host, keys: str) -> MemifConfig:
    config = host.add(f"emu_memif{keys}").config
    assert isinstance(config, MemifConfig)
    return config


def test_the_defaults_are_those_of_dpdk(host: Host) -> None:
    config = parse(host, "")
    assert (config.role, config.socket, config.socket_abstract) == (
        "client",
        "/run/memif.sock",
        True,
    )
    assert (config.bsize, config.rsize, config.secret, config.zero_copy) == (2048, 10, "", False)
    assert not config.serves


def test_the_names_are_those_of_dpdk(host: Host) -> None:
    config = parse(
        host,
        ",id=3,role=master,socket=/tmp/x,socket-abstract=no,bsize=512,rsize=4,"
        "mac=52:54:00:12:34:56,secret=abc,zero-copy=no,owner-uid=0,owner-gid=0,mode=0660",
    )
    assert config.serves
    assert not config.socket_abstract
    assert (config.bsize, config.rsize, config.secret) == (512, 4, "abc")


@pytest.mark.parametrize(("role", "serves"), [("server", 1), ("slave", 0), ("client", 0)])
def test_old_names_of_roles_work(host: Host, role: str, serves: bool) -> None:
    assert parse(host, f",role={role}").serves == serves


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        (",role=peer", "role: expected client|master|server|slave, came 'peer'"),
        (",rsize=0", "rsize: expected int 1 to 14"),
        (",rsize=15", "rsize: expected int 1 to 14"),
        (",bsize=63", "bsize: expected int 64 to 65535"),
        (",bsize=65536", "bsize: expected int 64 to 65535"),
        (",queues=0", "queues: expected int 1 to 16"),
        (",queues=17", "queues: expected int 1 to 16"),
        (",mtu=67", "mtu: expected int 68 to 65513"),
        (",socket=", "socket"),
        (",socket=" + "x" * 108, "has 108 bytes, at most 107 fit"),
        (",secret=" + "x" * 24, "secret: it has at most 23 bytes"),
        (",mac=01:00:00:00:00:01", "the MAC address of one station"),
        (",mac=00:00:00:00:00:00", "the MAC address of one station"),
        (",mac=52:54:00:12:34", "expected a MAC address like"),
        (",mac=52:54:00:12:34:zz", "expected a MAC address like"),
        (",zero-copy=yes", "a client copies each packet once"),
        (",role=server,owner-uid=1", "an abstract socket has no file"),
        (",memif-id=4294967296", "memif-id"),
        (",memif-id=-1", "memif-id"),
        (",mode=999", "mode"),
        (",scoket=x", "did you mean socket"),
        (",socket_abstract=no", "did you mean socket-abstract"),
    ],
)
def test_mistakes_are_explained_before_anything_is_opened(
    host: Host, keys: str, words: str
) -> None:
    with pytest.raises(ConfigError) as raised:
        host.add(f"emu_memif{keys}")
    assert words in str(raised.value)
    assert "--vdev emu_memif" in str(raised.value)


def test_a_name_of_107_bytes_fits(host: Host) -> None:
    assert len(parse(host, ",socket=" + "x" * 107).socket) == 107


def test_a_secret_is_counted_in_bytes(host: Host) -> None:
    assert parse(host, ",secret=" + "ä" * 11).secret
    with pytest.raises(ConfigError):
        parse(host, ",id=9,secret=" + "ä" * 12)


def test_interfaces_share_a_socket_and_others_do_not(host: Host) -> None:
    keys = ",socket=/run/shared.sock,socket-abstract=no"
    (claim,) = parse(host, f",id=1,role=server{keys}").claims()
    assert (claim.thing, claim.key) == ("the path /run/shared.sock", "socket")
    assert claim.sharers == "memif"
    parse(host, f",id=2,role=server{keys}")  # shares it
    (abstract,) = parse(host, ",id=3,role=server,socket=/run/shared.sock").claims()
    assert abstract.thing == "the abstract socket /run/shared.sock"
    assert not [*parse(host, f",id=4,role=client{keys}").claims()]
