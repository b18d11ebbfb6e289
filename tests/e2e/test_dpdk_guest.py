"""DPDK's iavf driver in a guest on `emu_iavf`: behind an IOMMU, and without interrupts."""

import pytest

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(400),
    pytest.mark.guest(programs=("dpdk-testpmd",), drivers=False),
]

MAC = "52:54:00:77:00:02"
TAP = "tap_backend,iface={tap},avf_emu_id=0"

#: The offer to a driver without interrupts: lacking WB_ON_ITR (bit 5), it polls its mailbox.
#: Source: avf.md 4.4.
POLLED = 0x020884C1


@pytest.mark.guest(iommu=True)
@pytest.mark.parametrize("queues", [1, 2])
def test_testpmd_behind_an_iommu_echoes_sends_receives_and_restarts(emudev, guest, queues):
    server = emudev(f"emu_iavf,id=0,mac={MAC},queues=4", TAP)
    found = guest.script("dpdk", QUEUES=queues)
    assert found["DRIVER"] == "vfio-pci"
    assert found["PMD"] == "net_iavf"
    assert found["MAC"].lower() == MAC
    assert found["FAILURES"] == "0"
    guest.power_off()
    assert server.stop() == []


def test_testpmd_without_interrupts_polls_its_mailbox(emudev, guest):
    server = emudev(f"emu_iavf,id=0,mac={MAC},caps={POLLED:#x}", TAP)
    found = guest.script("dpdk", TESTS="echo restart receive")
    assert found["DRIVER"] == "uio_pci_generic"
    assert found["FAILURES"] == "0"
    guest.power_off()
    assert server.stop() == []


@pytest.mark.guest(iommu=True, drivers=True)
def test_the_kernel_s_driver_and_testpmd_take_turns_behind_an_iommu(emudev, guest):
    emudev(f"emu_iavf,id=0,mac={MAC}", TAP)
    for _ in range(2):
        found = guest.script("dpdk", TESTS="echo")
        assert found["FAILURES"] == "0"
        # Back to iavf: by then its memory is mapped anew, page by page, for every frame.
        guest.sh("bind_nic 0 iavf; nic_up; ping -q -c 20 -i 0.02 -W 2 $HOST_IP")
        guest.sh("ping -q -c 10 -i 0.02 -W 2 -s 1472 $HOST_IP")
    assert guest.log.trouble() == []
