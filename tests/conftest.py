"""Checks the shapes in every signature while the tests run, and gives them what they share."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test may reach for the network

import jaxtyping
import pytest

with jaxtyping.install_import_hook("ropevit", "typecheck.check"):
    import ropevit.data
    import ropevit.models
    import ropevit.rope
    import ropevit.study
    import ropevit.weights  # noqa: F401

import torch


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
