import numpy as np
import pytest
from PIL import Image

from ropevit.data.ade import IGNORED, open_ade
from ropevit.data.ade_classes import published_names
from ropevit.data.annotation_formats import ANNOTATION_FORMATS, annotation_format
from ropevit.data.check_dense import check_dense
from ropevit.data.tiny import SHAPES, make_tiny


@pytest.fixture
def tiny(tmp_path):
    make_tiny("ade", tmp_path / "tiny")
    return tmp_path / "tiny"


def labels(root, number=1):
    return root / "annotations" / "training" / f"ADE_train_{number:08}.png"


def size_of(path):
    with Image.open(path) as image:
        return image.size


def pixels(path):
    with Image.open(path) as image:
        return np.asarray(image).astype(int)


def found(root):
    return [finding.kind for finding in check_dense(str(root)).findings]


def test_labels_start_at_0_and_nothing_is_ignored(tiny):
    source = open_ade(tiny, "train")
    assert (len(source), source.name) == (12, "ade/train")
    for index in range(12):
        image, truth = source.read(index)
        stored = pixels(source.label_file(index))
        assert truth.shape == (image.height, image.width)
        assert np.array_equal(truth, np.where(stored == 0, 255, stored - 1))
        assert set(np.unique(truth)) <= {0, 12, 20, 149, IGNORED}
        assert (truth[0] == IGNORED).all()


def test_labels_match_the_colors_of_the_shapes(tiny):
    image, truth = open_ade(tiny, "train").read(0)
    for color, _, label in SHAPES.values():
        where = truth == label - 1
        if where.any():
            assert np.abs(np.asarray(image)[where].mean(0) - color).max() < 20


@pytest.mark.parametrize(
    ("write", "kind", "message"),
    [
        (lambda path: Image.new("L", (9, 8)).save(path), "wrong size", "labels of 9 x 8 pixels for an image of"),
        (lambda path: Image.new("RGB", size_of(path)).save(path), "wrong mode", "labels of mode RGB, expected"),
        (lambda path: Image.new("I;16", size_of(path)).save(path), "wrong mode", "labels of mode I;16"),
        (
            lambda path: Image.new("L", size_of(path), 151).save(path),
            "unknown label",
            "the label 151, expected 1 to 150 for the 150 classes; 0 and 255 are ignored",
        ),
        (lambda path: path.write_bytes(path.read_bytes()[:70]), "annotations", "unreadable labels"),
    ],
)
def test_invalid_labels_raise_and_are_reported_by_the_check(write, kind, message, tiny):
    write(labels(tiny))
    source = open_ade(tiny, "train")
    with pytest.raises(ValueError, match=rf"ADE_train_00000001.png: {message}.*\({kind}\)"):
        source.read(0)
    source.read(1)
    assert found(tiny) == [kind]


def test_palette_labels_are_accepted(tiny):
    before = open_ade(tiny, "train").read(0)[1]
    with Image.open(labels(tiny)) as image:
        image.load()
    image.putpalette([value for value in range(256) for _ in range(3)])
    image.save(labels(tiny))
    assert np.array_equal(open_ade(tiny, "train").read(0)[1], before)


def test_unpaired_images_and_labels_raise_and_are_reported_by_the_check(tiny):
    labels(tiny, 2).rename(labels(tiny, 99))
    with pytest.raises(ValueError, match=r"ADE_train_00000002.png: label file of an image not found"):
        open_ade(tiny, "train")
    assert found(tiny) == ["missing file"] * 2
    labels(tiny, 99).rename(labels(tiny, 2))
    (tiny / "images" / "training" / "ADE_train_00000003.jpg").unlink()
    with pytest.raises(ValueError, match=r"ADE_train_00000003.png: labels without an image"):
        open_ade(tiny, "train")


def test_a_folder_without_images_raises_and_is_reported_by_the_check(tmp_path, tiny):
    with pytest.raises(ValueError, match=r"found no images in .*images/validation"):
        open_ade(tmp_path, "val")
    with pytest.raises(ValueError, match=r"found no folder .*nosuch; expected one with images/training, .* as ADE20K"):
        open_ade(tmp_path / "nosuch", "val")
    (tiny / "images" / "validation").rename(tiny / "images" / "other")
    assert found(tiny) == ["annotations"]


def test_class_names_are_read_from_the_published_table(tiny):
    source = open_ade(tiny, "val")
    assert len(source.classes) == 150
    assert [source.classes[place] for place in (0, 1, 12, 20, 149)] == [
        "ground",
        "class 2",
        "disc",
        "square",
        "triangle",
    ]
    header, ground, *_ = (tiny / "objectInfo150.txt").read_text().splitlines()
    assert header == "Idx\tRatio\tTrain\tVal\tName"
    number, ratio, *rest = ground.split("\t")
    assert (number, rest) == ("1", ["12", "6", "ground"])
    assert 0.6 < float(ratio) < 0.95
    (tiny / "objectInfo150.txt").unlink()
    assert open_ade(tiny, "val").classes[::149] == ("class 1", "class 150")


@pytest.mark.parametrize("stuff", [False, True])
def test_the_published_table_may_have_spaces_and_another_column(stuff):
    lines = ["Idx\tRatio\tTrain\tVal\tName", "1\t0.1576\t11664\t1172\twall ", "2 \t0.0074\t709\t75\twater"]
    if stuff:
        lines = [line.replace("Val\t", "Val\tStuff\t").replace("\tw", "\t1\tw") for line in lines]
    assert published_names(lines) == ("wall", "water")


def test_classes_txt_takes_precedence_and_larger_labels_raise(tiny):
    (tiny / "classes.txt").write_text("\n".join(f"thing {number}" for number in range(1, 150)) + "\n")
    source = open_ade(tiny, "train")
    assert (len(source.classes), source.classes[12]) == (149, "thing 13")
    with_triangle = next(i for i in range(12) if (pixels(source.label_file(i)) == 150).any())
    with pytest.raises(ValueError, match=r"\.png: the label 150, expected 1 to 149 .*\(unknown label\)"):
        source.read(with_triangle)
    assert set(found(tiny)) == {"unknown label"}


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("classes.txt", "", "0 lines, expected 1 to 255 class names"),
        ("classes.txt", "wall\n\nsky\n", "line 2 is empty, expected the name of label 2"),
        ("classes.txt", "thing\n" * 256, "256 lines, expected 1 to 255 class names"),
        ("objectInfo150.txt", "", "the columns"),
        ("objectInfo150.txt", "Number\tName\n1\twall\n", "the columns .*, expected Idx, Ratio, Train, Val, Name"),
        ("objectInfo150.txt", "Idx\tRatio\tTrain\tVal\tStuff\tName\n2\t0.1\t1\t1\t1\tsky\n", "line 2 is .* class 1"),
    ],
)
def test_unreadable_class_names_raise_and_are_reported_by_the_check(name, text, message, tiny):
    (tiny / name).write_text(text)
    with pytest.raises(ValueError, match=rf"{name}: {message}.*; correct it, or remove it"):
        open_ade(tiny, "train")
    assert found(tiny) == ["annotations"] * 2


def test_a_valid_set_has_no_findings(tiny):
    report = check_dense(str(tiny))
    assert (annotation_format(tiny), report.images, report.findings) == (
        ANNOTATION_FORMATS["ade"],
        {"train": 12, "val": 6},
        [],
    )
    assert annotation_format(tiny / "images") is None


def relabel(root, change):
    for path in root.glob("annotations/*/*.png"):
        Image.fromarray(change(pixels(path)).astype(np.uint8)).save(path)


def test_labels_0_and_255_are_ignored(tiny):
    before = open_ade(tiny, "train").read(0)[1]
    relabel(tiny, lambda stored: np.where(stored == 0, 255, stored))
    assert np.array_equal(open_ade(tiny, "train").read(0)[1], before)
    assert found(tiny) == []


def test_label_0_is_a_class_if_classes_txt_names_it(tiny):
    before = open_ade(tiny, "train").read(0)[1]
    relabel(tiny, lambda stored: np.where(stored == 0, 255, stored - 1))  # as tools with a background write them
    names = [f"thing {number}" for number in range(150)]
    (tiny / "classes.txt").write_text("0: " + "\n".join(names))
    source = open_ade(tiny, "train")
    assert (source.classes, source.first_label) == (tuple(names), 0)
    assert np.array_equal(source.read(0)[1], before)
    (tiny / "classes.txt").write_text("0: " + "\n".join(names[:149]))
    with_triangle = next(i for i in range(12) if (pixels(source.label_file(i)) == 149).any())
    with pytest.raises(ValueError, match=r"the label 149, expected 0 to 148 for the 149 classes; 255 is ignored"):
        open_ade(tiny, "train").read(with_triangle)


def test_the_check_reports_the_fraction_of_ignored_pixels(tiny):
    (zero, _) = check_dense(str(tiny)).notes
    assert zero.startswith("train: ")
    assert "% have label 0; is it a class, such as background? Then begin classes.txt with a line `0: NAME`" in zero
    relabel(tiny, lambda stored: np.where(stored == 1, 0, stored))
    report = check_dense(str(tiny))
    assert [finding.kind for finding in report.findings] == ["ignored pixels"] * 2
    assert not report.clean
    relabel(tiny, lambda stored: np.where(stored == 0, 255, stored))
    report = check_dense(str(tiny))
    assert report.clean
    assert "(0.0 % have label 0)" in report.notes[0]


def test_images_that_share_a_label_file_are_reported(tiny):
    path = tiny / "images/training/ADE_train_00000001.jpg"
    with Image.open(path) as image:
        image.save(path.with_suffix(".png"))
    (finding,) = check_dense(str(tiny)).findings
    assert (finding.kind, finding.file) == ("shared labels", str(path.with_suffix(".png")))
    assert len(open_ade(tiny, "train")) == 13


@pytest.mark.parametrize("number", [3, 6])
@pytest.mark.parametrize("drawn", ["upright", "stored", "with the same EXIF"])
def test_images_and_labels_are_rotated_by_the_same_exif_orientation(number, drawn, tiny):
    path, file = tiny / "images/training/ADE_train_00000001.jpg", labels(tiny)
    stored = pixels(file)
    exif = Image.Exif()
    exif[0x0112] = number
    with Image.open(path) as image:
        image.load()
        image.save(path, exif=exif)
    rotated = np.rot90(stored, -1 if number == 6 else 2)
    if drawn == "upright":
        Image.fromarray(rotated.astype(np.uint8)).save(file)
    elif drawn != "stored":
        Image.fromarray(stored.astype(np.uint8)).save(file, exif=exif)
    image, truth = open_ade(tiny, "train").read(0)
    upright = number == 3 or drawn != "stored"
    expected = rotated if drawn != "stored" else stored
    assert np.array_equal(truth, np.where(expected == 0, IGNORED, expected - 1))
    assert image.size == (truth.shape[1], truth.shape[0])
    with Image.open(path) as plain:
        assert (image.size == plain.size) != (number == 6 and upright)
    assert found(tiny) == ["orientation" if number == 6 else "unclear orientation"]
