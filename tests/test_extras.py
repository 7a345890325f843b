import re
import tomllib
from pathlib import Path

import pytest

from ropevit.extras import MissingExtraError, how_to_install, require

ROOT = Path(__file__).parents[1]
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
#: Files that say what to install.
TOLD = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *(
        path
        for f in ("src", "docs", "examples", "benchmarks")
        for path in (ROOT / f).rglob("*")
        if path.suffix in (".py", ".md")
    ),
]


def test_a_missing_package_is_an_error_that_says_how_to_install_it():
    with pytest.raises(MissingExtraError, match=r'no_such_package is not installed; .* pip install "[.]\[train\]"$'):
        require("no_such_package.part", "train")
    assert require("json.decoder", "train").__name__ == "json.decoder"


def test_every_line_that_says_how_to_install_ropevit_works_as_it_stands():
    lines = [
        f"{path.relative_to(ROOT)}: {line.strip()}"
        for path in TOLD
        for line in path.read_text().splitlines()
        if re.search(r"install (-\S+ )*[\"']?ropevit\b(?!/)", line)
    ]
    assert lines == [], "ropevit is in no registry: install it from a clone, a path or a wheel"


def test_extras_that_are_named_exist():
    text = "\n".join(path.read_text() for path in TOLD) + how_to_install("all")
    named = set(re.findall(r"install \"[^\"\[]*\[([a-z,]+)\]\"", text)) | set(
        re.findall(r"require\(\"[\w.]+\", \"(\w+)\"\)", text)
    )
    assert named
    assert {extra for names in named for extra in names.split(",")} <= set(EXTRAS)
