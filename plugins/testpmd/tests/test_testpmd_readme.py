"""What the README shows runs."""

import re
from pathlib import Path

import pytest

from emudev_testpmd.options import MODES

README = (Path(__file__).parent.parent / "README.md").read_text()


def test_the_example_forwards_packets(capsys):
    pytest.importorskip("emudev_null")
    (block,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    exec(compile(block, "README.md", "exec"), {})
    mode, received, sent = capsys.readouterr().out.split()
    assert mode == "macswap"
    assert int(sent) == int(received) > 0


def test_every_mode_is_described():
    assert set(re.findall(r"^\| `(\w+)` \|", README, re.MULTILINE)) >= set(MODES)
