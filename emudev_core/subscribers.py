"""Who is called when something happens, and what native code may be run in the place of calls.

    bell = Subscribers()
    bell.add(flow.kick, flow.shortcut)
    bell.call()                     # what happened is told by calls
    bell.chain                      # or by native code that reads these words

A wait that stays outside of the interpreter (`emudev_net.fast_wait`) can tell subscribers as long
as each has given a `Shortcut`. All methods are for the loop's thread.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Final, TypeAlias

import attrs

__all__ = ["Shortcut", "Subscribers"]

#: Shortcuts that a chain has room for: told one by one, they keep all else of the loop waiting.
_CHAIN: Final = 8


@attrs.frozen
class Shortcut:
    """Native code that does what a callback does, for waits that stay outside of the interpreter.

    Attributes:
        address: Of an ``int64(int64 state, int64, int64)`` function, 0 for none. It runs on the
            loop's thread without the interpreter's lock, and answers 0 if all is done; anything
            else has the callback called as well.
        state: Its first argument; whoever gives it keeps what lies there.
    """

    address: int
    state: int


class Subscribers:
    """A list of callbacks, each with or without a shortcut.

    Attributes:
        chain: Address of int64 words, good for the life of this: the number of shortcuts, -1 if
            native code can't tell all subscribers (one has no shortcut, or there are too many);
            then the function and the state of each shortcut, in the order of the subscribers.
    """

    __slots__ = ("_callbacks", "_containers", "_entries", "_words", "chain")

    def __init__(self) -> None:
        self._entries: tuple[_Entry, ...] = ()
        self._callbacks: tuple[Callable[[], None], ...] = ()
        self._containers: list[Subscribers] = []
        self._words = (ctypes.c_int64 * (1 + 2 * _CHAIN))()
        self.chain = ctypes.addressof(self._words)

    def __len__(self) -> int:
        """How many there are."""
        return len(self._entries)

    def call(self) -> None:
        """Call all of them, in the order in which they came."""
        for callback in self._callbacks:
            callback()

    def add(
        self, callback: Callable[[], None], shortcut: Shortcut | Subscribers | None = None
    ) -> Callable[[], None]:
        """Call `callback` from now on; it must be short (mark a task).

        Args:
            callback: What to call.
            shortcut: What may be run in its place; or other subscribers, if it does nothing but
                `call` them: then their shortcuts, as they come and go, are part of the chain.

        Returns:
            What undoes this one `add`; a second call does nothing.
        """
        entry = (callback, shortcut)
        if isinstance(shortcut, Subscribers):
            shortcut._containers.append(self)
        self._set((*self._entries, entry))

        def undo() -> None:
            self._set(tuple(known for known in self._entries if known is not entry))

        return undo

    def remove(self, callback: Callable[[], None]) -> None:
        """Undo each `add` of a callback that is equal; unknown ones are ignored."""
        self._set(tuple(known for known in self._entries if known[0] != callback))

    def clear(self) -> None:
        """Undo all."""
        self._set(())

    def _set(self, entries: tuple[_Entry, ...]) -> None:
        kept = set(map(id, entries))
        for entry in self._entries:
            other = entry[1]
            if isinstance(other, Subscribers) and id(entry) not in kept:
                other._containers.remove(self)
        self._entries = entries
        self._callbacks = tuple(callback for callback, _ in entries)
        self._chain()

    def _chain(self) -> None:
        """Fill in the chain anew, and those that contain it."""
        words = self._words
        words[0] = -1
        found = self._shortcuts()
        if found is not None:
            for i, cut in enumerate(found):
                words[1 + 2 * i] = cut.address
                words[2 + 2 * i] = cut.state
            words[0] = len(found)
        for container in self._containers:
            container._chain()

    def _shortcuts(self) -> list[Shortcut] | None:
        """What tells all subscribers, in order; None if that can't be."""
        found: list[Shortcut] = []
        for _, cut in self._entries:
            if isinstance(cut, Subscribers):
                inner = cut._shortcuts()
                if inner is None:
                    return None
                found += inner
            elif cut is None or not cut.address:
                return None
            else:
                found.append(cut)
            if len(found) > _CHAIN:
                return None
        return found


_Entry: TypeAlias = tuple[Callable[[], None], Shortcut | Subscribers | None]
