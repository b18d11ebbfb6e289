"""Everything of a stock guest's NIC changed again and again, idle and under traffic."""

import pytest

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600), pytest.mark.guest(smp=2)]

KERNELS = [
    pytest.param(name, marks=pytest.mark.guest(kernel=name), id=name)
    for name in ("stable", "backports")
]
TAPS = [
    pytest.param(flags, marks=pytest.mark.guest(tap_flags=flags), id=flags or "one-queue")
    for flags in ("", "multi_queue")
]
#: What changes most, within two minutes.
QUICK = {
    "PARTS": "updown reload mtu channels filters vlans",
    "BUSY_PARTS": "rings address tap",
    "LIMIT": 80,
}


@pytest.fixture
def server(emudev):
    """A device of four queue pairs on a TAP."""
    return emudev(
        "emu_iavf,id=0,mac=52:54:00:77:00:02,queues=4", "tap_backend,iface={tap},avf_emu_id=0"
    )


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_nic_survives_changes_of_what_matters_most(server, guest, kernel):
    assert guest.script("stress", **QUICK)["FAILURES"] == "0"


@pytest.mark.nightly
@pytest.mark.timeout(2400)
@pytest.mark.parametrize("tap_flags", TAPS)
@pytest.mark.parametrize("kernel", KERNELS)
def test_a_nic_survives_every_change_three_times(server, guest, kernel, tap_flags):
    for _ in range(3):
        assert guest.script("stress")["FAILURES"] == "0"
