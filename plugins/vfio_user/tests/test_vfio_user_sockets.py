"""Listening sockets: stale and live files, permissions, long paths, inherited descriptors."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

import msgspec
import pytest

from emudev_core.errors import ConfigError, TransportError
from emudev_vfio_user.config import VfioUserConfig
from emudev_vfio_user.sockets import check_path, inherited_fd, open_socket


def _stale(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))
        sock.listen(1)


def test_a_socket_is_made_with_its_mode_whatever_the_umask(tmp_path: Path) -> None:
    umask = os.umask(0o777)
    try:
        for mode in (0o600, 0o660, 0o666):
            listening = open_socket(str(tmp_path / "s"), mode)
            assert stat.S_IMODE(os.stat(tmp_path / "s").st_mode) == mode
            listening.close()
            assert not (tmp_path / "s").exists()
        assert os.umask(0o777) == 0o777
    finally:
        os.umask(umask)


def test_the_umask_of_other_threads_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    monkeypatch.setattr(os, "umask", asked.append)
    open_socket(str(tmp_path / "s"), 0o660).close()
    assert asked == []


def test_a_socket_is_claimed_however_its_path_is_spelt(tmp_path: Path) -> None:
    one, other = (VfioUserConfig(path=f"{tmp_path}{middle}/s") for middle in ("", "/./"))
    assert list(one.claims()) == list(other.claims())
    inherited = list(VfioUserConfig(path="fd:3").claims())
    assert inherited == list(VfioUserConfig(path="fd:3").claims())
    assert inherited != list(VfioUserConfig(path="fd:4").claims())


def test_the_socket_of_a_dead_process_is_replaced(tmp_path: Path) -> None:
    _stale(tmp_path / "s")
    listening = open_socket(str(tmp_path / "s"))
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(tmp_path / "s"))
    listening.close()


def test_a_live_socket_is_refused_without_its_server_noticing(tmp_path: Path) -> None:
    listening = open_socket(str(tmp_path / "s"))
    with pytest.raises(TransportError, match="in use: somebody listens on it"):
        open_socket(str(tmp_path / "s"))
    with pytest.raises(BlockingIOError):
        listening.sock.accept()
    assert (tmp_path / "s").exists()
    listening.close()


def test_a_file_that_is_no_socket_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "s").write_text("precious")
    with pytest.raises(ConfigError, match="exists and is not a socket"):
        open_socket(str(tmp_path / "s"))
    assert (tmp_path / "s").read_text() == "precious"


def test_the_file_is_not_removed_if_it_is_somebody_elses_by_now(tmp_path: Path) -> None:
    listening = open_socket(str(tmp_path / "s"))
    os.unlink(tmp_path / "s")
    other = open_socket(str(tmp_path / "s"))
    listening.close()
    assert (tmp_path / "s").exists()
    other.close()


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"there is no folder .*nowhere"):
        open_socket(str(tmp_path / "nowhere" / "s"))


@pytest.mark.skipif(os.geteuid() != 0, reason="has to become another user")
def test_a_folder_without_permission_is_named(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    child = os.fork()
    if not child:
        os.setuid(65534)
        try:
            open_socket("/proc/1/s" if not os.access("/root", os.W_OK) else str(tmp_path / "s"))
        except (TransportError, ConfigError):
            os._exit(0)
        os._exit(1)
    assert os.waitpid(child, 0)[1] == 0


def test_a_path_of_107_bytes_fits_and_one_of_108_does_not() -> None:
    check_path("/" + "a" * 106)
    with pytest.raises(ValueError, match="has 108 bytes, at most 107 fit"):
        check_path("/" + "a" * 107)
    with pytest.raises(ValueError, match="has 109 bytes"):
        check_path("/" + "ä" * 54)


def test_the_longest_path_can_be_listened_on_and_connected_to(tmp_path: Path) -> None:
    path = str(tmp_path / ("a" * (106 - len(str(tmp_path)))))
    assert len(path) == 107
    listening = open_socket(path)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(path)
    listening.close()


def test_the_configuration_refuses_a_bad_path_or_mode() -> None:
    with pytest.raises(msgspec.ValidationError, match="at most 107"):
        msgspec.convert({"path": "x" * 200}, VfioUserConfig)
    with pytest.raises(msgspec.ValidationError, match="name or the number"):
        msgspec.convert({"path": "fd:"}, VfioUserConfig)
    with pytest.raises(msgspec.ValidationError, match="mode"):
        msgspec.convert({"path": "x", "mode": "rw"}, VfioUserConfig)
    assert msgspec.convert({"path": "x", "mode": "0660"}, VfioUserConfig).file_mode == 0o660


def test_an_inherited_socket_is_found_by_name_and_never_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = {"LISTEN_FDS": "3", "LISTEN_FDNAMES": "log:avf0:avf1"}
    assert inherited_fd("avf1", environment) == 5
    assert inherited_fd("7", environment) == 7
    with pytest.raises(ConfigError, match="LISTEN_FDNAMES has: log, avf0, avf1"):
        inherited_fd("avf2", environment)
    with pytest.raises(ConfigError, match="has: none"):
        inherited_fd("avf0", {**environment, "LISTEN_PID": "1"})
    parent = open_socket(str(tmp_path / "s"))
    listening = open_socket(f"fd:{parent.sock.fileno()}")
    listening.close()
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(tmp_path / "s"))
    assert (tmp_path / "s").exists()
    parent.close()


def test_an_inherited_descriptor_has_to_be_a_listening_unix_socket(tmp_path: Path) -> None:
    fd = os.open(tmp_path, os.O_RDONLY)
    with pytest.raises(ConfigError, match=f"descriptor {fd}"):
        open_socket(f"fd:{fd}")
    os.close(fd)
    with pytest.raises(ConfigError, match=f"descriptor {fd}"):
        open_socket(f"fd:{fd}")
    with socket.socket(socket.AF_UNIX) as sock, pytest.raises(ConfigError, match="not a listening"):
        open_socket(f"fd:{sock.fileno()}")
