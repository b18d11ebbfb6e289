"""The engine: ports, the streams between them, and their statistics. All on the loop's thread.

    engine = Engine(host.loop, ports, Options(forward_mode="mac"))
    engine.port_start()             # configure and start all ports
    engine.start()                  # packets move, on other threads
    totals = engine.stop()          # packets rest

It knows no command line and prints nothing: it answers with records (`records`), raises
`records.ForwardError` or `ConfigError` with a message for people, and tells `Notice`s to those who
subscribed. Its rules (what may be done when) are those of DPDK 22.11's testpmd.

Packets are moved by flows of the net kit: on worker threads, which poll (or sleep when idle, with
`Options.interrupt`), or on the loop's thread where kernels are not compiled.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any, Final

import attrs

from emudev_core.errors import ConfigError, EmudevError
from emudev_core.loop import Loop
from emudev_net.jit import compile_now, jit_wanted
from emudev_net.port import Port, PortConfig, PortEvent, PortEventKind, PortState, PortStats

from .modes import kernels_of
from .options import Options
from .records import (
    Core,
    ForwardError,
    Layout,
    Notice,
    NoticeKind,
    PortTotals,
    StreamStats,
    Totals,
)
from .streams import Runner, RunningStream, make_runner
from .topology import deal, gather, is_odd_pairing, streams_of

__all__ = ["Engine"]

log = logging.getLogger(__name__)

#: Settings that a port has to be configured anew for.
_OF_PORTS: Final = frozenset({"rxq", "txq", "rxd", "txd", "mtu"})
#: Settings that can't be changed while packets move.
_WHEN_STOPPED: Final = frozenset({"nb_cores", "cpus", "interrupt", "txpkts", "csum_hw"})
#: Settings that are used at once.
_AT_ONCE: Final = frozenset(
    {"stats_period", "auto_start", "interactive", "tx_first", "disable_link_check"}
)


def _less(now: PortStats, base: PortStats) -> PortStats:
    """What was counted since `base`."""
    names = attrs.fields_dict(PortStats)
    return PortStats(**{n: getattr(now, n) - getattr(base, n) for n in names})


class Engine:
    """See the module.

    Args:
        loop: The process' loop.
        ports: Ports, numbered by their `Port.id`; more come by `port_attach`.
        options: Settings; `set` changes them.
        progress: Told in words when compiling kernels takes longer, on the thread that does.

    Raises:
        ConfigError: Two ports of one number.
    """

    def __init__(
        self,
        loop: Loop,
        ports: Iterable[Port],
        options: Options | None = None,
        *,
        progress: Callable[[str], None] | None = None,
    ) -> None:
        self._loop = loop
        self._options = Options() if options is None else options
        self._progress = progress
        self._ports: dict[int, Port] = {}
        self._undo: dict[int, Callable[[], None]] = {}
        self._configured: dict[int, tuple[int, ...]] = {}  # what each port was configured with
        self._subscribers: tuple[Callable[[Notice], None], ...] = ()
        self._runner: Runner | None = None
        self._streams: tuple[RunningStream, ...] = ()
        self._layout: Layout | None = None
        self._base: dict[int, PortStats] = {}
        self._last: dict[int, PortStats] = {}  # of ports that were closed while packets moved
        self._started_at = 0.0
        self._totals: Totals | None = None
        for port in ports:
            self._add(port)

    # -- what there is

    @property
    def loop(self) -> Loop:
        """The process' loop."""
        return self._loop

    @property
    def options(self) -> Options:
        """The settings as they are now; those of the last start may have been others."""
        return self._options

    @property
    def ports(self) -> Mapping[int, Port]:
        """The ports by number, in order of their numbers; closed ones are no more among them."""
        return MappingProxyType(dict(sorted(self._ports.items())))

    def port(self, number: int) -> Port:
        """A port.

        Raises:
            ConfigError: There is none of that number.
        """
        try:
            return self._ports[number]
        except KeyError:
            there = ", ".join(map(str, sorted(self._ports))) or "none"
            raise ConfigError(f"no port {number} (there are: {there})") from None

    @property
    def running(self) -> bool:
        """Whether packets are forwarded."""
        return self._runner is not None

    def subscribe(self, callback: Callable[[Notice], None]) -> Callable[[], None]:
        """Be told what happens: links, ports that fail, how forwarding runs; short.

        Returns:
            What undoes it.
        """
        self._subscribers += (callback,)

        def undo() -> None:
            self._subscribers = tuple(c for c in self._subscribers if c is not callback)

        return undo

    def set(self, **changes: Any) -> frozenset[str]:
        """Change settings (`Options`), all or none.

        Settings of a mode, of bursts, of ports that forward and of their addresses are used at the
        next start.

        Returns:
            The names of those that wait for the next start.

        Raises:
            ConfigError: A value out of range, an unknown name, a port that is not there.
            ForwardError: Something that needs packets at rest (threads, lengths of packets), or all
                ports stopped (queues, descriptors, MTU), and they are not.
        """
        changed = self._options.changed(**changes)
        names = {n for n in changes if getattr(changed, n) != getattr(self._options, n)}
        if self.running and names & _WHEN_STOPPED:
            raise ForwardError("Please stop forwarding first")
        if names & _OF_PORTS and any(p.state is PortState.STARTED for p in self._ports.values()):
            raise ForwardError("Please stop all ports first")
        if names & {"portmask", "portlist"}:
            changed.forwarding(self._ports)
        self._options = changed
        return frozenset(names - _AT_ONCE) if self.running else frozenset()

    # -- forwarding

    def layout(self) -> Layout:
        """Who forwards what: as it runs, or as it would be started now.

        Raises:
            ConfigError: The settings name a port that is not there, or leave none.
        """
        if self.running:
            assert self._layout is not None
            return self._layout
        return self._plan()

    def start(self, tx_first: int | None = None) -> Layout:
        """Forward packets.

        Kernels that are not compiled yet are compiled first; where that can't be, everything runs
        in plain Python on the loop's thread, and a notice says so.

        Args:
            tx_first: Bursts that each stream sends before it forwards; None: `Options.tx_first`.

        Returns:
            Who forwards what.

        Raises:
            ForwardError: It runs already; a port is not started; the mode needs queues that are not
                there.
            ConfigError: The settings name a port that is not there, or leave none.
        """
        if self.running:
            raise ForwardError("Packet forwarding already started")
        self._check_queues()
        down = [f"port {n} is {self._state(n)}" for n in self.ports if not self._is_started(n)]
        if down:
            raise ForwardError(f"Not all ports were started: {', '.join(down)}")
        layout = self._plan()
        options = self._options
        streams = tuple(
            RunningStream(
                stream,
                options,
                self._ports[stream.rx_port],
                self._ports[stream.tx_port],
                loop=self._loop,
                on_failed=self._stream_failed,
            )
            for stream in layout.streams
        )
        layout = attrs.evolve(layout, threads=self._compile(streams))
        runner = make_runner(layout, streams, options)
        self._base = {n: self._ports[n].stats() for n in layout.ports}
        self._last.clear()
        self._streams, self._layout, self._totals = streams, layout, None
        self._started_at = time.monotonic()
        for stream in streams:
            stream.send_first(options.tx_first if tx_first is None else tx_first)
        self._runner = runner
        try:
            runner.start()
        except EmudevError:
            self._end()
            raise
        return layout

    def stop(self) -> Totals:
        """Let packets rest.

        Returns:
            What was done since the start.

        Raises:
            ForwardError: It does not run.
        """
        if not self.running:
            raise ForwardError("Packet forwarding not started")
        self._end()
        assert self._totals is not None
        return self._totals

    def _end(self) -> None:
        runner, self._runner = self._runner, None
        assert runner is not None
        runner.close()
        self._totals = self._count()
        for stream in self._streams:
            stream.close()

    def totals(self) -> Totals | None:
        """What was done since the last start, until now or until the stop; None before any."""
        return self._count() if self.running else self._totals

    def streams(self) -> tuple[StreamStats, ...]:
        """What each stream did since the last start; empty before any."""
        totals = self.totals()
        return () if totals is None else totals.streams

    def clear_forward_stats(self) -> None:
        """Count anew what `totals` and `streams` tell."""
        if self._layout is None:
            return
        for stream in self._streams:
            stream.clear()
        self._base = {n: self._stats(n) for n in self._layout.ports}
        self._started_at = time.monotonic()
        if not self.running:
            self._totals = self._count()

    def close(self) -> None:
        """Stop, and close all ports. A second call does nothing."""
        if self.running:
            self._end()
        for number in list(self._ports):
            self._drop(number).close()

    # -- ports

    def port_start(self, number: int | None = None) -> tuple[int, ...]:
        """Start a port, or all that are not started; configure those that need it.

        Args:
            number: Which; None: all.

        Returns:
            Those that were started; a port that is started stays so.

        Raises:
            ConfigError: There is none of that number, or it can't be as the settings want it.
            ForwardError: A port that failed, while packets move.
            EmudevError: What the port raised. Of all, those before it are started.
        """
        found = []
        for one in self._chosen(number):
            port = self._ports[one]
            if port.state is PortState.STARTED:
                continue
            if port.state is PortState.FAILED and self.running:
                raise ForwardError(f"Please stop forwarding first: port {one} failed while it ran")
            self._configure(one, port)
            port.start()
            found.append(one)
        return tuple(found)

    def port_stop(self, number: int | None = None) -> tuple[int, ...]:
        """Stop a port, or all that are started.

        Returns:
            Those that were stopped.

        Raises:
            ConfigError: There is none of that number.
            ForwardError: Packets move through it.
        """
        chosen = [n for n in self._chosen(number) if self._is_started(n)]
        for one in chosen:
            self._check_idle(one)
        for one in chosen:
            self._ports[one].stop()
        return tuple(chosen)

    def port_close(self, number: int | None = None) -> tuple[int, ...]:
        """Close a port, or all, for good; it is no more among `ports`.

        Raises:
            ConfigError: There is none of that number.
            ForwardError: It is started, or packets move through it.
        """
        chosen = self._chosen(number)
        for one in chosen:
            self._check_idle(one)
            if self._is_started(one):
                raise ForwardError(f"Cannot close started device (port {one})")
        for one in chosen:
            self._drop(one).close()
        return tuple(chosen)

    def port_attach(self, port: Port) -> int:
        """Add a port that was made since; it is to be started by `port_start`.

        Returns:
            Its number.

        Raises:
            ConfigError: There is one of that number.
        """
        return self._add(port)

    def port_detach(self, number: int) -> Port:
        """Take a port out without closing it.

        Raises:
            ConfigError: There is none of that number.
            ForwardError: It is started, or packets move through it.
        """
        self.port(number)
        self._check_idle(number)
        if self._is_started(number):
            raise ForwardError(f"Please stop port {number} first")
        return self._drop(number)

    def set_link(self, number: int, up: bool) -> None:
        """Set the link of a port up or down.

        Raises:
            ConfigError: There is none of that number.
            EmudevError: What the port raised.
        """
        self.port(number).set_link(up)

    def port_stats(self, number: int) -> PortStats:
        """Counters of a port since it was made, or `clear_port_stats`.

        Raises:
            ConfigError: There is none of that number.
        """
        return self.port(number).stats()

    def clear_port_stats(self, number: int | None = None) -> None:
        """Let a port, or all, count anew; `totals` counts from here on, too.

        Source: testpmd, nic_stats_clear.
        """
        for one in self._chosen(number):
            self._ports[one].reset_stats()
            if one in self._base:
                self._base[one] = PortStats()

    def links_up(self) -> bool:
        """Whether the link of each port that forwards is up.

        Raises:
            ConfigError: The settings name a port that is not there, or leave none.
        """
        return all(self._ports[n].link().up for n in self._options.forwarding(self._ports))

    # -- within

    def _tell(self, kind: NoticeKind, text: str, port: int | None = None) -> None:
        for callback in self._subscribers:
            callback(Notice(kind, text, port))

    def _add(self, port: Port) -> int:
        number = port.id
        other = self._ports.get(number)
        if other is not None:
            raise ConfigError(
                f"{other.name} and {port.name} are both port {number}",
                hint="give each port another id=",
            )
        self._ports[number] = port
        self._undo[number] = port.subscribe(lambda event: self._port_event(number, event))
        return number

    def _drop(self, number: int) -> Port:
        port = self._ports.pop(number)
        self._undo.pop(number)()
        self._configured.pop(number, None)
        if number in self._base:
            self._last[number] = port.stats()
        return port

    def _chosen(self, number: int | None) -> list[int]:
        if number is None:
            return sorted(self._ports)
        self.port(number)
        return [number]

    def _state(self, number: int) -> str:
        port = self._ports[number]
        return f"{port.state.value}: {port.error}" if port.error else port.state.value

    def _is_started(self, number: int) -> bool:
        return self._ports[number].state is PortState.STARTED

    def _check_idle(self, number: int) -> None:
        """Refuse what would pull a port away under the packets; a failed one carries none."""
        if not self.running or self._ports[number].state is PortState.FAILED:
            return
        assert self._layout is not None
        if number in self._layout.ports:
            raise ForwardError(f"Please remove port {number} from forwarding configuration.")

    def _check_queues(self) -> None:
        options = self._options
        mode = options.forward_mode
        if mode == "rxonly" and not options.rxq:
            raise ForwardError("rxq are 0, cannot use rxonly fwd mode")
        if mode == "txonly" and not options.txq:
            raise ForwardError("txq are 0, cannot use txonly fwd mode")
        if mode not in ("rxonly", "txonly") and not (options.rxq and options.txq):
            raise ForwardError(f"Either rxq or txq are 0, cannot use {mode} fwd mode")

    def _configure(self, number: int, port: Port) -> None:
        """Configure a port unless it is as the settings want it."""
        options = self._options
        wanted = (options.rxq, options.txq, options.rxd, options.txd, options.mtu)
        had = self._configured.get(number)
        if had == wanted and port.state in (PortState.CONFIGURED, PortState.STOPPED):
            return
        config = PortConfig(
            mtu=options.mtu or None, promiscuous=options.promiscuous if had is None else None
        )
        port.configure(options.rxq, options.txq, config)
        for queue in range(options.rxq):
            port.rx_queue_setup(queue, options.rxd)
        for queue in range(options.txq):
            port.tx_queue_setup(queue, options.txd)
        self._configured[number] = wanted

    def _plan(self) -> Layout:
        options = self._options
        ports = options.forwarding(self._ports)
        if not ports:
            raise ConfigError("expected at least one port, came none", hint="--vdev net_avfbe,...")
        dealt = deal(streams_of(options, ports), options, len(ports))
        serial = [n for n in ports if not self._ports[n].describe().parallel]
        threads = jit_wanted()
        joined = gather(dealt, serial)
        if not threads:
            joined = [[stream for streams in joined for stream in streams]]
        cpus = options.cpus if threads else ()
        if cpus and len(cpus) < len(joined):
            raise ConfigError(
                f"expected a CPU for each of {len(joined)} threads, came {len(cpus)}", where="cpus"
            )
        cores = tuple(
            Core(i, cpus[i] if cpus else None, tuple(streams)) for i, streams in enumerate(joined)
        )
        lonely = is_odd_pairing(options, ports)
        return Layout(options.forward_mode, ports, cores, threads, lonely)

    def _compile(self, streams: Iterable[RunningStream]) -> bool:
        """Compile what the streams run; whether threads can run them."""
        kernels = kernels_of(part for stream in streams for part in stream.parts)
        try:
            wanted = compile_now(kernels, self._progress)
        except EmudevError as error:
            self._tell(NoticeKind.FORWARD, f"packets are moved in plain Python: {error}")
            return False
        if not wanted:
            self._tell(
                NoticeKind.FORWARD,
                "packets are moved in plain Python (llvmlite is not installed, or EMUDEV_JIT=0)",
            )
            return False
        rest = [k for k in kernels if not k.address]
        if rest:
            self._tell(
                NoticeKind.FORWARD,
                f"packets are moved in plain Python: {rest[0]!r} is not compiled",
            )
        return not rest

    def _stats(self, number: int) -> PortStats:
        port = self._ports.get(number)
        return self._last.get(number, PortStats()) if port is None else port.stats()

    def _count(self) -> Totals:
        assert self._layout is not None
        streams = tuple(stream.stats() for stream in self._streams)
        ports = tuple(
            PortTotals(
                port=n,
                stats=_less(self._stats(n), self._base[n]),
                tx_dropped=sum(s.tx_dropped for s in streams if s.stream.tx_port == n),
                rx_bad_ip_csum=sum(s.rx_bad_ip_csum for s in streams if s.stream.rx_port == n),
                rx_bad_l4_csum=sum(s.rx_bad_l4_csum for s in streams if s.stream.rx_port == n),
            )
            for n in self._layout.ports
        )
        return Totals(self._layout.mode, streams, ports, time.monotonic() - self._started_at)

    # -- what goes wrong

    def _stream_failed(self, stream: RunningStream, code: int) -> None:
        """A kernel of a stream failed: the port that it belongs to goes down, the others go on."""
        if self._runner is None:
            return
        with self._runner.pause():
            number = stream.culprit()
            self._rest(number)
            port = self._ports.get(number)
            if port is not None:
                port.fail(f"a kernel of {stream.stream.label} failed and answered {code}")

    def _rest(self, number: int) -> None:
        """Never move a packet of a port again in this run."""
        if self._runner is None:
            return
        for stream in self._streams:
            if number in (stream.stream.rx_port, stream.stream.tx_port):
                self._runner.rest(stream)

    def _port_event(self, number: int, event: PortEvent) -> None:
        kind = event.kind
        if kind is PortEventKind.LINK:
            text = f"Port {number}: link state change event: {'up' if event.value else 'down'}"
            self._tell(NoticeKind.LINK, text, number)
        elif kind in (PortEventKind.ERROR, PortEventKind.REMOVED):
            self._rest(number)
            what = "device removal" if kind is PortEventKind.REMOVED else "error"
            self._tell(NoticeKind.FAILED, f"Port {number}: {what} event: {event.text}", number)
        elif kind is PortEventKind.STATE:
            self._tell(NoticeKind.PORT, f"Port {number} is {event.text}", number)
