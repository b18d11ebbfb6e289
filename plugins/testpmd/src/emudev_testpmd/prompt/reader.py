"""Lines from standard input, one at a time, while the loop runs.

A thread of its own reads: a terminal by way of readline, with history and completion, anything
else as bytes. It hands a line over to the loop's thread, and reads the next when it is told to.
Signals stay with the main thread.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import threading
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from emudev_core.loop import Loop

__all__ = [
    "LineReader",
    "Lines",
    "TerminalReader",
    "is_terminal",
    "make_reader",
    "standard_input",
]

#: A line longer than that is cut there, bytes.
_LONGEST: Final = 65536

_Complete = Callable[[str], list[str]]
_Deliver = Callable[[str | None], None]


class Lines:
    """Bytes in, lines out; sans I/O."""

    def __init__(self) -> None:
        self._rest = bytearray()
        self._ended = False

    def feed(self, data: bytes) -> None:
        """Bytes that came; none means the end."""
        self._rest += data
        self._ended = self._ended or not data

    def next(self) -> str | None:
        """The next line without its end, or None if it is not there yet or nothing comes more."""
        line, end, rest = self._rest.partition(b"\n")
        if not end and not (self._ended and line) and len(line) < _LONGEST:
            return None
        self._rest = rest
        return line.decode(errors="replace").rstrip("\r")

    @property
    def ended(self) -> bool:
        """Whether nothing comes more."""
        return self._ended and not self._rest


class _Reader:
    """What both have: a thread that reads when it is told to."""

    def __init__(self, loop: Loop, deliver: _Deliver) -> None:
        self._loop = loop
        self._deliver = deliver
        self._go = threading.Event()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="emudev-prompt", daemon=True)

    def start(self) -> None:
        """Begin; the first line is read at `next`."""
        self._thread.start()

    def next(self) -> None:
        """Read a line, and have it delivered on the loop's thread; None is the end of them."""
        self._go.set()

    def _run(self) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        while True:
            self._go.wait()
            self._go.clear()
            if self._closed:
                return
            line = self._read()
            if self._closed:
                return
            self._loop.call_threadsafe(partial(self._deliver, line))
            if line is None:
                return

    def _read(self) -> str | None:
        raise NotImplementedError


class LineReader(_Reader):
    """Reads a pipe, a file, or a terminal without readline.

    Args:
        loop: The process' loop.
        deliver: Called on its thread with each line.
        fd: Read from; the caller keeps it.
    """

    def __init__(self, loop: Loop, deliver: _Deliver, fd: int) -> None:
        super().__init__(loop, deliver)
        self._fd = fd
        self._lines = Lines()
        self._waker = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def _read(self) -> str | None:
        while True:
            line = self._lines.next()
            if line is not None or self._lines.ended:
                return line
            poller = select.poll()
            poller.register(self._fd, select.POLLIN)
            poller.register(self._waker, select.POLLIN)
            ready = {fd for fd, _ in poller.poll()}
            if self._waker in ready:
                return None
            try:
                data = os.read(self._fd, 4096)
            except BlockingIOError:
                continue
            except OSError:  # it is closed, or the terminal is gone
                data = b""
            self._lines.feed(data)

    def close(self) -> None:
        """End the thread. A second call does nothing."""
        if self._closed:
            return
        self._closed = True
        os.eventfd_write(self._waker, 1)
        self._go.set()
        if self._thread.is_alive():
            self._thread.join()
        os.close(self._waker)


class TerminalReader(_Reader):
    """Reads a terminal with history and completion.

    Args:
        loop: The process' loop.
        deliver: Called on its thread with each line.
        prompt: Shown in front of each line.
        complete: From a line up to the cursor to the words that may stand there; any thread.
    """

    def __init__(self, loop: Loop, deliver: _Deliver, prompt: str, complete: _Complete) -> None:
        super().__init__(loop, deliver)
        import termios

        self._prompt = prompt
        self._settings = termios.tcgetattr(0)
        _set_up_readline(complete)

    def _read(self) -> str | None:
        try:
            return input(self._prompt)
        except (EOFError, OSError):
            return None

    def close(self) -> None:
        """Read no more, and leave the terminal as it was; the thread may stay in its last read."""
        import termios

        if not self._closed:
            self._closed = True
            self._go.set()
            with contextlib.suppress(termios.error):
                termios.tcsetattr(0, termios.TCSADRAIN, self._settings)


def _set_up_readline(complete: _Complete) -> None:
    import readline

    found: list[str] = []

    def completer(_: str, state: int) -> str | None:
        if state == 0:
            found[:] = complete(readline.get_line_buffer()[: readline.get_endidx()])
        if state >= len(found):
            return None
        return f"{found[state]} " if len(found) == 1 else found[state]

    readline.set_completer(completer)
    readline.set_completer_delims(" \t")
    if "libedit" in (readline.__doc__ or ""):
        readline.parse_and_bind("bind ^I rl_complete")
    else:
        readline.parse_and_bind("tab: complete")
        # Programs that drive the prompt through a terminal look for it as it is.
        readline.parse_and_bind("set enable-bracketed-paste off")


def is_terminal(stream: Any) -> bool:
    """Whether a standard stream is a terminal; a missing or closed one is not."""
    try:
        return stream is not None and bool(stream.isatty())
    except ValueError:
        return False


def standard_input() -> int:
    """The descriptor of standard input; of an empty one if the process was begun without any.

    Its number may belong to something else then, so it is never taken for granted.
    """
    return os.open(os.devnull, os.O_RDONLY) if sys.stdin is None else sys.stdin.fileno()


def make_reader(
    loop: Loop, deliver: _Deliver, prompt: str, complete: _Complete
) -> LineReader | TerminalReader:
    """The reader that fits standard input.

    Args:
        loop: The process' loop.
        deliver: Called on its thread with each line, None at the end.
        prompt: Shown by a `TerminalReader`; with any other the caller shows it.
        complete: See `TerminalReader`.
    """
    if is_terminal(sys.stdin) and is_terminal(sys.stdout):
        try:
            return TerminalReader(loop, deliver, prompt, complete)
        except ImportError:  # a Python without readline
            pass
    return LineReader(loop, deliver, standard_input())
