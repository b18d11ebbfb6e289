"""testpmd's own arguments, those behind ``--``: one table, from which they are parsed and shown.

Every argument that DPDK 22.11's testpmd has and that has a meaning here has the meaning that people
know. Those about memory pools, sockets of memory and registers of hardware are taken with a note
that they mean nothing here. Any unambiguous beginning of a name will do, as with ``getopt_long``.

Source: DPDK 22.11, testpmd user guide, "Testpmd Command-line Options".
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NoReturn

import attrs

from emudev_core.errors import ConfigError
from emudev_core.names import hint

from . import argument_values as values
from .options import MODES, Options, Topology

__all__ = [
    "ARGUMENTS",
    "Argument",
    "Request",
    "as_markdown",
    "_at_its_argument",
    "help_text",
    "parse",
]

_WHERE: Final = "emudev testpmd --"
#: Bytes of a frame beside its MTU for ``--max-pkt-len``: Ethernet header and FCS.
#: Source: testpmd.c, get_eth_overhead.
_FRAME_OVERHEAD: Final = 18


@attrs.frozen
class Argument:
    """One argument.

    Attributes:
        name: As it is typed behind ``--``.
        help: What it does; for one without meaning, why it has none.
        value: Word for its value; empty if it takes none.
        setting: Name in `Options`, or in `Request`; empty: without meaning here.
        read: From its text to the value of the setting; for one without value, gives the value.
        short: One letter behind ``-``; empty if it has none.
        collect: Given again it adds to what is there; ``read`` answers a key and a value.
    """

    name: str
    help: str
    value: str = ""
    setting: str = ""
    read: Callable[[str], Any] = str
    short: str = ""
    collect: bool = False

    @property
    def usage(self) -> str:
        """As help shows it: ``--rxq=N``."""
        long = f"--{self.name}={self.value}" if self.value else f"--{self.name}"
        return f"-{self.short}, {long}" if self.short else long


@attrs.frozen
class Request:
    """What was asked for behind ``--``.

    Attributes:
        options: The settings of the engine.
        cmdline_file: File of prompt commands that are run at first; empty if there is none.
        device_start: Whether ports are started at once.
        nb_ports: How many ports forward, the first ones; None: `Options` says.
        mode_given: Whether the forwarding mode was asked for.
        notes: What the user should know, a line each.
        help: Only the arguments are to be shown.
    """

    options: Options
    cmdline_file: str = ""
    device_start: bool = True
    nb_ports: int | None = None
    mode_given: bool = False
    notes: tuple[str, ...] = ()
    help: bool = False


def _true(_: str) -> bool:
    return True


def _one(_: str) -> int:
    return 1


def _max_pkt_len(text: str) -> int:
    length = values.natural(text)
    if not 64 <= length <= 65535:
        raise ValueError(f"expected 64 to 65535 bytes, came {length}")
    return length - _FRAME_OVERHEAD


def _ip_pair(text: str) -> tuple[str, str]:
    return values.pair(text, "IPv4 addresses", str)


def _flag(name: str, setting: str, help: str, *, short: str = "") -> Argument:
    return Argument(name, help, setting=setting, read=_true, short=short)


def _nothing(*names: str, why: str, value: str = "") -> tuple[Argument, ...]:
    return tuple(Argument(name, why, value=value) for name in names)


_POOL: Final = "no meaning here: packets stay where they are, there are no pools"
_NUMA: Final = "no meaning here: memory is the peer's"
_HARDWARE: Final = "no meaning here: offloads are agreed on between the ports by themselves"
_RING: Final = "no meaning here: rings are the peer's"
_RSS: Final = "no meaning here: the device spreads packets as its guest tells it"
_MEASURE: Final = "no meaning here: `show port xstats` has what is counted"

#: All of them, in the order of help.
ARGUMENTS: Final[tuple[Argument, ...]] = (
    Argument("help", "show these arguments", setting="help", read=_true, short="h"),
    _flag("interactive", "interactive", "show the prompt", short="i"),
    _flag("auto-start", "auto_start", "forward from the start, with a prompt", short="a"),
    Argument(
        "tx-first",
        "send one burst from each stream before forwarding; not with a prompt",
        setting="tx_first",
        read=_one,
    ),
    Argument("cmdline-file", "run the prompt's commands in FILE at first", "FILE", "cmdline_file"),
    Argument(
        "stats-period",
        "show statistics every N seconds; not with a prompt",
        "N",
        "stats_period",
        values.seconds,
    ),
    Argument(
        "forward-mode",
        f"what is done with packets: {', '.join(MODES)}",
        "MODE",
        "forward_mode",
    ),
    Argument(
        "port-topology",
        f"which port forwards to which: {', '.join(one.value for one in Topology)}",
        "HOW",
        "topology",
        values.topology,
    ),
    Argument(
        "portmask", "ports that forward, in hexadecimal", "MASK", "portmask", values.port_mask
    ),
    Argument("portlist", "ports that forward, in order", "LIST", "portlist", values.port_list),
    Argument("nb-ports", "how many ports forward, the first ones", "N", "nb_ports", values.natural),
    Argument("nb-cores", "threads that forward", "N", "nb_cores", values.natural),
    Argument("coremask", "their CPUs, in hexadecimal", "MASK", "cpus", values.cpu_mask),
    _flag(
        "interrupt",
        "interrupt",
        "threads sleep while there is nothing to do, instead of polling (emudev's own)",
    ),
    Argument("rxq", "receive queues of each port", "N", "rxq", values.natural),
    Argument("txq", "transmit queues of each port", "N", "txq", values.natural),
    Argument("rxd", "descriptors of a receive queue", "N", "rxd", values.natural),
    Argument("txd", "descriptors of a transmit queue", "N", "txd", values.natural),
    Argument("burst", "packets moved at one time, 1 to 512", "N", "burst", values.natural),
    Argument(
        "txpkts",
        "bytes of the segments of packets that are made",
        "N[,N...]",
        "txpkts",
        values.numbers,
    ),
    Argument(
        "eth-peer",
        "address that packets are sent to from a port; may be repeated",
        "PORT,MAC",
        "eth_peer",
        values.peer,
        collect=True,
    ),
    Argument(
        "eth-peers-configfile",
        "file with the addresses for ports 0, 1, ..., a line each",
        "FILE",
        "eth_peer",
        str,
    ),
    Argument(
        "max-pkt-len",
        "largest frame in bytes, with header and FCS: sets the MTU of the ports",
        "N",
        "mtu",
        _max_pkt_len,
    ),
    Argument("tx-ip", "addresses of the packets of txonly", "FROM,TO", "tx_ip", _ip_pair),
    Argument("tx-udp", "their UDP ports", "FROM[,TO]", "tx_udp", values.udp_ports),
    _flag("txonly-multi-flow", "txonly_multi_flow", "txonly changes addresses all the time"),
    Argument(
        "flowgen-flows", "flows that flowgen goes through", "N", "flowgen_flows", values.natural
    ),
    Argument(
        "flowgen-clones", "copies of each of its packets", "N", "flowgen_clones", values.natural
    ),
    _flag("disable-link-check", "disable_link_check", "do not wait for links at the start"),
    Argument(
        "disable-device-start",
        "do not start the ports: `port start` does",
        setting="device_start",
        read=lambda _: False,
    ),
    *_nothing("total-num-mbufs", "mbuf-size", "mbcache", "mp-alloc", value="N", why=_POOL),
    *_nothing("multi-rx-mempool", "no-iova-contig", "no-flush-rx", why=_POOL),
    *_nothing("mlockall", "no-mlockall", "numa", "no-numa", why=_NUMA),
    *_nothing("socket-num", "port-numa-config", "ring-numa-config", value="N", why=_NUMA),
    *_nothing(
        *("enable-scatter", "enable-lro", "enable-rx-cksum", "enable-rx-timestamp"),
        *("enable-hw-vlan", "enable-hw-vlan-filter", "enable-hw-vlan-strip"),
        *("enable-hw-vlan-extend", "enable-hw-qinq-strip", "enable-drop-en", "disable-crc-strip"),
        why=_HARDWARE,
    ),
    *_nothing("tx-offloads", "rx-offloads", "max-lro-pkt-size", value="N", why=_HARDWARE),
    *_nothing("disable-rss", "rss-ip", "rss-udp", "rss-level-inner", "rss-level-outer", why=_RSS),
    *_nothing("rx-mq-mode", "rxq-share", value="N", why=_RSS),
    *_nothing(
        *("rxpt", "rxht", "rxwt", "rxfreet", "txpt", "txht", "txwt", "txfreet", "txrst"),
        value="N",
        why=_RING,
    ),
    *_nothing("no-lsc-interrupt", "no-rmv-interrupt", "hot-plug", why=_RING),
    *_nothing("eth-link-speed", "print-event", "mask-event", value="WHAT", why=_RING),
    *_nothing("record-core-cycles", "record-burst-stats", why=_MEASURE),
    *_nothing("bitrate-stats", "latencystats", "display-xstats", value="N", why=_MEASURE),
)

_BY_NAME: Final = {argument.name: argument for argument in ARGUMENTS}


class _Parser(argparse.ArgumentParser):
    """Raises instead of ending the process."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(message, where=_WHERE, hint="emudev testpmd -- --help")


def _parser() -> _Parser:
    parser = _Parser(prog=_WHERE, add_help=False, usage=argparse.SUPPRESS)
    for argument in ARGUMENTS:
        names = [f"--{argument.name}"]
        if argument.short:
            names.append(f"-{argument.short}")
        if argument.value:
            parser.add_argument(*names, dest=argument.name, action="append", metavar=argument.value)
        else:
            parser.add_argument(*names, dest=argument.name, action="append_const", const="")
    return parser


def parse(words: Sequence[str]) -> Request:
    """Read the arguments behind ``--``.

    Raises:
        ConfigError: An unknown argument, with the nearest known one, or a value that can't be.
    """
    found, rest = _parser().parse_known_args(list(words))
    if rest:
        raise _unknown(rest[0])
    settings: dict[str, Any] = {}
    ignored: list[str] = []
    for name, texts in vars(found).items():
        argument = _BY_NAME[name]
        for text in texts or ():
            if not argument.setting:
                ignored.append(name)
            else:
                settings[argument.setting] = _read(argument, text, settings)
    return _request(settings, ignored)


def _unknown(word: str) -> ConfigError:
    name = word.partition("=")[0]
    if not name.startswith("-"):
        return ConfigError(f"{word!r} is one argument too many", where=_WHERE)
    known = [f"--{argument.name}" for argument in ARGUMENTS]
    return ConfigError(f"unknown argument {name}", where=_WHERE, hint=_near(name, known))


def _near(name: str, known: Iterable[str]) -> str:
    near = hint(name, known)
    return near if near.startswith("did") else "emudev testpmd -- --help shows all"


def _read(argument: Argument, text: str, settings: dict[str, Any]) -> Any:
    where = f"{_WHERE} --{argument.name}"
    try:
        if argument.name == "eth-peers-configfile":
            return {**settings.get("eth_peer", {}), **_peers(text, where)}
        value = argument.read(text)
    except ValueError as error:
        raise ConfigError(str(error), where=where) from error
    if argument.collect:
        key, one = value
        return {**settings.get(argument.setting, {}), key: one}
    if argument.name == "forward-mode" and value not in MODES:
        raise ConfigError(f"unknown mode {value!r}", where=where, hint=hint(value, MODES))
    return value


def _peers(path: str, where: str) -> dict[int, bytes]:
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise ConfigError(f"can't read {path}: {error.strerror}", where=where) from error
    words = [line.strip() for line in lines]
    return {i: values.address(word) for i, word in enumerate(w for w in words if w)}


def _request(settings: dict[str, Any], ignored: list[str]) -> Request:
    extra = {
        name: settings.pop(name)
        for name in ("cmdline_file", "device_start", "nb_ports", "help")
        if name in settings
    }
    if "cpus" in settings:
        settings.setdefault("nb_cores", len(settings["cpus"]))
    with _at_its_argument():
        options = Options(**settings)
    notes = []
    if options.interactive:
        if options.tx_first:
            raise ConfigError(
                "not with a prompt", where=f"{_WHERE} --tx-first", hint="start tx_first"
            )
        if options.stats_period:
            notes.append("--stats-period is not used with a prompt: show port stats all")
    notes += [f"--{name}: {_BY_NAME[name].help}" for name in dict.fromkeys(ignored)]
    mode_given = "forward_mode" in settings
    return Request(options, notes=tuple(notes), mode_given=mode_given, **extra)


@contextmanager
def _at_its_argument() -> Iterator[None]:
    """Let an error about a setting name the argument that sets it."""
    try:
        yield
    except ConfigError as error:
        where = f"{_WHERE} {_spelling(error.where)}"
        raise ConfigError(error.message, where=where, hint=error.hint) from error


def _spelling(setting: str) -> str:
    """A setting as the argument that sets it."""
    for argument in ARGUMENTS:
        if argument.setting.replace("_", "-") == setting:
            return f"--{argument.name}"
    return setting


def choose_ports(request: Request, present: Iterable[int]) -> Request:
    """The request with its ports checked against those that there are.

    Args:
        request: What was asked for.
        present: Numbers of the ports.

    Raises:
        ConfigError: It names one that is not there, or more than there are.
    """
    numbers = sorted(present)
    if request.nb_ports is not None:
        if not 1 <= request.nb_ports <= len(numbers):
            raise ConfigError(
                f"expected 1 to {len(numbers)} ports, came {request.nb_ports}",
                where=f"{_WHERE} --nb-ports",
            )
        options = request.options.changed(portlist=numbers[: request.nb_ports])
        request = attrs.evolve(request, options=options)
    with _at_its_argument():
        request.options.forwarding(numbers)
    return request


def help_text(*, all_of_them: bool = True) -> str:
    """The arguments with what they do, a line each; those without meaning in one at the end."""
    rows = [(a.usage, a.help) for a in ARGUMENTS if a.setting]
    width = max(len(usage) for usage, _ in rows)
    text = "".join(f"  {usage:<{width}}  {meaning}\n" for usage, meaning in rows)
    if all_of_them:
        names = " ".join(f"--{a.name}" for a in ARGUMENTS if not a.setting)
        text += f"\nTaken with a note, since they mean nothing here:\n  {names}\n"
    return text


def as_markdown() -> str:
    """The same as a table for the documentation."""
    rows = [
        f"| `{a.usage.replace('|', chr(92) + '|')}` | {a.help} |" for a in ARGUMENTS if a.setting
    ]
    names = " ".join(f"`--{a.name}`" for a in ARGUMENTS if not a.setting)
    lines = ["| argument | |", "|---|---|", *rows, "", "Taken with a note, since they mean nothing"]
    return "\n".join([*lines, "here:", "", names])
