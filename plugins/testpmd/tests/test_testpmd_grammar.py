"""From lines to commands, and the words that complete a line."""

import pytest

from emudev_testpmd.prompt.grammar import (
    KINDS,
    TOPICS,
    Command,
    PromptError,
    completions,
    parse,
)
from emudev_testpmd.prompt.table import COMMANDS, as_markdown


class Application:
    """As much of one as completion needs."""

    def __init__(self):
        self.ports = {0: None, 3: None}


def values(line):
    found = parse(line, COMMANDS)
    assert found is not None
    return found[0].text, found[1]


@pytest.mark.parametrize(
    ("line", "text", "given"),
    [
        ("start", "start", []),
        ("start tx_first", "start tx_first", []),
        ("start tx_first 4", "start tx_first N", [4]),
        ("  stop  ", "stop", []),
        ("quit # for today", "quit", []),
        ("show port stats all", "show port (info|summary|stats|xstats) PORTS", ["stats", "all"]),
        ("show port info 0", "show port (info|summary|stats|xstats) PORTS", ["info", 0]),
        ("show port 1 macs", "show port PORT macs", [1]),
        ("clear port xstats 2", "clear port (stats|xstats) PORTS", ["xstats", 2]),
        ("show config fwd", "show config (fwd|rxtx|cores|txpkts)", ["fwd"]),
        ("set fwd icmpecho", "set fwd MODE", ["icmpecho"]),
        ("set txpkts 64,128", "set txpkts LIST", [(64, 128)]),
        ("set promisc all off", "set promisc PORTS (on|off)", ["all", "off"]),
        (
            "set eth-peer 0 02:00:00:00:00:07",
            "set eth-peer PORT MAC",
            [0, bytes.fromhex("020000000007")],
        ),
        ("port stop all", "port (start|stop|close|reset) PORTS", ["stop", "all"]),
        ("set link-down port 1", "set link-down port PORT", [1]),
        ("help display", "help TOPIC", ["display"]),
        ("load /tmp/commands", "load FILE", ["/tmp/commands"]),
    ],
)
def test_a_line_is_its_command_and_values(line, text, given):
    assert values(line) == (text, given)


@pytest.mark.parametrize("line", ["", "   ", "# nothing", "\t"])
def test_an_empty_line_is_none(line):
    assert parse(line, COMMANDS) is None


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("stort", r"Command not found \(did you mean start\?\)"),
        ("xyzzy", r"Command not found \(known: .*start.*\)"),
        ("shwo port stats all", "did you mean show"),
        ("show prot stats all", r"Bad arguments \(no 'prot' behind show: did you mean port\?"),
        ("show port stat all", r"Bad arguments \(.*did you mean stats\?"),
        ("show port stats", r"Bad arguments \(expected PORTS behind show port stats\)"),
        ("show port", r"expected info\|summary\|stats\|xstats\|PORT behind show port"),
        ("show port stats 0 1", "'1' is one word too many"),
        ("stop now", "'now' is one word too many"),
        ("set fwd macswop", r"unknown mode 'macswop' \(did you mean macswap\?\)"),
        ("set fwd", "expected MODE behind set fwd"),
        ("set burst many", "expected a number from 0, came 'many'"),
        ("set promisc 0 maybe", r"expected on\|off, came 'maybe'"),
        ("set promisc x on", "expected the number of a port, or all, came 'x'"),
        ("set eth-peer 0 zz", "expected a MAC address like"),
        ("help me", r"unknown topic 'me'"),
        ("start tx_frist", "tx_frist"),
        ("set bursty 3", "did you mean burst"),
        ("port restart 0", r"expected start\|stop\|close\|reset, came 'restart'|did you mean"),
    ],
)
def test_a_line_that_is_no_command_says_why(line, message):
    with pytest.raises(PromptError, match=message):
        parse(line, COMMANDS)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("", ["start", "stop", "load", "help", "quit", "show", "clear", "set", "csum"]),
        ("st", ["start", "stop"]),
        ("show ", ["port", "config", "fwd"]),
        ("show p", ["port"]),
        ("show port s", ["summary", "stats"]),
        ("show port stats ", ["0", "3", "all"]),
        ("set fwd mac", ["mac", "macswap"]),
        ("set promisc all ", ["on", "off"]),
        ("set link-", ["link-up", "link-down"]),
        ("start ", ["tx_first"]),
        ("help c", ["control", "config"]),
        ("set burst ", []),
        ("quit ", []),
        ("nothing ", []),
    ],
)
def test_completion_offers_what_may_come_next(line, words):
    found = completions(line, COMMANDS, Application())
    assert found[: len(words)] == words
    if line:
        assert found == words


def test_every_command_has_help_of_a_topic_and_known_words():
    for command in COMMANDS:
        assert command.topic in TOPICS, command.text
        assert command.help.endswith("."), command.text
        assert command.words[0].choices, command.text


def test_no_command_hides_another():
    texts = [command.text for command in COMMANDS]
    assert len(texts) == len(set(texts))


def test_words_in_capitals_are_values_of_a_kind():
    made = Command("move N (left|right) now", "Move.", "control", lambda *_: None)
    assert [word.given for word in made.words] == [False, True, True, False]
    assert made.words[1].kind is KINDS["N"]
    assert made.text == "move N (left|right) now"


def test_a_word_of_no_kind_is_refused_when_it_is_declared():
    with pytest.raises(KeyError, match="COLOUR"):
        Command("paint COLOUR", "Paint.", "control", lambda *_: None)


def test_the_table_of_the_documentation_has_every_command():
    page = as_markdown()
    for command in COMMANDS:
        assert f"| `{command.text.replace('|', chr(92) + '|')}` | {command.help} |" in page
