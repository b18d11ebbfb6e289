"""What a script's head says."""

import pytest

from emudev_lab import script
from emudev_lab.errors import LabError


def test_a_script_without_a_head_has_the_defaults():
    parsed = script.parse("true\n", "x.sh")
    assert (parsed.smp, parsed.mem, parsed.timeout) == (1, 512, 120)
    assert parsed.driver
    assert not parsed.strict
    assert parsed.helpers == ()
    assert parsed.expect == ()
    assert not parsed.iommu


def test_each_word_is_read_and_lists_add_up():
    parsed = script.parse(
        "# A script.\n# guest: load pktgen\n# guest: load  8021q \n"
        "# guest: helpers transfer iperf3\n# guest: smp 2\n# guest: mem 768\n# guest: timeout 10\n"
        "# guest: nodriver\n# guest: strict\n# guest: programs tcpdump\n"
        "# guest: modules vfio-pci\n# guest: iommu\n"
        "# guest: expect Leaving .* mode\n# guest: expect Removing device\n. x\n"
    )
    assert parsed.load == ("pktgen", "8021q")
    assert parsed.helpers == ("transfer", "iperf3")
    assert (parsed.smp, parsed.mem, parsed.timeout) == (2, 768, 10)
    assert (parsed.driver, parsed.strict) == (False, True)
    assert parsed.programs == ("tcpdump",)
    assert parsed.modules == ("vfio-pci",)
    assert parsed.iommu
    assert parsed.expect == ("Leaving .* mode", "Removing device")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("# guest: timeuot 3", "unknown word .did you mean timeout"),
        ("# guest: smp two", "expected one number"),
        ("# guest: mem 0", "expected one number"),
        ("# guest: timeout", "expected one number"),
        ("# guest: helpers xfer", "no helper xfer"),
        ("# guest: expect", "expected a regular expression"),
        ("# guest: expect (a", "no regular expression: "),
    ],
)
def test_a_mistake_is_named_with_the_script(line, message):
    with pytest.raises(LabError, match=message) as caught:
        script.parse(f"{line}\n", "mine.sh")
    assert str(caught.value).startswith("mine.sh: ")


def test_words_elsewhere_in_a_line_are_no_head():
    assert script.parse("echo '# guest: smp 4'\n").smp == 1


def test_every_script_of_the_lab_parses_and_says_what_it_is():
    assert script.names() == [
        "dpdk.sh", "lspci.sh", "perf.sh", "ping.sh", "smoke.sh", "stress.sh", "tcp.sh",
    ]  # fmt: skip
    for name in script.names():
        found = script.find(name)
        assert found == script.find(name.removesuffix(".sh"))
        assert found.text.startswith("# ")
        assert found.timeout <= 600


def test_a_file_is_found_before_a_script_of_the_lab(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "smoke.sh").write_text("# guest: smp 3\n")
    assert script.find("smoke.sh").smp == 3


def test_an_unknown_script_is_an_error_that_lists_the_known_ones():
    with pytest.raises(LabError, match=r"no script nosuch: neither a file nor one of dpdk\.sh"):
        script.find("nosuch")
