"""Commands as records, and the way from a line to one of them.

A command's words are written as people read them: ``set promisc PORTS (on|off)``. A word in small
letters stands for itself, ``(a|b)`` for one of several, one in capitals for a value of a kind
(`KINDS`). The values of choices and kinds are what its function is called with.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final

import attrs

from emudev_core.errors import EmudevError
from emudev_core.names import hint

from .. import argument_values as values
from ..options import MODES

if TYPE_CHECKING:
    from ..application import Application

__all__ = [
    "KINDS",
    "TOPICS",
    "Command",
    "Kind",
    "PromptError",
    "Word",
    "completions",
    "parse",
]

#: Topics of help, in order, with the title of each.
TOPICS: Final = {
    "control": "Control forwarding",
    "display": "Display",
    "config": "Configuration",
    "ports": "Port operations",
}


class PromptError(EmudevError):
    """A line that is no command, or one that can't be done now; its text is shown."""


@attrs.frozen
class Kind:
    """A kind of value.

    Attributes:
        name: In capitals, as commands say it.
        read: From a word to the value; raises `ValueError` with what was expected.
        offers: Words to complete with.
    """

    name: str
    read: Callable[[str], Any]
    offers: Callable[[Application], Iterable[str]] = lambda _: ()


_TOO_MANY: Final = "is one word too many"

#: All ports, as a value.
ALL: Final = "all"


def _ports(text: str) -> int | str:
    if text == ALL:
        return ALL
    try:
        return values.natural(text)
    except ValueError:
        raise ValueError(f"expected the number of a port, or all, came {text!r}") from None


def _port(text: str) -> int:
    try:
        return values.natural(text)
    except ValueError:
        raise ValueError(f"expected the number of a port, came {text!r}") from None


def _mode(text: str) -> str:
    if text not in MODES:
        raise ValueError(f"unknown mode {text!r} ({hint(text, MODES)})")
    return text


def _topic(text: str) -> str:
    known = (*TOPICS, ALL)
    if text not in known:
        raise ValueError(f"unknown topic {text!r} ({hint(text, known)})")
    return text


def _numbers_of_ports(application: Application) -> list[str]:
    return [str(number) for number in application.ports]


#: The kinds by name.
KINDS: Final = {
    kind.name: kind
    for kind in (
        Kind("PORT", _port, _numbers_of_ports),
        Kind("PORTS", _ports, lambda application: [*_numbers_of_ports(application), ALL]),
        Kind("MODE", _mode, lambda _: MODES),
        Kind("TOPIC", _topic, lambda _: (*TOPICS, ALL)),
        Kind("N", values.natural),
        Kind("LIST", values.numbers),
        Kind("PORTLIST", values.port_list),
        Kind("CPULIST", values.cpu_list),
        Kind("MASK", values.port_mask),
        Kind("MAC", values.address),
        Kind("FILE", str),
    )
}


@attrs.frozen
class Word:
    """One word of a command.

    Attributes:
        choices: The words that it may be; empty for a value.
        kind: Of a value; None for a word or a choice.
        given: Its function is told what was typed: a choice or a value.
    """

    choices: tuple[str, ...] = ()
    kind: Kind | None = None
    given: bool = False

    @property
    def text(self) -> str:
        """As it was declared."""
        if self.kind is not None:
            return self.kind.name
        return f"({'|'.join(self.choices)})" if self.given else self.choices[0]

    def read(self, word: str) -> Any:
        """The value of a typed word.

        Raises:
            ValueError: It does not fit.
        """
        if self.kind is not None:
            return self.kind.read(word)
        if word not in self.choices:
            raise ValueError(f"expected {'|'.join(self.choices)}, came {word!r}")
        return word


def _word(text: str) -> Word:
    if text.startswith("("):
        return Word(choices=tuple(text.strip("()").split("|")), given=True)
    if text.isupper():
        return Word(kind=KINDS[text], given=True)
    return Word(choices=(text,))


def _words(text: str | tuple[Word, ...]) -> tuple[Word, ...]:
    if isinstance(text, tuple):
        return text
    return tuple(_word(part) for part in re.findall(r"\(.*?\)|\S+", text))


@attrs.frozen
class Command:
    """One command.

    Attributes:
        words: What it consists of; declared as text, see the module.
        help: What it does, one sentence.
        topic: One of `TOPICS`.
        run: Does it; called with the application and the values of its choices and kinds.
    """

    words: tuple[Word, ...] = attrs.field(converter=_words)
    help: str
    topic: str
    run: Callable[..., None]

    @property
    def text(self) -> str:
        """Its words as they were declared."""
        return " ".join(word.text for word in self.words)


def parse(line: str, commands: Sequence[Command]) -> tuple[Command, list[Any]] | None:
    """Find the command of a line and the values for its function.

    Args:
        line: As typed; all behind a ``#`` is ignored.
        commands: That there are.

    Returns:
        None for an empty line.

    Raises:
        PromptError: It is none of them; begins with what testpmd says.
    """
    typed = line.partition("#")[0].split()
    if not typed:
        return None
    best = 0
    reasons: dict[str, None] = {}
    for command in commands:
        depth, found, reason = _match(command, typed)
        if found is not None:
            return command, found
        if depth > best:
            best, reasons = depth, {}
        if depth == best:
            reasons[reason] = None
    if best == 0:
        first = {command.words[0].choices[0] for command in commands}
        raise PromptError(f"Command not found ({hint(typed[0], first)})")
    raise PromptError(f"Bad arguments ({_reason(typed, best, list(reasons), commands)})")


def _match(command: Command, typed: Sequence[str]) -> tuple[int, list[Any] | None, str]:
    """How many words fit, the values if all do, else why not."""
    found: list[Any] = []
    for at, (word, text) in enumerate(zip(command.words, typed, strict=False)):
        try:
            value = word.read(text)
        except ValueError as error:
            return at, None, str(error)
        if word.given:
            found.append(value)
    fitting = min(len(command.words), len(typed))
    if len(typed) < len(command.words):
        return fitting, None, f"expected {command.words[fitting].text} behind {' '.join(typed)}"
    if len(typed) > len(command.words):
        return fitting, None, f"{typed[fitting]!r} {_TOO_MANY}"
    return fitting, found, ""


def _reason(
    typed: Sequence[str], at: int, reasons: Sequence[str], commands: Sequence[Command]
) -> str:
    """Why a line that begins well is no command."""
    reasons = [reason for reason in reasons if not reason.endswith(_TOO_MANY)] or reasons
    if len(reasons) == 1:
        return reasons[0]
    expected = [
        choice
        for command in commands
        if len(command.words) > at and _match(command, typed[:at])[0] == at
        for choice in (command.words[at].choices or (command.words[at].text,))
    ]
    if at < len(typed):
        return f"no {typed[at]!r} behind {' '.join(typed[:at])}: {hint(typed[at], expected)}"
    return f"expected {'|'.join(dict.fromkeys(expected))} behind {' '.join(typed)}"


def completions(line: str, commands: Sequence[Command], application: Application) -> list[str]:
    """The words that may stand where the line ends.

    Args:
        line: Up to the cursor; its last word may be begun.
        commands: That there are.
        application: Knows ports.
    """
    typed = line.split()
    begun = "" if not typed or line[-1:].isspace() else typed.pop()
    found: dict[str, None] = {}
    for command in commands:
        if len(command.words) <= len(typed) or _match(command, typed)[0] != len(typed):
            continue
        word = command.words[len(typed)]
        offers = word.choices if word.kind is None else word.kind.offers(application)
        found.update(dict.fromkeys(one for one in offers if one.startswith(begun)))
    return list(found)
