import numpy as np
import pytest
from PIL import Image

from ropevit.painting import PAPER, Tile, class_color
from ropevit.tasks.classify.train import Classification, describe_target, train
from ropevit.tasks.training.first_batches import BATCHES, IMAGES, PICTURE, DrawnBatch, draw_first_batches
from ropevit.tasks.training.metrics_log import read_metrics


class Colors:
    """A task whose batches are numbers: each is drawn as images of one color."""

    classes = ("none", "drawn")

    def __init__(self):
        self.asked = []

    def draw_batch(self, batch, step, most):
        self.asked.append((batch, step))
        return DrawnBatch([Tile(Image.new("RGB", (20, 10), (batch, 0, 0)))] * min(most, 2), [1])


def pixels(path):
    return np.asarray(Image.open(path)).astype(int)


@pytest.mark.parametrize(("steps", "parts"), [(1, 1), (1, 2), (5, 1), (4, 2)])
def test_the_first_batches_are_drawn_and_all_of_them_are_passed_on(tmp_path, steps, parts):
    task, number, seeded = Colors(), steps * parts, []
    batches = draw_first_batches(
        task, iter(range(100, 100 + number)), (steps, parts), tmp_path, lambda *key: seeded.append(key), seeded.append
    )
    drawn = range(min(number, BATCHES))
    assert seeded == [(index // parts, index % parts) for index in drawn]
    assert task.asked == [(100 + index, index // parts) for index in drawn]
    assert list(batches) == list(range(100, 100 + number))
    grid = pixels(tmp_path / PICTURE)
    assert {100 + index for index in range(min(number, BATCHES))} <= set(grid[..., 0][(grid[..., 1:] == 0).all(-1)])
    assert (grid == class_color(1)).all(-1).any(), "the legend"


def test_a_training_goes_on_where_its_first_batches_cannot_be_drawn(tmp_path, monkeypatch):
    def draw_two(out):
        return list(draw_first_batches(task, iter([1, 2]), (2, 1), out, lambda *_: None, notices.append))

    task, notices = Colors(), []
    (tmp_path / "file").touch()
    assert draw_two(tmp_path / "file") == [1, 2]
    assert notices[0].message.startswith("train_batches.png was not drawn: ValueError: cannot write")
    monkeypatch.setattr(task, "draw_batch", lambda *_: DrawnBatch([]), raising=False)
    assert draw_two(tmp_path / "out") == [1, 2]
    assert not (tmp_path / "out").exists()
    monkeypatch.setattr(task, "draw_batch", lambda batch, *_: batch / 0)
    assert draw_two(tmp_path) == [1, 2]
    assert [notice.message for notice in notices[1:]] == [
        "train_batches.png was not drawn: ZeroDivisionError: division by zero"
    ]


def test_every_training_draws_its_first_batches_and_that_changes_nothing(unbroken, small, tmp_path, monkeypatch):
    grid = pixels(unbroken / PICTURE)
    assert grid.shape[1] > IMAGES * 112
    assert (grid != PAPER).any(-1).mean() > 0.5
    monkeypatch.delattr(Classification, "draw_batch")
    train(small(2, max_steps=3))
    assert not (tmp_path / "run" / PICTURE).exists()
    losses = [[line["loss"] for line in read_metrics(folder)[:3]] for folder in (tmp_path / "run", unbroken)]
    assert losses[0] == losses[1], "mixing and random erasing of the first steps"


@pytest.mark.usefixtures("unchecked")  # the checks of signatures draw random numbers
def test_the_model_is_given_the_images_in_the_picture(small, monkeypatch):
    seen, drawn = [], []
    original, draw = Classification.inputs, Classification.draw_batch

    def inputs(self, batch, step):
        seen.append(original(self, batch, step))
        return seen[-1]

    def draw_batch(self, batch, step, most):
        found = draw(self, batch, step, most)
        drawn.append(seen.pop()[0])
        return found

    monkeypatch.setattr(Classification, "inputs", inputs)
    monkeypatch.setattr(Classification, "draw_batch", draw_batch)
    train(small(1, max_steps=3))
    assert len(drawn) == BATCHES
    assert all((images == shown).all() for (images, _), shown in zip(seen, drawn, strict=True))


def test_a_resumed_training_does_not_draw_again(small, tmp_path):
    train(small(1, max_steps=1))
    (tmp_path / "run" / PICTURE).unlink()
    train(small(1, max_steps=2, resume=True))
    assert not (tmp_path / "run" / PICTURE).exists()


def test_a_target_names_its_classes_without_what_smoothing_adds():
    classes = ("ant", "bee", "cat")
    assert describe_target([0.02, 0.96, 0.02], classes, 0.06) == ["bee"]
    assert describe_target([0.3, 0.02, 0.68], classes, 0.06) == ["cat 0.68", "ant 0.30"]
    assert describe_target([0.0, 0.0, 1.0], classes, 0.0) == ["cat"]


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_both_parts_of_a_mix_are_named_where_there_are_two_classes(smoothing):
    def smoothed(*parts):
        return describe_target([part * (1 - smoothing) + smoothing / 2 for part in parts], ("ant", "bee"), smoothing)

    assert [len(smoothed(*parts)) for parts in ((0.7, 0.3), (0.5, 0.5), (1.0, 0.0))] == [2, 2, 1]
