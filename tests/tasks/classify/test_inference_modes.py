"""Classifiers evaluated in tiles of the training size, and on images resized to it."""

import csv
import json

import pytest
import torch

from ropevit.models import Swin, SwinConfig
from ropevit.tasks.classify.evaluate import evaluate
from ropevit.tasks.classify.inference_modes import predict_by, tile_logits, tokens_per_image
from ropevit.tasks.evaluation.config import EvalConfig
from ropevit.tasks.evaluation.loop import EvalSizeProgress, read_curve

from .conftest import small_vit

PETS = ["dog", "bird", "cat"]
FIELDS = {"workers": 0, "device": "cpu", "sizes": (16, 32, 48)}


def loud_vit(**fields):
    model = small_vit(3, layer_scale=None, **fields)
    torch.manual_seed(0)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model


def read(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def mean_colors(images):
    """Logits of a classifier that names the brightest channel."""
    return images.float().mean((2, 3))


def test_probabilities_are_averaged_over_the_tiles_of_an_image():
    images = torch.randint(0, 256, (2, 3, 5, 7), dtype=torch.uint8)
    tiles = [images[..., y : y + 4, x : x + 4] for y in (0, 1) for x in (0, 3)]
    wanted = torch.stack([mean_colors(tile).softmax(1) for tile in tiles]).mean(0)
    torch.testing.assert_close(tile_logits(mean_colors, images, 4).exp(), wanted)


@pytest.mark.parametrize("size", [16, 32, 50])
def test_a_model_of_one_size_sees_that_size_alone(size):
    seen = []

    def classifier(images):
        assert images.dtype == torch.uint8
        seen.append(tuple(images.shape[2:]))
        return mean_colors(images)

    images = torch.randint(0, 256, (2, 3, size, size), dtype=torch.uint8)
    predict_by("resize", classifier, 32)(images)
    predict_by("tiles", classifier, 32)(images)
    side = min(size, 32)
    assert seen == [(32, 32)] + [(side, side)] * (4 if size > 32 else 1)


def test_the_cost_is_counted_in_patch_tokens_of_all_tiles():
    config = small_vit(3).config
    found = {mode: [tokens_per_image(config, size, mode, 32) for size in (16, 32, 48, 64)] for mode in MODES}
    assert found == {"whole": [1, 4, 9, 16], "tiles": [1, 4, 16, 16], "resize": [4, 4, 4, 4]}


MODES = ("whole", "tiles", "resize")


@pytest.mark.parametrize("position", ["ape", "rope_mixed"])
def test_baselines_have_rows_of_their_own_beside_each_size(pets, weights, tmp_path, position):
    path, out, events = weights(loud_vit(position=position), classes=PETS), tmp_path / "out", []
    known = {"checkpoint": path, "data": str(pets), **FIELDS}
    rows = evaluate(EvalConfig(**known, out=out, baselines=("resize", "tiles")), events.append)
    found = [(row.size, row.mode, row.tokens) for row in rows]
    assert found == [
        (16, "whole", 1), (16, "resize", 4), (32, "whole", 4), (48, "whole", 9), (48, "tiles", 16), (48, "resize", 4),
    ]  # fmt: skip
    assert [(row["size"], row["mode"], row["tokens"]) for row in read(out / "eval.csv")] == [
        (str(size), mode, str(tokens)) for size, mode, tokens in found
    ]
    columns = ["16", "16 resize", "32", "48", "48 tiles", "48 resize"]
    assert list(read(out / "per_class.csv")[0]) == ["class", "name", *columns]
    assert {event.mode for event in events if isinstance(event, EvalSizeProgress)} == set(MODES)
    curve = read_curve(out, type(rows[0]), json.loads((out / "eval.json").read_text()))
    assert list(curve.points) == [16, 32, 48]
    assert {label: list(points) for label, points in curve.baselines.items()} == {
        "resized to 32 px": [16, 48],
        "in tiles of 32 px": [48],
    }


def test_a_resized_image_is_measured_by_the_model_of_the_training_size(pets, weights, tmp_path):
    """Bars of whole patches survive any resize, so all scores are those of the training size."""
    fields = {"width": 16, "depths": (1, 1), "heads": (2, 2), "num_classes": 3, "img_size": (32, 32)}
    path = weights(Swin(SwinConfig(position="rpb", window_size=4, **fields)), classes=PETS)
    known = {"checkpoint": path, "data": str(pets), **FIELDS, "sizes": (44,)}
    rows = evaluate(EvalConfig(**known, out=tmp_path / "out", baselines=("tiles", "resize")))
    assert [(row.mode, row.window, row.tokens) for row in rows] == [
        ("whole", 6, 121),
        ("tiles", 4, 256),
        ("resize", 4, 64),
    ]


def test_baselines_may_be_added_to_an_evaluation_of_an_older_version(pets, weights, tmp_path):
    path, out = weights(loud_vit(), classes=PETS), tmp_path / "out"
    known = {"checkpoint": path, "data": str(pets), "out": out, **FIELDS}
    evaluate(EvalConfig(**known))
    lines = [line.rsplit(",", 2)[0] for line in (out / "eval.csv").read_text().splitlines()]
    assert lines[0].endswith(",crop"), "the columns of this version come last"
    (out / "eval.csv").write_text("\n".join(lines) + "\n")
    rows = evaluate(EvalConfig(**known, resume=True, baselines=("resize",)))
    assert [(row.size, row.mode) for row in rows] == [
        (16, None), (16, "resize"), (32, None), (48, None), (48, "resize"),
    ]  # fmt: skip
    again = evaluate(EvalConfig(**known, resume=True))
    assert again == rows, "and need not be asked for again"


def test_a_repeated_baseline_is_refused():
    with pytest.raises(ValueError, match="got baselines resize, resize; name each once"):
        EvalConfig(data="fashion", baselines=("resize", "resize"))
