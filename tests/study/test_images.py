"""A study never mixes seeds of different images, and two never write to one directory."""

import json
import shutil

import pytest
from PIL import Image

from ropevit.data.labeled import LabeledImages
from ropevit.data.sources import NAMED_SOURCES, register_source
from ropevit.locks import lock_folder
from ropevit.study.config import StudyConfig
from ropevit.study.events import LoadingImages
from ropevit.study.fingerprint import describe_differences, fingerprint
from ropevit.study.outputs import write_outputs
from ropevit.study.results import panel_results
from ropevit.study.runner import run_study

OPTIONS = {
    "panels": ("zoom",), "embeddings": ("none",), "steps": 3, "batch_size": 4, "width": 16, "depth": 1, "heads": 2,
    "test_sizes": (8, 16), "train_size": 8, "patch_size": 8, "data": "photos",
    "device": "cpu", "precision": "float32", "workers": 1,
}  # fmt: skip


@pytest.fixture
def use(monkeypatch):
    """Let a study of a folder get images without reading any."""
    monkeypatch.setattr("ropevit.study.runner.check_folder", lambda _: None)

    def use(train: LabeledImages, test: LabeledImages):
        monkeypatch.setattr("ropevit.study.runner.load_folder", lambda *_, **__: (train, test))

    return use


def asked(folder, **changes):
    return StudyConfig(**OPTIONS | {"out": folder / "study", "embeddings": ("ape",)} | changes)


class Noise:
    """Images of another package, by number."""

    name, classes, blocks = "noise", ("dark", "bright"), ()

    def __init__(self, split):
        self.count = 8 if split == "train" else 4

    def __len__(self):
        return self.count

    def describe(self, index):
        return f"noise[{index}]"

    def read(self, index):
        if index == 3:
            raise OSError("damaged")
        return Image.new("RGB", (20 + index, 30), (100 * (index % 2), 0, 0)), index % 2


def test_a_study_takes_the_name_of_a_registered_data_set(tmp_path):
    register_source("noise", Noise)
    try:
        seen = []
        results = run_study(asked(tmp_path, data="noise"), seen.append)
        with pytest.raises(ValueError, match="got max_images with noise; it is for a folder of your own"):
            asked(tmp_path, data="noise", max_images=10)
        register_source("odd", lambda split: setattr(noise := Noise(split), "classes", (split, "b")) or noise)
        with pytest.raises(ValueError, match="got 2 classes in noise and 2 in noise, which are not all the same"):
            run_study(asked(tmp_path / "odd", data="odd"), seen.append)
    finally:
        for name in ("noise", "odd"):
            NAMED_SOURCES.pop(name, None)
    assert results["complete"]
    assert results["data"] | {"notes": []} == {
        "name": "noise", "source": "the registered data set noise", "classes": ["dark", "bright"], "train_images": 7,
        "test_images": 3, "notes": [],
    }  # fmt: skip
    assert results["skipped_files"] == ["noise[3]: damaged"]
    assert [event.done for event in seen if isinstance(event, LoadingImages)] == [*range(1, 13)]


def test_seeds_of_other_images_are_refused_and_nothing_is_touched(tmp_path, use, make_images):
    train, test = make_images("photos/train", 18), make_images("photos/test", 9)
    use(train, test)
    run_study(asked(tmp_path), lambda _: None)
    files = {path: path.read_bytes() for path in (tmp_path / "study").rglob("*.json")}
    others = {
        "18 training images, now 27; 9 test images, now 15": (make_images("x", 27), make_images("x", 15)),
        "other pixels of the training images": (make_images("x", 18), test),
        "other labels of the test images": (train, LabeledImages(**vars(test) | {"labels": test.labels.flip(0)})),
        "the classes were a, b, c, now a, b, d": [
            LabeledImages(**vars(part) | {"classes": ("a", "b", "d")}) for part in (train, test)
        ],
    }
    for told, images in others.items():
        use(*images)
        with pytest.raises(
            ValueError, match=rf"was trained on other images \({told}.*; bring its images back"
        ) as error:
            run_study(asked(tmp_path, seeds=2, resume=True), lambda _: None)
        assert "\n" not in str(error.value)
    assert {path: path.read_bytes() for path in (tmp_path / "study").rglob("*.json")} == files
    use(train, test)
    assert run_study(asked(tmp_path, seeds=2, resume=True), lambda _: None)["complete"]


def test_a_study_from_before_images_were_compared_is_shown_but_not_added_to(tmp_path, use, make_images):
    use(make_images("photos/train"), make_images("photos/test"))
    run_study(asked(tmp_path), lambda _: None)
    out = tmp_path / "study"
    (out / "images.json").unlink()
    result = out / "runs/zoom-ape-seed0/result.json"
    content = json.loads(result.read_text())
    result.write_text(json.dumps({key: content[key] for key in content if key not in ("images", "digest")}))
    assert run_study(asked(tmp_path, resume=True), lambda _: None)["complete"]
    assert not (out / "images.json").exists()
    with pytest.raises(ValueError, match=r"has no fingerprint of its images, .* give another --out"):
        run_study(asked(tmp_path, seeds=2, resume=True), lambda _: None)
    use(make_images("x", 15), make_images("x"))
    with pytest.raises(ValueError, match="12 training images, now 15"):
        run_study(asked(tmp_path, resume=True), lambda _: None)


def test_a_run_copied_from_a_study_of_other_images_is_refused(tmp_path, use, make_images):
    for name in ("one", "two"):
        use(make_images("photos/train"), make_images("photos/test"))
        run_study(asked(tmp_path / name, seeds=2), lambda _: None)
    both = [json.loads((tmp_path / name / "study/results.json").read_text())["runs"] for name in ("one", "two")]
    with pytest.raises(ValueError, match="zoom-ape-seed0 and zoom-ape-seed1 were trained on different images"):
        panel_results([both[0][0], both[1][1]])
    source, target = (tmp_path / name / "study/runs/zoom-ape-seed1" for name in ("one", "two"))
    shutil.rmtree(target)
    shutil.copytree(source, target)
    with pytest.raises(ValueError, match="zoom-ape-seed1 was trained on other images"):
        run_study(asked(tmp_path / "two", seeds=2, resume=True), lambda _: None)
    (target / "result.json").unlink()  # half-trained, it is refused by its checkpoint
    results = run_study(asked(tmp_path / "two", seeds=2, resume=True), lambda _: None)
    assert "it was trained on other images" in results["failed"][0]["message"]


def test_what_an_earlier_fingerprint_lacks_is_not_compared(make_images):
    now = fingerprint(make_images("x"), make_images("x"))
    assert describe_differences({}, now) == describe_differences(now, now) == []
    assert describe_differences({"train": {"images": 3}}, now) == ["3 training images, now 12"]


def test_two_studies_do_not_write_to_one_directory(tmp_path, use, make_images):
    use(make_images("photos/train"), make_images("photos/test"))
    with (
        lock_folder(tmp_path / "study"),
        pytest.raises(ValueError, match=r"another process is writing to .*; wait until it ends, or choose another"),
    ):
        run_study(asked(tmp_path), lambda _: None)


def test_what_a_killed_study_left_half_written_is_removed(tmp_path, use, make_images):
    use(make_images("photos/train"), make_images("photos/test"))
    run_study(asked(tmp_path), lambda _: None)
    out = tmp_path / "study"
    left = [
        out / ".results.json.1.part",
        out / "runs/zoom-ape-seed0/.checkpoint.pt.1.part",
        out / ".images-x/images.pt",
    ]
    for file in left:
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(b"half")
    run_study(asked(tmp_path, resume=True), lambda _: None)
    assert not any(file.exists() for file in left)
    assert not (out / ".images-x").exists()


def test_names_of_classes_are_text_in_the_report_and_drive_nothing(tmp_path, use, make_images):
    names = ("$x_1^2$", "<b>bold</b>", "[red]\x1b[2J\udcff")
    parts = [LabeledImages(**vars(make_images("<i>p</i>")) | {"classes": names, "skipped": ("\x1b]52",)}) for _ in "ab"]
    use(*parts)
    options = asked(tmp_path, panels=("field", "zoom"), test_sizes=(8,))
    page = write_outputs(options, run_study(options, lambda _: None)).read_text(encoding="utf-8")
    assert "<b>" not in page
    assert "<i>p" not in page
    assert "\x1b" not in page
    for shown in ("$x_1^2$", "&lt;b&gt;bold&lt;/b&gt;", r"[red]\x1b[2J\udcff", r"\x1b]52", "&lt;i&gt;p&lt;/i&gt;"):
        assert shown in page
