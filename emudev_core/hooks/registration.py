"""What an installed distribution offers: records, not live objects.

Called once per process, each plugin's right after its import, one plugin after the other, on the
main thread; one that raises is reported with its distribution and version and the others go on.
Nothing heavy may be imported to answer: builders import what they need when they run.
"""

from __future__ import annotations

from collections.abc import Iterable

from ..specs import BackendSpec, CommandSpec, ObserverSpec, ProviderSpec, TransportSpec
from . import hookspec


@hookspec
def emudev_providers() -> Iterable[ProviderSpec]:
    """Device models.

    Two distributions that offer one name, or a stem twice, are an error that names both.

    Called once a process, after the plugin was imported. An exception drops the plugin's providers
    and is reported with its distribution and version.

    Returns:
        The records, in any order; a generator is consumed inside the guard.

    Example:
        from emudev_core import ProviderConfig, ProviderSpec, hookimpl

        class DiceConfig(ProviderConfig):
            sides: int = 6

        def build(config, context):
            from emudev_dice.device import Dice
            return Dice(config, context)

        @hookimpl
        def emudev_providers():
            yield ProviderSpec(name="emu_dice", summary="A dice", config=DiceConfig, build=build)
    """
    raise AssertionError("a specification is not called")


@hookspec
def emudev_transports() -> Iterable[TransportSpec]:
    """Ways for a client to reach a device.

    Called once a process; see `emudev_providers`.

    Returns:
        The records.

    Example:
        from emudev_core import TransportConfig, TransportSpec, hookimpl

        class PipeConfig(TransportConfig):
            path: str

        def serve(config, context):
            from emudev_pipe.server import PipeServer
            return PipeServer(config, context)

        @hookimpl
        def emudev_transports():
            yield TransportSpec(name="pipe", summary="A pipe", config=PipeConfig, serve=serve)
    """
    raise AssertionError("a specification is not called")


@hookspec
def emudev_backends() -> Iterable[BackendSpec]:
    """Data paths: where the frames of a device go.

    Called once a process; see `emudev_providers`.

    Returns:
        The records.

    Example:
        from emudev_core import BackendConfig, BackendSpec, hookimpl

        class SinkConfig(BackendConfig):
            pass

        def build(config, context):
            from emudev_sink.backend import Sink
            return Sink(config, context)

        @hookimpl
        def emudev_backends():
            yield BackendSpec(name="sink", summary="Drops all", config=SinkConfig, build=build)
    """
    raise AssertionError("a specification is not called")


@hookspec
def emudev_commands() -> Iterable[CommandSpec]:
    """Subcommands of ``emudev``.

    Called once a process; see `emudev_providers`. The arguments of a command are added when it is
    chosen.

    Returns:
        The records.

    Example:
        from emudev_core import CommandSpec, hookimpl

        def run(arguments, plugins):
            print("hello")
            return 0

        @hookimpl
        def emudev_commands():
            yield CommandSpec(name="hello", summary="Say hello", run=run)
    """
    raise AssertionError("a specification is not called")


@hookspec
def emudev_observers() -> Iterable[ObserverSpec]:
    """Observers: wrappers around the hooks of a device, which no device knows of.

    An installed observer does nothing until it is named: ``--observe NAME,emu=DEVICE``.

    Called once a process; see `emudev_providers`.

    Returns:
        The records.

    Example:
        from emudev_core import ObserverConfig, ObserverSpec, hookimpl

        class CountReads:
            def __init__(self):
                self.counts = {}

            @hookimpl(wrapper=True)
            def emudev_region_read(self, region, offset, size):
                value = yield
                self.counts[region, offset] = self.counts.get((region, offset), 0) + 1
                return value

        @hookimpl
        def emudev_observers():
            yield ObserverSpec(
                name="count_reads", summary="Counts register reads", config=ObserverConfig,
                build=lambda config, context: CountReads(),
            )
    """
    raise AssertionError("a specification is not called")
