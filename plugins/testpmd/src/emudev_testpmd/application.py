"""The application: the engine, what it prints, and when; the command line and the prompt call it.

It says what testpmd says at each step. All on the loop's thread.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Final

from emudev_core.errors import EmudevError
from emudev_net.port import Port, PortState

from . import layout
from .arguments import Request
from .engine import Engine
from .output import Output
from .prompt.grammar import ALL, Command, PromptError, completions, parse
from .rates import RateMeter
from .records import ForwardError, Notice, NoticeKind

__all__ = ["PROMPT", "Application"]

PROMPT: Final = "testpmd> "
#: Files of commands that name each other, at most so deep.
_DEEPEST: Final = 10


class Application:
    """See the module.

    Args:
        engine: Moves the packets.
        output: Where results go.
        request: What was asked for on the command line.
        commands: What the prompt knows.
        stop: Ends the loop.
        lcores: Threads for which the user gave CPUs; 0: any number.

    Attributes:
        engine: As given.
        output: As given.
        commands: As given.
        lcores: As given.
        ended: Whether it was told to quit.
    """

    def __init__(
        self,
        engine: Engine,
        output: Output,
        request: Request,
        commands: tuple[Command, ...],
        stop: Callable[[], None],
        lcores: int = 0,
    ) -> None:
        self.engine = engine
        self.output = output
        self.commands = commands
        self.lcores = lcores
        self.ended = False
        self._request = request
        self._stop = stop
        self._rates = RateMeter()
        self._warned = False
        self._depth = 0
        self._closing = False
        engine.subscribe(self._noticed)

    # -- from the start to the end

    def bring_up(self) -> None:
        """Start the ports, and say what was asked for.

        Raises:
            EmudevError: A port that can't be as it is wanted.
        """
        options, say = self.engine.options, self.output.text
        if options.interactive:
            say("Interactive-mode selected\n")
        if self._request.cmdline_file:
            say(f"CLI commands to be read from {self._request.cmdline_file}\n")
        if options.auto_start:
            say("Auto-start selected\n")
        if options.tx_first:
            say("Ports to start sending a burst of packets first\n")
        if self._request.mode_given:
            say(f"Set {options.forward_mode} packet forwarding mode\n")
        if self._request.device_start:
            for number in self.ports:
                say(f"Configuring Port {number} (socket 0)\n")
                self.engine.port_start(number)
                self._say_address(number)
            self._say_links()
            say("Done\n")

    def begin(self) -> None:
        """Forward if that is to be so from the start; statistics follow if they are wanted.

        Raises:
            EmudevError: It can't be, and nobody is there to type `start`.
        """
        options = self.engine.options
        if self._request.cmdline_file:
            self.load(self._request.cmdline_file)
        if options.interactive:
            if options.auto_start:
                self.output.text("Start automatic packet forwarding\n")
                self.try_to(self.start)
            return
        if not self.engine.running:  # a file of commands may have started it
            self.output.text("No commandline core given, start packet forwarding\n")
            self.start(options.tx_first)
        if options.stats_period:
            self._show_periodically()

    def quit(self) -> None:
        """End the loop; `shut_down` does the rest."""
        self.ended = True
        self._stop()

    def shut_down(self) -> None:
        """Stop forwarding, with its totals, then the ports."""
        self._closing = True
        say = self.output.text
        if self.engine.running:
            self.stop()
        for number in self.ports:
            say(f"\nStopping port {number}...\nStopping ports...\n")
            self.try_to(self.engine.port_stop, number)
            say("Done\n")
        for number in self.ports:
            say(f"\nShutting down port {number}...\nClosing ports...\n")
            self._close(number)
            say("Done\n")
        say("\nBye...\n")

    def try_to(self, action: Callable[..., object], *arguments: object) -> bool:
        """Do something; say why if it can't be.

        Returns:
            Whether it was done.
        """
        try:
            action(*arguments)
        except EmudevError as error:
            self.output.error(str(error))
            return False
        return True

    # -- lines

    def execute(self, line: str) -> None:
        """Do what a line of the prompt says, or say why not."""
        self.try_to(self._execute, line)

    def _execute(self, line: str) -> None:
        found = parse(line, self.commands)
        if found is not None:
            command, values = found
            command.run(self, *values)

    def load(self, path: str) -> None:
        """Do what the lines of a file say.

        Raises:
            PromptError: It can't be read, or files name each other without end.
        """
        if self._depth >= _DEEPEST:
            raise PromptError(f"{path}: files of commands name each other {_DEEPEST} deep")
        try:
            lines = Path(path).read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError as error:
            raise PromptError(
                f"Failed to create file based cmdline context: {path} ({error.strerror})"
            ) from error
        self._depth += 1
        try:
            for line in lines:
                self.execute(line)
        finally:
            self._depth -= 1
        self.output.text(f"Read CLI commands from {path}\n")

    def complete(self, line: str) -> list[str]:
        """The words that may stand at the end of a line; any thread."""
        return completions(line, self.commands, self)

    # -- forwarding

    def start(self, tx_first: int = 0) -> None:
        """Forward packets, and say how.

        Args:
            tx_first: Bursts that each stream sends before.

        Raises:
            EmudevError: It can't be now.
        """
        self.engine.start(tx_first)
        self.show_forwarding()
        self.show_queues()

    def stop(self) -> None:
        """Let packets rest, and show what was done.

        Raises:
            ForwardError: Nothing is forwarded.
        """
        if not self.engine.running:
            raise ForwardError("Packet forwarding not started")
        self.output.text("Telling cores to stop...\nWaiting for lcores to finish...\n")
        self.output.totals(self.engine.stop())
        self.output.text("\nDone.\n")

    def show_forwarding(self) -> None:
        """Which queue forwards to which."""
        found = self.engine.layout()
        if found.lonely and not self._warned:
            self._warned = True
            self.output.text(
                "\nWarning! port-topology=paired and odd forward ports number, the last port will"
                " pair with itself.\n\n"
            )
        self.output.text(layout.forward_configuration(found, self.engine.options))

    def show_queues(self) -> None:
        """How ports and queues are set up."""
        found = self.engine.layout()
        text = layout.rxtx_configuration(found, self.engine.options, self.ports.values())
        self.output.text(text)

    def show_statistics(self, numbers: Iterable[int], head: str = "") -> None:
        """What ports have counted, and how fast since the last look."""
        found = {}
        for number in numbers:
            port = self.ports[number]
            stats = port.stats()
            found[number] = port, stats, self._rates.look(number, stats)
        self.output.statistics(found, head)

    def _show_periodically(self) -> None:
        """Show statistics now and every so often, until the end."""
        if self._closing:
            return
        head = f"{layout.CLEAR}\nPort statistics ===================================="
        self.show_statistics(self.ports, head)
        self.engine.loop.call_later(self.engine.options.stats_period, self._show_periodically)

    # -- ports

    @property
    def ports(self) -> Mapping[int, Port]:
        """The ports that there are, by number."""
        return self.engine.ports

    def chosen(self, which: int | str) -> list[int]:
        """The numbers of the ports that a user named: one, or all.

        Raises:
            PromptError: There is none of that number.
        """
        if which == ALL:
            return list(self.ports)
        number = int(which)
        if number not in self.ports:
            there = " ".join(map(str, self.ports))
            raise PromptError(f"Invalid port {number}\nThe valid ports array is [ {there} ]")
        return [number]

    def start_ports(self, numbers: Iterable[int]) -> None:
        """Start ports that are stopped."""
        started = False
        for number in numbers:
            if self.ports[number].state is PortState.STARTED:
                self.output.error(f"Port {number} is now not stopped")
            elif self.try_to(self.engine.port_start, number):
                started = True
                self._say_address(number)
        if started:
            self._say_links()
        else:
            self.output.text("Please stop the ports first\n")
        self.output.text("Done\n")

    def stop_ports(self, numbers: Iterable[int]) -> None:
        """Stop ports that are started."""
        self.output.text("Stopping ports...\n")
        stopped = False
        for number in numbers:
            if self.ports[number].state is PortState.STARTED:
                stopped |= self.try_to(self.engine.port_stop, number)
        if stopped:
            self._say_links()
        self.output.text("Done\n")

    def close_ports(self, numbers: Iterable[int]) -> None:
        """Close ports for good."""
        self.output.text("Closing ports...\n")
        for number in numbers:
            self._close(number)
        self.output.text("Done\n")

    def _close(self, number: int) -> None:
        if self.try_to(self.engine.port_close, number):
            self.output.text(f"Port {number} is closed\n")

    def reset_ports(self, numbers: Iterable[int]) -> None:
        """Configure ports anew that are stopped, as they were at the start.

        Raises:
            PromptError: One is started.
        """
        numbers = list(numbers)
        if any(self.ports[number].state is PortState.STARTED for number in numbers):
            raise PromptError("Can not reset port(s), please stop port(s) first.")
        self.output.text("Resetting ports...\n")
        options = self.engine.options
        for number in numbers:
            self.try_to(self.ports[number].configure, options.rxq, options.txq)
        self.output.text("Done\n")

    def _say_address(self, number: int) -> None:
        self.output.text(f"Port {number}: {layout.mac(self.ports[number].mac)}\n")

    def _say_links(self) -> None:
        # Links come up by themselves and are told then, as with hardware that interrupts.
        if not self.engine.options.disable_link_check:
            self.output.text("Checking link statuses...\n")

    # -- what happens by itself

    def _noticed(self, notice: Notice) -> None:
        if notice.kind is NoticeKind.FORWARD:
            self.output.note(notice.text)
            return
        port = None if notice.port is None else self.ports.get(notice.port)
        if port is None or self._closing:
            return
        if notice.kind is NoticeKind.LINK:
            text = f"\nPort {port.id}: link state change event\n"
            link = "up" if port.link().up else "down"
            self.output.event("link", text, port=port.id, link=link)
        elif notice.kind is NoticeKind.FAILED:
            self.output.event("failed", f"\n{notice.text}\n", port=port.id, reason=port.error)
