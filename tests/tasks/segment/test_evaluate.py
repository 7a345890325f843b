import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import functional

from ropevit.data.ade import open_ade
from ropevit.data.imagenet import MEAN, STD
from ropevit.tasks.dense.evaluation import default_sizes
from ropevit.tasks.dense.model_file import ModelInfo
from ropevit.tasks.detect.evaluate import DetectorOptions
from ropevit.tasks.distributed import Communicator, make_accelerator, shutdown
from ropevit.tasks.evaluate import evaluate
from ropevit.tasks.evaluation.config import EvalConfig
from ropevit.tasks.evaluation.loop import EvalSizeDone
from ropevit.tasks.segment import evaluate as module
from ropevit.tasks.segment.augment import CropConfig
from ropevit.tasks.segment.evaluate import SegmenterOptions
from ropevit.tasks.segment.inference import InferenceConfig, segment, view_size
from ropevit.tasks.segment.mean_iou import confusion, segmentation_scores
from ropevit.tasks.segment.model import build_segmenter, load_segmenter
from ropevit.tasks.segment.train import Segmentation
from ropevit.tasks.segment.train_config import SegmentTrainConfig
from ropevit.tasks.training.config import RunConfig
from ropevit.weights.errors import WeightsError
from tasks.segment.eval_data import CLASSES, save_tiny, write_images
from tasks.segment.small import small_segmenter


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def by_hand(model, image, short=64, long=80, ratios=(1.0,), **inference):
    """Segment an image as the training's evaluation does."""
    size, mean, std = (image.height, image.width), torch.tensor(MEAN), torch.tensor(STD)
    views = []
    for ratio in ratios:
        resized = functional.resize(image, list(view_size(size, short, long, ratio)))
        pixels = torch.from_numpy(np.array(resized)).float() / 255
        views.append(((pixels - mean) / std).permute(2, 0, 1)[None])
    return segment(model.logits, views, size, InferenceConfig(**inference))[0]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A segmenter, and images that it labels mostly right at its own size."""
    root = tmp_path_factory.mktemp("segment")
    model = load_segmenter(save_tiny(root / "run" / "best.safetensors"))[0].eval()
    write_images(root / "ade", lambda image: by_hand(model, image).numpy())
    return root


def measure(place, out, report=lambda _: None, **options):
    known = {"checkpoint": str(place / "run"), "data": str(place / "ade"), "sizes": (64,), "out": out}
    return evaluate(EvalConfig(**known | {"workers": 0, "device": "cpu"} | options), report)


def table(path):
    with Path(path).open() as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize(
    ("size", "options", "looks"),
    [
        pytest.param(64, {}, {}, marks=pytest.mark.full),
        pytest.param(96, {}, {"short": 96, "long": 120}, marks=pytest.mark.full),
        (64, {"flip": True, "ratios": (0.75, 1.0)}, {"flip": True, "ratios": (0.75, 1.0)}),
        (64, {"window": 48}, {"window": 48, "stride": 32}),
    ],
)
def test_scores_equal_those_of_a_reference_loop(place, tmp_path, size, options, looks):
    (row,) = measure(place, tmp_path, sizes=(size,), options=SegmenterOptions(**options))
    model, source = load_segmenter(place / "run" / "best.safetensors")[0].eval(), open_ade(place / "ade", "val")
    counts = torch.zeros(4, 4)
    for index in range(len(source)):
        image, labels = source.read(index)
        counts += confusion(by_hand(model, image, **looks), torch.from_numpy(labels), 4)
    wanted = segmentation_scores(counts)
    assert 20 < row.mIoU < 95
    scores = wanted.miou, wanted.pixel_accuracy, wanted.class_accuracy
    assert (row.mIoU, row.aAcc, row.mAcc) == pytest.approx(tuple(100 * score for score in scores), abs=1e-3)
    assert (row.size, row.images, row.skipped) == (size, 6, 0)
    lines = table(tmp_path / "per_class.csv")
    assert [(line["class"], line["name"]) for line in lines] == list(zip("1234", CLASSES, strict=True))
    found = ["" if iou != iou else f"{100 * iou:.2f}" for iou in wanted.iou.tolist()]
    assert [line[str(size)] for line in lines] == found
    pairs = {(int(line["true"]) - 1, int(line["predicted"]) - 1): float(line["pixels"]) for line in confused(tmp_path)}
    assert pairs == {(row, column): float(counts[row, column]) for row, column in counts.nonzero().tolist()}


def confused(out):
    """Read the confused classes, which have a picture, too."""
    assert (out / "confusion.png").stat().st_size > 1000
    return table(out / "confusion.csv")


def test_at_the_size_of_the_training_the_scores_are_those_of_the_training(place, tmp_path):
    (row,) = measure(place, tmp_path / "out")
    config = SegmentTrainConfig(
        recipe="",
        batch_size=2,
        model=small_segmenter(),
        augment=CropConfig(test_short=64, test_long=80),
        run=RunConfig(out=tmp_path / "run", device="cpu", workers=0),
    )
    accelerator, source = make_accelerator(config.run), open_ade(place / "ade", "val")
    model = load_segmenter(place / "run" / "best.safetensors")[0].eval()
    scores = Segmentation(config, source, source, accelerator, Communicator()).evaluate(model, lambda _: None)
    shutdown()
    assert row.scores == {name: round(score, 4) for name, score in scores.items()}


def test_options_override_the_inference_settings_of_the_file():
    slide, whole = InferenceConfig(window=512, stride=341, probabilities=False), InferenceConfig()
    choose = module.choose_inference
    assert choose(slide, SegmenterOptions()) == slide
    assert choose(slide, SegmenterOptions(whole=True)) == replace(slide, window=None)
    assert choose(slide, SegmenterOptions(stride=256)) == replace(slide, stride=256)
    assert choose(whole, SegmenterOptions(window=512)) == replace(whole, window=512, stride=341)
    with pytest.raises(ValueError, match="got stride=256 for whole images; add --sliding-window"):
        choose(whole, SegmenterOptions(stride=256))
    with pytest.raises(ValueError, match="expected a stride from 1 to the window"):
        choose(slide, SegmenterOptions(stride=600))
    with pytest.raises(ValueError, match="got --whole with --sliding-window or --stride"):
        SegmenterOptions(whole=True, window=512)
    for name, option, side in (
        ("window", "sliding-window", 0),
        ("window", "sliding-window", -5),
        ("stride", "stride", 0),
    ):
        with pytest.raises(ValueError, match=f"got --{option} {side}; expected at least 1 pixel"):
            SegmenterOptions(**{name: side})
    with pytest.raises(ValueError, match=r"got ratios=\(1.0, 1.0\)"):
        SegmenterOptions(ratios=(1.0, 1.0))
    assert default_sizes(512, module.SIZE_FACTORS) == [256, 384, 512, 768, 1024]


def test_resume_evaluates_missing_sizes_and_refuses_other_settings(place, tmp_path):
    out, events = tmp_path / "out", []
    measure(place, out, sizes=(32,))
    measure(place, out, events.append, sizes=(32, 64), resume=True)
    assert [event.row.size for event in events if isinstance(event, EvalSizeDone)] == [64]
    assert [row["size"] for row in table(out / "eval.csv")] == ["32", "64"]
    with pytest.raises(
        ValueError, match=r"evaluated with other settings .flip was False, now True; ratios was \[1.0\], now"
    ):
        measure(place, out, resume=True, options=SegmenterOptions(flip=True, ratios=(0.5, 1.0)))


@pytest.mark.full  # by default that of a classifier
def test_the_reference_grid_of_scaling_is_that_of_the_training_crops(place, tmp_path, monkeypatch):
    path = str(save_tiny(tmp_path / "cropped.safetensors", crop=64))
    seen, begun, original = [], [], module.confusion_matrix

    def spy(model, *rest):
        seen.append(model.backbone.body.blocks[0].attn.scaling)
        return original(model, *rest)

    monkeypatch.setattr(module, "confusion_matrix", spy)
    options = {"checkpoint": path, "scaling": "yarn", "sizes": (64, 96)}
    ruled = measure(place, tmp_path / "ruled", begun.append, **options)
    plain = measure(place, tmp_path / "plain", **options | {"scaling": "none"})
    assert [scaling and scaling.trained_grid for scaling in seen] == [(4, 4), (4, 4), None, None]
    assert "scaling yarn" in begun[0].description
    assert ruled[1].mIoU != plain[1].mIoU
    with pytest.raises(ValueError, match=r"evaluated with other settings .scaling was 'yarn', now None"):
        measure(place, tmp_path / "ruled", resume=True, **options | {"scaling": None})
    with pytest.raises(WeightsError, match="without the crop size of its training; give one that a training saved"):
        measure(place, tmp_path / "out", scaling="yarn")


def test_scaling_is_refused_for_attention_windows():
    config = small_segmenter(model="swin_tiny", width=24, depth=None, heads=None)
    info = ModelInfo(config=config, classes=["a"], metadata={"crop": 64})
    for wrong in (config, small_segmenter(window=2, depth=8)):
        with pytest.raises(
            ValueError, match="with attention windows, whose size is that of training at any image size"
        ):
            module.apply_scaling_override(build_segmenter(wrong, 1), replace(info, config=wrong), "yarn", None)


def test_scaling_is_refused_for_sliding_windows_no_larger_than_the_crops(tmp_path):
    model, info = load_segmenter(save_tiny(tmp_path / "cropped.safetensors", crop=64))
    for window in (48, 64):
        with pytest.raises(
            ValueError, match=f"sliding windows of {window} pixels, no larger .* crops of 64; .* give --whole"
        ):
            module.apply_scaling_override(model, info, "yarn", window)
    module.apply_scaling_override(model, info, "yarn", 80)
    assert model.backbone.body.config.trained_grid == (4, 4)


def test_scaling_is_refused_for_small_sliding_windows_of_the_options(place, tmp_path):
    path = str(save_tiny(tmp_path / "cropped.safetensors", crop=64))
    with pytest.raises(ValueError, match="got scaling='yarn' with sliding windows of 64 pixels"):
        measure(place, tmp_path / "out", checkpoint=path, scaling="yarn", options=SegmenterOptions(window=64))


def test_data_with_other_classes_and_options_of_other_tasks_are_refused(place, tmp_path):
    path = str(save_tiny(tmp_path / "other.safetensors", classes=("sky", "sea", "land")))
    differ = r"\(only in the checkpoint: land; only in the data: sand, boat\)"
    with pytest.raises(ValueError, match=f"has 3 classes, .*ade has 4 different ones {differ}"):
        measure(place, tmp_path / "out", checkpoint=path)
    path = str(save_tiny(tmp_path / "reversed.safetensors", classes=CLASSES[::-1]))
    with pytest.raises(ValueError, match="the same in another order"):
        measure(place, tmp_path / "out", checkpoint=path)
    with pytest.raises(ValueError, match="got --save-detections, for detectors only, with a segmenter"):
        measure(place, tmp_path / "out", options=DetectorOptions(save_detections=True))
    with pytest.raises(ValueError, match="got --batch-size 2 with a segmenter; a segmenter takes images one by one"):
        measure(place, tmp_path / "out", batch_size=2)
    assert not (tmp_path / "out").exists()


def test_unreadable_images_are_skipped_and_listed(place, tmp_path):
    file = place / "ade" / "images" / "validation" / "ADE_val_00000002.jpg"
    content, events = file.read_bytes(), []
    try:
        file.write_bytes(b"")
        (row,) = measure(place, tmp_path / "out", events.append)
    finally:
        file.write_bytes(content)
    assert (row.images, row.skipped) == (5, 1)
    said = f"{file}: cannot identify image file"
    assert [event.skipped for event in events if isinstance(event, EvalSizeDone)] == [(said,)]
    settings = json.loads((tmp_path / "out" / "eval.json").read_text())
    assert (settings["model"]["position"], settings["config"]["metric"]) == ("rope_mixed", "mIoU")
