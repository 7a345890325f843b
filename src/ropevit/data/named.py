"""Data sets with a name loaded into memory for a study, such as those that another package registers."""

from collections.abc import Iterator
from pathlib import Path

from ropevit.data.decoding import UNREADABLE, reason
from ropevit.data.folder import ClassFile, Progress, Square, crop_square, stack_split
from ropevit.data.labeled import LabeledImages
from ropevit.data.sources import NAMED_SOURCES, ImageSource


def load_named(name: str, size: int, progress: Progress | None = None) -> tuple[LabeledImages, LabeledImages]:
    """Load the images of a registered data set as RGB squares, as `load_folder` does those of a folder.

    Args:
        name: A name of `NAMED_SOURCES`; its `val` split are the test images.
        size: Maximum side of the squares in pixels.
        progress: Called with the number of loaded and of all images.

    Returns:
        The training and the test images; unreadable ones are listed in `skipped`.

    Raises:
        ValueError: If the splits have different classes, or a class has no readable image in one of them.
    """
    splits = {"train": NAMED_SOURCES[name]("train"), "test": NAMED_SOURCES[name]("val")}
    train, test = splits.values()
    if train.classes != test.classes:
        raise ValueError(
            f"got {len(train.classes)} classes in {train.name} and {len(test.classes)} in {test.name}, which are not "
            "all the same; register a data set with the same classes in both splits"
        )
    read: list[tuple[ClassFile, Square]] = []
    skipped: list[str] = []
    total = len(train) + len(test)
    for split, source in splits.items():
        for entry, square in _read_split(split, source, size):
            if isinstance(square, str):
                skipped.append(f"{entry.file}: {square}")
            else:
                read.append((entry, square))
            if progress:
                progress(len(read) + len(skipped), total)
    side = max((len(square.pixels) for _, square in read), default=size)
    facts = {"classes": train.classes, "source": f"the registered data set {name}", "skipped": tuple(skipped)}
    return (
        stack_split(read, "train", side, name=f"{name}/train", **facts),
        stack_split(read, "test", side, name=f"{name}/test", **facts),
    )


def _read_split(split: str, source: ImageSource, size: int) -> Iterator[tuple[ClassFile, Square | str]]:
    """Yield the images of a split as squares, or why they cannot be read."""
    for index in range(len(source)):
        file = Path(source.describe(index))
        try:
            image, label = source.read(index)
        except UNREADABLE as error:
            yield ClassFile(split, -1, file), reason(error)
            continue
        yield ClassFile(split, label, file), crop_square(image, size)
