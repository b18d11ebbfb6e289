"""Lines that a type checker must refuse; each carries the code that it is refused with."""

from emudev_core import BackendConfig, ProviderSpec
from emudev_core.loop import Loop
from emudev_core.queues import QueueInfo
from emudev_core.wire import Wire, u32, wire


@wire(size=4)
class Word(Wire):
    """One number."""

    value: int = u32("a number")


def wrong(loop: Loop, info: QueueInfo) -> None:
    """Mistakes that plugin authors make."""
    Word(value="7")  # expect: arg-type
    Word(valeu=7)  # expect: call-arg
    Word(value=7).value = 8  # expect: misc
    info.size = 3  # expect: misc
    loop.watch("tap0", print)  # expect: arg-type
    ProviderSpec(name="emu_x", summary="", config=BackendConfig, build=print)  # expect: arg-type
    ProviderSpec("emu_x", "")  # expect: call-arg
