import os
import shutil
import tarfile
from dataclasses import replace
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from ropevit.data.ade import open_ade
from ropevit.data.coco import open_coco
from ropevit.data.fashion import load_fashion
from ropevit.data.identity import MAX_READ, describe_changes, evenly_spaced, file_parts, identify
from ropevit.data.sources import MemorySource, open_source
from ropevit.data.tiny import make_tiny


def noise(path, seed):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (9, 9, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, compress_level=0)  # all files are of one size


@pytest.fixture
def folder(tmp_path):
    for number in range(6):
        for split in ("train", "val"):
            noise(tmp_path / "set" / split / "ab"[number % 2] / f"{number // 2}.png", number)
    return tmp_path / "set"


def exchange(root):
    (root / "train" / "a").rename(root / "c")
    (root / "train" / "b").rename(root / "train" / "a")
    (root / "c").rename(root / "train" / "b")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda root: (root / "train/a/0.png").unlink(), "1 image was removed from 6"),
        (lambda root: shutil.copy(root / "train/a/0.png", root / "train/a/3.png"), "1 image was added to 6"),
        (lambda root: (root / "train/a/0.png").rename(root / "train/a/9.png"), "the images have other names"),
        (lambda root: noise(root / "train/a/0.png", 99), "files changed"),
        (exchange, "files changed"),
        (lambda root: os.utime(root / "train/a/0.png", (0, 0)), ""),
    ],
)
def test_the_fingerprint_of_a_folder_depends_on_content_and_not_on_location(change, said, folder, tmp_path):
    before = identify(open_source(str(folder), "train"))
    folder = folder.rename(tmp_path / "moved")
    assert describe_changes(before, identify(open_source(str(folder), "train"))) == ""
    change(folder)
    assert describe_changes(before, identify(open_source(str(folder), "train"))) == said


def write_shard(path, labels, seed=0):
    with tarfile.open(path, "w") as tar:
        for number, label in enumerate(labels):
            file = BytesIO()
            pixels = np.random.default_rng([seed, number]).integers(0, 255, (9, 9, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(file, "png", compress_level=0)
            for suffix, content in (("png", file.getvalue()), ("cls", str(label).encode())):
                member = tarfile.TarInfo(f"{number}.{suffix}")
                member.size = len(content)
                tar.addfile(member, BytesIO(content))


def test_the_fingerprint_of_shards_depends_on_their_content(tmp_path, monkeypatch):
    monkeypatch.setenv("ROPEVIT_CACHE", str(tmp_path / "cache"))

    def made(name, *shard):
        (tmp_path / name).mkdir()
        write_shard(tmp_path / name / "train-0.tar", *shard)
        return identify(open_source(str(tmp_path / name), "train"))

    before = made("first", [0, 1, 0, 1])
    assert describe_changes(before, made("same", [0, 1, 0, 1])) == ""
    assert describe_changes(before, made("labels", [0, 1, 1, 0])) == "labels changed"
    assert describe_changes(before, made("files", [0, 1, 0, 1], 1)) == "files changed"
    assert describe_changes(before, made("fewer", [0, 1, 0])) == "1 image was removed from 4"


def test_the_fingerprint_of_coco_and_ade_depends_on_images_and_annotations(tmp_path):
    make_tiny("coco", tmp_path / "coco", 3, 1)
    annotations = tmp_path / "coco" / "annotations" / "instances_train2017.json"
    before = identify(open_coco(tmp_path / "coco", "train"))
    annotations.write_text(annotations.read_text().replace('"bbox": [\n    ', '"bbox": [\n    1'))
    assert describe_changes(before, identify(open_coco(tmp_path / "coco", "train"))) == "labels changed"
    make_tiny("ade", tmp_path / "ade", 2, 1)
    before = identify(open_ade(tmp_path / "ade", "train"))
    assert describe_changes(before, identify(open_ade(tmp_path / "ade", "train"))) == ""
    label = next((tmp_path / "ade" / "annotations" / "training").iterdir())
    with Image.open(label) as image:
        Image.fromarray(255 - np.array(image)).save(label)
    assert describe_changes(before, identify(open_ade(tmp_path / "ade", "train"))) == "labels changed"


def test_the_fingerprint_of_images_in_memory_depends_on_their_content():
    data = load_fashion("test")
    before = identify(MemorySource(data))
    assert before["images"] == 2000
    assert describe_changes(before, identify(MemorySource(replace(data, labels=9 - data.labels)))) == "labels changed"
    assert describe_changes(before, identify(MemorySource(replace(data, images=255 - data.images)))) == "files changed"


def test_few_files_of_a_large_set_are_read():
    class Large:
        def __len__(self):
            return 10**7

        def describe(self, index):
            assert index < 10**7
            return "missing"

    assert len(file_parts(Large())) == 1 + MAX_READ
    assert evenly_spaced(5, 9) == [0, 1, 2, 3, 4]
    with pytest.raises(TypeError, match="cannot fingerprint a Large"):
        identify(Large())
