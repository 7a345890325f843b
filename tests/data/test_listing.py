import os
import pickle
from pathlib import Path

import pytest
from PIL import Image

from ropevit.data.formats import SUFFIXES
from ropevit.data.listing import Names, class_files, find_images, image_names, list_images, subfolders


def test_images_are_listed_recursively(tmp_path):
    for name in (
        "b.jpg",
        "a/1.PNG",
        "a/b/2.jpeg",
        "a-b/3.webp",
        "a/.4.jpg",
        "a/notes.txt",
        ".hid/5.jpg",
        "jpg",
        "a.jpg/6.gif",
    ):
        (tmp_path / "set" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "set" / name).touch()
    (tmp_path / "set" / "link.jpg").symlink_to(tmp_path / "set" / "b.jpg")
    (tmp_path / "set" / "gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    (tmp_path / "set" / "folder").symlink_to(tmp_path / "set" / "a")
    searched = sorted(
        file.relative_to(tmp_path / "set")
        for file in (tmp_path / "set").rglob("*")
        if file.suffix.lower() in SUFFIXES and file.is_file() and not set(file.name[:1] + file.parent.name[:1]) & {"."}
    )
    assert image_names(tmp_path / "set") == [str(file) for file in searched]
    assert len(searched) == 6


def test_hidden_folders_are_skipped_and_other_files_counted(tmp_path):
    for name in ("a.jpg", ".ipynb_checkpoints/a.jpg", "__MACOSX/b.jpg", "in/@eaDir/c.jpg", "b.TXT", "c.txt", "README"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "gone.jpg").symlink_to(tmp_path / "nowhere")
    found = list_images(tmp_path)
    assert found.names == ["a.jpg"]
    assert found.others == {"hidden": 3, ".txt": 2, "without suffix": 1, "link": 1}
    assert [folder.name for folder in subfolders(tmp_path)] == ["in"]


def test_results_folders_are_not_taken_for_classes(tmp_path):
    for run in ("a", "b"):
        (tmp_path / run).mkdir()
        Image.new("RGB", (40, 40)).save(tmp_path / run / "curves.png")
        (tmp_path / run / "metrics.jsonl").touch()
    with pytest.raises(
        ValueError, match=r"holds results, not data: found .*metrics.jsonl; expected a folder of images"
    ):
        class_files(tmp_path)


def test_names_of_any_bytes_can_be_packed_and_pickled():
    strings = ["a", "", "ü/ß.jpg", os.fsdecode(b"\xff\xfe.png"), "z" * 300]
    names = pickle.loads(pickle.dumps(Names.of(strings)))
    assert list(names) == strings
    assert (len(names), names[4]) == (5, strings[4])
    assert len(Names.of([])) == 0


def test_files_and_folders_are_searched_in_the_given_order(tmp_path):
    for name in ("b.jpg", "in/deep/a.PNG", "in/c.txt", ".hidden.jpg", "z.webp", "odd.data"):
        (tmp_path / "set" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "set" / name).touch()
    found = find_images([tmp_path / "set" / "odd.data", tmp_path / "set"])
    assert [file.name for file in found] == ["odd.data", "b.jpg", "in/deep/a.PNG", "z.webp"]
    assert [file.path for file in found][1:] == [tmp_path / "set" / file.name for file in found[1:]]


def test_paths_without_images_raise(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"no image file or folder at gone.jpg; check the path"):
        find_images([Path("gone.jpg"), tmp_path])
    with pytest.raises(ValueError, match=r"found no images in .*empty; expected files ending in .avif"):
        find_images([tmp_path / "empty"])
