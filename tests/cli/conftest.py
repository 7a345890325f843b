import numpy as np
import pytest
from PIL import Image

from ropevit.cli import main


@pytest.fixture(scope="session")
def my_images(tmp_path_factory):
    """A user's folder: three classes of colored noise, in different sizes and aspect ratios."""
    root, noise = tmp_path_factory.mktemp("data") / "my_images", np.random.default_rng(0)
    for label, name in enumerate(("blue", "green", "red")):
        (root / name).mkdir(parents=True)
        for index in range(10):
            pixels = noise.integers(0, 80, (20 + 3 * index, 40 - 2 * index, 3))
            pixels[..., 2 - label] += 150
            Image.fromarray(pixels.astype(np.uint8)).save(root / name / f"{index}.png")
    (root / "red" / "broken.png").write_text("not an image")
    return root


@pytest.fixture(scope="session")
def tiny(my_images):
    """Options of a study that takes seconds."""
    model = ["--width", "16", "--depth", "1", "--heads", "2", "--patch-size", "8"]
    training = ["--steps", "3", "--batch-size", "4", "--train-size", "16", "--test-sizes", "8", "16", "24"]
    return ["study", "--quick", "--data", str(my_images), "--workers", "1", *model, *training]


@pytest.fixture(scope="session")
def finished(tiny, tmp_path_factory):
    """The directory of a finished study."""
    out = tmp_path_factory.mktemp("study") / "out"
    main([*tiny, "--out", str(out)])
    return out


@pytest.fixture(scope="session", autouse=True)
def few_rounds():
    """Time the steps of studies in a few rounds only."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ropevit.study.cost.ROUNDS", 2)
        yield
