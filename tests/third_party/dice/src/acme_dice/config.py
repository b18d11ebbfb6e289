"""What the dice and the observer can be told."""

from typing import Annotated

from msgspec import Meta

from emudev_core import ObserverConfig, ProviderConfig


class DiceConfig(ProviderConfig):
    """The dice's keys."""

    sides: Annotated[int, Meta(ge=2, le=1000, description="sides of the dice at reset")] = 6


class CounterConfig(ObserverConfig):
    """The observer's keys."""

    report: Annotated[str, Meta(description="file that the counts are written to, JSON")]
