"""Metadata files of the repository (pre-commit, citation) agree with the package."""

import re
from pathlib import Path

from ropevit import __version__

ROOT = Path(__file__).parents[1]


def test_commits_are_checked_by_the_pinned_ruff():
    pinned = re.search(r"^ruff==(.+)$", (ROOT / "constraints.txt").read_text(), re.M)[1]
    used = re.findall(r"ruff==([\d.]+)", (ROOT / ".pre-commit-config.yaml").read_text())
    assert used == [pinned, pinned]


def test_the_citation_is_of_this_version():
    assert f"\nversion: {__version__}\n" in (ROOT / "CITATION.cff").read_text()
