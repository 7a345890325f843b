from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from ropevit.data.ade import open_ade, read_labels
from ropevit.data.ade_classes import read_classes
from ropevit.data.imagenet import MEAN, STD
from ropevit.data.listing import ImageFile
from ropevit.data.tiny import make_tiny
from ropevit.painting import OPACITY, class_color
from ropevit.tasks.segment.base import SegmentationModel
from ropevit.tasks.segment.confusion_matrix import eval_reader
from ropevit.tasks.segment.inference import InferenceConfig
from ropevit.tasks.segment.model import build_segmenter, save_segmenter
from ropevit.tasks.segment.predict import LabelFolder, class_fractions, label_map, load_segmentation_predictor
from tasks.segment.small import small_segmenter

CPU = torch.device("cpu")
CLASSES = ["wall", "sky", "tree"]
FACTS = {"mean": MEAN, "std": STD, "test_short": 64, "test_long": 256, "inference": asdict(InferenceConfig(flip=True))}


class Stub(SegmentationModel):
    """Takes the reddest pixels for the first class, the greenest for the second, the bluest for the third."""

    def __init__(self):
        nn.Module.__init__(self)
        self.place = nn.Parameter(torch.zeros(1))
        self.seen = []

    def logits(self, images):
        self.seen.append(tuple(images.shape[2:]))
        self.images = images
        return images.detach()


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """The file of a small segmenter."""
    path = tmp_path_factory.mktemp("segmenter") / "best.safetensors"
    torch.manual_seed(0)
    config = small_segmenter()
    save_segmenter(path, build_segmenter(config, 3), config, CLASSES, FACTS)
    return path


@pytest.fixture
def stubbed(saved):
    """Return a labeller whose model is a stub."""
    return lambda size=None: replace(load_segmentation_predictor(saved, size, CPU), model=Stub())


def flag(width=300, height=200):
    """Return an image of three fields, and its labels."""
    labels = np.zeros((height, width), dtype=np.int64)
    labels[:, width // 2 :] = 1
    labels[height // 2 :, width // 2 :] = 2
    return Image.fromarray((255 * np.eye(3, dtype=np.uint8))[labels]), labels


@pytest.mark.parametrize(("size", "seen"), [(None, (64, 96)), (100, (100, 150)), (400, (400, 600))])
def test_label_maps_have_the_size_of_the_image_at_any_test_size(stubbed, tmp_path, size, seen):
    labeller, (image, labels) = stubbed(size), flag()
    folder = LabelFolder(labeller, tmp_path)
    summary = folder.take(1, ImageFile(tmp_path, "in/a.jpg"), "in/a.png", image)
    assert labeller.model.seen == [seen, seen], "and once more mirrored, as it was measured"
    assert folder.close() == "labels/ and classes.txt"
    found = read_labels(tmp_path / "labels" / "in" / "a.png", image.size, len(read_classes(tmp_path)))
    assert isinstance(found, np.ndarray)
    assert (found == labels).mean() > 0.97, "but for pixels at the edges"
    assert read_classes(tmp_path) == tuple(CLASSES)
    assert summary.line == "wall 50%, sky 25%, tree 25%"
    assert [row[0] for row in summary.rows] == ["wall", "sky", "tree"]


def test_preprocessing_is_that_of_the_evaluation(saved, tmp_path):
    make_tiny("ade", tmp_path / "ade")
    source = open_ade(tmp_path / "ade", "val")
    labeller = replace(load_segmentation_predictor(saved, None, CPU), model=Stub(), inference=InferenceConfig())
    labeller.segment(source.read(0)[0])
    (view,) = eval_reader(source, short=64, long=256, ratios=(1.0,)).__getitems__([0]).views
    mean, std = (torch.tensor(x).view(3, 1, 1) for x in (MEAN, STD))
    assert torch.equal(labeller.model.images, (view.float() / 255 - mean) / std)


def test_the_output_image_blends_class_colors_with_the_image(stubbed, tmp_path):
    image, _ = flag(600, 400)
    LabelFolder(stubbed(), tmp_path).take(1, ImageFile(tmp_path, "a"), "a.png", image)
    with Image.open(tmp_path / "a.png") as drawing:
        for place, label in (((100, 200), 0), ((500, 50), 1), ((500, 350), 2)):
            wanted = OPACITY * np.array(class_color(label)) + (1 - OPACITY) * np.array(image.getpixel(place))
            assert np.abs(np.array(drawing.getpixel(place)) - wanted).max() <= 1
        assert drawing.height > 400, "with a legend"


def test_label_maps_count_classes_from_1_in_a_byte_or_two(tmp_path):
    labels = np.array([[0, 254]])
    assert np.asarray(label_map(labels, 255)).tolist() == [[1, 255]]
    assert label_map(labels, 255).mode == "L"
    label_map(np.array([[0, 300]]), 301).save(tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as image:
        assert image.mode == "I;16"
        assert np.asarray(image).tolist() == [[1, 301]]


def test_class_fractions_are_of_all_pixels_largest_first():
    assert class_fractions(np.array([[3, 7, 7], [7, 7, 5]])) == [(7, 4 / 6), (3, 1 / 6), (5, 1 / 6)]


@pytest.mark.parametrize("size", [(1, 1), (900, 1), (40, 70)])
def test_a_segmenter_accepts_images_of_any_size(saved, size):
    labeller = load_segmentation_predictor(saved, None, CPU)
    assert labeller.segment(Image.new("RGB", size)).shape == size[::-1]
    assert not labeller.model.training


def test_a_size_below_1_is_refused(saved):
    with pytest.raises(ValueError, match="got size=0"):
        load_segmentation_predictor(saved, 0, CPU)


@pytest.mark.parametrize("name", ["test_short", "test_long", "inference"])
def test_a_file_without_the_settings_of_its_evaluation_is_refused(tmp_path, name):
    config, facts = small_segmenter(), {key: value for key, value in FACTS.items() if key != name}
    save_segmenter(tmp_path / "a.safetensors", build_segmenter(config, 3), config, CLASSES, facts)
    with pytest.raises(ValueError, match="lacks the settings of its evaluation"):
        load_segmentation_predictor(tmp_path / "a.safetensors", None, CPU)
