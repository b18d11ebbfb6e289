"""What counts as trouble in a guest's kernel log, and what a healthy driver says."""

import pytest

from emudev_lab.kernel_log import KernelLog

# Lines of a guest with Linux 6.12 (avf.md 9.2), in the form of `dmesg -r`.
HEALTHY = """\
<5>[    0.000000] Linux version 6.12.0
<6>[    0.000000] Command line: console=ttyS0 oops=panic
<6>[    2.100000] iavf: Intel(R) Ethernet Adaptive Virtual Function Network Driver
<6>[    2.200000] iavf 0000:00:04.0: Multiqueue Disabled: Queue pair count = 1
<6>[    2.200001] iavf 0000:00:04.0: MAC address: 52:54:00:77:00:02
<6>[    2.200002] iavf 0000:00:04.0: GRO is enabled
<6>[    2.300000] iavf 0000:00:04.0 eth0: NIC Link is Up Speed is 25 Gbps Full Duplex
"""


def test_a_healthy_boot_has_no_trouble_and_nothing_unexpected():
    log = KernelLog(HEALTHY)
    assert log.trouble() == []
    assert log.unexpected("iavf") == []
    assert len(log.of("iavf")) == 5
    assert "NIC Link is Up" in log


def test_what_linux_7_says_of_a_device_without_a_clock_is_expected():
    line = "<5>[    9.002463] iavf 0000:00:04.0: Device does not have PTP clock support\n"
    log = KernelLog(HEALTHY + line)
    assert log.trouble() == []
    assert log.unexpected("iavf") == []


def test_levels_and_times_are_read_and_other_lines_left_out():
    log = KernelLog("garbage\n<11>[   12.5] user error\r\n<6>[    1.0][    T1] with a thread\n")
    assert [(m.level, m.time, m.text) for m in log] == [
        (3, 12.5, "user error"),
        (6, 1.0, "with a thread"),
    ]


@pytest.mark.parametrize(
    "line",
    [
        "<3>[    1.0] iavf 0000:00:04.0: Failed to init Admin Queue (-53)",
        "<0>[    1.0] anything at level emergency",
        "<4>[    1.0] WARNING: CPU: 0 PID: 1 at net/sched/sch_generic.c:525",
        "<4>[    1.0] NETDEV WATCHDOG: CPU: 0: transmit queue 0 timed out 5000 ms",
        "<1>[    1.0] BUG: kernel NULL pointer dereference, address: 0000000000000000",
        "<6>[    1.0] rcu: INFO: rcu_preempt self-detected stall on CPU",
        "<4>[    1.0] irq 11: nobody cared (try booting with the irqpoll option)",
    ],
)
def test_trouble_is_seen_at_any_level(line):
    assert len(KernelLog(HEALTHY + line).trouble()) == 1


@pytest.mark.parametrize(
    "text",
    [
        "iavf 0000:00:04.0: Unable to get VF config (-5)",
        "iavf 0000:00:04.0 eth0: NIC Link is Down",
        "iavf 0000:00:04.0: Multiqueue Disabled: Queue pair count = 4",
        "iavf 0000:00:04.0: MAC address: 52:54:00:77:00:02 and more",
    ],
)
def test_a_line_that_a_healthy_driver_does_not_write_is_unexpected(text):
    log = KernelLog(f"{HEALTHY}<6>[    3.0] {text}\n")
    assert log.unexpected("iavf") == [text.split(": ", 1)[1]]


def test_a_test_may_expect_more_of_a_driver():
    log = KernelLog(HEALTHY + "<6>[    3.0] iavf 0000:00:04.0 eth0: NIC Link is Down\n")
    assert log.unexpected("iavf", also=["NIC Link is Down"]) == []


def test_a_driver_without_a_list_is_not_judged():
    assert KernelLog("<6>[    3.0] e1000e: anything\n").unexpected("e1000e") == []


def test_what_a_driver_may_say_at_level_error_is_no_trouble():
    log = KernelLog(
        "<3>[    1.000000] iavf 0000:00:04.0: Hardware reset detected\n"
        "<3>[    2.000000] iavf 0000:00:04.0: Never saw reset\n"
        "<4>[    3.000000] iavf 0000:00:04.0 eth0: NETDEV WATCHDOG: CPU: 1\n"
    )
    assert len(log.trouble()) == 3
    assert log.trouble(["Hardware reset detected", "NIC Link is Down"]) == [
        "iavf 0000:00:04.0: Never saw reset",
        "iavf 0000:00:04.0 eth0: NETDEV WATCHDOG: CPU: 1",
    ]
