"""`ropevit train RECIPE --estimate` says what a step needs, and does nothing else."""

import pytest

from marks import by_default
from ropevit.cli import main

#: Kinds of recipes, made smaller, with the size of their images and the steps that are compared.
KINDS = {
    "fashion": ("28 x 28", ("1 image,", "2 images;"), ()),
    "detect/dino_smoke": ("64 x 64", ("1 image,", "2 images;"), ("--dino.decoder-layers", "1", "--depth", "1")),
    "segment/upernet_smoke": ("64 x 64", ("2 images,", "3 images;"), ()),
    "segment/mask2former_smoke": ("64 x 64", ("1 image,", "2 images;"), ("--mask2former.decoder-layers", "1")),
}

STARTS = ["parameters:", "multiply-adds of", "peak memory", "peak memory", "the optimizer's"]


@pytest.mark.parametrize("recipe", by_default(["fashion", "segment/upernet_smoke"], KINDS))
def test_a_step_is_estimated_without_data_or_a_directory(recipe, tmp_path, monkeypatch, capsys):
    size, counts, options = KINDS[recipe]
    monkeypatch.chdir(tmp_path)
    main(["train", recipe, "--data", "nowhere", "--out", "out", *options, "--estimate"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{recipe} at {size} pixels"
    assert all(line.startswith(start) for line, start in zip(lines[1:], STARTS, strict=True))
    assert all("(estimated from shapes, not measured)" in line for line in lines[1:5])
    assert all(count in line for count in counts for line in lines[3:5])
    assert list(tmp_path.iterdir()) == []


def test_options_change_the_estimate(capsys):
    main(["train", "fashion", "--estimate"])
    main(["train", "fashion", "--depth", "1", "--estimate"])
    once, less = (line for line in capsys.readouterr().out.splitlines() if line.startswith("parameters"))
    assert once != less
