"""Transport hooks: the host tells the transport of a device when to serve.

On the loop's thread. A transport object comes from `TransportSpec.serve`.
"""

from __future__ import annotations

from . import hookspec


@hookspec(firstresult=True)
def emudev_listen() -> str:
    """Make the device reachable.

    Called at each start of the device, after the provider's `emudev_start`. A socket in use, a path
    that can't be made: `TransportError` or `ConfigError`, and nothing is left behind.

    Returns:
        Where it is reachable, for people and programs, such as ``vfio_user:/run/avf0.sock``.

    Example:
        class Pipe:
            @hookimpl
            def emudev_listen(self):
                return "pipe:/run/dice"
    """
    raise AssertionError("a specification is not called")


@hookspec(firstresult=True)
def emudev_unlisten() -> bool:
    """Let the client go and stop being reachable; what was made (a socket file) is removed.

    Called at each stop, before the provider's `emudev_stop`, and never for one that did not listen.

    Returns:
        True.

    Example:
        class Pipe:
            @hookimpl
            def emudev_unlisten(self):
                return True
    """
    raise AssertionError("a specification is not called")
