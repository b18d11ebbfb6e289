"""vdev strings and TOML: the same typed configuration, and errors that help."""

from typing import Annotated, Literal

import msgspec
import pytest
from msgspec import Meta

from emudev_core.config import (
    BackendConfig,
    Claim,
    ObserverConfig,
    ProviderConfig,
    TransportConfig,
)
from emudev_core.conversion import keys
from emudev_core.errors import ConfigError
from emudev_core.plan import Planner
from emudev_core.specs import BackendSpec, ObserverSpec, ProviderSpec, TransportSpec
from emudev_core.testing.builders import make_plugins
from emudev_core.vdev import parse_toml, parse_vdev


class NicConfig(ProviderConfig):
    queues: Annotated[int, Meta(ge=1, le=16, description="queue pairs")] = 1
    mac: Annotated[str, Meta(pattern="^[0-9a-f:]+$|multicast", examples=["52:54:00:00:00:01"])] = (
        "0"
    )
    caps: int = 0x020884E1
    promiscuous: bool = False
    rate: float = 1.0
    limit: int | None = None
    link_speed: Annotated[int, Meta(gt=0, extra_json_schema={"unit": "Mbit/s"})] = 25000
    rings: tuple[int, ...] = ()
    vids: tuple[str, ...] = ()

    def __post_init__(self):
        if self.mac == "multicast":
            raise ValueError("expected a unicast address")


class SocketConfig(TransportConfig):
    path: Annotated[str, Meta(description="socket to listen on")]
    max_fds: int = msgspec.field(default=64, name="max-fds")

    def claims(self):
        return (Claim.file(self.path, "path"),)


class TapConfig(BackendConfig):
    iface: Annotated[str, Meta(min_length=1, max_length=15)]
    create: Literal["auto", "yes", "no"] = "auto"


class PipeConfig(BackendConfig):
    socket: str
    far: str | None = None

    def claims(self):
        yield Claim.file(self.socket, "socket", "pipes")
        if self.far:
            yield Claim.file(self.far, "far")


class CountConfig(ObserverConfig):
    limit: int = 10


def nothing(*_):
    raise AssertionError("resolving a configuration builds nothing")


PLUGINS = make_plugins(
    ProviderSpec(name="emu_iavf", summary="", device="avf", config=NicConfig, build=nothing),
    ProviderSpec(name="emu_dice", summary="", config=ProviderConfig, build=nothing, transport=""),
    TransportSpec(name="vfio_user", summary="", config=SocketConfig, serve=nothing),
    TransportSpec(name="inproc", summary="", config=TransportConfig, serve=nothing),
    BackendSpec(name="tap_backend", summary="", config=TapConfig, build=nothing),
    BackendSpec(name="wire", summary="", config=BackendConfig, build=nothing, devices=("a", "b")),
    BackendSpec(name="net_pcap", summary="", config=BackendConfig, build=nothing, devices=()),
    BackendSpec(name="pipe", summary="", config=PipeConfig, build=nothing, devices=()),
    ObserverSpec(name="count_reads", summary="", config=CountConfig, build=nothing),
)


def plan(*vdevs, observe=()):
    entries = [parse_vdev(text) for text in vdevs]
    return Planner(PLUGINS).plan(entries, [parse_vdev(text, "--observe") for text in observe])


def refused(*vdevs, observe=()):
    with pytest.raises(ConfigError) as caught:
        plan(*vdevs, observe=observe)
    return str(caught.value)


def test_the_command_line_of_the_rfc():
    made = plan("emu_iavf,path=/run/avf0.sock,id=0", "tap_backend,iface=tap0,avf_emu_id=0")
    device, backend = made.devices[0], made.backends[0]
    assert (device.name, device.spec.name, device.transport.name) == (
        "avf_emudev_0",
        "emu_iavf",
        "vfio_user",
    )
    assert device.transport_config == SocketConfig(path="/run/avf0.sock")
    assert device.config == NicConfig()
    assert (backend.name, dict(backend.devices)) == ("tap_backend_0", {"emu": "avf_emudev_0"})
    assert backend.config == TapConfig(iface="tap0")


def test_values_are_read_by_their_declared_types():
    text = "emu_iavf,path=x,id=0x2,queues=0x10,mac=52:54:00:00:00:01,caps=0x11,promiscuous=on"
    device = plan(f"{text},rate=0.5,rings=[0x40,128],vids=[1,off],max-fds=16").devices[0]
    assert device.name == "avf_emudev_2"
    assert device.config == NicConfig(
        queues=16,
        mac="52:54:00:00:00:01",
        caps=0x11,
        promiscuous=True,
        rate=0.5,
        rings=(64, 128),
        vids=("1", "off"),
    )
    assert device.transport_config.max_fds == 16


@pytest.mark.parametrize(
    ("text", "value"),
    [("yes", True), ("ON", True), ("true", True), ("1", True), ("no", False), ("off", False)],
)
def test_switches(text, value):
    assert plan(f"emu_iavf,path=x,promiscuous={text}").devices[0].config.promiscuous is value


def test_text_stays_text_and_choices_stay_choices():
    made = plan("emu_iavf,path=yes,mac=10,id=0", "tap_backend,iface=010,create=yes,avf_emu_id=0")
    assert made.devices[0].transport_config.path == "yes"
    assert made.devices[0].config.mac == "10"
    assert made.backends[0].config == TapConfig(iface="010", create="yes")


def test_toml_gives_the_same_plan(tmp_path):
    path = tmp_path / "emudev.toml"
    path.write_text(
        """
        [[vdev]]
        driver = "tap_backend"
        iface = "tap0"
        avf_emu_id = 1

        [[vdev]]
        driver = "emu_iavf"
        path = "/run/avf0.sock"
        id = 1
        queues = 4
        promiscuous = true
        rings = [64]

        [[observe]]
        driver = "count_reads"
        emu = "avf_emudev_1"
        limit = 3
        """
    )
    assert Planner(PLUGINS).plan(*parse_toml(path)) == plan(
        "tap_backend,iface=tap0,avf_emu_id=1",
        "emu_iavf,path=/run/avf0.sock,id=1,queues=4,promiscuous=yes,rings=[64]",
        observe=["count_reads,emu=avf_emudev_1,limit=3"],
    )


def test_the_order_does_not_matter_and_free_numbers_avoid_wanted_ones():
    made = plan(
        "tap_backend,iface=a,emu=avf_emudev_1",
        "emu_iavf,path=x",
        "emu_iavf,path=y,id=0",
        "tap_backend,iface=b,emu=avf_emudev_0",
    )
    assert [(d.name, d.transport_config.path) for d in made.devices] == [
        ("avf_emudev_1", "x"),
        ("avf_emudev_0", "y"),
    ]
    assert [b.name for b in made.backends] == ["tap_backend_0", "tap_backend_1"]


def test_another_transport_is_named_by_key():
    device = plan("emu_iavf,transport=inproc").devices[0]
    assert (device.transport.name, device.transport_config) == ("inproc", TransportConfig())


def test_a_provider_may_have_no_transport():
    assert plan("emu_dice").devices[0].transport is None


def test_a_wire_names_two_devices():
    wire = plan("emu_dice", "emu_dice", "wire,a=dice_emudev_0,b=dice_emudev_1").backends[0]
    assert dict(wire.devices) == {"a": "dice_emudev_0", "b": "dice_emudev_1"}


def test_a_port_of_its_own_names_none():
    assert dict(plan("net_pcap,id=4").backends[0].devices) == {}
    assert plan("net_pcap,id=4").backends[0].name == "net_pcap_4"


@pytest.mark.parametrize(
    ("vdevs", "message"),
    [
        (["emu_iavff,id=0"], "--vdev: unknown driver 'emu_iavff' (did you mean emu_iavf?)"),
        (["emu_iavf,pth=x"], "--vdev emu_iavf: pth: unknown key (did you mean path?)"),
        (["emu_iavf,path=x,quues=2"], "--vdev emu_iavf: quues: unknown key (did you mean queues?)"),
        (["emu_iavf"], "--vdev emu_iavf: the key path is missing (socket to listen on)"),
        (
            ["emu_iavf,path=x,queues=17"],
            "--vdev emu_iavf: queues: expected int 1 to 16, came '17'",
        ),
        (
            ["emu_iavf,path=x,queues=two"],
            "--vdev emu_iavf: queues: expected int 1 to 16, came 'two'",
        ),
        (
            ["emu_iavf,path=x,promiscuous=maybe"],
            "--vdev emu_iavf: promiscuous: expected yes|no, came 'maybe'",
        ),
        (
            ["emu_iavf,path=x,rings=[a]"],
            "--vdev emu_iavf: rings: expected [int,...], came ['a']",
        ),
        (
            ["emu_iavf,path=x,mac=none"],
            "--vdev emu_iavf: mac: expected text like 52:54:00:00:00:01, came 'none'",
        ),
        (["emu_iavf,path=x,mac=multicast"], "--vdev emu_iavf: expected a unicast address"),
        (["emu_iavf,path=x,id=-1"], "--vdev emu_iavf: id: expected int >= 0, came '-1'"),
        (
            ["emu_iavf,path=x,id=0", "emu_iavf,path=y,id=0"],
            "--vdev emu_iavf: id: 0 is taken: avf_emudev_0 is there already (--vdev emu_iavf)",
        ),
        (["emu_iavf,path=x,path=y"], "--vdev emu_iavf: path: the key is given twice"),
        (["emu_iavf,path"], "--vdev emu_iavf: expected key=value, came 'path'"),
        ([""], "--vdev: expected driver,key=value,..., came ''"),
        (["path=x"], "--vdev: expected driver,key=value,..., came 'path=x'"),
        (
            ["emu_iavf,transport=vfio"],
            "--vdev emu_iavf: transport: unknown transport 'vfio' (did you mean vfio_user?)",
        ),
        (
            ["emu_iavf,path=x,id=0", "tap_backend,iface=t,avf_emu_id=1"],
            "--vdev tap_backend: avf_emu_id: no device avf_emudev_1 (did you mean avf_emudev_0?)",
        ),
        (
            ["emu_iavf,path=x,id=0", "tap_backend,iface=t,afv_emu_id=0"],
            "--vdev tap_backend: afv_emu_id: unknown key (did you mean avf_emu_id?)",
        ),
        (
            ["emu_iavf,path=x,id=0", "tap_backend,iface=t,avf_emu_id=0,emu=avf_emudev_0"],
            "--vdev tap_backend: emu: the device is named twice",
        ),
        (["tap_backend,iface=t"], "--vdev tap_backend: expected emu=DEVICE (known: there is none)"),
        (
            [
                "emu_iavf,path=x,id=0",
                "tap_backend,iface=t,emu=avf_emudev_0",
                "tap_backend,iface=u,avf_emu_id=0",
            ],
            "--vdev tap_backend: emu: avf_emudev_0 has a backend already: tap_backend_0",
        ),
        (
            ["emu_iavf,path=x,id=0", "tap_backend,iface=interface-of-16c,avf_emu_id=0"],
            "--vdev tap_backend: iface: expected text of 1 to 15 characters, came "
            "'interface-of-16c'",
        ),
        (
            ["emu_iavf,path=x,id=0", "tap_backend,iface=t,create=maybe,avf_emu_id=0"],
            "--vdev tap_backend: create: expected auto|no|yes, came 'maybe'",
        ),
        (
            ["emu_dice", "wire,a=dice_emudev_0"],
            "--vdev wire: expected b=DEVICE (known: dice_emudev_0)",
        ),
    ],
)
def test_mistakes_get_one_line_that_says_what_would_be_right(vdevs, message):
    assert refused(*vdevs) == message


@pytest.mark.parametrize("other", ["/run/x.sock", "/run/../run//x.sock"])
def test_two_devices_at_one_socket_are_a_mistake_that_names_both(other):
    assert refused("emu_iavf,path=/run/x.sock,id=3", f"emu_iavf,path={other},id=1") == (
        "--vdev emu_iavf: path: the path /run/x.sock can't be used by avf_emudev_1 and by "
        "avf_emudev_3 (--vdev emu_iavf: path)"
    )


def test_the_places_of_both_are_named_in_a_file(tmp_path):
    path = tmp_path / "emudev.toml"
    table = '[[vdev]]\ndriver = "emu_iavf"\npath = "/run/x.sock"\n'
    path.write_text(table + table)
    with pytest.raises(ConfigError) as caught:
        Planner(PLUGINS).plan(*parse_toml(path))
    assert str(caught.value) == (
        f"{path}: $.vdev[1].path: the path /run/x.sock can't be used by avf_emudev_1 and by "
        f"avf_emudev_0 ({path}: $.vdev[0].path)"
    )


def test_a_relative_path_is_the_same_socket(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "can't be used by" in refused("emu_iavf,path=x.sock", f"emu_iavf,path={tmp_path}/x.sock")


def test_things_that_may_be_shared_are_shared_among_equals_only():
    made = plan("pipe,socket=/run/x.sock", "pipe,socket=/run/x.sock")
    assert [backend.name for backend in made.backends] == ["pipe_0", "pipe_1"]
    assert "the path /run/x.sock" in refused("emu_iavf,path=/run/x.sock", "pipe,socket=/run/x.sock")
    assert "by pipe_0 and by pipe_0" in refused("pipe,socket=/run/x.sock,far=/run/x.sock")


def test_a_refused_entry_claims_nothing():
    planner = Planner(PLUGINS)
    planner.device(parse_vdev("emu_iavf,path=/run/x.sock"))
    with pytest.raises(ConfigError):
        planner.backend(parse_vdev("pipe,socket=/run/y.sock,far=/run/x.sock"))
    planner.device(parse_vdev("emu_iavf,path=/run/y.sock"))


def test_mistakes_of_observers():
    assert refused("emu_dice", observe=["count_read,emu=dice_emudev_0"]) == (
        "--observe: unknown observer 'count_read' (did you mean count_reads?)"
    )
    assert refused("emu_dice", observe=["count_reads,emu=dice_emudev_0,limt=1"]) == (
        "--observe count_reads: limt: unknown key (did you mean limit?)"
    )
    assert "expected emu=DEVICE" in refused("emu_dice", observe=["count_reads"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[[vdev]]\ndriver="emu_iavf"\npath="x"\nqueues=17', "$.vdev[0].queues: expected int 1 to"),
        (
            '[[vdev]]\ndriver="emu_iavf"\npath="x"\nqueues="4"',
            "$.vdev[0].queues: expected int 1 to",
        ),
        (
            '[[vdev]]\ndriver="emu_iavf"\npaht="x"',
            "$.vdev[0].paht: unknown key (did you mean path?)",
        ),
        ('[[vdev]]\ndriver="emu_iavf"\npath="x"\nid="0"', "$.vdev[0].id: expected int >= 0"),
        ('[[vdev]]\npath="x"', '$.vdev[0].driver: expected driver = "NAME"'),
        ('[vdev]\npath="x"', "$.vdev: expected an array of tables, [[vdev]]"),
        ("vdev = [1]", "$.vdev[0]: expected a table, came 1"),
        ("[[vdevs]]", "$.vdevs: unknown table (did you mean vdev?)"),
        ("[[vdev]", "no valid TOML"),
    ],
)
def test_mistakes_in_a_file_name_the_path_of_the_key(tmp_path, text, message):
    path = tmp_path / "emudev.toml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        Planner(PLUGINS).plan(*parse_toml(path))
    assert str(caught.value).startswith(f"{path}: ")
    assert message in str(caught.value)


def test_a_missing_file_is_the_users_mistake(tmp_path):
    with pytest.raises(ConfigError, match="No such file"):
        parse_toml(tmp_path / "none.toml")


def test_keys_are_described_for_people():
    described = {key.name: key for key in keys(NicConfig)}
    queues = described["queues"]
    assert (queues.type, queues.range, queues.default, queues.description) == (
        "int",
        "1 to 16",
        "1",
        "queue pairs",
    )
    assert described["mac"].expected == "text like 52:54:00:00:00:01"
    assert described["limit"].default == "unset"
    assert described["promiscuous"].default == "no"
    assert described["link_speed"].unit == "Mbit/s"
    assert described["link_speed"].range == "> 0"
    path, fds = keys(SocketConfig)
    assert path.required
    assert fds.name == "max-fds"
