"""Errors, by who is at fault.

    EmudevError
    ├── ConfigError          the user: an option, a configuration file, an unknown name     exit 2
    ├── LifecycleError       the caller: an operation that the state does not allow          exit 70
    ├── PluginError          a plugin: failed to import, or raised in a hook                 exit 1
    ├── DeviceError          a device that can't do what a backend asked of it               exit 1
    ├── BackendError         the host system: an interface, a descriptor, a permission       exit 1
    ├── TransportError       the host system: a socket that can't be listened on             exit 1
    ├── MemoryAccessError    guest memory that isn't there or can't be reached now
    └── PeerError            the peer broke a protocol; carries the errno of the reply
        └── DecodeError      bytes that do not decode

What a guest driver does wrong never becomes an exception that leaves its device: it gets the
status that hardware gives, and is counted.
"""

from __future__ import annotations

import errno as _errno

__all__ = [
    "EmudevError",
    "ConfigError",
    "LifecycleError",
    "PluginError",
    "DeviceError",
    "BackendError",
    "TransportError",
    "MemoryAccessError",
    "PeerError",
    "DecodeError",
]


class EmudevError(Exception):
    """Base of all errors that emudev raises on purpose."""


class ConfigError(EmudevError):
    """A mistake in what the user asked for.

    Args:
        message: What was expected and what came.
        where: Path of the value, such as ``--vdev emu_iavf: queues`` or ``$.vdev[0].queues``.
        hint: What would be right, such as the nearest known name.
    """

    def __init__(self, message: str, *, where: str = "", hint: str = "") -> None:
        text = f"{where}: {message}" if where else message
        super().__init__(f"{text} ({hint})" if hint else text)
        self.message = message
        self.where = where
        self.hint = hint


class LifecycleError(EmudevError):
    """An operation that a device's state does not allow; the state is unchanged."""


class PluginError(EmudevError):
    """A plugin that failed.

    Args:
        plugin: Distribution and version, such as ``emudev-avf 0.1.0``.
        hook: The hook or step in which it failed.
        cause: What it raised.
    """

    def __init__(self, plugin: str, hook: str, cause: BaseException | str) -> None:
        detail = cause if isinstance(cause, str) else f"{type(cause).__name__}: {cause}"
        super().__init__(f"plugin {plugin} failed in {hook}: {detail}")
        self.plugin = plugin
        self.hook = hook
        self.cause = cause


class DeviceError(EmudevError):
    """A device that can't do what was asked: an unknown queue, attribute or region."""


class BackendError(EmudevError):
    """A failure of the host system below a backend."""


class TransportError(EmudevError):
    """A failure of the host system below a transport, such as a socket that is in use."""


class MemoryAccessError(EmudevError):
    """Guest memory that is not mapped, not writable, or not reachable at this moment.

    Args:
        address: Guest address, bytes.
        size: Length of the access, bytes.
        reason: Why it can't be done.
    """

    def __init__(self, address: int, size: int, reason: str) -> None:
        super().__init__(f"guest memory {address:#x}+{size:#x}: {reason}")
        self.address = address
        self.size = size
        self.reason = reason


class PeerError(EmudevError):
    """The peer broke the protocol.

    Args:
        message: What was expected and what came.
        errno: The positive errno for an error reply.
        fatal: Whether the stream can't go on (framing is lost).
    """

    def __init__(self, message: str, *, errno: int = _errno.EINVAL, fatal: bool = False) -> None:
        super().__init__(message)
        self.errno = errno
        self.fatal = fatal


class DecodeError(PeerError):
    """Bytes that are too short or hold a value outside its range."""
