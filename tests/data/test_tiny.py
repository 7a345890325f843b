import pytest

from ropevit.data.annotation_formats import ANNOTATION_FORMATS
from ropevit.data.tiny import make_tiny


def contents(root):
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("kind", ANNOTATION_FORMATS)
def test_the_tiny_sets_are_deterministic(kind, tmp_path):
    for name in ("first", "second"):
        make_tiny(kind, tmp_path / name)
    first = contents(tmp_path / "first")
    assert first == contents(tmp_path / "second")
    assert len(set(first.values())) == len(first), "no two files are the same"


def test_existing_files_are_not_overwritten(tmp_path):
    (tmp_path / "mine").write_text("mine")
    for path in (tmp_path, tmp_path / "mine"):
        with pytest.raises(ValueError, match="exists and is not empty; choose another folder"):
            make_tiny("coco", path)
    with pytest.raises(ValueError, match="got format 'voc'; choose one of coco, ade"):
        make_tiny("voc", tmp_path / "new")


def test_the_number_of_images_does_not_change_the_first_ones(tmp_path):
    make_tiny("ade", tmp_path / "few", train=2, val=1)
    make_tiny("ade", tmp_path / "usual")
    few, usual = contents(tmp_path / "few"), contents(tmp_path / "usual")
    assert len([name for name in few if name.endswith(".jpg")]) == 3
    few.pop("objectInfo150.txt")  # which counts pixels
    assert few.items() <= usual.items()
    for counts in ({"train": 0}, {"val": 1001}):
        with pytest.raises(ValueError, match="expected 1 to 1000 of each split"):
            make_tiny("ade", tmp_path / "no", **counts)
