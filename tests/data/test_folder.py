import numpy as np
import pytest
import torch
from PIL import Image

from ropevit.data.folder import load_folder

COLORS = {"red": (220, 20, 20), "green": (20, 200, 20), "blue": (20, 20, 210)}


def save_image(path, color=(90, 90, 90), size=(24, 16), mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.new("RGB", size, color)
    (image.quantize() if mode == "P" else image.convert(mode)).save(path)


@pytest.fixture
def flat(tmp_path):
    """Folders of classes alone, with images of different shapes."""
    for name, color in COLORS.items():
        for index in range(10):
            save_image(tmp_path / "pets" / name / f"{index}.png", color, size=(20 + 3 * index, 40 - 2 * index))
    return tmp_path / "pets"


def contents(data):
    return {(label, image.numpy().tobytes()) for label, image in zip(data.labels.tolist(), data.images, strict=True)}


def test_the_same_fifth_of_each_class_is_always_held_out(flat):
    train, test = load_folder(flat, 16)
    assert train.classes == ("blue", "green", "red")
    assert (train.labels.bincount().tolist(), test.labels.bincount().tolist()) == ([8] * 3, [2] * 3)
    assert train.images.shape == (24, 3, 16, 16)
    assert (train.name, test.name) == ("pets/train", "pets/test")
    assert "20% of each class" in train.notes[0]
    again = load_folder(flat, 16)
    torch.testing.assert_close((train.images, test.images), tuple(part.images for part in again), rtol=0, atol=0)


def test_labels_match_the_images(flat):
    for data in load_folder(flat, 16):
        for label, name in enumerate(data.classes):
            expected = torch.tensor(COLORS[name]).float()
            torch.testing.assert_close(
                data.images[data.labels == label].float().mean((0, 2, 3)), expected, rtol=0, atol=2
            )


@pytest.mark.parametrize("held", ["val", "test"])
def test_existing_train_and_test_folders_are_used(tmp_path, held):
    for split, count in (("train", 4), (held, 3)):
        for name, color in COLORS.items():
            for index in range(count):
                save_image(tmp_path / split / name / f"{index}.jpg", color)
    train, test = load_folder(tmp_path, 16)
    assert (len(train), len(test)) == (12, 9)
    assert train.notes == ()


def test_images_smaller_than_asked_for_are_noted(flat):
    (note,) = (note for note in load_folder(flat, 4096)[0].notes if "shorter side" in note)
    assert note.startswith("30 of 30 images have a shorter side of less than 4096 px (the smallest ")
    assert "gain no detail" in note


def test_images_of_every_mode_become_rgb(tmp_path):
    modes = ["L", "P", "RGBA", "CMYK", "LA", "1", "RGB"]
    for name in ("a", "b"):
        for mode in modes:
            save_image(tmp_path / name / f"{mode}.{'tif' if mode == 'CMYK' else 'png'}", (200, 200, 200), mode=mode)
        Image.fromarray(np.full((20, 20), 51400, np.uint16)).save(tmp_path / name / "sixteen.png")
    train, test = load_folder(tmp_path, 8)
    assert not train.skipped
    images = torch.cat([train.images, test.images]).float()
    assert images.shape[1] == 3
    usual = (images - 200).abs().amax((1, 2, 3)) <= 3
    assert usual.sum() == len(images) - 2  # all but the two of mode 1, which dithering makes black and white


def test_transparent_pixels_become_white(tmp_path):
    for name in ("a", "b"):
        for index in range(2):
            (tmp_path / name).mkdir(exist_ok=True)
            Image.new("RGBA", (8, 8 + index), (0, 0, 0, 0)).save(tmp_path / name / f"{index}.png")
    assert load_folder(tmp_path, 8)[0].images.min() == 255


def test_images_are_rotated_upright_and_center_cropped(tmp_path):
    pixels = np.zeros((10, 30, 3), np.uint8)
    pixels += 1
    pixels[:, 10:20] = 255  # white in the middle
    for name in ("a", "b"):
        for index in range(2):
            (tmp_path / name).mkdir(exist_ok=True)
            Image.fromarray(pixels - index).save(tmp_path / name / f"{index}.png")
    assert load_folder(tmp_path, 10)[0].images.min() == 255
    corner = np.zeros((16, 16, 3), np.uint8)
    corner[:8, 8:] = 255  # top right; upright it is bottom right (orientation 6 turns clockwise)
    exif = Image.Exif()
    exif[0x0112] = 6
    for number, file in enumerate(tmp_path.rglob("*.png")):
        Image.fromarray(np.maximum(corner, number)).save(file, exif=exif)
    upright = load_folder(tmp_path, 16)[0].images[0, 0]
    assert upright[12, 12] > 200
    assert upright[3, 12] < 50


def test_small_images_are_upsampled_to_the_largest_common_size(tmp_path):
    for name in ("a", "b"):
        for index in range(4):
            save_image(tmp_path / name / f"{index}.png", size=(12, 12 + 10 * index))
    assert load_folder(tmp_path, 64)[0].images.shape[-1] == 12
    save_image(tmp_path / "a" / "9.png", size=(40, 90))
    assert load_folder(tmp_path, 64)[0].images.shape[-1] == 40


def test_an_unreadable_file_is_skipped_and_listed(flat):
    (flat / "red" / "broken.jpg").write_bytes(b"not an image")
    whole = (flat / "green" / "0.png").read_bytes()
    (flat / "green" / "cut.png").write_bytes(whole[: len(whole) // 2])
    (flat / "green" / "notes.txt").write_text("not looked at")
    train, test = load_folder(flat, 16)
    assert len(train) + len(test) == 30
    assert len(train.skipped) == 2
    assert any("broken.jpg: cannot identify" in line for line in train.skipped)
    assert any("cut.png" in line for line in train.skipped)


def test_a_balanced_subset_is_used_and_noted(flat):
    for index in range(40):
        save_image(flat / "red" / f"more{index}.png", COLORS["red"])
    train, test = load_folder(flat, 16, max_images=30)
    assert (len(train), len(test)) == (24, 6)
    assert max(train.labels.bincount()) - min(train.labels.bincount()) <= 1
    assert "a balanced subset of 30 of the 70 images" in train.notes[-1]
    everything = [contents(part) for part in load_folder(flat, 16)]
    assert contents(train) | contents(test) <= everything[0] | everything[1]


def test_progress_is_reported(flat):
    seen = []
    load_folder(flat, 16, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(count, 30) for count in range(1, 31)]


def test_folders_without_classes_raise(tmp_path, flat):
    with pytest.raises(ValueError, match=r"found no folder .*nowhere"):
        load_folder(tmp_path / "nowhere", 16)
    with pytest.raises(ValueError, match=r"no folders of classes in .*red"):
        load_folder(flat / "red", 16)
    with pytest.raises(ValueError, match="the only class pets"):
        load_folder(tmp_path, 16)
    (flat / "empty").mkdir()
    with pytest.raises(ValueError, match="found no images of empty"):
        load_folder(flat, 16)


def test_too_few_images_raise(flat):
    save_image(flat / "rare" / "0.png")
    with pytest.raises(ValueError, match="fewer than 2 different images of rare"):
        load_folder(flat, 16)
    (flat / "rare" / "1.png").write_bytes(b"")
    with pytest.raises(ValueError, match=r"found no readable train image of rare .*1.png"):
        load_folder(flat, 16)


def test_too_small_a_subset_raises(flat):
    with pytest.raises(ValueError, match="max_images=5 for 3 classes; expected at least 6"):
        load_folder(flat, 16, max_images=5)


def test_classes_in_only_one_split_raise(tmp_path):
    for name in COLORS:
        save_image(tmp_path / "train" / name / "0.png")
        if name != "blue":
            save_image(tmp_path / "test" / name / "0.png")
    with pytest.raises(ValueError, match="found blue in only one of"):
        load_folder(tmp_path, 16)
