"""What README and docs say is true: their code runs, their commands and files exist."""

import re
import runpy
import shlex
from pathlib import Path

import pytest

from ropevit.analysis.catalog import FIGURES
from ropevit.cli import VERBS
from ropevit.data.annotation_formats import ANNOTATION_FORMATS
from ropevit.data.sources import NAMED_SOURCES
from ropevit.kernels import BACKENDS
from ropevit.models.architectures import ARCHITECTURES, MODELS, VARIANTS
from ropevit.rope import DISTANCE_BIAS_TYPES, ROPE_TYPES
from ropevit.tasks import TASKS

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src/ropevit"
REGISTRIES = (
    *(ROPE_TYPES, DISTANCE_BIAS_TYPES, ARCHITECTURES, MODELS, VARIANTS),
    *(FIGURES, BACKENDS, TASKS, ANNOTATION_FORMATS, NAMED_SOURCES),
)
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


#: Examples left to `make test-all`: one that trains, and one that test_tutorial.py runs with the commands after it.
SLOW = {"docs/finetune.md-0", "docs/tutorial.md-0"}


def blocks(language: str) -> list:
    found = []
    for page in PAGES:
        for index, code in enumerate(re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.M | re.S)):
            name = f"{page.relative_to(ROOT)}-{index}"
            found.append(pytest.param(code, id=name, marks=[pytest.mark.full] if name in SLOW else []))
    return found


@pytest.mark.parametrize("code", blocks("python"))
def test_python_examples_run(code, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # examples write files
    before = [dict(registry) for registry in REGISTRIES]
    try:
        exec(compile(code, "example", "exec"), {})  # a reader pastes a block alone
    finally:
        for registry, rows in zip(REGISTRIES, before, strict=True):  # what an example registered
            registry.clear()
            registry.update(rows)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_name_verbs_that_exist(page):
    for command in re.findall(r"(?:^|`)(ropevit [a-z].*?)(?:#|`|$)", page.read_text(), re.M):
        assert shlex.split(command)[1] in VERBS, command


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files(page):
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        assert target.startswith("https://") or (page.parent / target).exists(), target


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as the site makes them."""
    headings = re.findall(r"^#+ (.*)$", re.sub(r"^```.*?^```", "", page.read_text(), flags=re.M | re.S), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_headings(page):
    for target, anchor in re.findall(r"\]\(([^)#:]*)#([^)]+)\)", page.read_text()):
        where = page.parent / target if target else page
        assert where.suffix != ".md" or anchor in anchors(where), f"{target}#{anchor}"


def test_the_architecture_page_and_its_figure_name_files_that_exist():
    drawing = ROOT / "docs/figures/architecture.svg"
    assert runpy.run_path(str(drawing.with_suffix(".py")))["draw"]() == drawing.read_text(), "draw it again"
    text = (ROOT / "docs/architecture.md").read_text() + drawing.read_text()
    paths = set(re.findall(r"\w+/[\w./]+\.py", text))
    assert len(paths) > 5
    assert [path for path in paths if not any((root / path).is_file() for root in (ROOT, SOURCE))] == []
    packages = {path.parent.name for path in SOURCE.glob("*/__init__.py")}
    assert packages <= set(re.findall(r"^\| `(\w+)`", text, re.M))


def test_the_embedded_images_are_small_enough_for_the_wheel():
    files = (ROOT / "src/ropevit/data").rglob("*")
    assert sum(path.stat().st_size for path in files if path.suffix != ".pyc" and path.is_file()) < 12e6
