import struct
import sys
from io import BytesIO
from types import ModuleType

import numpy as np
import pytest
from PIL import Image, ImageOps

from ropevit.data import formats
from ropevit.data.check import check
from ropevit.data.decoding import UNREADABLE, UnreadableImageError, matching_orientation, open_rgb
from ropevit.data.image_facts import inspect_image
from ropevit.data.images import read_image
from ropevit.data.listing import find_images


def exif(*tags):
    """Write EXIF by hand: tags of any type, each as (number, type, count, four bytes)."""
    body = b"II*\0" + struct.pack("<IH", 8, len(tags))
    body += b"".join(struct.pack("<HHI", *tag) + value for *tag, value in sorted(tags))
    return b"Exif\0\0" + body + struct.pack("<I", 0) + b"\0" * 16


def stored(form, **options):
    file = BytesIO()
    pixels = np.random.default_rng(0).integers(0, 255, (24, 40, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file, form, **options)
    return file.getvalue()


SIDEWAYS = (0x0112, 3, 1, struct.pack("<HH", 6, 0))


@pytest.mark.parametrize(
    "tag",
    [
        (0x011A, 2, 4, b"72\0\0"),  # XResolution as text
        (0x0128, 2, 4, b"2\0\0\0"),  # ResolutionUnit as text
        (0x0132, 12, 1, b"\0\0\0\0"),  # DateTime as a float
    ],
)
def test_the_exif_orientation_is_applied_despite_damaged_other_tags(tag):
    assert open_rgb(BytesIO(stored("JPEG", exif=exif(SIDEWAYS, tag)))).size == (24, 40)


@pytest.mark.parametrize("value", [(0x0112, 2, 4, b"6\0\0\0"), (0x0112, 3, 1, struct.pack("<HH", 99, 0))])
def test_an_invalid_exif_orientation_is_ignored(value):
    assert open_rgb(BytesIO(stored("JPEG", exif=exif(value)))).size == (40, 24)


@pytest.mark.parametrize("number", range(1, 9))
def test_all_exif_orientations_agree_with_pillow(number):
    tags = Image.Exif()
    tags[0x0112] = number
    content = stored("PNG", exif=tags)
    with Image.open(BytesIO(content)) as image:
        expected = np.asarray(ImageOps.exif_transpose(image))
    assert np.array_equal(np.asarray(open_rgb(BytesIO(content))), expected)


@pytest.mark.parametrize(
    ("size", "number", "annotated", "orientation"),
    [
        ((9, 5), 6, (5, 9), 6),
        ((9, 5), 6, (9, 5), 1),
        ((9, 5), 3, (9, 5), 3),
        ((9, 5), 1, (5, 9), None),
        ((9, 9), 8, (9, 9), 8),
    ],
)
def test_the_annotated_size_decides_the_orientation(size, number, annotated, orientation):
    assert matching_orientation(size, number, annotated) == orientation


@pytest.mark.parametrize("error", [struct.error, TypeError, KeyError, IndexError, ZeroDivisionError, SyntaxError])
def test_any_error_of_a_decoder_becomes_unreadable_image_error(error, monkeypatch, tmp_path):
    def broken(*_):
        raise error("odd\nfile")

    (tmp_path / "a.png").write_bytes(stored("PNG"))
    monkeypatch.setattr(Image.Image, "convert", broken)
    with pytest.raises(UnreadableImageError, match=r"odd.*file"):
        open_rgb(tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"a.png cannot be read as an image \(.*odd.*\); convert or remove it"):
        read_image(tmp_path / "a.png")
    assert issubclass(UnreadableImageError, UNREADABLE)
    assert [kind for kind, _ in inspect_image(stored("PNG"), ".png").found] == ["tiny", "truncated"]


@pytest.fixture
def heic(tmp_path):
    """Three folders of two classes: one class is all in a format for which no decoder is installed."""
    for name in ("a/1.jpg", "a/2.jpg", "b/1.jpg", "b/2.HEIC"):
        file = tmp_path / "val" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        color = (90 + 40 * (name[0] == "b"), int(name[2]), 0)
        Image.new("RGB", (40, 40), color).save(file, "JPEG")
    (tmp_path / "val/b/2.HEIC").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")
    return tmp_path / "val"


@pytest.fixture
def no_plugins(monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    formats.readable_suffixes.cache_clear()
    yield
    formats.readable_suffixes.cache_clear()


@pytest.mark.usefixtures("no_plugins")
def test_images_without_a_decoder_are_counted_with_install_advice(heic, caplog):
    needed = r"1 .heic \(pip install pillow-heif\)"
    assert [file.name for file in find_images([heic])] == ["a/1.jpg", "a/2.jpg", "b/1.jpg"]
    assert "as no decoder is installed: 1 .heic (pip install pillow-heif)" in caplog.text
    with pytest.raises(
        ValueError, match=r"cannot be read .*no decoder for it is installed \(HEIC: pip install pillow-h"
    ):
        read_image(heic / "b/2.HEIC")
    (lacking,) = check(str(heic)).findings
    assert (lacking.kind, lacking.detail) == ("no decoder", "1 .heic (pip install pillow-heif)")
    (heic / "b/1.jpg").unlink()
    with pytest.raises(ValueError, match=f"found no images in .*b; found files .* reads: {needed}"):
        find_images([heic / "b"])


@pytest.mark.usefixtures("no_plugins")
def test_an_installed_plugin_is_used(heic, monkeypatch):
    plugin = ModuleType("pillow_heif")
    plugin.register_heif_opener = lambda: None
    monkeypatch.setitem(sys.modules, "pillow_heif", plugin)
    assert len(find_images([heic])) == 4


@pytest.mark.parametrize("name", ["a.avif", "a.jp2"])
def test_formats_of_the_installed_pillow_are_listed(name, tmp_path):
    if f".{name[2:]}" not in formats.readable_suffixes():
        pytest.skip("this Pillow has no decoder for it")
    Image.new("RGB", (40, 40), "red").save(tmp_path / name)
    assert [file.name for file in find_images([tmp_path])] == [name]
    assert read_image(tmp_path / name).size == (40, 40)
