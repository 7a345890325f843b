"""Checks the shapes in every signature while the tests run, and gives them what they share."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test may reach for the network

if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch is imported: workers must not fight for the cores

import jaxtyping
import pytest

jaxtyping.install_import_hook("ropevit", "typecheck.check")  # for the whole run: modules are imported late, too

import torch  # noqa: E402

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # read when a kernel is defined: it then runs on the CPU, slowly


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
