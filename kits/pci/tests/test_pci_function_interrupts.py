"""Interrupts of a function, of all kinds, as a guest gets them."""


def test_vectors_follow_binding_and_masks(make_probe):
    guest, probe, _ = make_probe()
    probe.vectors[2].trigger()
    assert guest.vectors[2].wait(1) == 1, "what waited goes out when it is bound"
    at = guest.capability(0x11) + 2
    guest.config.write16(at, 0xC000)  # function mask
    probe.vectors[2].trigger()
    assert not guest.vectors[2].wait(0.01)
    assert guest.bar[4].read8(0x800) == 4  # pending bit
    guest.config.write16(at, 0x8000)
    assert guest.vectors[2].wait(1) == 1
    guest.vectors[2].disable()
    probe.vectors[2].trigger()
    assert probe.vectors[2].pending
    assert [t for t in probe.told if t[0] == "vector"] == [
        ("vector", 2, True),
        ("vector", 2, False),
        ("vector", 2, True),
        ("vector", 2, False),
    ]


def test_msi_folds_vectors_that_are_not_enabled(make_probe):
    guest, probe, _ = make_probe("emu_probe,id=0,msi=4,msix=0")
    guest.vectors[0].enable()
    at = guest.capability(5)
    guest.config.write16(at + 2, 0x0001)  # one of four
    for vector in probe.vectors:
        vector.trigger()
    assert guest.vectors[0].wait(1) == 4
    guest.config.write16(at + 2, 0x0021)  # all four
    guest.config.write32(at + 16, 0b0100)
    probe.vectors[2].trigger()
    assert guest.config.read32(at + 20) == 0b0100
    guest.config.write32(at + 16, 0)
    assert guest.vectors[2].wait(1) == 1


def test_intx_is_a_level(make_probe):
    guest, probe, _ = make_probe()
    guest.intx.enable()
    probe.intx_line.set(True)
    assert guest.intx.wait(1)
    assert guest.config.read16(6) & 8
    guest.intx.unmask()
    assert guest.intx.wait(1), "still asserted"
    guest.config.write16(4, 0x0406)
    guest.intx.unmask()
    assert not guest.intx.wait(0.01), "disabled in the command register"
    guest.config.write16(4, 0x0006)
    assert guest.intx.wait(1)
    probe.intx_line.set(False)
    guest.intx.unmask()
    assert not guest.intx.wait(0.01)
    assert not guest.config.read16(6) & 8


def test_a_client_may_fire_vectors_as_a_test(make_probe):
    guest, _, device = make_probe()
    guest.vectors[0].enable()
    guest.intx.enable()
    device.irq_trigger(2, 0)
    device.irq_trigger(0, 0)
    device.irq_trigger(2, 99)
    assert guest.vectors[0].wait(1) == 1
    assert guest.intx.wait(1)
