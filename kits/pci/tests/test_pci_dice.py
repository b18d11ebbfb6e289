"""A device in 60 lines and its test, as the design shows them; both transports where installed."""

import random
from collections.abc import Iterable
from typing import Annotated

import pytest
from msgspec import Meta

from emudev_core import ProviderConfig, ProviderSpec, hookimpl
from emudev_core.listing import maps_of
from emudev_core.testing.builders import make_plugins
from emudev_pci.function import MemoryBar, Msix, PciFunction, PciIds
from emudev_pci.registers import RO, RW, WO, Reg, RegisterMap

MAP = RegisterMap(
    "dice.bar0",
    size=0x1000,
    regs=[
        Reg("ROLL", 0x00, access=RO, doc="A new number from 1 to SIDES at each read."),
        Reg("SIDES", 0x04, reset=6, access=RW, doc="Number of sides, 2 to 1000."),
        Reg(
            "AGAIN",
            0x08,
            access=WO,
            doc="A write rolls, stores the result at the address in TARGET, and raises vector 0.",
        ),
        Reg("TARGET", 0x10, size=8, access=RW, doc="Guest physical address of a 32-bit word."),
    ],
)


class DiceConfig(ProviderConfig):
    sides: Annotated[int, Meta(ge=2, le=1000, description="sides of the dice at reset")] = 6


class Dice(PciFunction):
    ids = PciIds(vendor=0x1234, device=0xD1CE, class_code=0x00FF00)
    bars = {0: MemoryBar(MAP)}  # noqa: RUF012 - as the design shows it
    msix = Msix(vectors=1, bar=1)

    @MAP.on_read("ROLL")
    def roll(self) -> int:
        return random.randint(1, self.regs.SIDES)

    @MAP.on_write("AGAIN", deferred=True)  # may touch guest memory of any kind
    def again(self, _: int) -> None:
        self.memory.write_u32(self.regs.TARGET, self.roll())
        self.vectors[0].trigger()


@hookimpl
def emudev_providers() -> Iterable[ProviderSpec]:
    yield ProviderSpec(
        name="emu_dice", summary="A dice for teaching", config=DiceConfig, build=Dice
    )


@pytest.fixture
def emudev_plugins():
    return make_plugins(*emudev_providers(), installed=True)


def test_again_stores_and_interrupts(emudev_function):
    dice = emudev_function("emu_dice,id=0,sides=20")
    page = dice.map_memory(4096)
    dice.bar[0].TARGET = page.address
    dice.bar[0].AGAIN = 1
    assert dice.vectors[0].wait(timeout=1)
    assert 1 <= page.read_u32(0) <= 20


def test_memory_that_only_messages_reach_will_do(emudev_function):
    dice = emudev_function("emu_dice,id=0")
    page = dice.map_memory(4096, by_message=True)
    dice.bar[0].TARGET = page.address + 8
    dice.bar[0].AGAIN = 1
    assert dice.vectors[0].wait(timeout=1)
    dice.pause(0.01)  # the write is posted by message
    assert 1 <= page.read_u32(8) <= 6


def test_a_wrong_address_is_no_error_of_the_device(emudev_function, emudev_host):
    dice = emudev_function("emu_dice,id=0")
    dice.bar[0].TARGET = 0xDEAD_0000
    dice.bar[0].AGAIN = 1
    assert not dice.vectors[0].wait(timeout=0.02)
    (device,) = emudev_host.registry
    assert device.state.value == "started"
    assert dice.config.read16(6) & 1 << 13  # received master abort
    assert 1 <= dice.bar[0].ROLL <= 6


def test_a_function_level_reset_forgets_registers_and_keeps_vectors(emudev_function):
    dice = emudev_function("emu_dice,id=0")
    dice.vectors[0].enable()
    dice.bar[0].SIDES = 2
    dice.flr()
    assert dice.bar[0].SIDES == 6
    assert dice.config.read16(4) == 0
    page = dice.map_memory(4096)
    dice.bar[0].TARGET = page.address
    dice.bar[0].AGAIN = 1
    assert not dice.vectors[0].wait(timeout=0.02), "it stored without bus mastering"
    dice.enable()
    dice.bar[0].AGAIN = 1
    assert dice.vectors[0].wait(timeout=1)


def test_its_registers_are_listed_without_a_word():
    (spec,) = emudev_providers()
    assert maps_of(spec.register_maps()) == [MAP]
