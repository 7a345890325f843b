import logging

import numpy as np
import pytest
from PIL import Image

from ropevit.data.folder import load_folder
from ropevit.data.holdout import held_out
from ropevit.data.imagenet import imagenet_synsets
from ropevit.data.sources import open_source


@pytest.fixture
def pets(tmp_path):
    for label, name in enumerate(("ant", "bee")):
        (tmp_path / "pets" / name).mkdir(parents=True)
        for index in range(10):
            pixels = np.random.default_rng(10 * label + index).integers(0, 255, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "pets" / name / f"{index}.bmp")
    return tmp_path / "pets"


def files(source):
    return {source.describe(index) for index in range(len(source))}


def pixels(data):
    return {image.numpy().tobytes() for image in data.images}


def test_training_and_study_hold_out_the_same_images(pets, caplog):
    with caplog.at_level(logging.WARNING):
        train, val = open_source(str(pets), "train"), open_source(str(pets), "val")
    assert (len(train), len(val), train.classes, val.classes) == (16, 4, ("ant", "bee"), ("ant", "bee"))
    assert not files(train) & files(val)
    assert (train.name, val.name) == ("pets/train (80% of each class)", "pets/val (20% of each class, held out)")
    assert "20% of each class, always the same, are held out" in caplog.text
    _, test = load_folder(pets, 32)
    read = {np.asarray(val.read(index)[0]).transpose(2, 0, 1).tobytes() for index in range(4)}
    assert read == pixels(test)


@pytest.mark.parametrize("hidden", [True, False])
def test_copies_of_a_file_are_in_one_split(pets, hidden):
    for file in list(pets.rglob("*.bmp")):
        copy = file.parent / ".ipynb_checkpoints" / file.name if hidden else file.with_name(f"{file.stem} (1).bmp")
        copy.parent.mkdir(exist_ok=True)
        copy.write_bytes(file.read_bytes())
    train, test = load_folder(pets, 32)
    assert (len(train), len(test)) == ((16, 4) if hidden else (32, 8))
    assert not pixels(train) & pixels(test)
    split = [open_source(str(pets), part) for part in ("train", "val")]
    contents = [{source.raw(index)[0] for index in range(len(source))} for source in split]
    assert not contents[0] & contents[1]


def test_copies_in_another_format_are_in_one_split_of_a_study(pets):
    for file in list(pets.rglob("*.bmp")):
        with Image.open(file) as image:
            image.save(file.with_suffix(".png"))
    train, test = load_folder(pets, 32)
    assert not pixels(train) & pixels(test)


def test_a_class_of_identical_images_raises(pets):
    for file in (pets / "bee").iterdir():
        file.write_bytes((pets / "bee/0.bmp").read_bytes())
    with pytest.raises(ValueError, match="fewer than 2 different images of bee in"):
        load_folder(pets, 32)
    with pytest.raises(ValueError, match="fewer than 2 different images of bee in"):
        open_source(str(pets), "train")


def test_a_fifth_or_the_smallest_group_of_copies_is_held_out():
    assert sum(held_out(range(20), 0)) == 4
    assert sum(held_out(range(2), 0)) == 1
    assert held_out("aaaaab", 3) == [False] * 5 + [True]
    assert held_out(range(20), 0) != held_out(range(20), 1)


def test_folders_of_imagenet_classes_are_used_for_evaluation_as_a_whole(tmp_path):
    for name in list(imagenet_synsets())[:2]:
        (tmp_path / name).mkdir()
        for index in range(5):
            Image.new("RGB", (8, 8), (index, 0, 0)).save(tmp_path / name / f"{index}.png")
    assert len(open_source(str(tmp_path), "val")) == 10
    with pytest.raises(ValueError, match=r"found no train images in .*used for evaluation as a whole"):
        open_source(str(tmp_path), "train")
