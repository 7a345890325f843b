from importlib import resources

import pytest
import torch

from ropevit.data.fashion import CLASSES, load_fashion


@pytest.mark.parametrize(("split", "each"), [("train", 1000), ("search", 900), ("val", 100), ("test", 200)])
def test_every_split_is_balanced(split, each):
    data = load_fashion(split)
    assert data.images.shape == (10 * each, 1, 28, 28)
    assert data.labels.bincount().tolist() == [each] * 10
    assert len(data.classes) == len(data.groups) == 10


def test_search_and_val_partition_the_training_images():
    train, search, val = (load_fashion(split) for split in ("train", "search", "val"))
    torch.testing.assert_close(torch.cat([search.images, val.images]), train.images, rtol=0, atol=0)
    torch.testing.assert_close(torch.cat([search.labels, val.labels]), train.labels, rtol=0, atol=0)


def test_training_and_test_images_are_disjoint():
    train, test = ({image.numpy().tobytes() for image in load_fashion(split).images} for split in ("train", "test"))
    assert not train & test


def test_labels_match_the_images():
    data = load_fashion("train")
    width = (data.images[:, 0] > 40).any(1).sum(1).float()  # trousers are narrow, ankle boots are wide
    assert width[data.labels == CLASSES.index("Trouser")].mean() < 16 < 24 < width[data.labels == 9].mean()


def test_the_license_is_included_and_the_file_is_small():
    folder = resources.files("ropevit.data") / "fashion"
    assert "Copyright 2017 Zalando SE" in (folder / "LICENSE").read_text()
    assert len((folder / "images.npz").read_bytes()) < 6e6


@pytest.mark.usefixtures("unchecked")
def test_an_unknown_split_raises():
    with pytest.raises(ValueError, match="got split 'dev'; choose one of train, search, val, test"):
        load_fashion("dev")
