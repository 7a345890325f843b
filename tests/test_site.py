"""The guide as a site: it builds without a warning, leads nowhere that is not there, and asks no other host."""

import ast
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

pytest.importorskip("sphinx")

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]

#: Modules whose public names the reference lists -> the page that does.
REFERENCE = {
    "ropevit": "ropevit",
    "ropevit.rope": "rope",
    "ropevit.models": "models",
    "ropevit.models.dense": "dense",
    "ropevit.kernels": "kernels",
    "ropevit.weights": "weights",
    **{f"ropevit.integrations.{name}": "integrations" for name in ("export", "retrofit", "timm", "transformers")},
}

#: What a browser fetches by itself, and the attribute that says from where.
FETCHED = {"script": "src", "link": "href", "img": "src", "iframe": "src", "source": "src"}


class Page(HTMLParser):
    """What one built page refers to, and the anchors that it has."""

    def __init__(self, path: Path):
        super().__init__()
        self.anchors: set[str] = set()
        self.links: list[str] = []
        self.fetched: list[str] = []
        self.feed(path.read_text())

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.anchors.add(given.get("id") or "")
        if tag == "a" and given.get("href"):
            self.links.append(given["href"])
        if given.get(FETCHED.get(tag, "")):
            self.fetched.append(given[FETCHED[tag]])


def build(source, out, *options):
    """Build a site as `make docs` does."""
    command = [sys.executable, "-m", "sphinx", "-c", "docs", "-E", "-W", "--keep-going", "-q", *options, source, out]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return out


@pytest.fixture
def site(tmp_path):
    """Build the whole site."""
    return build(".", tmp_path)


#: Pages with what the guide has: a formula, and links to a page, to a heading and to another host.
SMALL = {
    "index.md": "# Home\n\n[A page](page.md#the-angle), [elsewhere](https://example.org)\n\n```{toctree}\npage\n```\n",
    "page.md": "# A page\n\nBack [home](index.md).\n\n## The angle\n\n$$\\theta_p = 100^{-p / P}$$\n",
}


def test_a_small_site_has_formulas_and_links_and_asks_no_other_host(tmp_path):
    (tmp_path / "pages").mkdir()
    for name, text in SMALL.items():
        (tmp_path / "pages" / name).write_text(text)
    site = build(tmp_path / "pages", tmp_path / "site", "-D", "root_doc=index", "-D", "include_patterns=*.md")
    pages = {site / name: Page(site / name) for name in ("index.html", "page.html")}
    for path, page in pages.items():
        check_links(path, page, pages)
        check_fetched(path, page)
    assert "page.html#the-angle" in pages[site / "index.html"].links
    assert "<math " in (site / "page.html").read_text()
    assert any("guide.css" in link for link in pages[site / "index.html"].fetched)


@pytest.mark.full  # test_docs.py follows the links between the pages, to their headings, by default
@pytest.mark.timeout(600)  # minutes on a busy machine
def test_the_site_builds_whole_and_by_itself(site):  # one test, so that the site is built once
    pages = {path: Page(path) for path in site.rglob("*.html")}
    for path in PAGES[1:]:
        assert (site / path.relative_to(ROOT)).with_suffix(".html") in pages, path
    for path, page in pages.items():
        check_links(path, page, pages)
        check_fetched(path, page)
    for sheet in site.rglob("*.css"):
        assert not re.search(r"(url\(|@import)\s*[\"']?(https?:)?//", sheet.read_text()), sheet
    check_reference(site)
    assert (site / "docs/maths.html").read_text().count("<math ") > 50


def check_links(path, page, pages):
    """Follow every link that stays inside of the site, to its anchor."""
    for link in page.links:
        parts = urlsplit(link)
        if parts.scheme or parts.netloc:
            continue
        target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
        assert target.exists(), f"{path}: {link}"
        if parts.fragment and target in pages:
            assert unquote(parts.fragment) in pages[target].anchors, f"{path}: {link}"


def check_fetched(path, page):
    """Refuse whatever would be asked of another host when the page is opened."""
    remote = [address for address in page.fetched if urlsplit(address).netloc]
    assert not remote, f"{path} asks {remote}"


def check_reference(site):
    """Look for the entry of every public name."""
    missing = []
    for module, name in REFERENCE.items():
        text = (site / f"docs/api/{name}.html").read_text()
        for public in public_names(module):
            entry = rf'{re.escape(module)}\.</span></span><span class="sig-name descname"><span class="pre">{public}<'
            if not re.search(entry, text):
                missing.append(f"{module}.{public} is not in docs/api/{name}.md")
    assert missing == []


def public_names(module):
    """Read `__all__` without importing the module: what it imports takes longer than the site."""
    path = ROOT / "src" / module.replace(".", "/")
    lines = ast.parse(
        (path.with_suffix(".py") if path.with_suffix(".py").exists() else path / "__init__.py").read_text()
    ).body
    lists = [line.value for line in lines if isinstance(line, ast.Assign) and ast.unparse(line.targets[0]) == "__all__"]
    return ast.literal_eval(lists[0])


def test_the_reference_covers_every_door_to_another_library():
    doors = {path.name for path in (ROOT / "src/ropevit/integrations").iterdir() if (path / "__init__.py").exists()}
    assert doors == {name.rpartition(".")[2] for name in REFERENCE if name.startswith("ropevit.integrations.")}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_figure_names_the_command_that_draws_it(page):
    paragraphs = page.read_text().split("\n\n")
    for paragraph, caption in zip(paragraphs, [*paragraphs[1:], ""], strict=True):
        for image in re.findall(r"!\[.+?\]\(([^)]+)\)", paragraph):
            folder = (page.parent / image).resolve().parent
            assert folder.is_relative_to(ROOT / "docs/figures") or folder.is_relative_to(ROOT / "benchmarks/results")
            commands = re.findall(r"`((?:ropevit|python) [^`]+)`", caption)
            assert commands, f"the paragraph after {image} names no command"
            scripts = [command.split()[1] for command in commands if command.startswith("python ")]
            assert all((ROOT / script).is_file() for script in scripts), commands
