"""Where a device listens: what the configuration takes, and that the socket is a stream."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from emudev_core.device import Device
from emudev_core.errors import ConfigError
from emudev_core.loop import Loop
from emudev_vfio_user.config import VfioUserConfig
from emudev_vfio_user.server import Server


@pytest.fixture
def serve() -> Iterator[Callable[[VfioUserConfig], Server]]:
    """A server of a device that nobody needs."""
    loop = Loop()
    device = Device("model_emudev_0", 0, "model", loop)
    made: list[Server] = []

    def build(config: VfioUserConfig) -> Server:
        made.append(Server(config, device, loop))
        return made[-1]

    yield build
    for server in made:
        server.emudev_close()
    device.close()
    loop.close()


def test_it_listens_on_a_stream_socket_of_the_mode_that_was_asked_for(
    tmp_path: Path, serve: Callable[[VfioUserConfig], Server]
) -> None:
    path = tmp_path / "s"
    server = serve(VfioUserConfig(path=str(path), mode="0660"))
    assert server.emudev_listen() == f"vfio_user:{path}"
    assert path.stat().st_mode & 0o777 == 0o660
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.connect(str(path))
    assert server.emudev_unlisten()
    assert not path.exists()


def test_an_inherited_socket_of_another_kind_is_refused_by_its_key(
    serve: Callable[[VfioUserConfig], Server],
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        sock.bind("")  # an abstract name that is free
        sock.listen(1)
        number = sock.fileno()
        words = f"^path=fd:{number}: descriptor {number} is not a listening unix stream socket$"
        with pytest.raises(ConfigError, match=words):
            serve(VfioUserConfig(path=f"fd:{number}")).emudev_listen()


def test_a_socket_is_claimed_however_its_path_is_spelt(tmp_path: Path) -> None:
    one, other = (VfioUserConfig(path=f"{tmp_path}{middle}/s") for middle in ("", "/./"))
    assert list(one.claims()) == list(other.claims())
    inherited = list(VfioUserConfig(path="fd:3").claims())
    assert inherited == list(VfioUserConfig(path="fd:3").claims())
    assert inherited != list(VfioUserConfig(path="fd:4").claims())


def test_the_configuration_refuses_a_bad_path_or_mode() -> None:
    with pytest.raises(msgspec.ValidationError, match="at most 107"):
        msgspec.convert({"path": "x" * 200}, VfioUserConfig)
    with pytest.raises(msgspec.ValidationError, match="name or the number"):
        msgspec.convert({"path": "fd:"}, VfioUserConfig)
    with pytest.raises(msgspec.ValidationError, match="mode"):
        msgspec.convert({"path": "x", "mode": "rw"}, VfioUserConfig)
    assert msgspec.convert({"path": "x", "mode": "0660"}, VfioUserConfig).file_mode == 0o660
