"""testpmd's own arguments, as people type them."""

import pytest

from emudev_core.errors import ConfigError
from emudev_testpmd.arguments import ARGUMENTS, choose_ports, help_text, parse
from emudev_testpmd.options import Options, Topology


def options(line):
    return parse(line.split()).options


def test_nothing_asked_for_is_what_testpmd_does_by_default():
    found = parse([])
    assert found.options == Options()
    assert (found.options.forward_mode, found.options.burst) == ("io", 32)
    assert found.notes == ()


def test_the_line_of_the_example_is_understood():
    found = options("--forward-mode=io --stats-period 1 --rxq 2 --txq 2 --burst 32 -i")
    assert found.stats_period == 1
    assert (found.rxq, found.txq, found.burst) == (2, 2, 32)
    assert found.interactive


@pytest.mark.parametrize(
    ("line", "name", "value"),
    [
        ("--forward-mode=macswap", "forward_mode", "macswap"),
        ("--forward-mode 5tswap", "forward_mode", "5tswap"),
        ("-i", "interactive", True),
        ("--interactive", "interactive", True),
        ("-a", "auto_start", True),
        ("--auto-start", "auto_start", True),
        ("--stats-period=0.5", "stats_period", 0.5),
        ("--rxd=512", "rxd", 512),
        ("--txd=0x400", "txd", 1024),
        ("--nb-cores=2", "nb_cores", 2),
        ("--portmask=3", "portmask", 3),
        ("--portmask=0x1F", "portmask", 31),
        ("--portmask=10", "portmask", 16),
        ("--portlist=2,0", "portlist", (2, 0)),
        ("--portlist=0-2", "portlist", (0, 1, 2)),
        ("--port-topology=chained", "topology", Topology.CHAINED),
        ("--txpkts=64,128", "txpkts", (64, 128)),
        ("--eth-peer=1,52:54:00:12:34:56", "eth_peer", {1: bytes.fromhex("525400123456")}),
        ("--max-pkt-len=9018", "mtu", 9000),
        ("--max-pkt-len=1518", "mtu", 1500),
        ("--tx-first", "tx_first", 1),
        ("--tx-ip=10.0.0.1,10.0.0.2", "tx_ip", ("10.0.0.1", "10.0.0.2")),
        ("--tx-udp=1000,2000", "tx_udp", (1000, 2000)),
        ("--tx-udp=7", "tx_udp", (7, 7)),
        ("--txonly-multi-flow", "txonly_multi_flow", True),
        ("--flowgen-flows=16", "flowgen_flows", 16),
        ("--flowgen-clones=3", "flowgen_clones", 3),
        ("--coremask=0xc", "cpus", (2, 3)),
        ("--disable-link-check", "disable_link_check", True),
        ("--interrupt", "interrupt", True),
    ],
)
def test_each_argument_sets_what_it_says(line, name, value):
    assert getattr(options(line), name) == value


def test_a_mask_of_cpus_says_how_many_threads_there_are():
    assert options("--coremask=0xc").nb_cores == 2
    assert options("--coremask=0xc --nb-cores=1").nb_cores == 1


def test_addresses_of_several_peers_add_up():
    found = options("--eth-peer=0,02:00:00:00:00:0a --eth-peer 1,02:00:00:00:00:0b")
    assert {port: mac[-1] for port, mac in found.eth_peer.items()} == {0: 0x0A, 1: 0x0B}


def test_addresses_of_peers_come_from_a_file_too(tmp_path):
    path = tmp_path / "peers"
    path.write_text("02:00:00:00:00:0a\n\n02:00:00:00:00:0b\n")
    found = options(f"--eth-peers-configfile={path}")
    assert {port: mac[-1] for port, mac in found.eth_peer.items()} == {0: 0x0A, 1: 0x0B}


def test_an_unambiguous_beginning_will_do_as_with_getopt_long():
    assert options("--stats-p=3").stats_period == 3
    with pytest.raises(ConfigError, match="ambiguous"):
        parse(["--port=1"])


def test_the_last_of_two_values_counts():
    assert options("--rxq=2 --rxq=4").rxq == 4


@pytest.mark.parametrize(
    ("word", "near"),
    [
        ("--forwrd-mode=io", "--forward-mode"),
        ("--stat-period=1", "--stats-period"),
        ("--rxqq=1", "--rxq"),
        ("--no-mlokall", "--no-mlockall"),
    ],
)
def test_an_unknown_argument_names_the_nearest(word, near):
    with pytest.raises(ConfigError, match=f"unknown argument .*did you mean {near}\\?"):
        parse([word])


def test_an_argument_that_is_like_none_points_to_the_list():
    with pytest.raises(ConfigError, match="--help shows all"):
        parse(["--zzzzzz"])


def test_a_word_on_its_own_is_refused():
    with pytest.raises(ConfigError, match="'start' is one argument too many"):
        parse(["-i", "start"])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            "--forward-mode=macswop",
            r"--forward-mode: unknown mode 'macswop' \(did you mean macswap",
        ),
        ("--rxq=two", "--rxq: expected a number from 0, came 'two'"),
        ("--rxq=-1", "--rxq"),
        ("--rxq", "expected one argument"),
        ("--burst=0", "--burst: expected 1 to 512 packets, came 0"),
        ("--burst=513", "--burst: expected 1 to 512 packets, came 513"),
        ("--portmask=0", "--portmask: expected a mask that names ports"),
        ("--portmask=0y1", "--portmask: expected a hexadecimal mask"),
        ("--port-topology=ring", "--port-topology: expected one of paired, chained, loop"),
        ("--txpkts=10", "--txpkts: expected at least 42 bytes in all"),
        ("--txpkts=64,x", "--txpkts: expected a number from 0, came 'x'"),
        ("--eth-peer=0,zz", "--eth-peer: expected a MAC address like"),
        ("--eth-peer=0", "--eth-peer: expected PORT,MAC"),
        ("--stats-period=-1", "--stats-period: expected seconds"),
        ("--stats-period=often", "--stats-period: expected seconds, came 'often'"),
        ("--nb-cores=0", "--nb-cores: expected 1 to"),
        ("--portlist=0,0-x", "--portlist: expected ports such as 0,2-3"),
        ("--tx-ip=10.0.0.1", "--tx-ip: expected two IPv4 addresses"),
        ("--max-pkt-len=10", "--max-pkt-len: expected 64 to 65535 bytes"),
        ("--eth-peers-configfile=/nowhere/at/all", "can't read /nowhere/at/all"),
        ("-i --tx-first", "--tx-first: not with a prompt"),
    ],
)
def test_a_value_that_can_not_be_says_what_was_expected(line, message):
    with pytest.raises(ConfigError, match=message):
        parse(line.split())


@pytest.mark.parametrize(
    "line",
    [
        "--no-mlockall",
        "--total-num-mbufs=16384",
        "--mbuf-size=2176",
        "--mbcache=250",
        "--no-numa",
        "--enable-rx-cksum",
        "--rss-ip",
        "--disable-rss",
        "--rxfreet=32",
        "--record-core-cycles",
        "--tx-offloads=0x8000",
    ],
)
def test_what_means_nothing_here_is_taken_with_a_note(line):
    found = parse([line])
    name = line.partition("=")[0]
    assert found.options == Options()
    assert len(found.notes) == 1
    assert found.notes[0].startswith(f"{name}: ")


def test_statistics_every_so_often_and_a_prompt_do_not_go_together():
    assert "not used with a prompt" in parse(["-i", "--stats-period=1"]).notes[0]
    assert parse(["--stats-period=1"]).notes == ()


def test_a_mode_that_was_asked_for_is_remembered():
    assert parse(["--forward-mode=io"]).mode_given
    assert not parse([]).mode_given


def test_files_of_commands_and_ports_at_rest_are_of_the_application():
    found = parse(["--cmdline-file=x.txt", "--disable-device-start", "-h"])
    assert (found.cmdline_file, found.device_start, found.help) == ("x.txt", False, True)


def test_help_shows_every_argument():
    text = help_text()
    for argument in ARGUMENTS:
        assert f"--{argument.name}" in text
    assert "-i, --interactive" in text
    assert "--total-num-mbufs" not in help_text(all_of_them=False)


def test_names_are_there_once():
    names = [argument.name for argument in ARGUMENTS]
    assert len(names) == len(set(names))


def test_the_first_ports_forward_if_their_number_is_given():
    found = choose_ports(parse(["--nb-ports=2"]), [3, 0, 1])
    assert found.options.portlist == (0, 1)
    for count in (0, 4):
        with pytest.raises(ConfigError, match=f"--nb-ports: expected 1 to 3 ports, came {count}"):
            choose_ports(parse([f"--nb-ports={count}"]), [3, 0, 1])


def test_ports_that_are_not_there_are_named_with_their_argument():
    with pytest.raises(ConfigError, match=r"--portlist: no port 7 \(there are: 0, 1\)"):
        choose_ports(parse(["--portlist=0,7"]), [0, 1])
    assert choose_ports(parse(["--portmask=2"]), [0, 1]).options.portmask == 2
