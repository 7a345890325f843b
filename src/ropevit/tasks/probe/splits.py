"""Training and test images of a probe: opened, reduced to a subset, and checked."""

from collections.abc import Sequence

import torch
from jaxtyping import Int
from torch import Tensor

from ropevit.data.ade import open_ade
from ropevit.data.annotation_formats import ANNOTATION_FORMATS, annotation_format
from ropevit.data.sources import NAMED_SOURCES, ImageSource, MemorySource, open_source
from ropevit.data.subset import ImageSubset, random_subset, stratified_subset
from ropevit.tasks.probe.config import ProbeConfig
from ropevit.text import join_names


def open_splits(config: ProbeConfig) -> tuple[ImageSubset, ImageSubset]:
    """Open the training and test images to use.

    Raises:
        ValueError: If the splits do not have the same classes, at least two, or a class has no training image.
    """
    if holds_masks(config.data):
        return _open_masks(config)
    train, test = (open_source(config.data, split) for split in ("train", "val"))
    _check_classes(train, test)
    chosen = random_subset(len(test), config.max_images, "probe", "test", config.seed)
    return _choose_train(train, config), ImageSubset(test, tuple(chosen.tolist()))


def holds_masks(data: str) -> bool:
    """Return whether images have masks, in the format of ADE20K.

    Raises:
        ValueError: If they have boxes, in another format of annotations.
    """
    found = None if data in NAMED_SOURCES else annotation_format(data)
    if found is not None and found is not ANNOTATION_FORMATS["ade"]:
        raise ValueError(
            f"got {data} in the format of {found.label}; a probe takes folders of classes, or masks in that of "
            f"{ANNOTATION_FORMATS['ade'].label}"
        )
    return found is not None


def _open_masks(config: ProbeConfig) -> tuple[ImageSubset, ImageSubset]:
    """Open the training and test images with masks to use."""
    train, test = (
        ImageSubset(source, tuple(random_subset(len(source), config.max_images, "probe", split, config.seed).tolist()))
        for split, source in (("train", open_ade(config.data, "train")), ("test", open_ade(config.data, "val")))
    )
    if len(train) < 2:
        raise ValueError(f"got {len(train)} training image; expected at least two, of which one chooses the penalty")
    return train, test


def _choose_train(source: ImageSource, config: ProbeConfig) -> ImageSubset:
    """Return the training images to use: as many of each class as it has in proportion, at least one.

    Where labels are known only by reading the images, it is a random subset; see `check_labels`.
    """
    count, classes = min(len(source), config.max_images or len(source)), len(source.classes)
    if count < classes:
        raise ValueError(
            f"got {count} training images of {classes} classes in {source.name}; expected at least one of each class, "
            "better twenty or more"
        )
    labels, keys = _known_labels(source), ("probe", "train", config.seed)
    if labels is None:
        return ImageSubset(source, tuple(random_subset(len(source), config.max_images, *keys).tolist()))
    chosen = stratified_subset(labels, config.max_images, *keys)
    check_labels(labels[chosen], source.classes, source.name)
    return ImageSubset(source, tuple(chosen.tolist()))


def _known_labels(source: ImageSource) -> Int[Tensor, "n"] | None:
    """Return the labels of a source that knows them without reading its images."""
    labels = source.data.labels if isinstance(source, MemorySource) else getattr(source, "labels", None)
    return None if labels is None else torch.as_tensor(labels)


def check_labels(labels: Int[Tensor, "n"], classes: Sequence[str], name: str) -> None:
    """Check that every class has a training image.

    Args:
        labels: Labels of the training images.
        classes: Names of the classes.
        name: Name of the training images.

    Raises:
        ValueError: If a class has none.
    """
    counts = torch.bincount(labels.cpu().long(), minlength=len(classes)).tolist()
    missing = [label for label, count in zip(classes, counts, strict=True) if not count]
    if missing:
        raise ValueError(
            f"got no training image of {join_names(missing, 3)} among {len(labels)} of {name} that can be read; "
            "expected at least one of each class: see `ropevit data check`, or give a larger --max-images"
        )


def _check_classes(train: ImageSource, test: ImageSource) -> None:
    """Raise ValueError unless both splits have the same classes, at least two."""
    if len(train.classes) < 2:
        raise ValueError(
            f"got one class, {join_names(train.classes, 1)}, in {train.name}; a probe needs at least two classes"
        )
    if train.classes != test.classes:
        odd = sorted({*train.classes} ^ {*test.classes})
        raise ValueError(
            f"got other classes in {train.name} than in {test.name} ({join_names(odd, 5)} in one of them only); "
            "expected the same class folders in both"
        )
