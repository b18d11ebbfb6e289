"""Listening sockets: stale and live files, permissions, long paths, inherited descriptors."""

import array
import errno
import os
import socket
import stat

import pytest

from emudev_core.errors import ConfigError, TransportError
from emudev_core.sockets import (
    check_address,
    descriptors,
    explain,
    inherited_fd,
    is_bound,
    listen,
    listen_at,
    remove_stale,
)
from emudev_core.testing.builders import open_descriptors

KINDS = [socket.SOCK_STREAM, socket.SOCK_SEQPACKET]
each_kind = pytest.mark.parametrize("kind", KINDS, ids=["stream", "seqpacket"])
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "s")


def leave_stale(path, kind=socket.SOCK_STREAM):
    with socket.socket(socket.AF_UNIX, kind) as sock:
        sock.bind(path)
        sock.listen(1)


def connect(path, kind=socket.SOCK_STREAM):
    with socket.socket(socket.AF_UNIX, kind) as client:
        client.connect(path)


# -- paths


@each_kind
def test_clients_can_connect_until_it_is_closed(path, kind):
    before = open_descriptors()
    listening = listen_at(path, kind)
    assert listening.path == path
    with pytest.raises(BlockingIOError):
        listening.sock.accept()
    assert not os.get_inheritable(listening.sock.fileno())
    connect(path, kind)
    listening.close()
    listening.close()
    assert not os.path.lexists(path)
    assert open_descriptors() == before


def test_a_socket_is_made_with_its_mode_whatever_the_umask(path):
    umask = os.umask(0o777)
    try:
        for mode in (0o600, 0o660, 0o666):
            listening = listen_at(path, socket.SOCK_STREAM, mode=mode)
            assert stat.S_IMODE(os.stat(path).st_mode) == mode
            listening.close()
            assert not os.path.lexists(path)
        assert os.umask(0o777) == 0o777
    finally:
        os.umask(umask)


def test_the_umask_of_other_threads_is_left_alone(path, monkeypatch):
    asked = []
    monkeypatch.setattr(os, "umask", asked.append)
    listen_at(path, socket.SOCK_STREAM, mode=0o660).close()
    assert asked == []


@needs_root
def test_the_file_is_given_to_its_owner(path):
    listening = listen_at(path, socket.SOCK_STREAM, mode=0o640, uid=12, gid=34)
    status = os.stat(path)
    assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (12, 34, 0o640)
    listening.close()


def test_a_file_that_can_not_be_given_away_is_removed(path, monkeypatch):
    def refuse(*_):
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "chown", refuse)
    before = open_descriptors()
    with pytest.raises(TransportError, match=r"no permission .*, or to give it away"):
        listen(path, socket.SOCK_STREAM, where="", uid=12)
    assert not os.path.lexists(path)
    assert open_descriptors() == before


@each_kind
def test_the_socket_of_a_dead_process_is_replaced(path, kind):
    leave_stale(path, kind)
    listening = listen_at(path, kind)
    connect(path, kind)
    listening.close()


@each_kind
def test_a_live_socket_is_refused_without_its_server_noticing(path, kind):
    listening = listen_at(path, kind)
    with pytest.raises(TransportError, match=f"socket {path} is in use: somebody listens on it"):
        listen(path, kind, where="")
    with pytest.raises(BlockingIOError):
        listening.sock.accept()
    assert os.path.exists(path)
    listening.close()


def test_a_process_that_is_about_to_listen_is_alive(path):
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(path)
        assert is_bound(path)
        with pytest.raises(OSError) as caught:
            remove_stale(path)
        assert caught.value.errno == errno.EADDRINUSE
    assert not is_bound(path)
    remove_stale(path)
    assert not os.path.lexists(path)
    remove_stale(path)


def test_a_file_that_is_no_socket_is_left_alone(path):
    with open(path, "w") as file:
        file.write("precious")
    with pytest.raises(ConfigError, match=f"{path} exists and is not a socket"):
        listen(path, socket.SOCK_STREAM, where="")
    with open(path) as file:
        assert file.read() == "precious"


def test_a_link_to_a_stale_socket_is_left_alone(path, tmp_path):
    leave_stale(str(tmp_path / "other"))
    os.symlink(tmp_path / "other", path)
    with pytest.raises(ConfigError, match="exists and is not a socket"):
        listen(path, socket.SOCK_STREAM, where="")
    assert os.path.islink(path)


def test_the_file_is_not_removed_if_it_is_somebody_elses_by_now(path):
    listening = listen_at(path, socket.SOCK_STREAM)
    os.unlink(path)
    other = listen_at(path, socket.SOCK_STREAM)
    listening.close()
    assert os.path.exists(path)
    other.close()


# -- what is wrong


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"there is no folder .*nowhere"):
        listen(str(tmp_path / "nowhere" / "s"), socket.SOCK_STREAM, where="")


def _refusal_of_another_user(path):
    """What listening at a path says to another user."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.setuid(65534)
            listen(path, socket.SOCK_STREAM, where="")
        except BaseException as exc:
            os.write(writing, f"{type(exc).__name__}: {exc}".encode())
        else:
            os.write(writing, b"listens")
        os._exit(0)
    os.close(writing)
    os.waitpid(child, 0)
    said = os.read(reading, 4096).decode()
    os.close(reading)
    return said


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@needs_root
@pytest.mark.parametrize(
    ("mode", "said"),
    [
        (0o755, "TransportError: no permission to make socket {path} in {folder}"),
        (0o733, "listens"),
    ],
    ids=["read only", "write only"],
)
def test_permission_to_make_files_is_all_that_a_folder_needs_to_give(tmp_path, mode, said):
    for parent in (tmp_path, *tmp_path.parents[:3]):
        if parent.stat().st_uid == 0 and parent != parent.parent:
            parent.chmod(parent.stat().st_mode | 0o055)
    folder = tmp_path / "folder"
    folder.mkdir()
    folder.chmod(mode)
    path = folder / "s"
    assert _refusal_of_another_user(str(path)) == said.format(path=path, folder=folder)


@pytest.mark.parametrize(
    ("number", "kind", "words"),
    [
        (errno.EEXIST, ConfigError, "/d/s exists and is not a socket; remove it or"),
        (errno.ENOENT, ConfigError, "can't make socket /d/s: there is no folder /d"),
        (errno.ENOTDIR, ConfigError, "can't make socket /d/s: there is no folder /d"),
        (errno.EADDRINUSE, TransportError, "socket /d/s is in use: somebody listens on it"),
        (errno.EACCES, TransportError, "no permission to make socket /d/s in /d"),
        (errno.EROFS, TransportError, "can't make socket /d/s: /d is read-only"),
        (errno.ENOSPC, TransportError, "can't listen on socket /d/s: No space left on device"),
    ],
)
def test_an_error_says_what_to_change_and_whose_fault_it_is(number, kind, words):
    told = explain("/d/s", OSError(number, os.strerror(number)))
    assert type(told) is kind
    assert str(told).startswith(words)


def test_a_path_of_107_bytes_fits_and_one_of_108_does_not():
    check_address("/" + "a" * 106)
    with pytest.raises(ValueError, match="has 108 bytes, at most 107 fit"):
        check_address("/" + "a" * 107)
    with pytest.raises(ValueError, match="has 109 bytes"):
        check_address("/" + "ä" * 54)


@pytest.mark.parametrize(
    ("name", "words"),
    [("", "empty"), ("a\0b", "NUL"), ("fd:", "the name or the number of an inherited descriptor")],
)
def test_what_is_no_address_is_refused(name, words):
    with pytest.raises(ValueError, match=words):
        check_address(name)


def test_the_longest_path_can_be_listened_on_and_connected_to(tmp_path):
    path = str(tmp_path / ("a" * (106 - len(str(tmp_path)))))
    assert len(path) == 107
    listening = listen_at(path, socket.SOCK_STREAM)
    connect(path)
    listening.close()


# -- socket activation


def test_an_inherited_descriptor_is_found_by_name_or_number():
    environment = {"LISTEN_FDS": "3", "LISTEN_FDNAMES": "log:avf0:avf1"}

    def number(name, **more):
        return inherited_fd(name, where="key=" + name, environment=environment | more)

    assert number("fd:avf1") == 5
    assert number("fd:7") == 7
    assert number("fd:log", LISTEN_PID=str(os.getpid())) == 3
    with pytest.raises(ConfigError, match=r"^key=fd:avf2: .*LISTEN_FDNAMES has: log, avf0, avf1"):
        number("fd:avf2")
    with pytest.raises(ConfigError, match="has: log, avf0"):
        number("fd:avf1", LISTEN_FDS="2")
    with pytest.raises(ConfigError, match="has: none"):
        number("fd:avf0", LISTEN_PID="1")


@each_kind
def test_an_inherited_socket_is_used_and_never_removed(path, kind):
    parent = listen_at(path, kind)
    listening = listen(f"fd:{parent.sock.fileno()}", kind, where="")
    assert not os.get_inheritable(listening.sock.fileno())
    listening.close()
    connect(path, kind)
    assert os.path.exists(path)
    parent.close()


def test_an_inherited_descriptor_has_to_be_a_listening_unix_socket_of_the_kind(tmp_path):
    before = open_descriptors()

    def refused(fd, words):
        where = f"key=fd:{fd}"
        with pytest.raises(ConfigError, match=f"^{where}: descriptor {fd}{words}"):
            listen(f"fd:{fd}", socket.SOCK_SEQPACKET, where=where)

    fd = os.open(tmp_path, os.O_RDONLY)
    refused(fd, ": Socket operation on non-socket")
    os.close(fd)
    refused(fd, ": Bad file descriptor")
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        refused(sock.fileno(), " is not a listening unix seqpacket socket")
    listening = listen_at(str(tmp_path / "s"), socket.SOCK_STREAM)
    refused(listening.sock.fileno(), " is not a listening unix seqpacket socket")
    listening.close()
    with socket.create_server(("127.0.0.1", 0)) as sock:
        refused(sock.fileno(), " is not a listening unix seqpacket socket")
    assert open_descriptors() == before


# -- descriptors in messages


def test_descriptors_of_all_control_messages_are_taken_and_torn_ones_left():
    rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS)
    assert descriptors([]) == []
    assert descriptors(
        [
            (*rights, array.array("i", [5, 6]).tobytes()),
            (socket.SOL_SOCKET, socket.SO_PASSCRED, b"\1\0\0\0"),
            (*rights, array.array("i", [7]).tobytes() + b"\1\2"),
        ]
    ) == [5, 6, 7]
