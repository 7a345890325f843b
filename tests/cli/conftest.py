import numpy as np
import pytest
from filelock import FileLock
from PIL import Image

from ropevit.cli import main


@pytest.fixture(scope="session")
def my_images(shared_folder):
    """A user's folder: three classes of colored noise, in different sizes and aspect ratios."""
    root = shared_folder / "my_images"
    with FileLock(shared_folder / "my_images.lock"):
        if not root.exists():
            write_images(root)
    return root


def write_images(root):
    """Write those images, and a file that is none."""
    noise = np.random.default_rng(0)
    for label, name in enumerate(("blue", "green", "red")):
        (root / name).mkdir(parents=True)
        for index in range(10):
            pixels = noise.integers(0, 80, (20 + 3 * index, 40 - 2 * index, 3))
            pixels[..., 2 - label] += 150
            Image.fromarray(pixels.astype(np.uint8)).save(root / name / f"{index}.png")
    (root / "red" / "broken.png").write_text("not an image")


@pytest.fixture(scope="session")
def tiny(my_images):
    """Options of a study that takes seconds."""
    model = ["--width", "16", "--depth", "1", "--heads", "2", "--patch-size", "8"]
    training = ["--steps", "3", "--batch-size", "4", "--train-size", "16", "--test-sizes", "8", "16", "24"]
    return ["study", "--quick", "--data", str(my_images), "--workers", "1", *model, *training]


@pytest.fixture(scope="session")
def finished(tiny, shared_folder):
    """The directory of a finished study, which nothing writes to: one for all workers of pytest-xdist."""
    out = shared_folder / "finished_study"
    with FileLock(shared_folder / "finished_study.lock"):
        if not out.exists():
            main([*tiny, "--out", str(out)])
    return out


@pytest.fixture(scope="session", autouse=True)
def few_rounds():
    """Time the steps of studies in a few rounds only."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ropevit.study.cost.ROUNDS", 2)
        yield
