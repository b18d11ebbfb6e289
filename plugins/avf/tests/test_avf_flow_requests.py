"""ADD/DEL_FDIR_FILTER and FLOW_SUBSCRIBE/UNSUBSCRIBE, bytes by hand from avf.md section 4.9."""

import struct

import attrs
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emudev_avf.config import AvfConfig
from emudev_avf.flow_rules import Fate, RuleKind
from emudev_avf.rings import Port
from emudev_avf.vf import Vf, VfState
from emudev_avf.virtchnl.dispatch import Dispatcher

MAC = bytes.fromhex("525400770002")
ADD, DEL, SUBSCRIBE, UNSUBSCRIBE = 47, 48, 114, 115
LINUX_CAPS, DPDK_CAPS = 0x1ABD8CF9, 0xBE0BC7E1
DROP, TC, PASSTHRU, QUEUE, REGION, MARK, COUNT = range(7)


class Outside:
    """Keeps what is sent."""

    def __init__(self):
        self.sent = []

    def send(self, opcode, status, payload):
        self.sent.append((opcode, status, payload))

    def post(self, event):
        pass


class Guest:
    """A VF and its dispatcher, as a driver sees them."""

    def __init__(self, caps=DPDK_CAPS, **keys):
        config = AvfConfig(queues=4, **keys)
        self.outside = Outside()
        self.port = Port(4, 5)
        self.vf = Vf(config, MAC, self.port, self.outside)
        self.dispatcher = Dispatcher(self.vf)
        self.ask(1, struct.pack("<II", 1, 1))
        self.ask(3, struct.pack("<I", caps))

    def ask(self, opcode, payload=b""):
        self.outside.sent.clear()
        self.dispatcher.receive(opcode, payload)
        ((answered, status, data),) = self.outside.sent
        assert answered == opcode
        return status, data

    def add(self, *args, op=ADD, **keys):
        """(flow id, status) of a rule; the message's own status has to be success."""
        status, data = self.ask(op, request(*args, **keys))
        assert (status, len(data)) == (0, 2616)
        return struct.unpack_from("<I", data, 4) + struct.unpack_from("<i", data, 2612)

    def delete(self, flow, op=DEL):
        status, data = self.ask(op, struct.pack("<HHIi", 1, 0, flow, 0))
        assert (status, data[:8]) == (0, struct.pack("<HHI", 1, 0, flow))
        return struct.unpack_from("<i", data, 8)[0]


@pytest.fixture
def guest():
    return Guest()


def selected(kind, selector=0, spec=b""):
    return struct.pack("<iI64s", kind, selector, spec)


def tcp4(port):
    return selected(4), selected(6, 2, struct.pack(">HH", 0, port))


def action(kind, conf=b""):
    return struct.pack("<i32s", kind, conf)


def queue(index, region=0, kind=QUEUE):
    return action(kind, struct.pack("<HB", index, region))


def mark(number):
    return action(MARK, struct.pack("<I", number))


def request(headers, actions, *, vsi=1, options=0, level=0, count=None, number=None):
    """The 2616 bytes: head, headers at 8, number of actions at 2320, actions, status."""
    hdrs = struct.pack("<BxxxI", level, len(headers) if count is None else count)
    hdrs = (hdrs + b"".join(headers)).ljust(2312, b"\0")
    row = struct.pack("<I", len(actions) if number is None else number) + b"".join(actions)
    return struct.pack("<HHI", vsi, options, 0) + hdrs + row.ljust(292, b"\0") + bytes(4)


def raw(spec, mask, length=None):
    size = struct.pack("<H", len(spec) if length is None else length)
    return (size + spec.ljust(1024, b"\0") + mask.ljust(1024, b"\0"),)


def test_a_request_has_the_golden_size():
    made = request(tcp4(7001), [queue(2)])
    assert len(made) == 2616
    assert made[2320:2331] == bytes.fromhex("01000000 03000000 020000")


def test_the_reply_is_the_request_with_flow_id_and_status(guest):
    made = request(tcp4(7001), [queue(2)])
    status, data = guest.ask(ADD, made)
    assert status == 0
    assert data == made[:4] + b"\1\0\0\0" + made[8:2612] + bytes(4)
    # A byte more than there has to be is fine, one less is not.
    assert guest.ask(ADD, request(tcp4(7002), [queue(2)]) + b"\0")[0] == 0
    assert guest.ask(ADD, made[:-1]) == (-5, b"")
    assert guest.ask(DEL, bytes.fromhex("0100 0000 01000000 000000")) == (-5, b"")


def test_rules_come_to_the_data_plane_and_go(guest):
    assert guest.add(tcp4(7001), [queue(2)]) == (1, 0)
    assert guest.add(tcp4(7002), [action(DROP)]) == (2, 0)
    assert guest.port.words[22] != 0
    assert guest.delete(1) == 0
    assert guest.delete(1) == 4  # nonexistent
    assert guest.add(tcp4(7003), [action(DROP)]) == (1, 0)
    assert guest.delete(2) == 0
    assert guest.delete(1) == 0
    assert guest.port.words[22] == 0


def test_actions_are_understood(guest):
    for flow, (actions, fate) in enumerate(
        [
            ([action(DROP)], (Fate.DROP, 0, 0, None)),
            ([action(PASSTHRU), mark(0xFFFF_FFFE)], (Fate.PASS, 0, 0, 0xFFFF_FFFE)),
            ([mark(7), queue(3)], (Fate.QUEUE, 3, 0, 7)),
            ([queue(0, 1, REGION)], (Fate.SPREAD, 0, 2, None)),
            ([queue(0, 2, REGION), action(COUNT), mark(0)], (Fate.SPREAD, 0, 4, 0)),
        ],
        1,
    ):
        assert guest.add(tcp4(flow), actions) == (flow, 0)
        made = guest.vf.state.rules[-1].action
        assert (made.fate, made.queue, made.count, made.mark) == fate


@pytest.mark.parametrize(
    "actions",
    [
        [],
        [mark(1)],
        [action(COUNT)],
        [action(DROP), queue(1)],
        [queue(1), queue(2)],
        [queue(1), mark(1), mark(2)],
        [queue(4)],
        [queue(0xFFFF)],
        [queue(1, 2, REGION)],
        [queue(0, 255, REGION)],
        [action(TC)],
        [action(7)],
        [action(-1)],
    ],
)
def test_actions_that_make_no_sense_are_invalid(guest, actions):
    for options in (0, 1):
        assert guest.add(tcp4(1), actions, options=options) == (0, 5)
    assert guest.vf.state.rules == []


@pytest.mark.parametrize("number", [9, 0x8000_0000, 0xFFFF_FFFF])
def test_absurd_numbers_of_actions_are_invalid(guest, number):
    assert guest.add(tcp4(1), [action(DROP)] * 8, number=number) == (0, 5)


def test_patterns_that_can_not_be_matched_are_invalid(guest):
    for headers, keys in (
        (tcp4(1), {"level": 1}),
        (tcp4(1), {"count": 49}),
        (tcp4(1), {"count": 0xFFFF_FFFF}),
        (tcp4(1), {"count": 32}),
        ((selected(99),), {}),
        ((selected(4, 1 << 31),), {}),
        (raw(bytes(4), b"\xff" * 4, 0), {"count": 0}),
        (raw(bytes(4), b"\xff" * 4, 1025), {"count": 0}),
        (raw(bytes(1024), b"\xff" * 1024), {"count": 0}),
    ):
        assert guest.add(headers, [action(DROP)], **keys) == (0, 5), keys
    assert guest.vf.state.rules == []


def test_raw_and_masked_patterns_are_taken(guest):
    spec, mask = bytes(12) + b"\x08\0", bytes(12) + b"\xff\xff"
    assert guest.add(raw(spec, mask), [queue(1)], count=0) == (1, 0)
    masked = struct.pack("<i4x64s64s", 7, b"\0\0\x1b\x50", b"\0\0\xff\xf0")
    assert guest.add((masked,), [queue(1)], count=33) == (2, 0)


def test_the_same_rule_exists_and_another_one_for_the_same_frames_is_a_conflict(guest):
    assert guest.add(tcp4(1), [queue(1)]) == (1, 0)
    assert guest.add(tcp4(1), [queue(1)]) == (0, 2)
    assert guest.add(tcp4(1), [queue(2)]) == (0, 3)
    # What lies outside the selected fields makes no difference.
    twin = (selected(4, 0, b"\x45"), selected(6, 2, struct.pack(">HH", 9, 1)))
    assert guest.add(twin, [queue(1)]) == (0, 2)


def test_validating_changes_nothing(guest):
    assert guest.add(tcp4(1), [queue(1)], options=1) == (0, 0)
    assert guest.vf.state.rules == []
    guest.add(tcp4(1), [queue(1)])
    assert guest.add(tcp4(1), [queue(1)], options=1) == (0, 2)


def test_there_is_room_for_1024_rules_and_64_sets_of_masks(guest):
    state = guest.vf.state
    guest.vf.show_rules = lambda: None  # building the tables is not what this is about
    assert guest.add(tcp4(0), [queue(1)])[1] == 0
    (first,) = state.rules
    (field,) = first.match.fields
    for port in range(1, 1023):
        value = port << 16 + 8 & 0xFF000000 | port << 16 >> 8 & 0xFF0000
        match = attrs.evolve(first.match, fields=(attrs.evolve(field, value=value),))
        state.rules.append(attrs.evolve(first, id=port + 1, match=match))
    assert guest.add(tcp4(1023), [queue(1)]) == (1024, 0)
    assert guest.add(tcp4(1024), [queue(1)]) == (0, 1)
    state.rules.clear()
    for number in range(64):
        mask = (1 << number + 1).to_bytes(9, "big")
        assert guest.add(raw(bytes(9), mask), [queue(1)], count=0)[1] == 0
    assert guest.add(tcp4(1), [queue(1)]) == (0, 1)
    assert guest.add(raw(b"\0" * 8 + b"\2", b"\0" * 8 + b"\2"), [queue(1)], count=0)[1] == 0


def test_another_vsi_is_a_bad_parameter(guest):
    assert guest.ask(ADD, request(tcp4(1), [queue(1)], vsi=2)) == (-5, b"")
    assert guest.ask(DEL, struct.pack("<HHIi", 2, 0, 1, 0)) == (-5, b"")
    assert guest.ask(SUBSCRIBE, request(tcp4(1), [queue(1)], vsi=2)) == (-5, b"")
    assert guest.ask(UNSUBSCRIBE, struct.pack("<HHIi", 2, 0, 1, 0)) == (-5, b"")


def test_without_the_capability_nothing_is_supported():
    guest = Guest(caps=0x0008_0001)
    for op in (ADD, SUBSCRIBE):
        assert guest.ask(op, request(tcp4(1), [queue(1)])) == (-64, b"")
    for op in (DEL, UNSUBSCRIBE):
        assert guest.ask(op, struct.pack("<HHIi", 1, 0, 1, 0)) == (-64, b"")


def test_linux_may_use_the_flow_director_and_dpdk_subscriptions_too():
    assert Guest(LINUX_CAPS).add(tcp4(1), [queue(1)]) == (1, 0)
    assert Guest(LINUX_CAPS).ask(SUBSCRIBE, request(tcp4(1), [queue(1)]))[0] == -64
    assert Guest(DPDK_CAPS).add(tcp4(1), [queue(1)], op=SUBSCRIBE) == (1, 0)


def test_subscriptions_have_numbers_priorities_and_statuses_of_their_own(guest):
    guest.add(tcp4(1), [queue(1)])
    # options: validate_only in the low, priority in the high byte
    assert guest.add(tcp4(1), [queue(1)], op=SUBSCRIBE, options=5 << 8) == (1, 0)
    assert guest.add(tcp4(1), [queue(1)], op=SUBSCRIBE, options=5 << 8) == (0, 2)
    assert guest.add(tcp4(1), [queue(2)], op=SUBSCRIBE, options=5 << 8) == (0, 2)
    assert guest.add(tcp4(1), [queue(2)], op=SUBSCRIBE, options=4 << 8 | 1) == (0, 0)
    assert guest.add(tcp4(1), [queue(2)], op=SUBSCRIBE, options=4 << 8) == (2, 0)
    assert guest.add(tcp4(2), [action(TC)], op=SUBSCRIBE) == (0, 4)
    assert guest.add(tcp4(2), [queue(1), queue(0, 1, REGION)], op=SUBSCRIBE) == (0, 4)
    assert guest.add(tcp4(2), [queue(0, 2, REGION)], op=SUBSCRIBE) == (3, 0)
    ranks = [rule.priority for rule in guest.vf.state.rules]
    assert ranks[0] < ranks[3] < ranks[2] < ranks[1]
    assert guest.delete(9, op=UNSUBSCRIBE) == 3
    assert guest.delete(1, op=UNSUBSCRIBE) == 0
    assert [(r.kind, r.id) for r in guest.vf.state.rules] == [
        (RuleKind.FDIR, 1), (RuleKind.SUBSCRIPTION, 2), (RuleKind.SUBSCRIPTION, 3),
    ]  # fmt: skip


def test_a_subscription_goes_to_this_port_whatever_it_says(guest):
    """DPDK 24.11 leaves zero, the number of a drop, for ``port_representor``."""
    for flow, (actions, fate) in enumerate(
        [
            ([], Fate.PASS),
            ([action(DROP)], Fate.PASS),
            ([action(PASSTHRU)], Fate.PASS),
            ([action(DROP), queue(3)], Fate.QUEUE),
            ([queue(0, 1, REGION), action(DROP)], Fate.SPREAD),
        ],
        1,
    ):
        assert guest.add(tcp4(flow), actions, op=SUBSCRIBE) == (flow, 0)
        assert guest.vf.state.rules[-1].action.fate == fate


def test_a_reset_forgets_all_rules(guest):
    guest.add(tcp4(1), [action(DROP)])
    guest.vf.reset()
    assert (guest.vf.state.rules, guest.port.words[22]) == ([], 0)


def test_rules_can_be_saved(guest):
    guest.add(tcp4(1), [queue(1), mark(5)])
    v6 = selected(5, 3, bytes(8) + b"\xff" * 32)
    guest.add((v6,), [action(DROP)])
    state = guest.vf.state
    text = msgspec.json.encode(msgspec.to_builtins(state))
    assert msgspec.json.decode(text, type=VfState).rules == state.rules


@settings(max_examples=200, deadline=None)
@given(
    op=st.sampled_from([ADD, SUBSCRIBE]),
    kinds=st.lists(st.integers(-2, 30), min_size=1, max_size=6),
    selector=st.integers(0, 0xFFFF_FFFF),
    spec=st.binary(min_size=64, max_size=64),
    tail=st.binary(max_size=300),
    count=st.one_of(st.none(), st.integers(0, 60)),
    level=st.integers(0, 3),
    number=st.integers(0, 12),
)
def test_any_rule_has_exactly_one_reply(op, kinds, selector, spec, tail, count, level, number):
    guest = _SHARED.setdefault(0, Guest())
    guest.vf.state.rules.clear()
    headers = [selected(kind, selector, spec) for kind in kinds]
    made = request(headers, [], count=count, level=level)
    made = made[:2320] + (struct.pack("<I", number) + tail).ljust(296, b"\0")
    status, data = guest.ask(op, made)
    assert status == 0
    assert len(data) == 2616
    assert (struct.unpack_from("<i", data, 2612)[0] == 0) == bool(guest.vf.state.rules)


_SHARED = {}
