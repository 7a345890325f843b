"""What goes to and from the processes that read images: they start anew, so all of it is pickled."""

import io
import pickle
import tarfile
from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from ropevit.data import loading
from ropevit.data.ade import open_ade
from ropevit.data.augment import eval_transform
from ropevit.data.coco import open_coco
from ropevit.data.order import TrainOrder
from ropevit.data.sources import open_source
from ropevit.data.tiny import make_tiny
from ropevit.tasks.classify.recipes import RECIPES as CLASSIFIERS
from ropevit.tasks.classify.train import Classification
from ropevit.tasks.detect import augment, batches
from ropevit.tasks.detect.recipes import RECIPES as DETECTORS
from ropevit.tasks.detect.train import Detection
from ropevit.tasks.distributed import Communicator
from ropevit.tasks.segment import confusion_matrix
from ropevit.tasks.segment.inference import InferenceConfig
from ropevit.tasks.segment.recipes import RECIPES as SEGMENTERS
from ropevit.tasks.segment.train import Segmentation

#: Recipes for sets so small that starting processes takes longer than reading.
SMALL = {"fashion", "detect/dino_smoke", "segment/upernet_smoke", "segment/mask2former_smoke"}


class Pickling:
    """Stands for torch's DataLoader: hands over what that would send to a worker, and back, but reads right here."""

    def __init__(self, reader, batch_sampler, num_workers, collate_fn, worker_init_fn, **_):
        self.keys, self.workers = batch_sampler, num_workers
        self.reader, self.collate, self.init = again((reader, collate_fn, worker_init_fn))

    def __iter__(self):
        for keys in self.keys:
            yield again(self.collate(self.reader.__getitems__(again(keys))))


def again(content):
    """Send something to another process and back."""
    return pickle.loads(pickle.dumps(content))


@pytest.fixture(autouse=True)
def loaders(monkeypatch):
    """The loaders that were made, each with workers of its own where that was asked for."""
    made = []

    def loader(*args, **kwargs):
        made.append(Pickling(*args, **kwargs))
        return made[-1]

    monkeypatch.setattr(loading, "DataLoader", loader)
    return made


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A tiny set of each task."""
    root = tmp_path_factory.mktemp("sets")
    for layout in ("coco", "ade"):
        make_tiny(layout, root / layout, 2, 2)
    for split in ("train", "val"):
        for label, name in enumerate("ab"):
            (root / "classes" / split / name).mkdir(parents=True)
            for number in range(2):
                gray = np.full((40, 48, 3), 60 * label + number, np.uint8)
                Image.fromarray(gray).save(root / "classes" / split / name / f"{number}.png")
    return root


def first_batch(kind, config, source):
    """Read the first batch of a training as its task asks for it."""
    accelerator = SimpleNamespace(num_processes=1, process_index=0, device=torch.device("cpu"))
    task = kind(replace(config, batch_size=2), source, source, accelerator, Communicator())
    return next(task.batches(0, 1))


#: Parts of the names of recipes with backbones of other authors, which read images as other recipes do.
FOREIGN = ("dinov3", "eva02")


@pytest.mark.parametrize(
    "name", [name for name in (*CLASSIFIERS, *DETECTORS, *SEGMENTERS) if not any(part in name for part in FOREIGN)]
)
def test_the_images_of_every_recipe_are_read_by_processes_of_their_own(name, data, loaders):
    config = (CLASSIFIERS | DETECTORS | SEGMENTERS)[name]()
    if name in DETECTORS:
        batch = first_batch(Detection, config, open_coco(data / "coco", "train", keep_empty=False))
    elif name in SEGMENTERS:
        batch = first_batch(Segmentation, config, open_ade(data / "ade", "train"))
    else:
        batch = first_batch(Classification, config, open_source(str(data / "classes"), "train"))
    assert len(batch.images) == 2
    assert batch.unreadable == []
    assert len(loaders) == 1
    assert (config.run.workers > 0) == (name not in SMALL)


def test_the_images_to_measure_on_are_read_by_processes_of_their_own(data, loaders):
    classes, coco, ade = (
        open_source(str(data / "classes"), "val"),
        open_coco(data / "coco", "val", keep_empty=True),
        data / "ade",
    )
    assert len(next(loading.eval_batches(classes, eval_transform(32), 2, workers=1)).images) == 2
    found = next(batches.eval_batches(coco, augment.eval_transform(64, 128), 2, workers=1))
    assert len(found.images) == 2
    rest = {"mean": torch.zeros(3, 1, 1), "std": torch.ones(3, 1, 1), "autocast": nullcontext, "world": 1, "rank": 0}
    look = confusion_matrix.SegmenterSettings(
        short=64, long=128, ratios=(1.0, 1.5), inference=InferenceConfig(), workers=1, **rest
    )
    assert len(next(confusion_matrix.read(open_ade(ade, "val"), look)).views) == 2
    assert [loader.workers for loader in loaders] == [1, 1, 1]


@pytest.mark.parametrize("where", ["classes", "fashion", "shards"])
def test_every_kind_of_source_is_sent(where, data, tmp_path):
    source = open_source("fashion" if where == "fashion" else str(data / "classes"), "train")
    if where == "shards":
        source = shards(source, tmp_path)
    batch = next(loading.train_batches(source, eval_transform(16), TrainOrder(len(source), 2, seed=0), 0, 1, workers=1))
    assert batch.images.shape == (2, 3, 16, 16)


def shards(source, root):
    """Write a source as a tar shard, and open that."""
    (root / "train").mkdir()
    with tarfile.open(root / "train" / "images-train-0000.tar", "w") as tar:
        for index in range(len(source)):
            content, label = source.raw(index)
            for name, data in ((f"{index}.png", content), (f"{index}.cls", str(label).encode())):
                info = tarfile.TarInfo(name)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    return open_source(str(root), "train")
