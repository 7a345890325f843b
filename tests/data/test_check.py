from io import BytesIO

import pytest
from PIL import Image

from data.test_shards import samples, write
from ropevit.data.check import check
from ropevit.data.findings import ADVICE
from ropevit.data.image_facts import inspect_image


def save_image(path, number=0, size=(40, 40), mode="RGB", **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (number, 99, 5)).convert(mode).save(path, **options)
    return path


@pytest.fixture
def sound(tmp_path):
    """A folder without problems."""
    for at, split in enumerate(("train", "val")):
        for label, name in enumerate(("ant", "bee")):
            for index in range(3):
                save_image(tmp_path / "set" / split / name / f"{index}.png", 50 * at + 20 * label + index)
    return tmp_path / "set"


def found(path):
    return {(finding.kind, finding.split, finding.label) for finding in check(str(path)).findings}


def test_a_valid_set_has_no_findings(sound):
    seen = []
    report = check(str(sound), lambda done, total: seen.append((done, total)))
    assert (report.images, report.findings, report.clean) == ({"train": 6, "val": 6}, [], True)
    assert seen == [(count, 12) for count in range(1, 13)]


def test_every_kind_of_bad_file_is_reported(sound):
    ant = sound / "train" / "ant"
    (ant / "empty.jpg").touch()
    (ant / "text.jpg").write_text("not an image")
    for name in ("cut.png", "cut.jpg"):
        whole = BytesIO()
        Image.effect_noise((200, 200), 90).convert("RGB").save(whole, name[-3:].replace("jpg", "jpeg"))
        (ant / name).write_bytes(whole.getvalue()[: len(whole.getvalue()) // 2])
    save_image(ant / "print.jpg", 1, mode="CMYK")
    save_image(ant / "gray.png", 2, mode="L")
    save_image(ant / "small.png", 3, size=(31, 90))
    frames = [Image.new("RGB", (40, 40), (value, 0, 0)) for value in (1, 200)]
    frames[0].save(ant / "moving.webp", save_all=True, append_images=frames[1:])
    save_image(ant / "really.png", 4).rename(ant / "wrong.jpg")
    report = check(str(sound))
    files = {finding.file.rpartition("/")[2]: finding for finding in report.findings}
    assert {name: finding.kind for name, finding in files.items()} == {
        "empty.jpg": "empty",
        "text.jpg": "unreadable",
        "cut.png": "truncated",
        "cut.jpg": "truncated",
        "print.jpg": "CMYK",
        "gray.png": "converted",
        "small.png": "tiny",
        "moving.webp": "animated",
        "wrong.jpg": "wrong suffix",
    }
    assert len(report.findings) == len(files)
    assert not report.clean
    assert files["wrong.jpg"].detail == "PNG in a file named as JPEG"
    assert files["small.png"].detail == "31 x 90 pixels"
    assert all((finding.split, finding.label) == ("train", "ant") for finding in report.findings)
    kinds = [list(ADVICE).index(finding.kind) for finding in report.findings]
    assert kinds == sorted(kinds)


def test_grayscale_images_are_harmless(sound):
    save_image(sound / "val" / "ant" / "gray.png", 2, mode="LA")
    report = check(str(sound))
    assert (report.clean, [finding.kind for finding in report.findings]) == (True, ["converted"])


def test_the_same_file_in_two_classes_or_splits_is_reported(sound):
    content = (sound / "train/ant/0.png").read_bytes()
    (sound / "train/ant/copy.png").write_bytes(content)
    (sound / "train/bee/copy.png").write_bytes(content)
    (sound / "val/ant/copy.png").write_bytes(content)
    report = check(str(sound))
    assert [finding[:3] for finding in report.findings] == [
        ("wrongly labeled", "train", "bee"),
        ("in two splits", "val", "ant"),
        ("duplicate", "train", "ant"),
    ]
    assert report.findings[0].detail == f"the same as {sound}/train/ant/0.png, train, class ant"


def test_classes_missing_from_a_split_are_reported(sound):
    save_image(sound / "train/cat/0.png", 201)
    (sound / "val/dog").mkdir()
    save_image(sound / "val/eel/0.png", 202)
    assert found(sound) == {
        ("class without images", "val", "dog"),
        ("class in one split", "train", "cat"),
        ("class in one split", "val", "eel"),
    }


def test_class_folders_without_splits_are_checked(sound):
    (sound / "val" / "ant" / "0.png").write_bytes(b"")
    assert found(sound / "val") == {("empty", "all", "ant")}


def test_damaged_shards_are_reported(tmp_path, monkeypatch):
    monkeypatch.setenv("ROPEVIT_CACHE", str(tmp_path / "cache"))
    for shard in range(3):
        write(tmp_path / f"train-{shard}.tar", samples(range(4 * shard, 4 * shard + 4), classes=20))
    write(tmp_path / "val-0.tar", [("a.png", b""), ("a.cls", b"0"), *samples([1, 3], classes=4)])
    whole = (tmp_path / "train-1.tar").read_bytes()
    (tmp_path / "train-1.tar").write_bytes(whole[:3000])
    report = check(str(tmp_path))
    kinds = [(finding.kind, finding.split) for finding in report.findings if finding.kind != "tiny"]
    assert kinds == [
        ("empty", "val"),
        *[("in two splits", "val")] * 2,
        *[("class without images", "train")] * 4,
        *[("class in one split", "train")] * 5,
        ("shard", "train"),
    ]
    assert report.images == {"train": 8, "val": 3}
    (shard,) = (finding for finding in report.findings if finding.kind == "shard")
    assert shard.file == str(tmp_path / "train-1.tar")
    assert "unexpected end of data" in shard.detail


def test_mpo_files_count_as_jpeg():
    file = BytesIO()
    views = [Image.new("RGB", (40, 40), color) for color in ("red", "blue")]
    views[0].save(file, "MPO", save_all=True, append_images=views[1:])
    assert inspect_image(file.getvalue(), ".JPG").found == []


def test_a_folder_without_images_raises(tmp_path):
    with pytest.raises(ValueError, match="found no images in"):
        check(str(tmp_path))
    with pytest.raises(ValueError, match="found no folder"):
        check(str(tmp_path / "nowhere"))


def test_a_folder_of_results_raises(sound):
    (sound / "train/ant/metrics.jsonl").touch()
    assert check(str(sound)).clean, "one file of such a name inside a class is no folder of runs"
    (sound / "train/metrics.jsonl").touch()
    with pytest.raises(ValueError, match="holds results, not data"):
        check(str(sound))


def test_unchecked_files_are_counted(sound):
    (sound / "train/ant/notes.txt").touch()
    (sound / "train/bee/.hidden.png").touch()
    (sound / "train/loose.jpg").touch()
    (sound / "README").touch()
    report = check(str(sound))
    assert report.others == {".txt": 1, "hidden": 1, ".jpg": 1, "without suffix": 1}
    assert (report.classes, report.clean) == (2, True)


def test_images_in_shards_that_belong_to_no_sample_are_reported(tmp_path, monkeypatch):
    monkeypatch.setenv("ROPEVIT_CACHE", str(tmp_path / "cache"))
    image = dict(samples([1]))["001.png"]
    dotted = [("photo4.2024.jpg", image), ("photo4.2024.cls", b"0")]
    write(tmp_path / "train-0.tar", [*samples(range(3)), *dotted, ("000.mask.png", image)])
    found = [finding for finding in check(str(tmp_path)).findings if finding.kind != "tiny"]
    assert [(finding.kind, finding.file) for finding in found] == [
        ("no sample", f"{tmp_path}/train-0.tar:photo4.2024.jpg")
    ]
