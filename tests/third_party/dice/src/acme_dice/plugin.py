"""What the distribution offers."""

from emudev_core import ObserverSpec, ProviderSpec, hookimpl

from .config import CounterConfig, DiceConfig


def build(config, context):
    """Make a dice."""
    from .device import Dice

    return Dice(config, context)


def count(config, context):
    """Make an observer."""
    from .observer import ReadCounter

    return ReadCounter(config, context)


def registers():
    """The register map, for `emudev regs`."""
    from .device import MAP

    return MAP


@hookimpl
def emudev_providers():
    """Offer the dice."""
    yield ProviderSpec(
        name="emu_dice",
        summary="A dice for teaching",
        config=DiceConfig,
        build=build,
        registers=registers,
    )


@hookimpl
def emudev_observers():
    """Offer the observer."""
    yield ObserverSpec(
        name="count_reads", summary="Counts register reads", config=CounterConfig, build=count
    )
