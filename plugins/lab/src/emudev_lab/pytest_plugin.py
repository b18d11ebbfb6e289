"""Guests in pytest: the marker ``guest`` and the fixtures ``guest`` and ``emudev``.

    @pytest.mark.guest(kernel="stable")
    def test_link_follows_the_tap(guest, emudev):
        emudev("emu_iavf,id=0", "tap_backend,iface=tap0,avf_emu_id=0")
        guest.sh("ip link set eth0 up")
        emudev.host("ip link set tap0 down")
        guest.wait_for("cat /sys/class/net/eth0/carrier", "0")

Loading this module imports nothing of the lab; the fixtures do. A test is skipped, with the reason,
where there is no root, no prepared lab or no network namespace; with ``CI=true`` and root that is
an error. The folder with the logs of a failed test is named in its report; with
``$EMUDEV_LAB_LOGS`` set, it is below that one.
"""

from __future__ import annotations

import os
import re
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from .fixtures import Emudev, LazyGuest, Options

__all__ = ["emudev", "guest"]

_MARKER = (
    "guest(kernel='stable', nic=None, smp=1, mem=512, accel='tcg', programs=(), modules=(), "
    "iommu=False, shared=True, tap_flags='', drivers=True, tolerate=False): what the fixture "
    "`guest` boots; with tolerate, trouble in its kernel's log is left to the test"
)
_EMUDEV = pytest.StashKey["Emudev"]()
_FAILED = pytest.StashKey[bool]()


def pytest_configure(config: pytest.Config) -> None:
    """Make the marker known."""
    config.addinivalue_line("markers", _MARKER)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Note a failure, and name the folder with the logs in its report."""
    report = yield
    host = item.stash.get(_EMUDEV, None)
    if host is not None and report.failed:
        item.stash[_FAILED] = True
        report.sections.append(("guest lab", f"logs are in {host.logs}"))
    return report


@pytest.fixture
def emudev(request: pytest.FixtureRequest) -> Iterator[Emudev]:
    """The host's side: ``emudev("vdev")`` starts ``emudev run``, ``emudev.host(cmd)`` runs there.

    Ends with the test, which fails if a server ends with another status than 0 on SIGTERM or leaves
    its socket.
    """
    options = _options(request)
    _check(options)
    from .errors import LabError
    from .fixtures import Emudev

    node = request.node
    keep = os.environ.get("EMUDEV_LAB_LOGS", "")
    logs = Path(keep).absolute() / re.sub(r"[^\w.-]+", "_", node.nodeid) if keep else None
    try:
        side = Emudev(options, logs)
    except LabError as error:
        _unavailable(str(error))
    node.stash[_EMUDEV] = side
    faults: list[str] = []
    try:
        yield side
    finally:
        faults = side.close()
        failed = bool(faults) or node.stash.get(_FAILED, False)
        side.clean(keep=failed)
    if faults:
        pytest.fail("\n".join(faults), pytrace=False)


@pytest.fixture
def guest(emudev: Emudev) -> LazyGuest:
    """The guest. It boots when it is first used, on what `emudev` was given until then.

    Trouble in its kernel's log fails the test at its end, unless the marker says ``tolerate=True``.
    """
    return emudev.guest


def _options(request: pytest.FixtureRequest) -> Options:
    from .fixtures import Options

    marks: dict[str, Any] = {}
    for mark in reversed(list(request.node.iter_markers("guest"))):
        marks |= mark.kwargs
    try:
        return Options(**marks)
    except TypeError as error:
        pytest.fail(f"marker guest: {error}", pytrace=False)


def _check(options: Options) -> None:
    """Skip where no guest can run."""
    if os.geteuid() != 0:
        pytest.skip("guests need root (TAP interfaces and network namespaces)")
    from .lab import Lab

    if missing := Lab().missing([options.kernel], options.programs):
        _unavailable(missing)


def _unavailable(reason: str) -> None:
    """Skip, but not where tests are there to be run."""
    if os.environ.get("CI", "").lower() == "true" and os.geteuid() == 0:
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)
