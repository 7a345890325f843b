"""Formats and named data sets from outside the package."""

from functools import partial

import pytest

from ropevit.cli import main
from ropevit.data.annotation_faults import Fault
from ropevit.data.annotation_formats import (
    ANNOTATION_FORMATS,
    AnnotationFormat,
    annotation_format,
    register_annotation_format,
)
from ropevit.data.check_dense import DenseSplit, ImageChecked, check_dense
from ropevit.data.sources import NAMED_SOURCES, MemorySource, open_source, register_source


def check_pair(image):
    faults = [] if image.with_suffix(".txt").exists() else [Fault("missing file", str(image), "has no text")]
    return ImageChecked(str(image), faults)


def prepare(root, split):
    images = sorted((root / split).glob("*.png"))
    return DenseSplit(faults=[], checks=[partial(check_pair, image) for image in images], classes=("thing",))


def write_tiny(root, split, scenes):
    (root / split).mkdir(parents=True)
    for index, scene in enumerate(scenes):
        scene.image.save(root / split / f"{index}.png")
        (root / split / f"{index}.txt").write_text(str(len(scene.shapes)))


PAIRS = AnnotationFormat(
    label="pairs",
    recognize=lambda root: any((root / "train").glob("*.txt")),
    prepare=prepare,
    write_tiny=write_tiny,
)


@pytest.fixture
def pairs():
    register_annotation_format("pairs", PAIRS)
    yield
    del ANNOTATION_FORMATS["pairs"]


@pytest.mark.usefixtures("pairs")
def test_a_layout_from_outside_is_written_recognized_checked_and_named_to_classifiers(tmp_path, capsys):
    folder = tmp_path / "tiny"
    main(["data", "make-tiny", "pairs", str(folder), "--train", "3", "--val", "2"])
    assert annotation_format(folder) is PAIRS
    (folder / "train/1.txt").unlink()
    with pytest.raises(SystemExit) as exit_:
        main(["data", "check", str(folder)])
    assert exit_.value.code == 1
    assert "images: 3 of train, 2 of val; classes: 1" in capsys.readouterr().out
    assert [finding.detail for finding in check_dense(str(folder)).findings] == ["has no text"]
    with pytest.raises(ValueError, match="a data set in the format of pairs, for detectors"):
        open_source(str(folder), "val")


@pytest.mark.usefixtures("pairs")
def test_taken_names_and_folders_of_no_layout_are_refused(tmp_path):
    for name in ("coco", "pairs", "two words"):
        with pytest.raises(ValueError, match=f"got the format '{name}'; expected a word other than coco, ade, pairs"):
            register_annotation_format(name, PAIRS)
    with pytest.raises(ValueError, match="expected the format of COCO or ADE20K or pairs"):
        check_dense(str(tmp_path))
    with pytest.raises(ValueError, match="pairs has no write_tiny"):
        AnnotationFormat(label="pairs", recognize=PAIRS.recognize, prepare=prepare).get("write_tiny")


def test_a_named_data_set_from_outside_is_opened_and_not_checked(capsys):
    fashion = open_source("fashion", "val")
    register_source("mine", lambda split: MemorySource(open_source("fashion", split).data))
    try:
        source = open_source("mine", "val")
        assert (len(source), source.classes) == (len(fashion), fashion.classes)
        with pytest.raises(SystemExit):
            main(["data", "check", "mine"])
        assert "got mine, which needs no check" in capsys.readouterr().err
    finally:
        del NAMED_SOURCES["mine"]
    with pytest.raises(ValueError, match="got the data set 'fashion'; expected a word other than fashion"):
        register_source("fashion", NAMED_SOURCES["fashion"])
