"""The ports of the application: by number, configured as the settings want them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType

from emudev_core.errors import ConfigError
from emudev_net.port import Port, PortConfig, PortEvent, PortState

from .options import Options

__all__ = ["PortTable"]


class PortTable:
    """Ports by their `Port.id`. On the loop's thread.

    Args:
        on_event: Told what happens to a port: its number, and the event.
    """

    def __init__(self, on_event: Callable[[int, PortEvent], None]) -> None:
        self._on_event = on_event
        self._ports: dict[int, Port] = {}
        self._undo: dict[int, Callable[[], None]] = {}
        self._configured: dict[int, tuple[int, ...]] = {}  # what each was configured with

    def __iter__(self) -> Iterator[int]:
        """The numbers, in order."""
        return iter(sorted(self._ports))

    def __contains__(self, number: object) -> bool:
        """Whether there is a port of that number."""
        return number in self._ports

    def __getitem__(self, number: int) -> Port:
        """A port.

        Raises:
            ConfigError: There is none of that number.
        """
        try:
            return self._ports[number]
        except KeyError:
            there = ", ".join(map(str, self)) or "none"
            raise ConfigError(f"no port {number} (there are: {there})") from None

    @property
    def view(self) -> Mapping[int, Port]:
        """The ports by number, in order, as they are now."""
        return MappingProxyType({number: self._ports[number] for number in self})

    def chosen(self, number: int | None) -> list[int]:
        """A number, or all in order.

        Raises:
            ConfigError: There is none of that number.
        """
        if number is None:
            return list(self)
        self[number]
        return [number]

    def add(self, port: Port) -> int:
        """Take a port in; returns its number.

        Raises:
            ConfigError: There is one of that number.
        """
        number = port.id
        if number in self._ports:
            raise ConfigError(
                f"{self._ports[number].name} and {port.name} are both port {number}",
                hint="give each port another id=",
            )
        self._ports[number] = port
        self._undo[number] = port.subscribe(lambda event: self._on_event(number, event))
        return number

    def drop(self, number: int) -> Port:
        """Take a port out, as it is."""
        self._undo.pop(number)()
        self._configured.pop(number, None)
        return self._ports.pop(number)

    def is_started(self, number: int) -> bool:
        """Whether a port is started."""
        return self[number].state is PortState.STARTED

    def describe(self, number: int) -> str:
        """The state of a port in words, and why it failed."""
        port = self[number]
        return f"{port.state.value}: {port.error}" if port.error else port.state.value

    def start(self, number: int, options: Options) -> None:
        """Start a port; configure it before, unless it is as the settings want it.

        Modes that are set for it later stay as they are when it is configured anew.

        Raises:
            ConfigError: It can't be as the settings want it.
            EmudevError: What the port raised.
        """
        port = self[number]
        wanted = (options.rxq, options.txq, options.rxd, options.txd, options.mtu)
        had = self._configured.get(number)
        if had != wanted or port.state not in (PortState.CONFIGURED, PortState.STOPPED):
            config = PortConfig(
                mtu=options.mtu or None, promiscuous=options.promiscuous if had is None else None
            )
            port.configure(options.rxq, options.txq, config)
            for queue in range(options.rxq):
                port.rx_queue_setup(queue, options.rxd)
            for queue in range(options.txq):
                port.tx_queue_setup(queue, options.txd)
            self._configured[number] = wanted
        port.start()
