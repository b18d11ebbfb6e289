"""What an AVF device remembers beside its registers, as a typed record, and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import attrs
import msgspec

from emudev_core.errors import DecodeError

from .attributes import AUTO, check_admin_link, check_mtu, check_speed
from .flow_rules import check_rules
from .mailbox import Message
from .resets import ResetState
from .rss_inputs import RssFunction
from .vf import Channel, Lasting, VfState, bits
from .virtchnl.limits import HENA_CAPS

if TYPE_CHECKING:
    from .device import AvfDevice

__all__ = ["Saved", "restore_device", "save_device"]

VERSION: Final = 2


@attrs.frozen
class SavedVector:
    """An interrupt vector.

    Attributes:
        enabled: INTENA.
        pending: An event waits.
        intervals: The three throttles, in units of 2 µs.
    """

    enabled: bool
    pending: bool
    intervals: tuple[int, int, int] = (0, 0, 0)


@attrs.frozen
class Settings:
    """What the user has set since the device was made; None: it is as configured.

    Attributes:
        link: The attribute `admin_link`.
        speed: Of the link, Mbit/s.
        mtu: Largest MTU that the guest is told, bytes.
        mac: MAC address that a reset of the whole device goes back to.
        mac_waits: The guest gets that in its next reset, whatever it sets itself until then.
    """

    link: str = AUTO
    speed: int | None = None
    mtu: int | None = None
    mac: bytes | None = None
    mac_waits: bool = False


@attrs.frozen
class Saved:
    """The record.

    Attributes:
        version: Of this record.
        state, lasting: Of the VF; the state without its enabled queues.
        rx_enabled, tx_enabled: Numbers of the enabled queues.
        reset: Where its reset is.
        waiting: Messages that found no buffer yet.
        vectors: By number.
        rx_heads, tx_heads: Next descriptor of the device, by queue.
        settings: The user's; None in states of before they were saved: the device keeps its own.
        wanted_pairs: Queue pairs that the guest gets in the reset that is announced; 0: as it has.
        wanted_channels: Traffic classes that it gets then; None: as it has.
    """

    version: int
    state: VfState
    lasting: Lasting
    rx_enabled: list[int]
    tx_enabled: list[int]
    reset: ResetState
    waiting: list[Message]
    vectors: list[SavedVector]
    rx_heads: list[int]
    tx_heads: list[int]
    settings: Settings | None = None
    wanted_pairs: int = 0
    wanted_channels: list[Channel] | None = None


def save_device(device: AvfDevice) -> dict[str, Any]:
    """The record of a device, as values that msgspec encodes."""
    device.apply_hash_registers()
    state = device.vf.state
    record = Saved(
        version=VERSION,
        state=attrs.evolve(state, rx_enabled=0, tx_enabled=0),
        lasting=device.vf.lasting,
        # Bit sets of 256 queues are larger than the integers that a record can hold.
        rx_enabled=bits(state.rx_enabled),
        tx_enabled=bits(state.tx_enabled),
        reset=device.resets.state,
        waiting=list(device.mailbox.waiting),
        vectors=[
            SavedVector(v.enabled, v.pending, (v.intervals[0], v.intervals[1], v.intervals[2]))
            for v in device.port.vectors
        ],
        rx_heads=[ring.head for ring in device.port.rx],
        tx_heads=[ring.head for ring in device.port.tx],
        settings=_settings(device),
        wanted_pairs=device.vf.wanted_pairs,
        wanted_channels=device.vf.wanted_channels,
    )
    # The same state is saved as the same bytes: sets in order.
    built: dict[str, Any] = msgspec.to_builtins(
        record, builtin_types=(bytes,), order="deterministic"
    )
    return built


def _settings(device: AvfDevice) -> Settings:
    vf, config = device.vf, device.config
    return Settings(
        link=device.admin_link,
        speed=None if vf.speed == config.link_speed else vf.speed,
        mtu=None if vf.mtu == config.mtu else vf.mtu,
        mac=None if vf.mac == vf.config_mac else vf.mac,
        mac_waits=bool(vf.wanted_mac),
    )


def _restore_settings(device: AvfDevice, settings: Settings) -> None:
    vf, config = device.vf, device.config
    # Not by `Vf.set_link`: the guest is told when the link comes up, and not that it is down.
    vf.speed = config.link_speed if settings.speed is None else settings.speed
    vf.mtu = config.mtu if settings.mtu is None else settings.mtu
    vf.mac = vf.config_mac if settings.mac is None else settings.mac
    vf.wanted_mac = vf.mac if settings.mac_waits else b""
    device.admin_link = settings.link
    device.update_link()


def restore_device(device: AvfDevice, values: Mapping[str, Any]) -> None:
    """Take a record back; the registers have been restored before.

    Raises:
        DecodeError: No such record, of a device with another number of queues, or with values that
            no guest can have set; the last leaves the device to be restored from what it was.
    """
    try:
        record = msgspec.convert(dict(values), Saved)
    except msgspec.ValidationError as exc:
        raise DecodeError(f"{device.name}: saved state: {exc}") from exc
    _check(device, record)
    state = attrs.evolve(
        record.state,
        rx_enabled=sum(1 << queue for queue in set(record.rx_enabled)),
        tx_enabled=sum(1 << queue for queue in set(record.tx_enabled)),
    )
    port = device.port
    device.resets.restore(record.reset)
    try:
        device.vf.restore(state, record.lasting, record.rx_heads, record.tx_heads)
    except (ValueError, OverflowError) as exc:
        raise DecodeError(f"{device.name}: saved state: {exc}") from exc
    device.vf.wanted_pairs = record.wanted_pairs
    device.vf.wanted_channels = record.wanted_channels
    device.mailbox.restore(record.waiting)
    if record.settings is not None:
        _restore_settings(device, record.settings)
    for vector, saved in zip(port.vectors, record.vectors, strict=True):
        vector.restore(saved.enabled, saved.pending, saved.intervals)
    port.vectors[0].cause_enable(bool(device.regs.VFINT_ICR0_ENA1))


def _check(device: AvfDevice, record: Saved) -> None:
    """Refuse what does not fit this device before anything is changed."""
    pairs = device.config.queues
    where = f"{device.name}: saved state"
    if record.version != VERSION:
        raise DecodeError(f"{where}: expected version {VERSION}, came {record.version}")
    lengths = (len(record.vectors), len(record.rx_heads), len(record.tx_heads))
    if lengths != (device.config.vectors, pairs, pairs):
        raise DecodeError(f"{where}: it is of a device with {len(record.rx_heads)} queue pairs")
    state, lasting = record.state, record.lasting
    queues = {*state.rx, *state.tx, *state.rx_vectors, *state.tx_vectors, *state.queue_rates}
    if not all(0 <= queue < pairs for queue in queues):
        raise DecodeError(f"{where}: queues {sorted(queues)}, it has {pairs}")
    vectors = {*state.rx_vectors.values(), *state.tx_vectors.values()}
    if not all(0 <= vector < device.config.vectors for vector in vectors):
        raise DecodeError(f"{where}: vectors {sorted(vectors)}, it has {device.config.vectors}")
    enabled = {*record.rx_enabled, *record.tx_enabled}
    if not all(0 <= queue < pairs for queue in enabled) or state.rx_enabled or state.tx_enabled:
        raise DecodeError(f"{where}: enabled queues {sorted(enabled)}, it has {pairs}")
    if not 1 <= lasting.queue_pairs <= pairs or not 0 <= record.wanted_pairs <= pairs:
        came = f"{lasting.queue_pairs} queue pairs, then {record.wanted_pairs}"
        raise DecodeError(f"{where}: {came}, it has {pairs}")
    for channels in (lasting.channels, record.wanted_channels or []):
        _check_channels(channels, lasting.queue_pairs, where)
    try:
        check_rules(state.rules, pairs)
    except ValueError as exc:
        raise DecodeError(f"{where}: {exc}") from exc
    if state.rss_hena & ~HENA_CAPS or state.rss_function not in list(RssFunction):
        raise DecodeError(f"{where}: hash of types {state.rss_hena:#x} by {state.rss_function}")
    if len(lasting.mac) != 6 or any(len(address) != 6 for address in state.addresses):
        raise DecodeError(f"{where}: a MAC address has 6 bytes")
    if record.settings is not None:
        _check_settings(device, record.settings, where)


def _check_channels(channels: Sequence[Channel], pairs: int, where: str) -> None:
    first = 0
    for channel in channels:
        if channel.offset != first or channel.count < 1 or channel.rate < 0:
            raise DecodeError(f"{where}: a traffic class of impossible queues, {channel}")
        first += channel.count
    if first > pairs:
        raise DecodeError(f"{where}: traffic classes of {first} queue pairs")


def _check_settings(device: AvfDevice, settings: Settings, where: str) -> None:
    try:
        check_admin_link(settings.link)
        if settings.speed is not None:
            check_speed(settings.speed)
        if settings.mtu is not None:
            check_mtu(settings.mtu, device.config)
    except ValueError as exc:
        raise DecodeError(f"{where}: {exc}, came {settings}") from exc
    mac = settings.mac
    if mac is not None and (len(mac) != 6 or mac[0] & 1 or not any(mac)):
        raise DecodeError(f"{where}: expected the MAC address of a station, came {mac.hex(':')}")
