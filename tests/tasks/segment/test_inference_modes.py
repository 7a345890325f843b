"""Segmenters in tiles of the training size, and on images resized to it."""

import csv
import json
from functools import cache

import numpy as np
import pytest
import torch
from PIL import Image

from ropevit.data.tiny import draw_scene
from ropevit.tasks.evaluate import evaluate
from ropevit.tasks.evaluation.config import EvalConfig
from ropevit.tasks.evaluation.loop import read_curve
from ropevit.tasks.segment.evaluate import SegmenterOptions
from ropevit.tasks.segment.inference import InferenceConfig
from ropevit.tasks.segment.predict import load_segmentation_predictor
from tasks.segment.eval_data import save_tiny, write_images

CPU = torch.device("cpu")
SWIN = {"model": "swin_tiny", "position": "rope_axial", "width": 12, "depth": None, "heads": None}


@pytest.fixture(scope="module", params=[{}, SWIN], ids=["vit", "swin"])
def saved(request, tmp_path_factory):
    """The file of a segmenter of 64 pixels."""
    return save_tiny(tmp_path_factory.mktemp("segmenter") / "best.safetensors", model=request.param)


def scenes(side=64):
    """Return four square pictures."""
    return [draw_scene(number).image.crop((0, 0, side, side)) for number in range(4)]


def canvas_of(pictures):
    """Put four pictures on a canvas of 2 x 2."""
    return Image.fromarray(np.vstack([np.hstack(pictures[:2]), np.hstack(pictures[2:])]))


@cache
def predictor(path, size, mode):
    """Load a file once for all images; the tests change none."""
    return load_segmentation_predictor(path, size, CPU, mode)


def predict(path, image, size, mode=None):
    return predictor(path, size, mode).segment(image)


def test_tiles_of_a_canvas_are_predicted_as_the_pictures_on_it(saved):
    pictures = scenes()
    found = [predict(saved, picture, 64, "whole") for picture in pictures]
    wanted = np.vstack([np.hstack(found[:2]), np.hstack(found[2:])])
    assert len(np.unique(wanted)) > 1
    assert (predict(saved, canvas_of(pictures), 128, "tiles") == wanted).all()
    assert (predict(saved, canvas_of(pictures), 128, "whole") != wanted).any()


def test_an_image_of_one_tile_is_predicted_as_a_whole(saved):
    picture = scenes()[1]
    assert (predict(saved, picture, 64, "tiles") == predict(saved, picture, 64)).all()


def test_the_map_of_a_resized_image_is_that_of_the_small_image_at_full_size(saved):
    canvas = canvas_of(scenes())
    small = canvas.resize((128, 128)).resize((64, 64), Image.Resampling.BILINEAR)
    found, wanted = predict(saved, canvas, 128, "resize"), predict(saved, small, 64)
    assert found.shape == (128, 128)
    assert (found[::2, ::2] == wanted).mean() > 0.95, "but for pixels at the edges"
    assert (found == predict(saved, canvas, 64)).all(), "and, of an image of 128 pixels, that of the training size"


def test_a_mode_overrides_the_sliding_windows_of_a_file(tmp_path):
    slides, plain = (InferenceConfig(window=48, stride=16), InferenceConfig())
    paths = [save_tiny(tmp_path / f"{config.window}.safetensors", inference=config) for config in (slides, plain)]
    canvas = canvas_of(scenes())
    for mode in ("whole", "tiles"):
        first, second = (predict(path, canvas, 128, mode) for path in paths)
        assert (first == second).all()
    assert (predict(paths[0], canvas, 128, "resize") == predict(paths[0], canvas, 64)).all()
    assert (predict(paths[0], canvas, 128) != predict(paths[1], canvas, 128)).any()


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A segmenter, and images of 64 to 80 pixels that it labels mostly right at its own size."""
    root = tmp_path_factory.mktemp("segment")
    path = save_tiny(root / "run" / "best.safetensors")
    write_images(root / "ade", lambda image: predict(path, image, 64))
    return root


def measure(place, out, **options):
    known = {"checkpoint": str(place / "run"), "data": str(place / "ade"), "workers": 0, "device": "cpu", "out": out}
    return evaluate(EvalConfig(**known | options))


def patches(image, factor):
    """Count the patches of an image that is resized."""
    height, width = (round(factor * side) for side in image.shape[:2])
    return -(-height // 16) * -(-width // 16)


def test_baselines_have_rows_with_their_cost_beside_each_size(place, tmp_path):
    rows = measure(place, tmp_path, sizes=(32, 64, 128), baselines=("tiles", "resize"))
    assert [(row.size, row.long, row.mode) for row in rows] == [
        (32, 40, "whole"), (32, 40, "resize"), (64, 80, "whole"), (64, 80, "tiles"),
        (128, 160, "whole"), (128, 160, "tiles"), (128, 160, "resize"),
    ]  # fmt: skip
    by_mode = {(row.size, row.mode): row for row in rows}
    assert by_mode[128, "resize"].mIoU == pytest.approx(by_mode[64, "whole"].mIoU, abs=10), (
        "the image is hardly another"
    )
    assert len({row.mIoU for row in rows}) == len(rows)
    trained = by_mode[64, "whole"].tokens
    assert by_mode[32, "resize"].tokens == by_mode[128, "resize"].tokens == trained
    assert by_mode[32, "whole"].tokens < trained < by_mode[64, "tiles"].tokens
    assert by_mode[128, "whole"].tokens <= by_mode[128, "tiles"].tokens
    with (tmp_path / "eval.csv").open() as file:
        assert [line["mode"] for line in csv.DictReader(file)] == [row.mode for row in rows]
    curve = read_curve(tmp_path, type(rows[0]), json.loads((tmp_path / "eval.json").read_text()))
    assert {label: list(points) for label, points in curve.baselines.items()} == {
        "in tiles of 64 px": [64, 128],
        "resized to 64 px": [32, 128],
    }


def test_tokens_are_those_that_the_model_sees(place, tmp_path):
    """A square image of 64 pixels is 16 patches; at 128 pixels 64, in tiles or whole; mirrored, twice as many."""
    root = tmp_path / "ade"
    write_images(root, lambda image: np.zeros((image.height, image.width)))
    for folder in ("images", "annotations"):
        for path in (root / folder / "validation").iterdir():
            Image.open(path).crop((0, 0, 64, 64)).save(path)
    rows = measure(place, tmp_path / "out", data=str(root), sizes=(128,), baselines=("tiles", "resize"))
    assert [(row.mode, row.tokens) for row in rows] == [("whole", 64), ("tiles", 64), ("resize", 16)]
    (row,) = measure(place, tmp_path / "flip", data=str(root), sizes=(64,), options=SegmenterOptions(flip=True))
    assert row.tokens == 32


def test_tiles_are_refused_beside_sliding_windows(place, tmp_path):
    wanted = "got --baselines tiles with a segmenter in windows of 48 pixels every 32, which are .* add --whole"
    options = SegmenterOptions(window=48)
    with pytest.raises(ValueError, match=wanted):
        measure(place, tmp_path / "refused", baselines=("tiles",), options=options)
    assert not (tmp_path / "refused").exists()
    rows = measure(place, tmp_path / "out", sizes=(32, 64), baselines=("resize",), options=options)
    assert [(row.size, row.mode) for row in rows] == [(32, None), (32, "resize"), (64, None)]
