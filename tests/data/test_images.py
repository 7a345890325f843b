import numpy as np
import pytest
import torch
from PIL import Image
from torch.testing import assert_close

from ropevit.data.imagenet import MEAN, STD, imagenet_classes, imagenet_synsets
from ropevit.data.images import keep_aspect_size, read_image, resize_to, to_tensor


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGB", "RGBA", "CMYK", "1", "I;16"])
def test_images_of_any_mode_are_read_as_rgb(tmp_path, mode):
    gray = np.tile(np.arange(0, 240, 10, dtype=np.uint8), (8, 1))
    image = Image.fromarray(gray)
    image = Image.fromarray(gray.astype(np.uint16) * 257) if mode == "I;16" else image.convert(mode)
    path = tmp_path / f"image.{'tif' if mode in ('CMYK', 'I;16') else 'png'}"
    image.save(path)
    read = read_image(path)
    assert read.mode == "RGB"
    assert read.size == (24, 8)
    if mode not in ("1", "P"):
        assert_close(np.asarray(read)[0, :, 0].astype(int), gray[0].astype(int), rtol=0, atol=2)


def test_transparency_becomes_white_and_exif_orientation_is_applied(tmp_path):
    clear = Image.new("RGBA", (4, 2), (10, 20, 30, 0))
    clear.save(tmp_path / "clear.png")
    assert read_image(tmp_path / "clear.png").getpixel((0, 0)) == (255, 255, 255)
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    Image.new("RGB", (4, 2)).save(tmp_path / "turned.jpg", exif=exif)
    assert read_image(tmp_path / "turned.jpg").size == (2, 4)


def test_files_that_are_not_images_raise(tmp_path):
    (tmp_path / "text.jpg").write_text("not an image")
    (tmp_path / "empty.png").touch()
    Image.new("RGB", (64, 64), "red").save(tmp_path / "whole.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes()[:60])
    for name in ("text.jpg", "empty.png", "cut.png"):
        with pytest.raises(ValueError, match=f"{name} cannot be read as an image"):
            read_image(tmp_path / name)
    with pytest.raises(ValueError, match=r"no image at .*gone.png; check the path"):
        read_image(tmp_path / "gone.png")
    with pytest.raises(ValueError, match="got the folder"):
        read_image(tmp_path)


@pytest.mark.parametrize(("width", "height"), [(100, 40), (40, 100), (30, 30), (1, 50)])
def test_resizing_covers_the_target_size_and_keeps_the_center(width, height):
    fitted = resize_to(Image.new("RGB", (width, height), "red"), 32, 48)
    assert fitted.size == (48, 32)
    assert np.asarray(fitted)[..., 0].min() == 255, "no border"


def test_resizing_crops_the_center_and_antialiases():
    ramp = np.tile(np.arange(240, dtype=np.uint8), (60, 1))  # values are columns
    fitted = np.asarray(resize_to(Image.fromarray(ramp).convert("RGB"), 30, 30))[..., 0].astype(int)
    assert_close(fitted[15, [0, 14, 15, 29]], np.array([90, 118, 120, 148]), rtol=0, atol=2)
    stripes = np.zeros((64, 64), dtype=np.uint8)
    stripes[:, ::2] = 200
    smooth = np.asarray(resize_to(Image.fromarray(stripes).convert("RGB"), 16, 16))[..., 0]
    assert_close(smooth[8, 4:12].astype(int), np.full(8, 100), rtol=0, atol=8)


def test_a_very_elongated_image_is_cropped_before_resizing():
    assert resize_to(Image.new("RGB", (2, 20000)), 224, 224).size == (224, 224)


def test_keep_aspect_size_is_a_multiple_of_the_patch_size():
    assert keep_aspect_size(Image.new("RGB", (200, 100)), 64, 16) == (64, 128)
    assert keep_aspect_size(Image.new("RGB", (100, 210)), 64, 16) == (128, 64)
    assert keep_aspect_size(Image.new("RGB", (100, 101)), 64, 16) == (64, 64)


def test_tensors_are_normalized_per_channel():
    image = Image.new("RGB", (3, 2), (255, 0, 51))
    tensor = to_tensor(image, MEAN, STD)
    assert tensor.shape == (3, 2, 3)
    expected = [(v - m) / s for v, m, s in zip((1.0, 0.0, 0.2), MEAN, STD, strict=True)]
    assert_close(tensor[:, 0, 0], torch.tensor(expected))
    assert to_tensor(image, (0.5,), (0.5,)).shape == (1, 2, 3)


def test_imagenet_has_1000_distinct_class_names_in_synset_order():
    names = imagenet_classes()
    assert len(set(names)) == len(names) == 1000
    assert list(imagenet_synsets()) == sorted(imagenet_synsets())
    assert (names[0], names[207], names[999]) == ("tench", "golden retriever", "toilet tissue")
    assert names.count("crane (n02012849)") == 1
