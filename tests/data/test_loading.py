import random
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from torch.testing import assert_close

from ropevit.data.augment import AugmentConfig, eval_transform, train_transform
from ropevit.data.loading import eval_batches, train_batches
from ropevit.data.order import TrainOrder
from ropevit.data.sources import FolderSource, open_source

SIMPLE = train_transform(AugmentConfig(auto_augment="simple"), 16)
VARIED = train_transform(AugmentConfig(auto_augment="three_augment"), 16)


@pytest.fixture
def folder(tmp_path):
    """Twelve images, which are identified by label and color."""
    for index in range(12):
        path = tmp_path / "train" / f"class{index % 2}" / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (20, 20), (20 * index, 0, 0)).save(path)
    shutil.copytree(tmp_path / "train", tmp_path / "val")
    return tmp_path


def numbers(batch):
    return [round(value / 20) for value in batch.images[:, 0].float().mean((1, 2)).tolist()]


def same(first, second):
    assert len(first) == len(second)
    for a, b in zip(first, second, strict=True):
        assert_close(a.images, b.images, rtol=0, atol=0)
        assert_close(a.labels, b.labels, rtol=0, atol=0)
        assert a.unreadable == b.unreadable


def test_batches_follow_the_order(folder):
    source, order = open_source(str(folder), "train"), TrainOrder(12, 4, seed=0, micro_batches=2)
    batches = list(train_batches(source, SIMPLE, order, 0, 3, workers=0))
    assert len(batches) == 6
    for at, batch in enumerate(batches):
        draws = order.batch(at // 2, at % 2)
        assert (batch.images.shape, batch.images.dtype, batch.labels.dtype) == (
            (2, 3, 16, 16),
            torch.uint8,
            torch.int64,
        )
        assert batch.labels.tolist() == [source.labels[draw.index] for draw in draws]
        assert numbers(batch) == [int(source.describe(draw.index).split("/")[-1][:-4]) for draw in draws]
    assert sorted(number for batch in batches for number in numbers(batch)) == list(range(12))


def test_batches_do_not_depend_on_the_number_of_workers():
    source = open_source("fashion", "train")
    order = TrainOrder(len(source), 32, seed=0, repeats=3, micro_batches=2)
    alone = list(train_batches(source, VARIED, order, 2, 5, workers=0))
    same(alone, list(train_batches(source, VARIED, order, 2, 5, workers=2)))


def test_batches_of_a_resumed_training_are_the_same():
    source = open_source("fashion", "train")
    order = TrainOrder(len(source), 8, seed=0, repeats=3, world=2, rank=1)
    unbroken = list(train_batches(source, VARIED, order, 1248, 1252, workers=0))  # an epoch has 1249 steps
    assert order.steps_per_epoch == 1249
    for first in range(1248, 1252):
        same(list(train_batches(source, VARIED, order, first, 1252, workers=0)), unbroken[first - 1248 :])


def test_every_repeat_of_an_image_is_augmented_differently():
    source = open_source("fashion", "train")
    order = TrainOrder(len(source), 30, seed=0, repeats=3)
    (batch,) = train_batches(source, SIMPLE, order, 0, 1, workers=0)
    assert len({image.numpy().tobytes() for image in batch.images}) == 30


@pytest.mark.usefixtures("unchecked")  # the checker draws random numbers of its own
def test_reading_without_workers_keeps_the_global_random_state():
    source, order = open_source("fashion", "train"), TrainOrder(10_000, 4, seed=0)

    def draw():
        return random.random(), np.random.random(), torch.rand(2).tolist()  # noqa: NPY002

    random.seed(1), np.random.seed(1), torch.manual_seed(1)  # noqa: NPY002
    expected = draw()
    random.seed(1), np.random.seed(1), torch.manual_seed(1)  # noqa: NPY002
    list(train_batches(source, VARIED, order, 0, 2, workers=0))
    list(eval_batches(open_source("fashion", "val"), eval_transform(16), 1000, workers=0))
    assert draw() == expected


def test_an_unreadable_file_is_replaced_by_the_next_one_and_reported(folder):
    order = TrainOrder(12, 12, seed=0)
    source = open_source(str(folder), "train")
    for index in (3, 4, 11):
        (folder / source.describe(index)).write_bytes(b"" if index == 3 else b"nothing")
    (batch,) = train_batches(source, SIMPLE, order, 0, 1, workers=0)
    named = [int(source.describe(index).split("/")[-1][:-4]) for index in range(12)]
    replaced = {3: 5, 4: 5, 11: 0}  # the last one by the first
    assert numbers(batch) == [named[replaced.get(draw.index, draw.index)] for draw in order.batch(0)]
    assert sorted(batch.unreadable) == [3, 4, 4, 11]
    same([batch], list(train_batches(source, SIMPLE, order, 0, 1, workers=0)))


def test_ten_unreadable_files_in_a_row_raise(folder):
    source = open_source(str(folder), "train")
    for index in range(9):
        (folder / source.describe(index)).write_bytes(b"nothing")
    order = TrainOrder(12, 12, seed=0)
    assert list(train_batches(source, SIMPLE, order, 0, 1, workers=0))
    (folder / source.describe(9)).write_bytes(b"nothing")
    with pytest.raises(
        ValueError, match=r"^10 images in a row cannot be read, .*0.png to .*png \(cannot identify"
    ) as error:
        list(train_batches(source, SIMPLE, order, 0, 1, workers=1))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("world", [1, 2, 5])
def test_evaluation_reads_each_image_once_and_skips_unreadable_ones(folder, world):
    source = FolderSource(folder / "train", "all")
    (folder / source.describe(7)).write_bytes(b"nothing")
    seen, bad = [], []
    for rank in range(world):
        for batch in eval_batches(source, eval_transform(16), 4, workers=0, world=world, rank=rank):
            assert len(batch.labels) == len(batch.images)
            seen += numbers(batch)
            bad += batch.unreadable
    named = [int(source.describe(index).split("/")[-1][:-4]) for index in range(12)]
    assert sorted(seen) == sorted(set(named) - {named[7]})
    assert bad == [7]


def test_a_batch_of_unreadable_files_is_empty(folder):
    source = FolderSource(folder / "train", "all")
    (folder / source.describe(11)).write_bytes(b"nothing")
    *_, last = eval_batches(source, eval_transform(16), 11, workers=0)
    assert (last.images.shape, last.labels.shape, last.unreadable) == ((0, 3, 0, 0), (0,), [11])


def test_wrong_input_raises(folder):
    source = open_source(str(folder), "train")
    with pytest.raises(ValueError, match=r"order of 10 images for .*, which has 12"):
        train_batches(source, SIMPLE, TrainOrder(10, 2, 0), 0, 1, 0)
    with pytest.raises(ValueError, match="workers=-1"):
        list(train_batches(source, SIMPLE, TrainOrder(12, 2, 0), 0, 1, -1))
    with pytest.raises(ValueError, match="rank 1 of 1"):
        eval_batches(source, SIMPLE, 2, 0, world=1, rank=1)


LOADING = """
import os, signal
from ropevit.data.augment import AugmentConfig, train_transform
from ropevit.data.loading import train_batches
from ropevit.data.order import TrainOrder
from ropevit.data.sources import open_source

def signal_all():
    for number in (signal.SIGTERM, signal.SIGINT):
        os.killpg(0, number)

class SignalsAsWorkersStart:
    def __init__(self, transform):
        self.transform = transform

    def __setstate__(self, state):
        self.__dict__ = state
        signal_all()

    def __call__(self, image):
        return self.transform(image)

if __name__ == "__main__":
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    source = open_source("fashion", "train")
    order = TrainOrder(len(source), 4, seed=0)
    transform = SignalsAsWorkersStart(train_transform(AugmentConfig(), 32))
    for step, batch in enumerate(train_batches(source, transform, order, 0, 30, 1)):
        if step == 0:
            signal_all()
    print(step)
"""


@pytest.mark.full
def test_workers_ignore_signals_to_the_process_group(tmp_path):
    script = tmp_path / "loading.py"
    script.write_text(LOADING)
    command = [sys.executable, script]
    done = subprocess.run(command, capture_output=True, text=True, start_new_session=True, check=False)
    assert (done.returncode, done.stdout) == (0, "29\n"), done.stderr[-2000:]
