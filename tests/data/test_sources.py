import numpy as np
import pytest
from PIL import Image

from ropevit.data.imagenet import imagenet_synsets
from ropevit.data.sources import FileSource, ImageSource, open_source
from ropevit.data.tiny import make_tiny


def save_image(path, color=(90, 90, 90), size=(24, 16)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, color).save(path)


@pytest.fixture
def folder(tmp_path):
    for split in ("train", "val"):
        for label, name in enumerate(("ant", "bee")):
            for index in range(3 - (split == "val")):
                save_image(tmp_path / split / name / f"{index}.png", (100 * label, 10 * index, 0))
    return tmp_path


def test_the_embedded_images_are_grayscale_in_rgb():
    train, val = open_source("fashion", "train"), open_source("fashion", "val")
    assert (len(train), len(val), train.name, val.name) == (10_000, 2_000, "fashion/train", "fashion/test")
    image, label = train.read(3)
    assert (image.mode, image.size, label) == ("RGB", (28, 28), int(train.data.labels[3]))
    pixels = np.asarray(image)
    assert (pixels == train.data.images[3, 0].numpy()[..., None]).all()
    assert train.describe(3) == "fashion/train[3]"
    assert isinstance(train, ImageSource)


def test_classes_are_ordered_by_folder_name(folder):
    train, val = open_source(str(folder), "train"), open_source(str(folder), "val")
    assert (len(train), len(val)) == (6, 4)
    assert train.classes == val.classes == ("ant", "bee")
    for index in range(6):
        image, label = train.read(index)
        assert label == index // 3
        assert image.getpixel((0, 0)) == (100 * label, 10 * (index % 3), 0)
        assert train.describe(index) == str(folder / "train" / ("ant", "bee")[label] / f"{index % 3}.png")
    assert isinstance(train, FileSource)
    assert train.blocks == ()


def test_files_of_any_name_and_depth_are_found(tmp_path):
    files = ["a/ü 1.JPEG", "a/deep/er/2.png", "a-b/3.webp", "a/.hidden.png", "a/notes.txt", "a/deep-er/4.png"]
    for file in files:
        place = tmp_path / "val" / file
        save_image(place) if not file.endswith("txt") else place.write_text("x")
    source = open_source(str(tmp_path), "val")
    found = [source.describe(index) for index in range(len(source))]
    expected = ["a/deep/er/2.png", "a/deep-er/4.png", "a/ü 1.JPEG", "a-b/3.webp"]
    assert found == [str(tmp_path / "val" / name) for name in expected], "the order of paths, part by part"


def test_folders_of_imagenet_classes_are_for_evaluation_only(tmp_path):
    ids = sorted(imagenet_synsets())[5:9:2]
    for name in ids:
        save_image(tmp_path / name / "0.png")
    assert open_source(str(tmp_path), "val").classes == tuple(ids)
    with pytest.raises(ValueError, match="found no train images in"):
        open_source(str(tmp_path), "train")


def test_wordnet_ids_are_in_the_order_of_the_logits():
    assert list(imagenet_synsets()) == sorted(imagenet_synsets())


def test_the_validation_folder_may_have_other_names(folder):
    (folder / "val").rename(folder / "validation")
    assert len(open_source(str(folder), "val")) == 4


@pytest.mark.usefixtures("unchecked")
def test_missing_folders_and_images_raise(folder, tmp_path):
    with pytest.raises(ValueError, match="found no folder"):
        open_source(str(tmp_path / "nowhere"), "train")
    with pytest.raises(ValueError, match="choose train or val"):
        open_source("fashion", "test")
    (folder / "train").rename(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match=r"found no train images in .*; expected train/CLASS/\*.jpg"):
        open_source(str(folder), "train")
    (tmp_path / "elsewhere").rename(folder / "train")
    (folder / "train" / "cat").mkdir()
    with pytest.raises(ValueError, match="found no images of cat"):
        open_source(str(folder), "train")


def test_training_images_without_a_val_folder_are_split(folder, caplog):
    (folder / "val").rename(folder.parent / "elsewhere")
    train, val = open_source(str(folder), "train"), open_source(str(folder), "val")
    assert (len(train), len(val)) == (4, 2)
    assert not {train.describe(index) for index in range(4)} & {val.describe(index) for index in range(2)}
    assert caplog.text.count("held out for validation") == 1


def test_a_detection_data_set_is_recognized(tmp_path):
    make_tiny("coco", tmp_path / "coco", 2, 1)
    with pytest.raises(ValueError, match="is a data set in the format of COCO, for detectors"):
        open_source(str(tmp_path / "coco"), "val")


def test_an_unreadable_file_raises_an_error_that_loaders_handle(folder):
    from ropevit.data.decoding import UNREADABLE

    (folder / "train/ant/0.png").write_bytes(b"nothing")
    with pytest.raises(UNREADABLE):
        open_source(str(folder), "train").read(0)
