"""The port: an application's end of an emulated device.

Receive queue p of the port is what the peer sends by its queue pair p, transmit queue p what it
receives by it. The kernels are the device's own: nothing lies between an application and the rings.

- **Link.** The link that the peer sees (attribute `attributes.LINK`) is up while the port is
  started, its kernels are ready, and the application's `set_link` is up. The port's own link
  status is up if the device is started and the peer has enabled a receive queue, besides.
- **Address, MTU, modes** are the device's attributes, where it has them and lets them be set; else
  the port only remembers them. All frames of the peer arrive in any case.
- **Events** of the device become events of the port. A device that is closed or in error takes the
  port with it (`PortEventKind.REMOVED`).
- **Counters** are those of the device's queues. A device may deliver what a transmit queue is given
  to another queue of the peer (AVF does, by RSS): a packet is counted at the queue that it went to.
- **Queue pairs that the port has no receive queue for** are polled by nobody, as with DPDK: what
  the peer sends there waits in its rings. A warning names them once, and the extended statistics
  (``rx_unserved_queues``) say how many of them the peer has enabled now.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Final

from emudev_core import attributes
from emudev_core.attributes import AttributeValue
from emudev_core.errors import BackendError, ConfigError, DeviceError
from emudev_core.events import Event, EventKind
from emudev_core.hooks import hookimpl
from emudev_core.lifecycle import State
from emudev_core.queues import Doorbell, Offload, QueueKernels, rx_queue, tx_queue
from emudev_core.runners import Runner
from emudev_core.subscribers import Subscribers
from emudev_net.addresses import mac_text, parse_mac
from emudev_net.port import Port, PortEvent, PortEventKind, PortInfo, PortState
from emudev_net.port_records import ETHERNET_OVERHEAD, MIN_MTU

if TYPE_CHECKING:
    from emudev_core.device import Device
    from emudev_core.specs import BackendContext

    from .config import AvfbeConfig

__all__ = ["AvfbePort", "refusal"]

log = logging.getLogger(__name__)

DRIVER: Final = "net_avfbe"
#: What a device that names no largest frame is trusted with, bytes.
PLAIN_FRAME: Final = 1518
#: A guest may ask for any of them in what it sends; a flow does what the other end can't.
ANY: Final = (
    Offload.CSUM | Offload.CRC32C | Offload.TSO4 | Offload.TSO6 | Offload.USO | Offload.VLAN
)
#: An attribute of devices that tell groups apart.
ALL_MULTICAST: Final = "all_multicast"


def refusal(device: Device) -> str | None:
    """Why a device can't be a port, or None if it can."""
    if device.get_dev_info().max_queue_pairs == 0:
        return "it has no queues"
    for queue in (rx_queue(0), tx_queue(0)):
        try:
            kernels = device.get_queue_info(queue).kernels
        except DeviceError as error:
            return str(error)
        if kernels is None:
            return "its queues carry no frames"
    return None


class AvfbePort(Port):
    """See the module. On the loop's thread, but for what `Port` says.

    Args:
        config: What the user said.
        context: The device, under ``emu``, and the loop.

    Attributes:
        device: The device.
    """

    def __init__(self, config: AvfbeConfig, context: BackendContext) -> None:
        mac = None if config.mac is None else parse_mac(config.mac)
        super().__init__(context.name, context.loop, mac)
        self.device: Device = context.devices["emu"]
        self._own_mac = mac is not None
        self._running = False  # the device, with its backends
        self._warned = False
        self._sending: tuple[QueueKernels | None, ...] = ()
        self._undo: list[Callable[[], None]] = []
        self._rooms = Subscribers()

    # -- hooks: the device's life

    @hookimpl
    def emudev_backend_offered(self, device: Device) -> str | None:
        """Refuse a device whose queues carry no frames."""
        return refusal(device)

    @hookimpl
    def emudev_backend_started(self, device: Device) -> None:
        """The link may come up."""
        self._running = True
        if self.state is PortState.STARTED and self.ready:
            self.on_link(self.link_wanted)
        self.update_link()

    @hookimpl
    def emudev_backend_stopped(self, device: Device) -> None:
        """Link down, until the device is started again; the port stays as it is."""
        self._tell(attributes.LINK, False)
        self._running = False
        self.update_link()

    @hookimpl
    def emudev_close(self) -> None:
        """The device is closed, and the port with it."""
        if self.state is not PortState.CLOSED:
            self._running = False
            self.post(PortEvent(PortEventKind.REMOVED, text=f"{self.device.name} was closed"))
            self.close()

    @hookimpl
    def emudev_backend_event(self, device: Device, event: Event) -> None:
        """Tell the application in a port's terms."""
        kind = event.kind
        if kind is EventKind.ERROR:
            self._running = False
            self.fail(f"{device.name}: {event.text}", removed=True)
        elif kind is EventKind.QUEUE_STATE:
            self._queue_changed(event)
        elif kind is EventKind.RESET:
            self.post(PortEvent(PortEventKind.RESET, text=event.text))
        elif kind is EventKind.CLIENT:
            self.post(PortEvent(PortEventKind.PEER, value=event.value, text=event.text))
        if kind in (EventKind.QUEUE_STATE, EventKind.RESET, EventKind.CLIENT, EventKind.OVERFLOW):
            self.update_link()
            self._wake_all()

    def _queue_changed(self, event: Event) -> None:
        pair, sends = divmod(event.queue, 2)
        served = self.rx_queues if sends else self.tx_queues
        if not 0 <= pair < served:
            if sends and event.value and self.state is PortState.STARTED:
                self._warn_unserved()
            return
        self.post(
            PortEvent(PortEventKind.QUEUE_STATE, pair, event.value, event.text, rx=bool(sends))
        )

    def _wake_all(self) -> None:
        for queue in range(self.rx_queues):
            self.wake_rx(queue)
        self._rooms.call()

    # -- what it is

    def describe(self) -> PortInfo:
        """The size of the device; what its queues take is known once it is configured."""
        info = self.device.get_dev_info()
        largest = info.max_frame or PLAIN_FRAME
        pairs = info.max_queue_pairs
        configured = self.device.state is not State.ALLOCATED
        sink = self.device.get_queue_info(rx_queue(0)).kernels if pairs and configured else None
        return PortInfo(
            driver=DRIVER,
            device=self.device.name,
            max_rx_queues=pairs,
            max_tx_queues=pairs,
            max_frame=largest,
            min_mtu=MIN_MTU,
            max_mtu=largest - ETHERNET_OVERHEAD,
            rx_offloads=ANY,
            tx_offloads=Offload.NONE if sink is None else sink.takes,
            parallel=info.parallel,
        )

    def source(self, queue: int) -> QueueKernels:
        """What the peer sends by a queue pair."""
        return self._kernels_of(tx_queue(queue))

    def sink(self, queue: int) -> QueueKernels:
        """What the peer receives by a queue pair."""
        return self._kernels_of(rx_queue(queue))

    def _kernels_of(self, queue: int) -> QueueKernels:
        kernels = self.device.get_queue_info(queue).kernels
        if kernels is None:
            raise BackendError(f"{self.device.name}: queue {queue} carries no frames")
        return kernels

    # -- life

    def on_configure(self) -> None:
        """Listen to the doorbells of the queues; a device that is not configured yet is now."""
        if self.device.state is State.ALLOCATED:
            self.device.configure()
        if self.device.state in (State.ERROR, State.CLOSED):
            raise BackendError(f"{self.device.name} is {self.device.state.value}")
        pairs = range(self.device.get_dev_info().max_queue_pairs)
        infos = [self.device.get_queue_info(rx_queue(pair)) for pair in pairs]
        self._sending = tuple(info.kernels for info in infos)
        self._let_go()
        for queue in range(self.rx_queues):
            woken = self.rx_subscribers(queue)
            self._listen(self._bell(tx_queue(queue)), partial(self.wake_rx, queue), woken)
        for queue in range(self.tx_queues):
            self._rooms.add(partial(self.wake_tx, queue), self.tx_subscribers(queue))
        # Whatever queue of the peer a frame goes to: that one may have had no room.
        for info in infos:
            self._listen(self.device.get_db_info(info.doorbell), self._rooms.call, self._rooms)

    def _bell(self, queue: int) -> Doorbell:
        return self.device.get_db_info(self.device.get_queue_info(queue).doorbell)

    def _listen(self, bell: Doorbell, callback: Callable[[], None], told: Subscribers) -> None:
        """Have `callback`, which calls those who are `told`, called at rings."""
        bell.subscribe(callback, told)
        self._undo.append(partial(bell.unsubscribe, callback))

    def _let_go(self) -> None:
        for undo in self._undo:
            undo()
        self._undo.clear()
        self._rooms.clear()

    def on_ready(self) -> None:
        """Say which queue pairs nobody polls."""
        if self._running and self._unserved():
            self._warn_unserved()

    def on_close(self) -> None:
        """Let go of the doorbells."""
        self._let_go()

    def on_polled(self, polled: bool) -> None:
        """Ask the peer to ring no more, or to ring again."""
        for pair in range(max(self.rx_queues, self.tx_queues)):
            if pair < self.rx_queues:
                self._bell(tx_queue(pair)).polled = polled
            if pair < self.tx_queues:
                self._bell(rx_queue(pair)).polled = polled

    def rx_fd(self, queue: int) -> int:
        """What the peer itself signals, if there is such a thing: the loop need not wake first."""
        return self._bell(tx_queue(queue)).signal_fd

    def add_runner(self, runner: Runner) -> None:
        """Let the device pause it, too."""
        super().add_runner(runner)
        self.device.add_runner(runner)

    def remove_runner(self, runner: Runner) -> None:
        """Undo `add_runner`."""
        super().remove_runner(runner)
        self.device.remove_runner(runner)

    # -- queue pairs that nobody polls

    def _unserved(self) -> list[int]:
        """The queue pairs without a receive queue of the port that the peer has enabled."""
        if not self._running:
            return []
        pairs = range(self.rx_queues, self.device.get_dev_info().max_queue_pairs)
        return [pair for pair in pairs if self.device.get_queue_info(tx_queue(pair)).enabled]

    def _warn_unserved(self) -> None:
        if not self._warned:
            self._warned = True
            log.warning(
                "%s polls %d queues: what the peer sends by queue pairs from %d on waits",
                self.name,
                self.rx_queues,
                self.rx_queues,
            )

    # -- statistics

    def counted(self) -> tuple[Sequence[QueueKernels | None], Sequence[QueueKernels | None]]:
        """Its receive queues, and all queues that the device may deliver to."""
        return super().counted()[0], self._sending

    def gauges(self) -> dict[str, int]:
        """How many enabled queues of the peer nobody polls."""
        return {"rx_unserved_queues": len(self._unserved())}

    # -- link, address, modes

    @property
    def carrier(self) -> bool:
        """Whether the device is started, and the peer has enabled a receive queue."""
        if not self._running:
            return False
        pairs = range(self.device.get_dev_info().max_queue_pairs)
        return any(self.device.get_queue_info(rx_queue(pair)).enabled for pair in pairs)

    @property
    def speed(self) -> int:
        """What the device tells its peer."""
        found = self._attribute(attributes.SPEED)
        return found if type(found) is int else super().speed

    def on_link(self, wanted: bool) -> None:
        """Tell the peer."""
        if self._running:
            self._tell(attributes.LINK, wanted)

    @property
    def mac(self) -> bytes:
        """The device's address, unless the port has one of its own."""
        found = None if self._own_mac else self._attribute(attributes.MAC)
        if isinstance(found, str):
            try:
                return parse_mac(found)
            except ValueError:
                log.debug("%s: no address: %r", self.device.name, found)
        return super().mac

    def on_mac(self, mac: bytes) -> None:
        """Set the device's; one that can't be set is the port's own from now on."""
        if not self._own_mac and not self._tell(attributes.MAC, mac_text(mac)):
            self._own_mac = True

    def on_promiscuous(self, on: bool) -> None:
        """Tell a device that lets it be set."""
        self._tell(attributes.PROMISCUOUS, on)

    def on_all_multicast(self, on: bool) -> None:
        """Tell a device that lets it be set."""
        self._tell(ALL_MULTICAST, on)

    def on_mtu(self, mtu: int) -> None:
        """Tell a device that lets it be set."""
        self._tell(attributes.MTU, mtu)

    def _attribute(self, name: str) -> AttributeValue | None:
        try:
            if any(info.name == name for info in self.device.get_attributes()):
                return self.device.get_attr(name)
        except DeviceError as error:
            log.debug("%s: %s", self.device.name, error)
        return None

    def _tell(self, name: str, value: AttributeValue) -> bool:
        """Set an attribute of the device; whether it has one that can be set.

        Raises:
            ConfigError: It does not take the value.
        """
        try:
            known = self.device.get_attributes()
        except DeviceError:
            return False
        if not any(info.name == name and info.writable for info in known):
            return False
        try:
            self.device.set_attr(name, value)
        except DeviceError as error:
            raise ConfigError(str(error), where=f"{self.name}: {name}") from error
        return True
