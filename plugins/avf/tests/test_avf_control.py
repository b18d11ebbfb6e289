"""A device with a driver at work, seen and changed through the control socket meanwhile."""

import contextlib
import socket
import struct
import threading

import pytest

pytest.importorskip("emudev_null", reason="the transport inproc, the backend echo")

from emudev_avf import rings
from emudev_avf.driver.netdev import AvfDriver
from emudev_avf.history import DEPTH, History
from emudev_avf.registers import MAP
from emudev_core.control.client import Client, ControlError
from emudev_core.control.server import ControlServer
from emudev_core.errors import TransportError
from emudev_core.host import Host
from emudev_core.testing.contract import turn_until
from emudev_net.jit import compile_now
from emudev_pci.guest import GuestFunction

NAME = "avf_emudev_0"
OWN = "52:54:00:77:00:02"


class Machine:
    """A device of two queue pairs, its driver, and a program at the control socket."""

    def __init__(self, host, server):
        compile_now(rings.KERNELS)
        self.host = host
        self.server = server
        self.device = host.add(f"emu_iavf,id=0,transport=inproc,queues=2,mac={OWN}")
        host.add("echo,avf_emu_id=0")
        host.start()
        self.avf = self.device.members[0].plugin
        turn_until(host, lambda: self.avf.ready, 60)
        self.driver = AvfDriver(
            GuestFunction(host.connect(self.device), {0: MAP}), queues=2, ring=64
        )
        self.driver.probe()
        self.driver.open()

    def ask(self, request):
        """What a program on another thread gets, while the loop runs here."""
        got, failed = [], []

        def run():
            try:
                with Client.connect(self.server.path) as client:
                    got.append(request(client))
            except Exception as exc:
                failed.append(exc)

        thread = threading.Thread(target=run)
        thread.start()
        turn_until(self.host, lambda: not thread.is_alive(), 20)
        thread.join()
        if failed:
            raise failed[0]
        return got[0]

    def show(self, name):
        [section] = self.ask(lambda client: client.show(NAME, name))
        assert section.error == ""
        return section.rows

    def attribute(self, name):
        return self.ask(lambda client: client.attributes(NAME, name))[0].value


@pytest.fixture
def machine(tmp_path):
    with Host() as host, ControlServer(host.registry, host.loop, tmp_path / "c.sock") as server:
        made = Machine(host, server)
        yield made
        made.driver.function.close()


def test_every_section_can_be_read_at_every_time(machine):
    def names():
        sections = machine.ask(lambda client: client.show(NAME))
        assert [s.name for s in sections if s.error] == []
        for one in sections:
            assert len({tuple(row) for row in one.rows}) <= 1, f"{one.name}: columns differ"
        return [section.name for section in sections]

    running = names()
    assert {
        "device", "memory", "function", "registers", "config", "vectors", "vf", "queues",
        "filters", "vlans", "rss", "rules", "classes", "virtchnl", "counters",
    } <= {*running}  # fmt: skip
    assert len(running) == len(set(running))
    machine.avf.silent_reset()
    assert names() == running
    machine.device.stop()
    assert names() == running


def test_queues_are_shown_as_the_driver_set_them_up(machine):
    rows = {(row["queue"]): row for row in machine.show("queues")}
    assert [rows[q]["direction"] for q in range(4)] == ["rx", "tx", "rx", "tx"]
    assert all(row["state"] == "on" and row["length"] == 64 for row in rows.values())
    assert all(row["base"] % 128 == 0 and row["base"] for row in rows.values())
    sent = bytes.fromhex("020000000001") + machine.driver.resources.mac + b"\x88\xb5" + bytes(46)
    machine.driver.send(sent)
    turn_until(machine.host, lambda: machine.avf.port.tx[0].stats().packets == 1, 5)
    assert machine.show("queues")[1]["packets"] == 1
    assert machine.show("queues")[1]["bytes"] == 60
    assert machine.show("queues")[1]["head"] == machine.show("queues")[1]["tail"]


def test_registers_are_shown_with_their_fields(machine):
    rows = {row["name"]: row for row in machine.show("registers")}
    assert rows["VFGEN_RSTAT"]["value"] == 2
    assert rows["VFGEN_RSTAT"]["offset"] == 0x8800
    assert "active" in rows["VFGEN_RSTAT"]["fields"]


def test_the_last_messages_of_the_mailbox_are_told(machine):
    machine.driver.admin.send(9999, b"abc")
    machine.host.loop.turn(0)
    rows = machine.show("virtchnl")
    names = [row["name"] for row in rows if row["from"] == "guest"]
    assert names[:2] == ["VERSION", "GET_VF_RESOURCES"]
    assert "ENABLE_QUEUES" in names
    [event] = [row for row in rows if row["from"] == "pf"][-1:]
    assert event["name"] == "EVENT"
    refused = next(row for row in rows if row["opcode"] == 9999)
    assert (refused["request_bytes"], refused["status"]) == (3, "ERR_NOT_SUPPORTED")
    assert refused["reason"] == "not implemented"
    assert rows[0]["status"] == "SUCCESS"
    assert (rows[0]["request_bytes"], rows[0]["reply_bytes"]) == (8, 8)


def test_filters_and_hash_are_shown(machine):
    shown = {(row["what"], row["value"]) for row in machine.show("filters")}
    assert ("unicast", OWN) in shown
    [rss] = machine.show("rss")
    assert rss["function"] == "toeplitz"
    assert rss["table_size"] == len(rss["table"].split())


def link_of(machine):
    machine.driver.service()
    return machine.driver.link


def test_the_link_goes_by_the_users_will_and_back_to_the_backends(machine):
    turn_until(machine.host, lambda: link_of(machine), 5)
    machine.ask(lambda client: client.set_link(NAME, state="down"))
    turn_until(machine.host, lambda: not link_of(machine), 5)
    machine.device.set_attr("link", False)
    machine.device.set_attr("link", True)
    assert machine.attribute("carrier") is False, "the backend's link changes nothing now"
    machine.ask(lambda client: client.set_link(NAME, state="auto"))
    turn_until(machine.host, lambda: link_of(machine), 5)
    machine.device.set_attr("link", False)
    assert machine.attribute("carrier") is False
    machine.ask(lambda client: client.set_link(NAME, state="up"))
    assert machine.attribute("carrier") is True


def test_a_new_speed_reaches_the_guest_at_once(machine):
    machine.driver.service()
    machine.ask(lambda client: client.set_link(NAME, speed=2500))
    turn_until(machine.host, lambda: link_of(machine) and machine.driver.speed == 2500, 5)


def test_a_new_speed_is_told_to_whoever_follows_the_devices_events(machine):
    turn_until(machine.host, lambda: link_of(machine), 5)
    told = []

    def follow(client):
        events = client.follow(NAME)
        with Client.connect(machine.server.path) as other:
            other.set_link(NAME, speed=2500)
            other.set_link(NAME, speed=2500)
            other.set_link(NAME, state="down")
            other.set_link(NAME, speed=1000)
            other.set_link(NAME, state="up")
        while len(told) < 3:
            event = next(events)
            if event.kind == "link":
                told.append((event.value, event.text))

    machine.ask(follow)
    assert told == [(1, "2500 Mbit/s"), (0, ""), (1, "1000 Mbit/s")]
    turn_until(machine.host, lambda: link_of(machine) and machine.driver.speed == 1000, 5)


def settle(machine):
    turn_until(machine.host, lambda: machine.avf.resets.state.value == "active", 5)


def test_an_announced_reset_is_told_to_the_guest_and_done(machine):
    done = machine.ask(lambda client: client.reset(NAME))
    assert done.text == "reset announced to the guest"
    settle(machine)
    assert machine.show("vf")[0]["running"] is False
    last = [row for row in machine.show("virtchnl") if row["from"] == "pf"][-1]
    assert (last["name"], last["reply_bytes"]) == ("EVENT", struct.calcsize("<iIIi"))


def test_a_second_reset_meanwhile_is_refused_by_name_of_the_first(machine):
    def twice(client):
        client.reset(NAME, silent=True)
        with pytest.raises(ControlError, match="a reset is in progress already"):
            client.reset(NAME)

    machine.ask(twice)


def test_a_new_address_is_the_guests_after_the_reset_it_caused(machine):
    new = bytes.fromhex("52540000000a")
    machine.ask(lambda client: client.update(NAME, mac="52:54:00:00:00:0a"))
    # A guest that sets its old address again before the reset does not win.
    element = bytes.fromhex("525400770002") + b"\1\0"
    machine.driver.admin.request(10, struct.pack("<HH", 1, 1) + element)
    settle(machine)
    machine.driver._recover()
    assert machine.driver.resources.mac == new
    assert machine.attribute("mac") == "52:54:00:00:00:0a"


def test_a_new_mtu_is_told_after_the_reset_it_caused(machine):
    machine.ask(lambda client: client.update(NAME, mtu=1500))
    settle(machine)
    machine.driver._recover()
    assert machine.driver.resources.max_mtu == 1500
    with pytest.raises(ControlError, match="68 to 9702"):
        machine.ask(lambda client: client.update(NAME, mtu=9703))
    assert machine.attribute("mtu") == 1500


def test_without_reset_the_guest_is_left_alone_until_its_next_one(machine):
    done = machine.ask(lambda client: client.update(NAME, mtu=1500, reset=False))
    assert done.text == "the guest learns it in a reset"
    assert machine.avf.resets.state.value == "active"
    assert machine.show("vf")[0]["running"] is True


def test_what_can_not_be_done_as_a_whole_is_not_done_by_half(machine):
    def both(client):
        client.reset(NAME, silent=True)
        with pytest.raises(ControlError, match="a reset is in progress already"):
            client.update(NAME, mac="52:54:00:00:00:0a", mtu=1500)

    machine.ask(both)
    assert (machine.attribute("mac"), machine.attribute("mtu")) == (OWN, 9702)
    with pytest.raises(ControlError, match="nonsense"):
        machine.ask(lambda client: client.update(NAME, mac="nonsense", mtu=1500))
    assert machine.attribute("mtu") == 9702


def test_events_of_a_reset_are_followed(machine):
    kinds = []

    def follow(client):
        events = client.follow(NAME)
        with Client.connect(machine.server.path) as other:
            other.reset(NAME, silent=True)
        while "reset" not in kinds:
            kinds.append(next(events).kind)

    machine.ask(follow)
    assert kinds.count("queue-state") in (0, 4)


# -- the history


def test_a_history_of_any_length_is_bounded():
    history = History()
    for number in range(3 * DEPTH):
        history.request(number, 4)
        history.sent(number, 0, 8)
    assert [entry.opcode for entry in history] == list(range(2 * DEPTH, 3 * DEPTH))


def test_an_event_between_request_and_reply_is_an_entry_of_its_own():
    history = History()
    history.request(8, 12)
    history.sent(17, 0, 16)
    history.sent(8, 0, 0)
    history.sent(17, 0, 16)
    entries = [(row["from"], row["name"], row["status"]) for row in history.rows()]
    assert entries == [
        ("guest", "ENABLE_QUEUES", "SUCCESS"), ("pf", "EVENT", "SUCCESS"),
        ("pf", "EVENT", "SUCCESS"),
    ]  # fmt: skip


def test_a_long_reason_is_cut():
    history = History()
    history.request(8, 12)
    history.refuse("x" * 5000)
    assert len(next(iter(history)).reason) == 200


def test_frames_pass_while_clients_ask_for_everything_and_send_rubbish(machine):
    """The device is not disturbed: what is sent comes back, in a time that is the data's."""
    stop = threading.Event()
    answered = []

    def pester():
        while not stop.is_set():
            with contextlib.suppress(OSError, TransportError):
                if len(answered) % 2:
                    with socket.socket(socket.AF_UNIX) as rude:
                        rude.connect(str(machine.server.path))
                        rude.sendall(b'{"op":"show","id":1,"device":"avf_emudev_0"}\n' * 20)
                        rude.sendall(b"\xff" * 70_000)
                else:
                    with Client.connect(machine.server.path) as client:
                        client.show(NAME)
                answered.append(1)

    threads = [threading.Thread(target=pester) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        mac = machine.driver.resources.mac
        count = 0
        while count < 50 or len(answered) < 6:
            machine.driver.send(b"\2\0\0\0\0\1" + mac + b"\x88\xb5" + count.to_bytes(46, "big"))
            back = []
            while not back:
                back = machine.driver.receive(1.0, queue=0) or machine.driver.receive(0.0, queue=1)
            assert back[0].frame[14:60] == count.to_bytes(46, "big")
            count += 1
    finally:
        stop.set()
        turn_until(machine.host, lambda: not any(t.is_alive() for t in threads), 20)
