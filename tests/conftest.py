"""Checks the shapes in every signature while the tests run, and gives them what they share."""

import argparse
import base64
import gc
import importlib
import os
import shutil
import sys
from collections import Counter
from contextlib import contextmanager, nullcontext
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test may reach for the network

if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch is imported: workers must not fight for the cores

import jaxtyping
import pytest

from commands import command_lines

gc.set_threshold(10_000, 20, 10)  # with Python's own, garbage collections are a twentieth of the run

TESTS = Path(__file__).parent


def only_distributes():
    """Return whether this process runs no test: it gives them to workers of pytest-xdist, and needs no PyTorch."""
    options = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    options.add_argument("-n", "--numprocesses", default="0")
    return "PYTEST_XDIST_WORKER" not in os.environ and options.parse_known_args()[0].numprocesses != "0"


def prepare():
    """Check the shapes in every signature of what is imported from here on, and run Triton's kernels on any machine."""
    import torch

    import typecheck

    jaxtyping.jaxtyped = typecheck.jaxtyped
    jaxtyping.install_import_hook("ropevit", "typecheck.check")  # for the whole run: modules are imported late, too
    if not torch.cuda.is_available():
        os.environ.setdefault("TRITON_INTERPRET", "1")  # read when a kernel is defined: it then runs on the CPU, slowly


if not only_distributes():
    prepare()


#: What takes longest; in two processes it comes first, so that neither waits for it at the end.
LONG = ("cli", "integrations", "test_journeys.py", "test_examples.py", "test_docs.py", "test_release.py")


def pytest_collection_modifyitems(items):
    """Start with what takes longest."""
    items.sort(key=lambda item: item.path.relative_to(TESTS).parts[0] not in LONG)


def pytest_collection_finish():
    """Leave modules and tests out of garbage collections, each of which would go through a million objects."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def seed():
    """Start each test with the same random numbers, whatever ran before."""
    import torch

    torch.default_generator.manual_seed(0)  # torch.manual_seed formats the stack for each kind of device: a millisecond
    if torch.cuda.is_available():
        torch.cuda.manual_seed_all(0)


#: Rows of a parametrized test in which signatures are checked: the others call the same functions with other values.
CHECKED_ROWS = 3
_rows_checked: Counter[str] = Counter()


@pytest.fixture(autouse=True)
def check_signatures(request):
    """Check shapes in the first rows of each test only: the checks are a quarter of what the models' tests cost."""
    name = request.node.nodeid.partition("[")[0]
    _rows_checked[name] += 1
    with nullcontext() if _rows_checked[name] <= CHECKED_ROWS else unchecked_signatures():
        yield


#: What stands for a figure that is not rendered: one white pixel, or none.
UNRENDERED = {
    "png": base64.b64decode(
        "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGP4DwABAQEAsTj2FAAAAABJRU5ErkJggg=="
    ),
    "svg": b'<svg xmlns="http://www.w3.org/2000/svg"/>',
}


@pytest.fixture
def rendered():
    """Asks for figures as users get them; see `unrendered`."""


@pytest.fixture(autouse=True)
def unrendered(request, monkeypatch):
    """Make figures, but render none except in tests that ask for `rendered`: each costs a third of a second."""

    def savefig(_, file, **how):
        file.write(UNRENDERED[how["format"]])

    if "matplotlib.figure" in sys.modules and "rendered" not in request.fixturenames:
        monkeypatch.setattr(sys.modules["matplotlib.figure"].Figure, "savefig", savefig)


@contextmanager
def unchecked_signatures():
    """Switch the shape checks off; afterwards they are as they were."""
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", before)


@contextmanager
def ready_to_trace():
    """Switch the shape checks off: dynamo cannot trace them. So is a cache that only pays where sizes are numbers."""
    config = importlib.import_module("torch._dynamo.config")
    with (
        config.patch(fake_tensor_cache_enabled=False),
        unchecked_signatures(),
    ):  # the cache: a fifth of each compilation
        yield


@pytest.fixture
def unchecked():
    """Let a test compile or export a model."""
    with ready_to_trace():
        yield


@pytest.fixture(scope="module")
def unchecked_module():
    """The same for a module, whose fixtures export, too."""
    with ready_to_trace():
        yield


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory):
    """A temporary folder of the whole test run, the same one for all workers of pytest-xdist."""
    folder = tmp_path_factory.getbasetemp()
    return folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder


@pytest.fixture(scope="session")
def run_command(shared_folder):
    """Runs a command line of ropevit, or a script, in a process of its own that has imported the libraries."""
    with command_lines(shared_folder) as run:
        yield run


@pytest.fixture
def local_hub(tmp_path):
    """A Hugging Face hub on this machine, for uploads and downloads."""
    from local_hub import serve

    with serve(tmp_path / "hub_cache") as hub:
        yield hub


@pytest.fixture(scope="module")
def browser():
    """A real browser; tests that ask for it are skipped where no Chromium is installed."""
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        pytest.skip("no Chromium on this machine: install one to see pages in a browser")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser):
    """Opens a file in the browser, and keeps what it asks for and complains about."""

    def show(path):
        page.goto(path.as_uri())
        return page

    page = browser.new_page()
    page.asked, page.errors = [], []
    page.on("request", lambda request: page.asked.append(request.url))
    page.on("console", lambda message: page.errors.append(message.text))
    page.on("pageerror", lambda error: page.errors.append(str(error)))
    yield show
    page.close()
