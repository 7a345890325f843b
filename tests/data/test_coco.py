import json
import pickle
import re

import numpy as np
import pytest
from PIL import Image, ImageOps

from ropevit.data.annotation_faults import DROPPED, HANDLED, REFUSED, UNSEEN
from ropevit.data.annotation_formats import ANNOTATION_FORMATS, annotation_format
from ropevit.data.check_dense import check_dense
from ropevit.data.coco import open_coco
from ropevit.data.findings import ADVICE
from ropevit.data.masks import decode_runs, mask_fault
from ropevit.data.tiny import make_tiny


@pytest.fixture
def tiny(tmp_path):
    make_tiny("coco", tmp_path / "tiny")
    return tmp_path / "tiny"


def edit(root, change, split="train"):
    """Change the annotations of a split; image 7 is the first, annotation 1 its first box."""
    path = root / "annotations" / f"instances_{split}2017.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def box(value):
    return lambda content: content["annotations"][0].update(bbox=value)


def found(root):
    return [
        (finding.kind, finding.detail) for finding in check_dense(str(root)).findings if finding.kind not in HANDLED
    ]


def test_images_have_boxes_inside_them_and_contiguous_labels(tiny):
    source = open_coco(tiny, "train")
    assert (source.classes, source.category_ids) == (("disc", "square", "triangle"), (1, 3, 90))
    stored = json.loads(source.annotations.read_text())
    for index in range(len(source)):
        read, truth = source.read(index)
        theirs = [a for a in stored["annotations"] if a["image_id"] == truth.image_id and not a["iscrowd"]]
        corners = [[x, y, x + w, y + h] for x, y, w, h in (a["bbox"] for a in theirs)]
        assert truth.boxes.tolist() == corners
        assert [source.category_ids[label] for label in truth.labels] == [a["category_id"] for a in theirs]
        with Image.open(source.describe(index)) as image:
            assert (read.mode, read.size) == ("RGB", image.size)
        for left, top, right, bottom in truth.boxes.astype(int):
            inside = np.asarray(read)[(top + 3 * bottom) // 4, (left + right) // 2].astype(int)
            assert inside.max() - inside.min() > 60, "a colored shape on gray ground"
    assert pickle.loads(pickle.dumps(source)).describe(3) == source.describe(3)


def test_images_without_boxes_are_kept_on_request(tiny):
    assert [len(open_coco(tiny, "train", keep_empty=keep)) for keep in (False, True)] == [10, 12]
    source = open_coco(tiny, "train", keep_empty=True)
    counts = [len(source.read(index)[1].boxes) for index in range(12)]
    assert counts == [2, 2, 2, 2, 2, 0] * 2
    assert source.read(5)[1].boxes.shape == (0, 4)


def test_crowds_are_excluded(tiny):
    edit(tiny, lambda content: [a.update(iscrowd=1) for a in content["annotations"] if a["image_id"] == 17])
    source = open_coco(tiny, "train", keep_empty=True)
    assert [len(source.read(index)[1].boxes) for index in (0, 1)] == [2, 0]


def test_boxes_are_clipped_to_their_image(tiny):
    edit(tiny, box([-5.5, 60.25, 20, 900]))
    source = open_coco(tiny, "train")
    image, truth = source.read(0)
    assert truth.boxes[0].tolist() == [0, 60.25, 14.5, image.height]
    assert source.dropped == ()


@pytest.mark.parametrize(
    ("wrong", "kind"),
    [
        ([5, 5, 0, 9], "empty box"),
        ([5, 5, 9, -3], "empty box"),
        ([200, 5, 9, 9], "box outside"),
        ([5, -9, 9, 9], "box outside"),
    ],
)
def test_boxes_without_an_area_are_dropped_and_listed(wrong, kind, tiny):
    edit(tiny, box(wrong))
    source = open_coco(tiny, "train")
    assert [len(source.read(index)[1].boxes) for index in (0, 1)] == [1, 2]
    (fault,) = source.dropped
    assert (fault.kind, fault.file) == (kind, str(source.annotations))
    assert fault.detail.startswith("annotation 1 of image 7 (")
    assert found(tiny) == [(kind, fault.detail)]


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        (box([5, 5, 9]), "damaged box", r"annotation 1 of image 7 .* has the box \[5, 5, 9\]"),
        (box([5, 5, 9, None]), "damaged box", "annotation 1 of image 7"),
        (box([5, 5, 9, float("nan")]), "damaged box", "annotation 1 of image 7"),
        (
            lambda content: content["annotations"][0].update(category_id=2),
            "unknown category",
            "annotation 1 has the category 2, which is not listed",
        ),
        (
            lambda content: content["annotations"][0].update(image_id=8),
            "unknown image",
            "annotation 1 belongs to image 8, which is not listed",
        ),
        (
            lambda content: content["images"][2].update(file_name="no.jpg"),
            "missing file",
            "no.jpg: file of image 27 not found",
        ),
        (lambda content: content.pop("categories"), "annotations", "expected a list named 'categories'"),
        (lambda content: content["images"][1].pop("width"), "annotations", "images 17: width is None, expected int"),
        (lambda content: content["images"].append(None), "annotations", "images number 12 is None, expected an object"),
        (
            lambda content: content["annotations"][1].update(id=1),
            "annotations",
            "the id 1 is used twice among the annota",
        ),
    ],
)
def test_serious_faults_raise_and_are_reported_by_the_check(change, kind, message, tiny):
    edit(tiny, change)
    with pytest.raises(ValueError, match=rf"{message}.*\({kind}\); correct or remove it"):
        open_coco(tiny, "train")
    assert kind in {kind for kind, _ in found(tiny)}
    assert len(open_coco(tiny, "val")) == 5, "the other split is sound"


def test_a_truncated_file_raises_and_is_reported_by_the_check(tiny):
    path = tiny / "annotations" / "instances_val2017.json"
    path.write_bytes(path.read_bytes()[:900])
    with pytest.raises(ValueError, match=r"instances_val2017.json: the content is not readable JSON .*line"):
        open_coco(tiny, "val")
    assert [kind for kind, _ in found(tiny)] == ["annotations"]


def test_truncated_images_and_size_mismatches_raise_and_are_reported(tiny):
    first, second = (tiny / "train2017" / f"{number:012}.jpg" for number in (7, 17))
    Image.new("RGB", (70, 300)).save(first)
    second.write_bytes(second.read_bytes()[:700])
    source = open_coco(tiny, "train")
    with pytest.raises(ValueError, match=r"000000000007.jpg: image 7 has 70 x 300 pixels, its annotation says"):
        source.read(0)
    with pytest.raises(ValueError, match="truncated"):
        source.read(1)
    assert [kind for kind, _ in found(tiny)] == ["truncated", "wrong size"]


def test_images_annotated_as_stored_are_not_rotated(tiny):
    path = tiny / "train2017" / f"{7:012}.jpg"
    with Image.open(path) as image:
        image.load()
        exif = image.getexif()
        exif[0x0112] = 6
        image.save(path, exif=exif)
        size = image.size
    assert open_coco(tiny, "train").read(0)[0].size == size
    told = [finding for finding in check_dense(str(tiny)).findings if finding.kind == "orientation"]
    assert ["read as stored, as annotated" in finding.detail for finding in told] == [True]


def test_missing_folders_raise(tmp_path, tiny):
    with pytest.raises(ValueError, match=r"no annotations at .*instances_train2017.json"):
        open_coco(tmp_path, "train")
    edit(tiny, lambda content: content["annotations"].clear())
    with pytest.raises(ValueError, match="has no images with boxes"):
        open_coco(tiny, "train")


def test_handled_faults_are_reported_as_harmless(tiny):
    edit(tiny, box([-5, 5, 20, 20]))
    seen = []
    report = check_dense(str(tiny), lambda done, total: seen.append((done, total)))
    assert (report.clean, report.images) == (True, {"train": 12, "val": 6})
    assert [finding.kind for finding in report.findings] == ["box over the edge"] + ["crowd"] * 2 + [
        "without boxes"
    ] * 3
    assert seen == [(count, 18) for count in range(1, 19)]
    (tiny / "annotations" / "instances_val2017.json").unlink()
    assert annotation_format(tiny) is ANNOTATION_FORMATS["coco"]
    assert [kind for kind, _ in found(tiny)] == ["annotations"]


def test_every_kind_of_fault_has_one_handling():
    assert not REFUSED & DROPPED
    assert not (REFUSED | DROPPED) & HANDLED
    assert not (REFUSED | DROPPED | HANDLED) & UNSEEN
    assert ADVICE.keys() >= REFUSED | DROPPED | HANDLED | UNSEEN


@pytest.mark.parametrize(
    ("text", "runs"),
    [
        ("0", [0]),
        ("P1", [32]),  # 32 = 0 + 32 * 1: low five bits first
        ("623", [6, 2, 3]),
        ("6231", [6, 2, 3, 3]),  # the fourth is the difference from the second
        ("O", [-1]),
        ("P", None),
        ("é", None),
    ],
)
def test_compressed_runs_are_decoded(text, runs):
    """Worked out by hand from the description of the format."""
    assert decode_runs(text) == runs


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (None, None),
        ([], None),
        ([[0, 0, 4, 0, 4, 4]], None),
        ([[0, 0, 4, 0]], "polygon"),
        ([[0, 0, 4, 0, 4, float("nan")]], "polygon"),
        ([5], "polygon"),
        ({"size": [2, 3], "counts": [1, 2, 3]}, None),
        ({"size": [2, 3], "counts": "123"}, None),
        ({"size": [2, 3], "counts": "12P"}, "counts are not whole numbers"),
        ({"size": [2, 3], "counts": [1, 2]}, "an RLE mask of 3 pixels, the image has 6"),
        ({"size": [3, 2], "counts": [6]}, r"an RLE mask of size \[3, 2\]"),
        ({"size": [2, 3], "counts": [-1, 7]}, "counts are not whole numbers"),
        ({"size": [2, 3]}, "counts are not whole numbers"),
        ("text", "an RLE mask of size text"),
    ],
)
def test_damaged_masks_are_detected(mask, message):
    fault = mask_fault(mask, 2, 3)
    assert (fault is None) == (message is None)
    if message:
        assert re.search(message, fault)


def annotate(**values):
    return lambda content: content["annotations"][0].update(values)


def describe(**values):
    return lambda content: content["images"][0].update(values)


@pytest.mark.parametrize(
    "mask",
    [[[]], [[1, 2, 3, 4]], [1, 2, 3, 4, 5, 6], {"size": [9, 9], "counts": [81]}, "text", [[0, 0, 4, 0, 4, None]]],
)
def test_damaged_masks_are_reported_while_their_boxes_are_used(mask, tiny):
    before = open_coco(tiny, "train").boxes
    edit(tiny, annotate(segmentation=mask))
    assert np.array_equal(open_coco(tiny, "train").boxes, before)
    ((kind, detail),) = found(tiny)
    assert (kind, detail[:26]) == ("damaged mask", "annotation 1 of image 7 ha")


def test_integers_may_be_floats_and_optional_fields_null(tiny):
    before = open_coco(tiny, "train")

    def change(content):
        for name, keys in (
            ("images", ("id", "height", "width")),
            ("categories", ("id",)),
            ("annotations", ("image_id",)),
        ):
            for entry in content[name]:
                entry.update({key: float(entry[key]) for key in keys})
        for entry in content["annotations"]:
            entry.update(area=None, iscrowd=float(entry["iscrowd"]) or None)

    edit(tiny, change)
    after = open_coco(tiny, "train")
    assert (after.images, after.category_ids) == (before.images, before.category_ids)
    assert np.array_equal(after.boxes, before.boxes)
    assert all(type(value) is int for image in after.images for value in (image[0], *image[2:]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (annotate(iscrowd="0"), "annotations 1: iscrowd is '0', expected 0 or 1"),
        (annotate(iscrowd="no"), "iscrowd is 'no', expected 0 or 1"),
        (annotate(iscrowd=2), "iscrowd is 2, expected 0 or 1"),
        (annotate(area="9"), "annotations 1: area is '9', expected a number"),
        (annotate(area=float("nan")), "area is nan, expected a number"),
        (annotate(id=7.5), "annotations 7.5: id is 7.5, expected int"),
        (annotate(id=2**60), "id is 1152921504606846976, expected at most"),
        (describe(height=10**400), "images 7: height is 1000.*, expected 1 to 1000000000 pixels"),
        (describe(height=0), "images 7: height is 0, expected 1 to"),
        (describe(width=-5), "images 7: width is -5, expected 1 to"),
        (describe(width=True), "images 7: width is True, expected int"),
    ],
)
def test_invalid_values_raise_and_name_their_entry(change, message, tiny):
    edit(tiny, change)
    with pytest.raises(ValueError, match=rf"{message}.*\(annotations\); correct or remove it") as error:
        open_coco(tiny, "train")
    assert len(str(error.value)) < 400
    assert "annotations" in {kind for kind, _ in found(tiny)}


@pytest.mark.parametrize("wrong", [[True] * 4, [1, 2, True, 4], [10**400, 1, 2, 3]])
def test_booleans_and_huge_numbers_are_invalid_boxes(wrong, tiny):
    edit(tiny, box(wrong))
    with pytest.raises(ValueError, match=r"has the box .*\(damaged box\)") as error:
        open_coco(tiny, "train")
    assert len(str(error.value)) < 400


def test_run_lengths_are_decoded_in_linear_time_up_to_a_maximum_length():
    assert decode_runs("o" * 300_000) is None
    assert decode_runs("o" * 20 + "0") is None
    assert decode_runs("1" * 300_000)[:4] == [1, 1, 1, 2]


def turn_file(path, number):
    with Image.open(path) as image:
        image.load()
        exif = image.getexif()
        exif[0x0112] = number
        image.save(path, exif=exif, quality=95)
        return image.size


@pytest.mark.parametrize(("number", "kind"), [(6, "orientation"), (3, "unclear orientation"), (1, None)])
def test_images_annotated_upright_are_rotated_by_exif(number, kind, tiny):
    path = tiny / "train2017" / f"{7:012}.jpg"
    width, height = turn_file(path, number)
    if number == 6:
        edit(tiny, describe(width=height, height=width))
        edit(tiny, lambda content: [a.update(bbox=[1, 1, 5, 5]) for a in content["annotations"] if a["image_id"] == 7])
    pixels = np.asarray(open_coco(tiny, "train").read(0)[0])
    with Image.open(path) as image:
        assert np.array_equal(pixels, np.asarray(ImageOps.exif_transpose(image)))
    kinds = {finding.kind: finding.detail for finding in check_dense(str(tiny)).findings}
    assert {name for name in kinds if "orientation" in name} == ({kind} if kind else set())
    assert "wrong size" not in kinds
    if kind == "orientation":
        assert "read rotated upright, as annotated" in kinds[kind]


def test_images_without_an_entry_are_counted(tiny):
    (tiny / "train2017/other.jpg").write_bytes((tiny / f"train2017/{7:012}.jpg").read_bytes())
    report = check_dense(str(tiny))
    assert report.others == {".jpg that no annotation lists": 1}
    assert report.classes == 3
