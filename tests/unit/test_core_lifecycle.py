"""The states of a device: the table, and what a device does at each step."""

import itertools

import pytest

from emudev_core.errors import BackendError, DecodeError, LifecycleError, PluginError
from emudev_core.events import Event, EventKind
from emudev_core.hooks import hookimpl
from emudev_core.lifecycle import NEXT, LifecycleEvent, State, allowed, mermaid, step
from emudev_core.loop import Loop
from emudev_core.testing.builders import make_device

#: Worked out from the text of the design, not from the table.
EXPECTED = {
    "allocated": {"configure": "configured", "fail": "error", "close": "closed"},
    "configured": {"start": "started", "fail": "error", "close": "closed"},
    "started": {"stop": "stopped", "fail": "error", "close": "closed"},
    "stopped": {"start": "started", "fail": "error", "close": "closed"},
    "error": {"close": "closed"},
    "closed": {},
}


@pytest.mark.parametrize(("state", "event"), list(itertools.product(State, LifecycleEvent)))
def test_every_pair_leads_where_the_design_says_or_is_refused(state, event):
    expected = EXPECTED[state.value].get(event.value)
    if expected is None:
        with pytest.raises(LifecycleError, match=f"x is {state.value}: {event.value} is not"):
            step(state, event, "x")
    else:
        assert step(state, event).value == expected


def test_a_refusal_names_what_is_allowed():
    with pytest.raises(LifecycleError, match=r"allowed: stop, fail, close"):
        step(State.STARTED, LifecycleEvent.CONFIGURE)
    with pytest.raises(LifecycleError, match=r"allowed: nothing more"):
        step(State.CLOSED, LifecycleEvent.START)
    assert allowed(State.ERROR) == [LifecycleEvent.CLOSE]


def test_the_diagram_has_every_transition():
    assert mermaid().count("-->") == len(NEXT) + 2


class Recorder:
    """A plugin that writes down what happens to it."""

    def __init__(self, name, log, fail=()):
        self.name, self.log, self.fail = name, log, fail

    def _note(self, what):
        self.log.append(f"{self.name} {what}")
        if what in self.fail:
            raise RuntimeError(f"{self.name} can't {what}")

    @hookimpl
    def emudev_configure(self):
        self._note("configure")

    @hookimpl
    def emudev_start(self):
        self._note("start")

    @hookimpl
    def emudev_stop(self):
        self._note("stop")

    @hookimpl
    def emudev_close(self):
        self._note("close")


class Backend(Recorder):
    @hookimpl
    def emudev_backend_offered(self, device):
        self._note("offered")
        return "too slow" if "refuse" in self.fail else None

    @hookimpl
    def emudev_backend_started(self, device):
        self._note("backend-start")

    @hookimpl
    def emudev_backend_stopped(self, device):
        self._note("backend-stop")

    @hookimpl
    def emudev_backend_event(self, device, event):
        self._note(f"event-{event.kind.value}")


class Transport(Recorder):
    @hookimpl
    def emudev_listen(self):
        self._note("listen")
        return "test:here"

    @hookimpl
    def emudev_unlisten(self):
        self._note("unlisten")
        return True


def build(log, loop=None, **fail):
    device = make_device(Recorder("provider", log, fail.get("provider", ())), loop=loop)
    device.register(Transport("transport", log, fail.get("transport", ())), "transport")
    for name in ("a", "b"):
        device.register(Backend(name, log, fail.get(name, ())), name, f"emudev-{name} 1.0")
    return device


def own(log):
    """The steps that have one owner: the provider's, the backends', the transport's."""
    return [
        entry
        for entry in log
        if entry.split()[0] == "provider" or "backend-" in entry or "listen" in entry
    ]


UP = ["provider start", "a backend-start", "b backend-start", "transport listen"]
DOWN = ["transport unlisten", "b backend-stop", "a backend-stop", "provider stop"]


def test_it_starts_from_the_inside_and_stops_from_the_outside():
    log = []
    device = build(log)
    device.configure()
    log.clear()
    device.start()
    assert device.address == "test:here"
    assert log[:2] == ["a offered", "b offered"]
    assert own(log) == UP
    log.clear()
    device.stop()
    assert own(log) == DOWN
    assert device.address == ""
    log.clear()
    device.start()
    assert "a offered" not in log  # offered once
    assert own(log) == UP


@pytest.mark.parametrize(
    ("who", "what", "undone"),
    [
        ("provider", "start", []),
        ("a", "backend-start", ["provider stop"]),
        ("b", "backend-start", ["a backend-stop", "provider stop"]),
        ("transport", "listen", ["b backend-stop", "a backend-stop", "provider stop"]),
    ],
)
def test_a_step_that_fails_undoes_what_was_done(who, what, undone):
    log = []
    device = build(log, **{who: (what,)})
    device.configure()
    with pytest.raises((PluginError, RuntimeError), match=f"{who} can't {what}"):
        device.start()
    failed = log.index(f"{who} {what}")
    assert own(log[failed + 1 :]) == undone
    assert device.state is State.CONFIGURED
    device.close()
    assert device.state is State.CLOSED


def test_a_refusal_comes_before_anything_starts():
    log = []
    device = build(log, b=("refuse",))
    device.configure()
    with pytest.raises(BackendError, match=r"^b refuses test_emudev_0: too slow$"):
        device.start()
    assert own(log) == ["provider configure"]


def test_what_fails_while_stopping_does_not_keep_the_others(caplog):
    log = []
    fail = {"transport": ("unlisten",), "b": ("backend-stop", "close"), "provider": ("stop",)}
    device = build(log, **fail)
    device.configure()
    device.start()
    log.clear()
    device.close()
    assert own(log)[:4] == DOWN
    assert log[-1] == "provider close"
    assert device.state is State.CLOSED
    assert "emudev-b 1.0" in caplog.text


def test_configuring_that_fails_names_the_plugin_and_stays_allocated():
    device = build([], a=("configure",))
    with pytest.raises(PluginError, match=r"a \(emudev-a 1\.0\) failed in emudev_configure"):
        device.configure()
    assert device.state is State.ALLOCATED


def test_operations_out_of_order_change_nothing():
    log = []
    device = build(log)
    for operation in (device.start, device.stop):
        with pytest.raises(LifecycleError):
            operation()
    device.configure()
    with pytest.raises(LifecycleError):
        device.configure()
    assert log.count("provider configure") == 1
    device.close()
    device.close()
    assert log.count("provider close") == 1


def test_backends_get_events_in_order_at_the_end_of_the_turn_while_started():
    log = []
    loop = Loop()
    device = build(log, loop=loop)
    device.configure()
    device.start()
    loop.turn()
    log.clear()
    device.post_event(Event(EventKind.MEMORY))
    device.post_event(Event(EventKind.RESET))
    assert log == []
    loop.turn()
    assert log == ["a event-memory", "a event-reset", "b event-memory", "b event-reset"]
    device.stop()
    log.clear()
    device.post_event(Event(EventKind.MEMORY))
    loop.turn()
    assert log == []
    loop.close()


def test_a_backend_that_fails_at_an_event_gets_the_next_one(caplog):
    log = []
    device = build(log, a=("event-memory",))
    device.configure()
    device.start()
    log.clear()
    device.post_event(Event(EventKind.MEMORY))
    device.post_event(Event(EventKind.RESET))
    assert [e for e in log if e.startswith("a")] == ["a event-memory", "a event-reset"]
    assert "emudev-a 1.0" in caplog.text
    assert device.state is State.STARTED


def test_a_device_in_error_can_only_be_closed(caplog):
    device = build([])
    device.configure()
    device.start()
    device.fail("the guest's memory has gone")
    assert (device.state, device.error) == (State.ERROR, "the guest's memory has gone")
    device.fail("again")
    assert device.error == "the guest's memory has gone"
    with pytest.raises(LifecycleError):
        device.stop()
    device.close()
    device.fail("too late")
    assert device.state is State.CLOSED


class Keeper:
    def __init__(self):
        self.value = b"\x00\x01"

    @hookimpl
    def emudev_save(self):
        return {"version": 1, "value": self.value}

    @hookimpl
    def emudev_restore(self, state):
        self.value = state["value"]
        return True


def test_what_is_saved_is_restored_into_another_device():
    first, second = Keeper(), Keeper()
    one, two = make_device(first), make_device(second)
    one.configure()
    two.configure()
    first.value = bytes(range(256))
    two.restore(one.save())
    assert second.value == bytes(range(256))


def test_saving_and_restoring_ask_for_the_right_state():
    device = make_device(Keeper())
    with pytest.raises(LifecycleError):
        device.save()
    device.configure()
    saved = device.save()
    device.start()
    with pytest.raises(LifecycleError):
        device.restore(saved)
    device.close()
    with pytest.raises(LifecycleError):
        device.save()


@pytest.mark.parametrize("data", [b"", b"\xc1", b"\x80", b"\x81\xa6format\x02", b"junk" * 9])
def test_what_no_device_saved_is_refused(data):
    keeper = Keeper()
    device = make_device(keeper)
    device.configure()
    with pytest.raises(DecodeError):
        device.restore(data)
    assert keeper.value == b"\x00\x01"


def test_another_kind_of_device_is_refused():
    other = make_device(Keeper(), "other_emudev_0")
    other.configure()
    device = make_device(Keeper())
    device.configure()
    with pytest.raises(DecodeError, match=r"'test'.*'other'"):
        device.restore(other.save())
