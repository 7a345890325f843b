"""`ropevit train RECIPE --estimate` prints the cost of a step, and does nothing else."""

from dataclasses import replace

import pytest

from marks import by_default
from ropevit.cli import main
from ropevit.cli.estimate import model_line
from ropevit.models.cost import count_macs
from ropevit.tasks.classify.recipes import find_recipe
from ropevit.tasks.training.events import TrainStarted

#: Recipe -> image size, batch sizes of the two estimated steps, and options that make the model smaller.
RECIPES = {
    "fashion": ("28 x 28", ("1 image,", "2 images;"), ("--depth", "1")),
    "detect/dino_smoke": ("64 x 64", ("1 image,", "2 images;"), ("--dino.decoder-layers", "1", "--depth", "1")),
    "segment/upernet_smoke": ("64 x 64", ("2 images,", "3 images;"), ()),
    "segment/mask2former_smoke": ("64 x 64", ("1 image,", "2 images;"), ("--mask2former.decoder-layers", "1")),
}

#: Numbers of parameters, all and trainable ones -> start of the line about the model.
MODEL_LINES = {
    (5_700_000, 5_700_000): "model: 5.7 M parameters, all trainable; 271 K MACs and 49 patch tokens for an image of 28",
    (999_999, 650): "model: 1 M parameters, 650 trainable; ",
    (1_100_000_000, 2_000_000): "model: 1.1 G parameters, 2 M trainable; ",
}

STARTS = ["parameters:", "MACs of", "peak memory", "peak memory", "not included"]


@pytest.mark.parametrize("recipe", by_default(["fashion"], RECIPES))
def test_a_step_is_estimated_without_data_or_a_directory(recipe, tmp_path, monkeypatch, capsys):
    size, counts, options = RECIPES[recipe]
    monkeypatch.chdir(tmp_path)
    main(["train", recipe, "--data", "nowhere", "--out", "out", *options, "--estimate"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{recipe} at {size} pixels"
    assert all(line.startswith(start) for line, start in zip(lines[1:], STARTS, strict=True))
    assert all("(estimated from shapes, not measured)" in line for line in lines[1:5])
    assert all(count in line for count in counts for line in lines[3:5])
    assert list(tmp_path.iterdir()) == []


def test_options_change_the_estimate(capsys):
    main(["train", "fashion", "--depth", "1", "--estimate"])
    main(["train", "fashion", "--depth", "1", "--width", "16", "--estimate"])
    once, less = (line for line in capsys.readouterr().out.splitlines() if line.startswith("parameters"))
    assert once != less


@pytest.mark.parametrize("counts", MODEL_LINES)
def test_a_line_says_what_is_trained_and_what_an_image_costs(counts, tmp_path):
    config = find_recipe("fashion")
    config = replace(config, model=replace(config.model, width=16, depth=1, heads=1))
    shape = {"first": 0, "steps": 1, "length": 1, "steps_per_epoch": 1, "out": tmp_path, "num_classes": 10}
    started = TrainStarted(**shape, parameters=counts[0], trainable=counts[1])
    assert model_line(config, started).startswith(MODEL_LINES[counts])
    by_hand = count_macs(config.model.build(10), 28, 28)
    assert f"{by_hand / 1000:.0f} K MACs" in model_line(config, started)
