from pathlib import Path

import pytest
from PIL import Image

from ropevit.data.listing import ImageFile
from ropevit.tasks.predictions import check_out, png_names, save_png


def files(*names):
    return [ImageFile(Path("somewhere", str(number), name), name) for number, name in enumerate(names)]


def test_drawings_are_named_after_their_images():
    assert png_names(files("street.jpg", "in/a.b.tif", "plain")) == ["street.png", "in/a.b.png", "plain.png"]


def test_images_that_differ_only_in_suffix_keep_it():
    assert png_names(files("a.jpg", "A.webp", "b.png")) == ["a.jpg.png", "A.webp.png", "b.png"]


def test_images_of_the_same_name_are_refused():
    with pytest.raises(ValueError, match=r"same name \(somewhere/0/a.jpg, somewhere/2/a.jpg\)"):
        png_names(files("a.jpg", "b.jpg", "a.jpg"))


@pytest.mark.parametrize("name", ["labels/a.png", "Labels/in/a.jpg", "classes.txt/a.jpg"])
def test_drawings_in_folders_of_other_output_are_refused(name):
    assert png_names(files(name, "a.jpg"))[1] == png_names(files("in/" + name, "a.jpg"), ["labels"])[1] == "a.png"
    assert png_names(files("labels", "labels.jpg"), ["labels"]) == ["labels.png", "labels.jpg.png"]
    with pytest.raises(
        ValueError, match=rf"got somewhere/1/{name}, whose drawing would be written into .*; predict that folder alone"
    ):
        png_names(files("a.jpg", name), ["labels", "classes.txt"])


def test_only_a_new_or_empty_folder_is_accepted(tmp_path):
    check_out(tmp_path / "new")
    check_out(tmp_path)
    save_png(tmp_path / "in" / "a.png", Image.new("RGB", (3, 2)))
    with Image.open(tmp_path / "in" / "a.png") as image:
        assert image.size == (3, 2)
    with pytest.raises(ValueError, match="is not empty; choose another --out"):
        check_out(tmp_path)
    with pytest.raises(ValueError, match="got the file"):
        check_out(tmp_path / "in" / "a.png")
