import csv
import math

import numpy as np
import pytest
import torch
from PIL import Image

from ropevit.tasks.classify.evaluate import evaluate
from ropevit.tasks.evaluation.config import EvalConfig

from .conftest import small_vit, stubborn_vit

PETS = ["dog", "bird", "cat"]  # in another order than the folders


def table(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def measure(checkpoint, data, out, *sizes, resume=False):
    settings = {"out": out, "sizes": sizes, "resume": resume, "workers": 0, "device": "cpu"}
    evaluate(EvalConfig(checkpoint=checkpoint, data=str(data), **settings))
    return out


@pytest.fixture
def dog_or_cat(pets, weights, tmp_path):
    """An evaluation of a model to which every image is a dog, more rarely a cat, and hardly a bird."""
    model = stubborn_vit(num_classes=3)
    with torch.no_grad():
        model.head.bias.copy_(torch.tensor([2.0, 0.0, 1.0]))
    return measure(weights(model, classes=PETS), pets, tmp_path / "out", 16)


def test_the_confused_classes_are_those_that_were_predicted(dog_or_cat):
    rows = [
        (row["true"], row["predicted"], row["images"], row["percent"]) for row in table(dog_or_cat / "confusion.csv")
    ]
    assert rows == [("bird", "dog", "3", "100.00"), ("cat", "dog", "2", "100.00"), ("dog", "dog", "2", "100.00")]
    with Image.open(dog_or_cat / "confusion.png") as picture:
        assert picture.width >= 640


def test_the_worst_images_come_first_with_their_classes_and_loss(dog_or_cat, pets):
    rows = table(dog_or_cat / "worst.csv")
    assert [row["true"] for row in rows] == ["bird"] * 3 + ["cat"] * 2 + ["dog"] * 2
    assert {row["predicted"] for row in rows} == {"dog"}
    total = sum(map(math.exp, (2, 0, 1)))
    assert float(rows[0]["loss"]) == pytest.approx(math.log(total), abs=1e-4)
    assert float(rows[0]["probability"]) == pytest.approx(math.exp(2) / total, abs=1e-4)
    assert rows[0]["file"].startswith(str(pets / "val" / "bird"))
    with Image.open(dog_or_cat / "worst.png") as picture:
        grid = np.asarray(picture)
    first = np.asarray(Image.open(rows[0]["file"]).convert("RGB").resize((224, 224), Image.Resampling.BICUBIC))
    corner = grid[7:231, 7:231].astype(int)
    assert abs(corner.mean() - first.mean()) < 12, "the image itself, not what the network makes of it"


def test_mistakes_are_those_at_the_size_nearest_to_the_trainings(pets, weights, tmp_path, monkeypatch):
    path = weights(small_vit(3, size=32), classes=PETS)
    both, near, far = (
        measure(path, pets, tmp_path / str(n), *sizes) for n, sizes in enumerate([(16, 48), (48,), (16,)])
    )
    files = [(folder / "worst.csv").read_text() for folder in (both, near, far)]
    assert files[0] == files[2] != files[1], "of two equally near, the smaller"
    with monkeypatch.context() as patch:
        patch.setattr("ropevit.tasks.classify.evaluate.mistake_files", None)  # nothing is drawn that is not written
        later = [(measure(path, pets, out, 64, resume=True) / "worst.csv").read_text() for out in (near, far)]
    assert later == files[1:], "a nearer size was evaluated before"
    measure(path, pets, near, 16, resume=True)
    assert (near / "worst.csv").read_text() == files[2]
