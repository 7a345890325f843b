import pytest
import torch

from ropevit.data.labeled import LabeledImages


def make(**changes):
    fields = {
        "images": torch.zeros(3, 1, 4, 4, dtype=torch.uint8),
        "labels": torch.tensor([0, 1, 1]),
        "classes": ("a", "b"),
        "name": "set/train",
        "source": "made here",
    }
    return LabeledImages(**fields | changes)


def test_a_subset_keeps_images_and_labels_together():
    data = make(images=torch.arange(3, dtype=torch.uint8)[:, None, None, None].expand(3, 1, 4, 4))
    part = data.subset(torch.tensor([2, 0]), "part")
    assert (part.images[:, 0, 0, 0].tolist(), part.labels.tolist(), part.name) == ([2, 0], [1, 0], "part")
    assert len(data.subset(slice(1, None))) == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": torch.zeros(3, 1, 4, 4)}, "expected uint8"),
        ({"labels": torch.tensor([0])}, "expected one each"),
        ({"groups": ("x",)}, "2 classes and 1 groups"),
    ],
)
def test_inconsistent_shapes_raise(changes, message):
    with pytest.raises(ValueError, match=message):
        make(**changes)
