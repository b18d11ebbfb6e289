"""Prompt commands that change how packets are forwarded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from emudev_core.errors import ConfigError, EmudevError

from ..options import MAX_BURST
from .grammar import Command, PromptError

if TYPE_CHECKING:
    from ..application import Application

__all__ = ["COMMANDS"]


def _set(application: Application, **changes: Any) -> None:
    """Change settings; say if that waits for the next start."""
    waiting = application.engine.set(**changes)
    if waiting:
        application.output.note("used from the next start on")


def _mode(application: Application, mode: str) -> None:
    _set(application, forward_mode=mode)
    application.output.text(f"Set {mode} packet forwarding mode\n")


def _burst(application: Application, packets: int) -> None:
    if packets > MAX_BURST:
        raise PromptError(
            f"nb pkt per burst: {packets} > {MAX_BURST} (maximum packet per burst)  ignored"
        )
    _set(application, burst=packets)
    application.output.text(f"Number of packets per burst set to {packets}\n")


def _txpkts(application: Application, segments: tuple[int, ...]) -> None:
    _set(application, txpkts=segments)


def _cores(application: Application, count: int) -> None:
    most = application.lcores
    if most and count > most:
        raise PromptError(
            f"nb fwd cores {count} > {most} (max. number of configured lcores) - ignored"
        )
    _set(application, nb_cores=count)
    application.output.text(f"Number of forwarding cores set to {count}\n")


def _cpus(application: Application, cpus: tuple[int, ...]) -> None:
    _set(application, cpus=cpus, nb_cores=len(cpus))


def _port_count(application: Application, count: int) -> None:
    there = sorted(application.ports)
    if not 1 <= count <= len(there):
        raise PromptError(
            f"nb fwd ports {count} > {len(there)} (number of configured ports) - ignored"
        )
    _set(application, portlist=there[:count])
    application.output.text(f"Number of forwarding ports set to {count}\n")


def _port_list(application: Application, numbers: tuple[int, ...]) -> None:
    _set_ports(application, portlist=numbers)


def _port_mask(application: Application, mask: int) -> None:
    _set_ports(application, portmask=mask, portlist=None)


def _set_ports(application: Application, **changes: Any) -> None:
    before = _forwarding(application)
    _set(application, **changes)
    now = _forwarding(application)
    if now != before:
        application.output.text(
            f"previous number of forwarding ports {before} - changed to number of configured "
            f"ports {now}\n"
        )


def _forwarding(application: Application) -> int:
    """How many ports forward; 0 if the settings name one that was closed."""
    try:
        return len(application.engine.options.forwarding(application.ports))
    except ConfigError:
        return 0


def _peer(application: Application, number: int, address: bytes) -> None:
    if number not in application.ports:
        raise PromptError(f"Error: Invalid port number {number}")
    peers = {**application.engine.options.eth_peer, number: address}
    _set(application, eth_peer=peers)


def _promiscuous(application: Application, which: int | str, word: str) -> None:
    for number in application.chosen(which):
        try:
            application.ports[number].set_promiscuous(word == "on")
        except EmudevError as error:
            raise _mode_error("promiscuous", number, word, error) from error


def _all_multicast(application: Application, which: int | str, word: str) -> None:
    for number in application.chosen(which):
        try:
            application.ports[number].set_all_multicast(word == "on")
        except EmudevError as error:
            raise _mode_error("all-multicast", number, word, error) from error


def _mode_error(mode: str, number: int, word: str, error: EmudevError) -> PromptError:
    doing = "enabling" if word == "on" else "disabling"
    return PromptError(f"Error during {doing} {mode} mode for port {number}: {error}")


def _csum(application: Application, layer: str, where: str, number: int) -> None:
    application.chosen(number)
    by_port = application.engine.options.csum_hw
    layers = set(by_port.get(number, ()))
    layers = layers | {layer} if where == "hw" else layers - {layer}
    _set(application, csum_hw={**by_port, number: frozenset(layers)})


def _queues(application: Application, what: str, count: int) -> None:
    if what == "burst":
        _burst(application, count)
    elif what in ("rxq", "txq"):
        _set(application, **{what: count})
        _check_queues(application)
    else:
        _set(application, **{what: count})


def _check_queues(application: Application) -> None:
    """Warn of ports that have less; `port start` refuses them."""
    options = application.engine.options
    for port in application.ports.values():
        info = port.info()
        if options.rxq > info.max_rx_queues or options.txq > info.max_tx_queues:
            application.output.note(
                f"port {port.id} has {info.max_rx_queues} receive and {info.max_tx_queues} "
                "transmit queues at most"
            )


def _mtu(application: Application, number: int, mtu: int) -> None:
    application.chosen(number)
    try:
        application.ports[number].set_mtu(mtu)
    except ConfigError as error:
        raise PromptError(f"Set MTU failed: {error}") from error


def _address(application: Application, number: int, address: bytes) -> None:
    application.chosen(number)
    application.ports[number].set_mac(address)


COMMANDS: Final = (
    Command("set fwd MODE", "Choose the forwarding mode.", "config", _mode),
    Command("set burst N", "Move N packets at one time, 1 to 512.", "config", _burst),
    Command(
        "set txpkts LIST",
        "Set the bytes of the segments of packets that are made, such as 64,128.",
        "config",
        _txpkts,
    ),
    Command("set nbcore N", "Forward on N threads.", "config", _cores),
    Command("set corelist CPULIST", "Forward on a thread on each of these CPUs.", "config", _cpus),
    Command("set nbport N", "Forward with the first N ports.", "config", _port_count),
    Command(
        "set portlist PORTLIST", "Forward with these ports, such as 0,1.", "config", _port_list
    ),
    Command(
        "set portmask MASK",
        "Forward with the ports of a mask in hexadecimal.",
        "config",
        _port_mask,
    ),
    Command(
        "set eth-peer PORT MAC",
        "Set the address that packets are sent to from a port.",
        "config",
        _peer,
    ),
    Command(
        "set promisc PORTS (on|off)",
        "Receive frames for any address, or not.",
        "config",
        _promiscuous,
    ),
    Command(
        "set allmulti PORTS (on|off)",
        "Receive frames for any group, or not.",
        "config",
        _all_multicast,
    ),
    Command(
        "csum set (ip|udp|tcp|sctp) (hw|sw) PORT",
        "Have the port compute a checksum in mode csum, or compute it here.",
        "config",
        _csum,
    ),
    Command("mac_addr set PORT MAC", "Give a port another address.", "config", _address),
    Command(
        "port config all (rxq|txq|rxd|txd|burst) N",
        "Set the queues of each port, their descriptors, or packets in a burst.",
        "ports",
        _queues,
    ),
    Command("port config mtu PORT N", "Set the MTU of a port, bytes.", "ports", _mtu),
)
