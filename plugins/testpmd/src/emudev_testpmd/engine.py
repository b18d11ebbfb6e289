"""The engine: ports, the streams between them, and their statistics. All on the loop's thread.

    engine = Engine(host.loop, ports, Options(forward_mode="mac"))
    engine.port_start()             # configure and start all ports
    engine.start()                  # packets move, on other threads or when the loop turns
    totals = engine.stop()          # packets rest

It knows no command line and prints nothing: it answers with records (`records`), raises
`records.ForwardError` or `ConfigError` with a message for people, and tells `Notice`s to those who
subscribed. Its rules (what may be done when) are those of DPDK 22.11's testpmd.

Packets are moved by flows of the net kit: on worker threads, which poll (or sleep when idle, with
`Options.interrupt`), or on the loop's thread. That runs them where kernels are not compiled, and in
interrupt mode if one core without a CPU of its own is to forward: a second thread would cost a
wake-up for each packet, while compiled code moves them as soon as the loop hears of them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

import attrs

from emudev_core.errors import EmudevError
from emudev_core.loop import Loop
from emudev_net.jit import Compilation, compile_all
from emudev_net.port import Port, PortEvent, PortEventKind, PortState, PortStats

from .modes import kernels_of_mode
from .options import Options
from .plan import check_queues, plan_layout
from .ports import PortTable
from .records import ForwardError, Layout, Notice, NoticeKind, StreamStats, Totals
from .streams import Runner, RunningStream, compile_streams, make_runner
from .tally import Tally

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
        self._ports = PortTable(self._port_event)
        self._subscribers: tuple[Callable[[Notice], None], ...] = ()
        self._runner: Runner | None = None
        self._streams: tuple[RunningStream, ...] = ()
        self._layout: Layout | None = None
        self._tally: Tally | None = None
        self._totals: Totals | None = None
        self._compilation: Compilation | None = None
        for port in ports:
            self._ports.add(port)

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
        return self._ports.view

    def port(self, number: int) -> Port:
        """A port.

        Raises:
            ConfigError: There is none of that number.
        """
        return self._ports[number]

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
        if names & _OF_PORTS and any(map(self._ports.is_started, self._ports)):
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
        return plan_layout(self._options, self._ports)

    def prepare(self) -> Compilation:
        """Begin to compile what the mode needs, in the background; `port_start` does this, too.

        `start` waits for what is left to do.
        """
        kernels = kernels_of_mode(self._options.forward_mode)
        self._compilation = compile_all(kernels, progress=self._progress)
        return self._compilation

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
        check_queues(self._options)
        down = [n for n in self._ports if not self._ports.is_started(n)]
        if down:
            words = ", ".join(f"port {n} is {self._ports.describe(n)}" for n in down)
            raise ForwardError(f"Not all ports were started: {words}")
        layout = plan_layout(self._options, self._ports)
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
        why_plain = compile_streams(streams, options.forward_mode, self._progress)
        if why_plain:
            self._tell(NoticeKind.FORWARD, why_plain)
        compiled = not why_plain
        layout = attrs.evolve(layout, threads=layout.threads and compiled)
        runner = make_runner(layout, streams, options, compiled=compiled)
        self._streams, self._layout, self._totals = streams, layout, None
        self._tally = Tally(layout, streams, self._ports)
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
        assert self._tally is not None
        self._totals = self._tally.totals()
        for stream in self._streams:
            stream.close()

    def totals(self) -> Totals | None:
        """What was done since the last start, until now or until the stop; None before any."""
        if self.running and self._tally is not None:
            return self._tally.totals()
        return self._totals

    def streams(self) -> tuple[StreamStats, ...]:
        """What each stream did since the last start; empty before any."""
        totals = self.totals()
        return () if totals is None else totals.streams

    def clear_forward_stats(self) -> None:
        """Count anew what `totals` and `streams` tell."""
        if self._tally is not None:
            self._tally.clear()
            if not self.running:
                self._totals = self._tally.totals()

    def close(self) -> None:
        """Stop, and close all ports. A second call does nothing."""
        if self._compilation is not None:
            self._compilation.cancel()
            self._compilation = None
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
        self.prepare()
        for one in self._ports.chosen(number):
            port = self._ports[one]
            if port.state is PortState.STARTED:
                continue
            if port.state is PortState.FAILED and self.running:
                raise ForwardError(f"Please stop forwarding first: port {one} failed while it ran")
            self._ports.start(one, self._options)
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
        chosen = [n for n in self._ports.chosen(number) if self._ports.is_started(n)]
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
        chosen = self._ports.chosen(number)
        for one in chosen:
            self._check_idle(one)
            if self._ports.is_started(one):
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
        return self._ports.add(port)

    def port_detach(self, number: int) -> Port:
        """Take a port out without closing it.

        Raises:
            ConfigError: There is none of that number.
            ForwardError: It is started, or packets move through it.
        """
        self._ports.chosen(number)
        self._check_idle(number)
        if self._ports.is_started(number):
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
        for one in self._ports.chosen(number):
            self._ports[one].reset_stats()
            if self._tally is not None:
                self._tally.restart_port(one)

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

    def _drop(self, number: int) -> Port:
        if self._tally is not None:
            self._tally.keep(number)
        return self._ports.drop(number)

    def _check_idle(self, number: int) -> None:
        """Refuse what would pull a port away under the packets; a failed one carries none."""
        if not self.running or self._ports[number].state is PortState.FAILED:
            return
        assert self._layout is not None
        if number in self._layout.ports:
            raise ForwardError(f"Please remove port {number} from forwarding configuration.")

    # -- what goes wrong

    def _stream_failed(self, stream: RunningStream, code: int) -> None:
        """A kernel of a stream failed: the port that it belongs to goes down, the others go on."""
        if self._runner is None:
            return
        with self._runner.pause():
            number = stream.culprit()
            self._rest(number)
            if number in self._ports:
                self._ports[number].fail(
                    f"a kernel of {stream.stream.label} failed and answered {code}"
                )

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
