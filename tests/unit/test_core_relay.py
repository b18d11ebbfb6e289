"""A device's relay: binding, rebinding, guarding, tracing."""

import attrs
import pytest

from emudev_core.errors import BackendError, DeviceError, PluginError
from emudev_core.events import Event, EventChannel, EventKind
from emudev_core.hooks import hookimpl
from emudev_core.later import Later
from emudev_core.lifecycle import State
from emudev_core.loop import Loop
from emudev_core.memory import EMPTY_TABLE, MemoryRegion
from emudev_core.regions import ResetKind
from emudev_core.testing.builders import make_device


class Registers:
    def __init__(self):
        self.calls = []

    @hookimpl
    def emudev_region_read(self, region, offset, size):
        self.calls.append((region, offset, size))
        return 42


class Watcher:
    def __init__(self):
        self.seen = []

    @hookimpl(wrapper=True)
    def emudev_region_read(self, region, offset, size):
        value = yield
        self.seen.append((offset, value))
        return value + 1


def test_a_lone_implementation_in_the_order_of_the_spec_is_called_without_a_detour():
    provider = Registers()
    device = make_device(provider)
    assert device.region_read == provider.emudev_region_read
    assert device.is_direct("emudev_region_read")
    assert device.region_read(1, 2, 4) == 42
    assert device.region_read(region=1, offset=2, size=4) == 42


def test_an_implementation_with_fewer_arguments_gets_those_that_it_names():
    class Short:
        @hookimpl
        def emudev_region_write(self, value, offset):
            self.got = (offset, value)
            return True

    provider = Short()
    device = make_device(provider)
    assert device.region_write(9, 0x10, 4, 0xABCD) is True
    assert provider.got == (0x10, 0xABCD)
    assert device.region_write(region=9, offset=1, size=4, value=2) is True
    assert provider.got == (1, 2)


def test_an_observer_is_called_from_the_next_access_on_and_until_it_goes():
    provider = Registers()
    device = make_device(provider)
    watcher = Watcher()
    assert device.region_read(0, 0, 4) == 42
    device.register(watcher, "watcher")
    assert not device.is_direct("emudev_region_read")
    assert device.region_read(0, 4, 4) == 43
    assert device.region_read(region=0, offset=8, size=4) == 43
    device.unregister(watcher)
    assert device.is_direct("emudev_region_read")
    assert device.region_read(0, 12, 4) == 42
    assert watcher.seen == [(4, 42), (8, 42)]
    assert [call[1] for call in provider.calls] == [0, 4, 8, 12]


def test_observers_nest_with_the_last_one_outside():
    device = make_device(Registers())
    inner, outer = Watcher(), Watcher()
    device.register(inner, "inner")
    device.register(outer, "outer")
    assert device.region_read(0, 0, 4) == 44
    assert (inner.seen, outer.seen) == ([(0, 42)], [(0, 43)])


def test_a_watched_hook_leaves_the_others_direct():
    class Both(Registers):
        @hookimpl
        def emudev_region_write(self, region, offset, size, value):
            return True

    device = make_device(Both())
    device.register(Watcher(), "watcher")
    assert device.is_direct("emudev_region_write")


def test_a_hook_that_nobody_implements_is_an_error_that_names_it():
    device = make_device(Registers())
    with pytest.raises(DeviceError, match="does not implement emudev_get_queue_info"):
        device.get_queue_info(0)


def test_hooks_with_a_sensible_default_need_no_implementation():
    device = make_device(object())
    assert device.reset(ResetKind.POWER) is True
    assert device.quiesce() is True
    assert device.dma_unmap(EMPTY_TABLE, MemoryRegion(0, 1, None)) is True
    assert list(device.get_regions()) == []


def test_no_answer_is_an_error_and_zero_is_an_answer():
    class Odd:
        @hookimpl
        def emudev_get_attr(self, name):
            return {"zero": 0, "no": False}.get(name)

    device = make_device(Odd())
    device.register(Passing(), "observer")  # not bound: the core sees the answer
    assert device.get_attr("zero") == 0
    assert device.get_attr("no") is False
    with pytest.raises(DeviceError, match="nobody answered emudev_get_attr"):
        device.get_attr("other")


class Passing:
    @hookimpl(wrapper=True)
    def emudev_get_attr(self, name):
        return (yield)


def test_a_misspelt_hook_is_refused_with_the_nearest_name():
    class Wrong:
        @hookimpl
        def emudev_region_raed(self, region):
            return 0

    device = make_device()
    with pytest.raises(PluginError, match="did you mean emudev_region_read"):
        device.register(Wrong(), "wrong", "emudev-wrong 2.0")
    assert device.members == ()
    device.register(Registers(), "wrong")
    assert device.region_read(0, 0, 1) == 42


def test_an_argument_that_the_spec_does_not_have_is_refused():
    class Wrong:
        @hookimpl
        def emudev_region_read(self, region, address):
            return 0

    with pytest.raises(PluginError, match=r"emudev-wrong 2\.0.*address"):
        make_device().register(Wrong(), "wrong", "emudev-wrong 2.0")


def test_an_object_that_compares_by_value_is_refused():
    @attrs.frozen
    class Equal:
        pass

    with pytest.raises(PluginError, match="eq=False"):
        make_device().register(Equal(), "equal")


def test_a_name_is_used_once():
    device = make_device(Registers())
    with pytest.raises(PluginError, match="provider"):
        device.register(Registers(), "provider")
    assert len(device.members) == 1


def test_registering_runs_no_property_of_the_object():
    class Touchy(Registers):
        @property
        def queues(self):
            raise RuntimeError("not configured yet")

    assert make_device(Touchy()).region_read(0, 0, 4) == 42


def test_old_style_wrappers_are_refused():
    class Old:
        @hookimpl(hookwrapper=True)
        def emudev_region_read(self):
            yield

    with pytest.raises(PluginError, match="wrapper=True"):
        make_device(Registers()).register(Old(), "old")


class Note:
    """Announced hooks, written down in a shared list."""

    def __init__(self, name, log, error=None):
        self.name, self.log, self.error = name, log, error

    @hookimpl
    def emudev_status_changed(self, what):
        self.log.append((self.name, what))
        if self.error:
            raise self.error


def test_an_announcement_reaches_all_in_the_order_of_registration():
    log = []
    device = make_device(Note("provider", log))
    for name in ("b", "a"):
        device.register(Note(name, log), name)
    device.status_changed("memory")
    assert log == [("provider", "memory"), ("b", "memory"), ("a", "memory")]


def test_a_plugin_that_raises_is_named_and_the_others_are_told(caplog):
    log = []
    device = make_device(Note("provider", log))
    device.register(Note("bad", log, ValueError("boom")), "bad", "emudev-bad 3.1")
    device.register(Note("last", log), "last")
    device.status_changed("irqs")
    assert [name for name, _ in log] == ["provider", "bad", "last"]
    assert "bad (emudev-bad 3.1) failed in emudev_status_changed: ValueError: boom" in caplog.text
    assert device.state is State.ALLOCATED  # an observer's fault is not the device's


def test_a_provider_that_raises_puts_its_device_in_error(caplog):
    device = make_device(Note("provider", [], KeyError("x")))
    channel = EventChannel()
    device.subscribe_event(channel)
    device.status_changed("memory")
    assert device.state is State.ERROR
    assert "test-plugin 1.0" in device.error
    assert [e.kind for e in channel.drain()] == [EventKind.STATE, EventKind.ERROR]


def test_a_generator_is_consumed_inside_the_guard(caplog):
    class Lazy:
        @hookimpl
        def emudev_status_changed(self, what):
            yield 1
            raise RuntimeError("late")

    device = make_device(Registers())
    device.register(Lazy(), "lazy", "emudev-lazy 1.0")
    device.status_changed("memory")
    assert "lazy (emudev-lazy 1.0)" in caplog.text


def test_wrappers_are_around_announcements_and_a_broken_one_is_left_out(caplog):
    log = []

    class Around:
        @hookimpl(wrapper=True)
        def emudev_status_changed(self, what):
            log.append("before")
            answer = yield
            log.append("after")
            return answer

    class Broken:
        @hookimpl(wrapper=True)
        def emudev_status_changed(self, what):
            raise RuntimeError("broken")
            yield

    device = make_device(Note("provider", log))
    device.register(Around(), "around")
    device.register(Broken(), "broken", "emudev-broken 1.0")
    device.status_changed("memory")
    assert log == ["before", ("provider", "memory"), "after"]
    assert "emudev-broken 1.0" in caplog.text
    assert device.state is State.ALLOCATED


def test_emudev_errors_pass_as_they_are():
    class Backend:
        @hookimpl
        def emudev_backend_started(self, device):
            raise BackendError("no interface tap0")

    device = make_device(Registers())
    device.register(Backend(), "tap_backend_0", "emudev-tap-backend 0.1.0")
    device.configure()
    with pytest.raises(BackendError, match=r"^no interface tap0$"):
        device.start()


def test_tracing_prints_each_call_and_binds_nothing(monkeypatch, capsys):
    monkeypatch.setenv("EMUDEV_TRACE_HOOKS", "1")
    device = make_device(Registers())
    assert not device.is_direct("emudev_region_read")
    device.region_read(0, 0x8800, 4)
    device.status_changed("memory")
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].endswith("emudev_region_read(region=0, offset=0x8800, size=4) -> 0x2a")
    assert "emudev_status_changed(what='memory') told nobody" in lines[1]


# -- answers that come later


class Slow:
    def __init__(self, later):
        self.later = later

    @hookimpl
    def emudev_reset(self, kind):
        return self.later


def test_an_answer_that_comes_in_time_leaves_no_timer():
    loop = Loop()
    later = Later()
    device = make_device(Slow(later), loop=loop)
    assert device.reset(ResetKind.POWER) is later
    later.finish()
    assert not loop._has_timer()
    assert device.state is State.ALLOCATED
    loop.close()


def test_an_answer_that_does_not_come_puts_the_device_in_error(monkeypatch, caplog):
    monkeypatch.setattr("emudev_core.later.LIMIT", 0.01)
    loop = Loop()
    later = Later()
    device = make_device(Slow(later), loop=loop)
    told = []
    device.reset(ResetKind.POWER).then(lambda done: told.append(str(done.error)))
    while not later.done:
        loop.turn(None)
    assert device.state is State.ERROR
    assert "test-plugin 1.0" in device.error
    assert "emudev_reset was not finished within 0.01 s" in told[0]
    loop.close()


def test_an_answer_that_is_a_failure_names_the_provider(caplog):
    loop = Loop()
    later = Later()
    device = make_device(Slow(later), loop=loop)
    device.reset(ResetKind.FUNCTION)
    later.finish(RuntimeError("stuck"))
    assert device.error == (
        "plugin provider (test-plugin 1.0) failed in emudev_reset: RuntimeError: stuck"
    )
    loop.close()


def test_events_of_the_core_reach_each_channel_once():
    device = make_device(object())
    channel = EventChannel()
    device.subscribe_event(channel)
    device.subscribe_event(channel)
    device.post_event(Event(EventKind.PRIVATE, text="dice"))
    assert [event.text for event in channel.drain()] == ["dice"]
    device.unsubscribe_event(channel)
    device.post_event(Event(EventKind.PRIVATE))
    assert list(channel.drain()) == []


#: Each hook with one answer that a device's method asks directly, with values for its arguments.
ONE_ANSWER = {
    "emudev_get_regions": {},
    "emudev_get_irq_groups": {},
    "emudev_region_read": {"region": 1, "offset": 2, "size": 4},
    "emudev_region_write": {"region": 1, "offset": 2, "size": 4, "value": 5},
    "emudev_region_read_bulk": {"region": 1, "offset": 2, "size": 3},
    "emudev_region_write_bulk": {"region": 1, "offset": 2, "data": b"abc"},
    "emudev_dma_unmap": {"table": EMPTY_TABLE, "region": MemoryRegion(0, 1, None)},
    "emudev_reset": {"kind": ResetKind.POWER},
    "emudev_quiesce": {},
    "emudev_get_dev_info": {},
    "emudev_get_mem_table": {},
    "emudev_get_queue_info": {"queue": 3},
    "emudev_get_irq_info": {"vector": 2},
    "emudev_get_db_info": {"doorbell": 1},
    "emudev_get_attributes": {},
    "emudev_get_attr": {"name": "mac"},
    "emudev_set_attr": {"name": "mtu", "value": 9000},
    "emudev_region_map": {"name": "doorbells", "size": 4096},
    "emudev_get_suggestions": {},
    "emudev_listen": {},
    "emudev_unlisten": {},
}


@pytest.mark.parametrize("hook", list(ONE_ANSWER))
@pytest.mark.parametrize("observed", [False, True])
def test_each_method_asks_its_hook_with_all_arguments(hook, observed):
    arguments = ONE_ANSWER[hook]
    scope = {"hookimpl": hookimpl}
    names = ", ".join(["self", *arguments])
    exec(
        f"class Answering:\n"
        f"    @hookimpl\n"
        f"    def {hook}({names}):\n"
        f"        self.got = dict({', '.join(f'{n}={n}' for n in arguments)})\n"
        f"        return True\n"
        f"class Watching:\n"
        f"    @hookimpl(wrapper=True)\n"
        f"    def {hook}(self):\n"
        f"        return (yield)\n",
        scope,
    )
    provider = scope["Answering"]()
    device = make_device(provider)
    if observed:
        device.register(scope["Watching"](), "watching")
    method = getattr(device, hook.removeprefix("emudev_"))
    for call in (lambda: method(**arguments), lambda: method(*arguments.values())):
        provider.got = None
        assert call() is True
        assert provider.got == arguments


#: Each announced hook of a transport, with values for its arguments.
ANNOUNCED = {
    "emudev_dma_map": {"table": EMPTY_TABLE, "region": MemoryRegion(0, 1, None)},
    "emudev_irq_bound": {"group": 0, "vector": 1, "fd": None},
    "emudev_irq_masked": {"group": 0, "vector": 1, "masked": True},
    "emudev_irq_trigger": {"group": 0, "vector": 1},
    "emudev_client_attached": {"client": "qemu"},
    "emudev_client_detached": {},
    "emudev_status_changed": {"what": "irqs"},
}


@pytest.mark.parametrize("hook", list(ANNOUNCED))
def test_each_announcement_reaches_everyone_with_all_arguments(hook):
    arguments = ANNOUNCED[hook]
    scope = {"hookimpl": hookimpl}
    exec(
        f"class Told:\n"
        f"    @hookimpl\n"
        f"    def {hook}({', '.join(['self', *arguments])}):\n"
        f"        self.got = dict({', '.join(f'{n}={n}' for n in arguments)})\n",
        scope,
    )
    members = [scope["Told"]() for _ in range(3)]
    device = make_device(members[0])
    device.register(members[1], "one")
    device.register(members[2], "two")
    getattr(device, hook.removeprefix("emudev_"))(**arguments)
    assert [member.got for member in members] == [arguments] * 3


def test_an_observer_that_raises_is_named_and_not_the_provider(caplog):
    class Broken:
        @hookimpl(wrapper=True)
        def emudev_region_read(self):
            yield
            raise ValueError("broken observer")

    device = make_device(Registers())
    device.register(Broken(), "broken", "acme-broken 2.0")
    with pytest.raises(ValueError, match="broken observer") as caught:
        device.region_read(0, 0, 4)
    device.fail(caught.value, "emudev_region_read")
    assert device.error == (
        "plugin broken (acme-broken 2.0) failed in emudev_region_read: ValueError: broken observer"
    )
