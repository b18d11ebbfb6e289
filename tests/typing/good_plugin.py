"""A small third-party plugin: must pass mypy --strict without a word."""

from collections.abc import Iterable
from typing import Annotated

from msgspec import Meta

from emudev_core import ProviderConfig, ProviderSpec, hookimpl
from emudev_core.specs import ProviderContext
from emudev_core.wire import Wire, be16, pad, u32, wire


class DiceConfig(ProviderConfig):
    """Configuration of the dice."""

    sides: Annotated[int, Meta(ge=2, le=1000, description="sides of the dice")] = 6


@wire(size=8)
class Roll(Wire):
    """What the dice stores."""

    value: int = u32("1 to sides")
    kind: int = be16("kind of dice")
    hole: bytes = pad(2)


class Dice:
    """The provider."""

    def __init__(self, config: DiceConfig, context: ProviderContext) -> None:
        self.sides = config.sides
        self.device = context.device

    @hookimpl
    def emudev_region_read(self, region: int, offset: int, size: int) -> int:
        """Answer a register access."""
        packed: bytes = Roll(value=self.sides, kind=1).pack()
        return Roll.unpack(packed).value


def build(config: DiceConfig, context: ProviderContext) -> Dice:
    """Make a dice."""
    return Dice(config, context)


@hookimpl
def emudev_providers() -> Iterable[ProviderSpec]:
    """Offer it."""
    yield ProviderSpec(name="emu_dice", summary="A dice", config=DiceConfig, build=build)
