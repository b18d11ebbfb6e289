"""The commands that the pages show are understood, both sides of ``--``."""

import re
import shlex
from pathlib import Path

import pytest

from emudev_testpmd.arguments import parse

ROOT = Path(__file__).parents[3]
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("plugins/*/README.md")]


def shown():
    for page in sorted(PAGES):
        text = page.read_text(encoding="utf-8").replace("\\\n", " ")
        for line in re.findall(r"emudev testpmd [^`\n]* -- ([^`\n]*)", text):
            if not line.startswith("["):
                yield pytest.param(line, id=f"{page.relative_to(ROOT)}: {line.strip()[:40]}")


@pytest.mark.parametrize("line", list(shown()))
def test_arguments_that_pages_show_are_understood(line):
    assert parse(shlex.split(line)).options
