"""The command ``emudev testpmd``: devices and ports before ``--``, testpmd's words behind it."""

from __future__ import annotations

import argparse
import logging
import os
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import attrs

from emudev_core.cli.request import read_entries
from emudev_core.cli.run import (
    add_arguments,
    control_of,
    help_on_vdev,
    print_suggestions,
    ready_line,
)
from emudev_core.errors import ConfigError
from emudev_core.host import Host
from emudev_core.plan import Planner
from emudev_core.plugins import keys_of
from emudev_core.vdev import Entry
from emudev_net.port import Port

from .application import PROMPT, Application
from .argument_values import cpu_list
from .arguments import ARGUMENTS, Request, choose_ports, help_text, parse
from .engine import Engine
from .output import Output
from .prompt.reader import LineReader, TerminalReader, make_reader, standard_input
from .prompt.table import COMMANDS

if TYPE_CHECKING:
    from emudev_core.plugins import Plugins

__all__ = ["arguments", "run", "with_queues"]

log = logging.getLogger(__name__)

#: Arguments of DPDK's environment that people type by habit, and whether each has a value.
_HABITS: Final = {
    "-n": True,
    "-m": True,
    "--socket-mem": True,
    "--file-prefix": True,
    "--huge-dir": True,
    "--iova-mode": True,
    "--proc-type": True,
    "--no-huge": False,
    "--no-pci": False,
    "--no-telemetry": False,
    "--no-shconf": False,
    "--in-memory": False,
    "--legacy-mem": False,
    "--single-file-segments": False,
}

#: The key by which providers of many queues take the number of their pairs.
_QUEUES: Final = "queues"

_EPILOG: Final = """\
arguments of testpmd, behind --:
{arguments}
example:
  emudev testpmd --vdev emu_iavf,path=/run/avf0.sock,id=0 --vdev net_avfbe,id=0,avf_emu_id=0 \\
      -- --forward-mode=icmpecho --stats-period=1
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``emudev testpmd``."""
    add_arguments(parser)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = _EPILOG.format(arguments=help_text(all_of_them=False)).replace("%", "%%")
    parser.usage = "emudev testpmd --vdev ... [options] -- [arguments of testpmd]"
    parser.add_argument(
        "-l",
        "--lcores",
        metavar="CPUS",
        help="CPUs such as 0,2-3: the first for devices and the prompt, the others forward",
    )
    parser.add_argument(
        "--json", action="store_true", help="statistics and totals as JSON, one object a line"
    )
    hidden: dict[str, Any] = {"help": argparse.SUPPRESS, "action": _Habit, "dest": "habits"}
    for name, valued in _HABITS.items():
        parser.add_argument(name, nargs=None if valued else 0, **hidden)
    for argument in ARGUMENTS:
        if argument.name != "help":
            names = [f"--{argument.name}", *([f"-{argument.short}"] if argument.short else [])]
            parser.add_argument(
                *names, nargs="?", action=_Misplaced, dest="misplaced", help=argparse.SUPPRESS
            )
    parser.add_argument("words", nargs="*", metavar="ARGUMENT", help=argparse.SUPPRESS)


class _Habit(argparse.Action):
    """Remembers an argument of DPDK's that means nothing here."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        known = getattr(namespace, self.dest) or []
        setattr(namespace, self.dest, [*known, option_string])


class _Misplaced(argparse.Action):
    """Tells that an argument of testpmd comes behind ``--``."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        raise ConfigError(
            f"{option_string} is an argument of testpmd", where=parser.prog, hint="behind --"
        )


def run(parsed: argparse.Namespace, plugins: Plugins) -> int:
    """Forward packets until told to end.

    Returns:
        0.

    Raises:
        EmudevError: Something that can't be.
    """
    if parsed.help_vdev is not None:
        print(help_on_vdev(parsed.help_vdev, plugins))  # noqa: T201 - that is the command's result
        return 0
    request = parse(parsed.words)
    if request.help:
        print(help_text(), end="")  # noqa: T201
        return 0
    main_cpu, request = _cpus(parsed.lcores, request)
    entries, observers = read_entries(parsed)
    queues = max(request.options.rxq, request.options.txq)
    entries = [with_queues(entry, queues, plugins) for entry in entries]
    plan = Planner(plugins).plan(entries, observers)
    output = Output(as_json=parsed.json)
    for name in parsed.habits or ():
        output.note(f"{name}: no meaning here, this is no DPDK environment")
    for note in request.notes:
        output.note(note)
    with _pinned(main_cpu), Host(plugins=plugins) as host:
        host.handle_signals()
        ports = _ports(host.build(plan))
        request = choose_ports(request, [port.id for port in ports])
        engine = Engine(host.loop, ports, request.options, progress=_progress)
        try:
            with control_of(host, parsed.control):
                _forward(host, engine, output, request)
        finally:
            engine.close()
        if parsed.suggest:
            print_suggestions(host)
    return 0


def _forward(host: Host, engine: Engine, output: Output, request: Request) -> None:
    lcores = len(request.options.cpus)
    application = Application(engine, output, request, COMMANDS, host.stop, lcores)
    host.start()
    output.event("ready", f"{ready_line(host)}\n", devices=_devices(host))
    application.bring_up()
    application.begin()
    reader = _input(host, application)
    try:
        host.run()
    finally:
        if reader is not None:
            reader.close()
    application.shut_down()


def _input(host: Host, application: Application) -> LineReader | TerminalReader | None:
    """What reads standard input: the prompt's lines, or the one that ends; None: nobody."""
    options = application.engine.options
    if not options.interactive and options.stats_period:
        return None
    reader: LineReader | TerminalReader

    def show_prompt() -> None:
        if isinstance(reader, LineReader):
            application.output.text(PROMPT)
        reader.next()

    def deliver(line: str | None) -> None:
        if line is None:
            application.output.text("\n")
            application.quit()
            return
        if isinstance(reader, LineReader):
            application.output.text(f"{line}\n")
        application.execute(line)
        if not application.ended:
            show_prompt()

    if options.interactive:
        reader = make_reader(host.loop, deliver, PROMPT, application.complete)
        reader.start()
        show_prompt()
        return reader
    reader = LineReader(host.loop, lambda _: application.quit(), standard_input())
    reader.start()
    application.output.text("Press enter to exit\n")
    reader.next()
    return reader


def with_queues(entry: Entry, queues: int, plugins: Plugins) -> Entry:
    """A device with as many queue pairs as the ports are to have, unless it says how many.

    With DPDK a virtual device gets the queues that its application asks for; here the device is
    there first, and may not be able to have more of them later.
    """
    provider = plugins.providers.get(entry.driver)
    if provider is None or queues < 2 or _QUEUES in entry.values:
        return entry
    if _QUEUES not in keys_of(provider.config):
        return entry
    values = {**entry.values, _QUEUES: str(queues) if entry.text else queues}
    return attrs.evolve(entry, values=values)


def _ports(backends: Iterable[object]) -> list[Port]:
    ports = [backend for backend in backends if isinstance(backend, Port)]
    if not ports:
        raise ConfigError(
            "no port to forward with",
            where="emudev testpmd",
            hint="expected --vdev net_avfbe,emu=DEVICE, or another net_ driver",
        )
    return ports


def _devices(host: Host) -> list[dict[str, str]]:
    return [{"name": device.name, "address": device.address} for device in host.registry]


def _progress(text: str) -> None:
    log.info("%s", text)


def _cpus(text: str | None, request: Request) -> tuple[int | None, Request]:
    """The CPU of the loop's thread, if one was given, and the request with those of the others."""
    if text is None:
        return None, request
    try:
        first, *others = cpu_list(text)
    except ValueError as error:
        raise ConfigError(str(error), where="emudev testpmd: -l") from error
    missing = {first, *others} - os.sched_getaffinity(0)
    if missing:
        words = ", ".join(map(str, sorted(missing)))
        raise ConfigError(f"this process may not use CPU {words}", where="emudev testpmd: -l")
    options = request.options
    cpus = options.cpus or tuple(others) or (first,)
    if options.nb_cores > len(cpus):
        raise ConfigError(
            f"expected 1 to {len(cpus)} threads with the CPUs given, came {options.nb_cores}",
            where="emudev testpmd -- --nb-cores",
        )
    return first, attrs.evolve(request, options=options.changed(cpus=cpus))


@contextmanager
def _pinned(cpu: int | None) -> Iterator[None]:
    """Keep this thread on a CPU."""
    if cpu is None or threading.current_thread() is not threading.main_thread():
        yield
        return
    former = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {cpu})
    try:
        yield
    finally:
        os.sched_setaffinity(0, former)
