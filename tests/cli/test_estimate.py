"""`ropevit train RECIPE --estimate` prints the cost of a step, and does nothing else."""

import pytest

from marks import by_default
from ropevit.cli import main

#: Recipe -> image size, batch sizes of the two estimated steps, and options that make the model smaller.
RECIPES = {
    "fashion": ("28 x 28", ("1 image,", "2 images;"), ("--depth", "1")),
    "detect/dino_smoke": ("64 x 64", ("1 image,", "2 images;"), ("--dino.decoder-layers", "1", "--depth", "1")),
    "segment/upernet_smoke": ("64 x 64", ("2 images,", "3 images;"), ()),
    "segment/mask2former_smoke": ("64 x 64", ("1 image,", "2 images;"), ("--mask2former.decoder-layers", "1")),
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
