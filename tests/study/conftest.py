"""A study small enough to run in a test: two classes of tiny images, two steps."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ropevit.data.canvas import CanvasSettings
from ropevit.data.labeled import LabeledImages
from ropevit.study.events import Run
from ropevit.study.panels import PANEL_CLASSES
from ropevit.study.settings import PanelSettings
from ropevit.study.train import RunJob

TINY = PanelSettings(
    patch_size=4, width=16, depth=2, heads=2, train_size=8, test_sizes=(4, 8, 12), steps=6, batch_size=4,
    canvas=CanvasSettings(item_size=6), test_canvases=3,
)  # fmt: skip

#: Two marked items need room.
TINY_FAR = replace(TINY, test_sizes=(8, 12), canvas=CanvasSettings(item_size=2))


def tiny_images(name: str, count: int = 12) -> LabeledImages:
    return LabeledImages(
        images=torch.randint(256, (count, 1, 8, 8), dtype=torch.uint8),
        labels=torch.arange(count) % 3,
        classes=("a", "b", "c"),
        name=name,
        source="random numbers",
    )


@pytest.fixture
def make_images():
    return tiny_images


@pytest.fixture
def images():
    return tiny_images("tiny/train"), tiny_images("tiny/test")


def jobs_in(place: Path, images):
    """Return a function that makes jobs on images, each with a directory of its own."""

    def make(panel="zoom", embedding="rope_mixed", seed=0, folder: Path | None = None, **options) -> RunJob:
        settings = replace(TINY_FAR if panel == "far" else TINY, **options.pop("settings", {}))
        run = Run(panel=panel, embedding=embedding, seed=seed)
        fields = {"report": lambda _: None, "should_stop": lambda: False, "dtype": torch.float32} | options
        panel = PANEL_CLASSES[panel](settings, *images)
        return RunJob(run=run, panel=panel, folder=folder or place / run.name, device=torch.device("cpu"), **fields)

    return make


@pytest.fixture
def make_job(images, tmp_path):
    return jobs_in(tmp_path, images)


@pytest.fixture(scope="module")
def make_shared_job(tmp_path_factory):
    """Make jobs that the tests of a module only read."""
    return jobs_in(tmp_path_factory.mktemp("jobs"), (tiny_images("tiny/train"), tiny_images("tiny/test")))


@pytest.fixture(scope="session", autouse=True)
def few_rounds():
    """Time the steps of studies in a few rounds only."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ropevit.study.cost.ROUNDS", 2)
        yield
