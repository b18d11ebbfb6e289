"""``emudev``: parses the command line, runs one command, and turns errors into exit statuses.

0 it worked, 1 it failed (the system, a plugin, a peer), 2 the user asked for something that can't
be, 70 a fault of emudev itself, with a traceback. Results are on stdout, words on stderr.
"""

from __future__ import annotations

import argparse
import logging
import os
import re
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Any, Final, NoReturn

from .. import __version__
from ..errors import ConfigError, EmudevError, LifecycleError
from ..names import hint
from ..plugins import Plugins, load_plugins
from ..specs import CommandSpec
from . import check, ctl, regs, run
from . import plugins as plugins_command
from .log import LEVELS, set_up_logging

__all__ = ["main", "make_parser"]

#: The core's own commands, in the order of `emudev --help`.
COMMANDS: Final = (
    run.COMMAND,
    ctl.COMMAND,
    plugins_command.COMMAND,
    regs.COMMAND,
    check.COMMAND,
)

_BUG: Final = 70

_CHOICE: Final = re.compile(r"argument (\S+): invalid choice: '?(.*?)'? \(choose from (.*)\)$")


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``emudev``.

    Args:
        argv: Arguments; None for those of the process.

    Returns:
        The exit status.
    """
    try:
        plugins = load_plugins()
        commands = _commands(plugins)
        parser = make_parser(commands)
        words = sys.argv[1:] if argv is None else argv
        if not words:
            parser.print_help(sys.stderr)
            return 2
        arguments = parser.parse_args(words)
        set_up_logging(arguments.log_level, plugins)
        for failure in plugins.failures:
            logging.getLogger(__name__).warning("%s", failure, exc_info=failure.__cause__)
        status = commands[arguments.command].run(arguments, plugins)
        sys.stdout.flush()
        return status
    except ConfigError as exc:
        return _say(exc, 2)
    except LifecycleError:
        return _bug()
    except (EmudevError, OSError) as exc:
        if isinstance(exc, BrokenPipeError):
            # Nobody reads any more, as in `emudev plugins | head`: do not complain at exit again.
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            return 1
        return _say(exc, 1)
    except KeyboardInterrupt:
        return 1
    except Exception:
        return _bug()


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are one line, with the nearest known name."""

    def error(self, message: str) -> NoReturn:
        choice = _CHOICE.match(message)
        if choice is not None:
            near = hint(choice[2], re.findall(r"[\w-]+", choice[3]))
            self.exit(2, f"emudev: error: {choice[1]}: no {choice[2]!r} ({near})\n")
        self.exit(2, f"emudev: error: {message} (see {self.prog} --help)\n")


class _CommandParser(_Parser):
    """The parser of one command; its arguments are added when the command is chosen.

    Adding them may import much, and `emudev --help` needs none of it.
    """

    fill: Callable[[argparse.ArgumentParser], None] | None = None

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        fill, self.fill = self.fill, None
        if fill is not None:
            fill(self)
        found, rest = super().parse_known_args(args, namespace)
        if not rest:
            return found, rest
        name = rest[0].partition("=")[0]
        if not name.startswith("-"):
            raise ConfigError(f"{rest[0]!r} is one argument too many", where=self.prog)
        options = (option for action in self._actions for option in action.option_strings)
        raise ConfigError(f"unknown option {name}", where=self.prog, hint=hint(name, options))


def make_parser(commands: dict[str, CommandSpec]) -> argparse.ArgumentParser:
    """The parser of the whole command line."""
    parser = _Parser(
        prog="emudev",
        description="Emulated devices in a process of their own, for stock virtual machines.",
        epilog="Plugins are chosen with EMUDEV_PLUGINS=NAME,NAME (empty for none); "
        "EMUDEV_TRACE_HOOKS=1 prints each hook call.",
    )
    parser.add_argument("--version", action="version", version=f"emudev {__version__}")
    parser.add_argument(
        "--log-level", choices=LEVELS, default="info", help="least level shown (default: info)"
    )
    subparsers = parser.add_subparsers(
        dest="command",
        required=True,
        metavar="COMMAND",
        title="commands",
        parser_class=_CommandParser,
    )
    for name, spec in commands.items():
        sub = subparsers.add_parser(name, help=spec.summary, description=spec.summary)
        sub.fill = spec.arguments
    return parser


def _commands(plugins: Plugins) -> dict[str, CommandSpec]:
    commands = {spec.name: spec for spec in COMMANDS}
    for name, spec in sorted(plugins.commands.items()):
        if name in commands:
            raise ConfigError(
                f"command {name} is offered twice: by emudev-core {__version__} and by "
                f"{spec.origin}",
                hint="uninstall that one, or choose plugins with EMUDEV_PLUGINS",
            )
        commands[name] = spec
    return commands


def _say(error: BaseException, status: int) -> int:
    print(f"emudev: error: {' '.join(str(error).split())}", file=sys.stderr)
    if logging.getLogger().isEnabledFor(logging.DEBUG):
        traceback.print_exception(error)
    return status


def _bug() -> int:
    traceback.print_exc()
    print("emudev: error: this is a fault of emudev or of a plugin (exit 70)", file=sys.stderr)
    return _BUG
