"""Settings: checked when they are made, and errors that say what was expected."""

import pytest

from emudev_core.errors import ConfigError
from emudev_testpmd.modes import MODULES
from emudev_testpmd.options import MODES, Options


def test_the_defaults_are_testpmds():
    options = Options()
    assert (options.forward_mode, options.burst, options.txpkts) == ("io", 32, (64,))
    assert (options.rxq, options.txq, options.nb_cores) == (1, 1, 1)
    assert (options.flowgen_flows, options.tx_ip) == (1024, ("198.18.0.1", "198.18.0.2"))


def test_each_mode_has_a_module():
    assert set(MODULES) == set(MODES)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"forward_mode": "iо"}, "forward-mode: expected one of io, mac"),
        ({"burst": 0}, "burst: expected 1 to 512 packets, came 0"),
        ({"burst": 513}, "burst: expected 1 to 512 packets, came 513"),
        ({"burst": True}, "burst: expected 1 to 512"),
        ({"rxq": -1}, "rxq: expected 0 to 1024 queues, came -1"),
        ({"txpkts": ()}, "txpkts: expected 1 to 8 lengths, came 0"),
        ({"txpkts": (64,) * 9}, "txpkts: expected 1 to 8 lengths, came 9"),
        ({"txpkts": (64, 0)}, "txpkts: expected 1 to 65535 bytes, came 0"),
        ({"txpkts": (41,)}, "txpkts: expected at least 42 bytes in all"),
        ({"txpkts": (65535, 1)}, "txpkts: expected at most 65535 bytes in all, came 65536"),
        ({"portmask": 0}, "portmask: expected 1 to"),
        ({"portlist": (1, 1)}, "portlist: expected each port once, came 1,1"),
        ({"cpus": (1, 1)}, "cpus: expected each CPU once, came 1,1"),
        ({"eth_peer": {0: b"12345"}}, "eth-peer: expected 6 bytes for port 0"),
        ({"eth_peer": {32: b"123456"}}, "eth-peer: expected 0 to 31, came 32"),
        ({"tx_ip": ("198.18.0.1", "fd00::1")}, "tx-ip: expected two IPv4 addresses, came fd00::1"),
        ({"tx_udp": (9, 65536)}, "tx-udp: expected 0 to 65535, came 65536"),
        ({"csum_hw": {0: frozenset({"arp"})}}, "csum-hw: expected one of ip, udp, tcp, sctp"),
        ({"nb_cores": 0}, "nb-cores: expected 1 to 128 threads, came 0"),
        ({"flowgen_flows": 0}, "flowgen-flows: expected 1 to 65536 flows, came 0"),
    ],
)
def test_a_value_out_of_range_is_named(changes, words):
    with pytest.raises(ConfigError) as raised:
        Options().changed(**changes)
    assert words in str(raised.value)


def test_an_unknown_setting_is_named():
    with pytest.raises(ConfigError, match="expected a setting, came brust"):
        Options().changed(brust=1)


def test_a_change_leaves_the_record_as_it_was():
    options = Options()
    assert options.changed(burst=64).burst == 64
    assert options.burst == 32


def test_peers_are_testpmds_unless_given():
    options = Options(eth_peer={1: b"\xff" * 6})
    assert options.peer(0) == bytes.fromhex("020000000000")
    assert options.peer(1) == b"\xff" * 6
    assert options.peer(17) == bytes.fromhex("020000000011")


def test_ports_that_forward_are_all_or_those_chosen():
    assert Options().forwarding([2, 0, 1]) == (0, 1, 2)
    assert Options(portmask=0b101).forwarding([0, 1, 2]) == (0, 2)
    assert Options(portlist=(2, 0)).forwarding([0, 1, 2]) == (2, 0)


def test_a_port_that_is_not_there_can_not_forward():
    with pytest.raises(ConfigError, match=r"portmask: no port 2, 3 \(there are: 0, 1\)"):
        Options(portmask=0b1101).forwarding([0, 1])
    with pytest.raises(ConfigError, match=r"portlist: no port 5 \(there are: none\)"):
        Options(portlist=(5,)).forwarding([])
