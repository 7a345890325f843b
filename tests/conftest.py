"""Checks the shapes in every signature while the tests run, and gives them what they share."""

import os
import shutil
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test may reach for the network

if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch is imported: workers must not fight for the cores

#: The cache of fake tensors costs more than it spares where sizes are symbols: a fifth of each compilation and export.
os.environ.setdefault("TORCH_FAKE_TENSOR_DISPATCH_CACHE", "0")  # read when dynamo is imported

import jaxtyping
import pytest

jaxtyping.install_import_hook("ropevit", "typecheck.check")  # for the whole run: modules are imported late, too

import torch  # noqa: E402

from commands import command_lines  # noqa: E402

TESTS = Path(__file__).parent

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # read when a kernel is defined: it then runs on the CPU, slowly


#: What takes longest; in two processes it comes first, so that neither waits for it at the end.
LONG = ("cli", "integrations", "test_journeys.py", "test_examples.py", "test_docs.py", "test_release.py")


def pytest_collection_modifyitems(items):
    """Start with what takes longest."""
    items.sort(key=lambda item: item.path.relative_to(TESTS).parts[0] not in LONG)


@pytest.fixture(autouse=True)
def seed():
    """Start each test with the same random numbers, whatever ran before."""
    torch.manual_seed(0)


@pytest.fixture
def unchecked():
    """Switch the shape checks off: dynamo cannot trace them."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture(scope="session")
def run_command():
    """Runs a command line of ropevit, or a script, in a process of its own that has imported the libraries."""
    with command_lines() as run:
        yield run


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
