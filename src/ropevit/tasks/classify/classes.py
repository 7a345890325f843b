"""Maps the classes of a data set to logits of a model, and reads ReaL labels."""

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from ropevit.data.imagenet import imagenet_classes, imagenet_synsets
from ropevit.data.loading import Batch
from ropevit.data.sources import ImageSource
from ropevit.text import join_names

#: Names of ImageNet's validation files; their number, from 1, is the position in the ReaL labels.
_NUMBERED = re.compile(r"ILSVRC2012_val_(\d{8})")


@dataclass(frozen=True, kw_only=True)
class ClassMap:
    """The logit of each class of a data set."""

    columns: tuple[int, ...]
    """Index of the logit of each class, in the order of the data set's labels; other logits are ignored."""
    names: tuple[str, ...]
    """Names of the classes, in the same order."""
    imagenet: bool
    """Whether these are all 1000 classes of ImageNet-1k."""
    note: str | None = None
    """Message for the user about the mapping, if any."""


def match_classes(source: ImageSource, classes: Sequence[str] | None, num_classes: int, model: str) -> ClassMap:
    """Find the logit of each class of a data set by its name.

    Names are those of the classes in the model's file. For a model of ImageNet-1k, WordNet ids (n01440764), this
    package's names of the classes, and numbers 0 to 999 (as in the folders of ImageNet-V2) are accepted as well. On a
    data set with fewer classes (ImageNet-A, -R), only the logits of these classes are compared.

    Args:
        source: Evaluation images.
        classes: Names of the model's classes, if it has names.
        num_classes: Number of its logits.
        model: Name of the model in messages.

    Raises:
        ValueError: If a class of the data set is not one of the model's.
    """
    imagenet = num_classes == 1000 and (classes is None or tuple(classes) in _spellings())
    lists = [tuple(classes)] if classes is not None else []
    lists += _spellings() if imagenet else []
    names = imagenet_classes() if imagenet else lists[0] if lists else source.classes
    for spelled in lists:
        number = {name: index for index, name in enumerate(spelled)}
        if all(name in number for name in source.classes):
            columns = tuple(number[name] for name in source.classes)
            called = tuple(names[column] for column in columns)
            whole = imagenet and len(columns) == num_classes
            return ClassMap(columns=columns, names=called, imagenet=whole, note=_restriction(columns, num_classes))
    if not lists and len(source.classes) == num_classes:
        note = f"{model} names no classes; assuming those of {source.name}, in order: {join_names(source.classes, 3)}"
        return ClassMap(columns=tuple(range(num_classes)), names=source.classes, imagenet=False, note=note)
    if imagenet:
        theirs = "those of ImageNet-1k: WordNet ids such as n01440764 as folder names, or numbers 0 to 999"
    else:
        theirs = f"{num_classes}: {join_names(lists[0], 5)}" if lists else f"{num_classes} without names"
    odd = [name for name in source.classes if not lists or name not in lists[0]]
    raise ValueError(
        f"the classes of {source.name} ({len(source.classes)}: {join_names(odd, 5)}) are not among those of {model} "
        f"({theirs}); evaluate it on images of its own classes"
    )


def _spellings() -> list[tuple[str, ...]]:
    """Return all accepted lists of names of ImageNet's classes, each in the order of the logits."""
    return [tuple(imagenet_synsets()), imagenet_classes(), tuple(map(str, range(1000)))]


def _restriction(columns: Sequence[int], num_classes: int) -> str | None:
    """Return a note if not all logits are compared."""
    if len(columns) == num_classes:
        return None
    return f"evaluated on {len(columns)} of the model's {num_classes} classes, those of the data"


class RealLabels:
    """ReaL labels of ImageNet's validation images: each image has several, any of which is correct.

    Args:
        path: JSON file with a list of class indices for each image, in the order of the images' numbers.
        source: The validation images.
        columns: Index of the logit of each class.

    Raises:
        ValueError: If the file does not hold such lists, or has none for an image.

    Source: Beyer et al. 2020 (arXiv:2006.07159).
    """

    def __init__(self, path: Path, source: ImageSource, columns: Sequence[int]):
        try:
            lists = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ValueError(f"cannot read {path} as JSON ({error}); expected ReaL labels, a list of lists") from None
        if not isinstance(lists, list) or not all(isinstance(labels, list) for labels in lists):
            raise ValueError(f"{path} holds no list of lists; expected the ReaL labels, one list an image")
        if any(label not in range(1000) for labels in lists for label in labels):
            raise ValueError(f"{path} holds labels other than 0 to 999; expected the ReaL labels of ImageNet-1k")
        self.columns = torch.tensor(columns)
        self.labels: list[list[int]] = []
        for index in range(len(source)):
            name = source.describe(index)
            found = _NUMBERED.search(name)
            if found is None or not 1 <= int(found[1]) <= len(lists):
                raise ValueError(
                    f"{name} is none of the {len(lists)} images that {path} labels; expected files named "
                    "ILSVRC2012_val_00000001.JPEG and so on"
                )
            self.labels.append(lists[int(found[1]) - 1])

    def labeled(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """Yield the batches without images that have no label."""
        for batch in batches:
            kept = [row for row, index in enumerate(batch.indices) if self.labels[index]]
            indices = [batch.indices[row] for row in kept]
            yield batch._replace(images=batch.images[kept], labels=batch.labels[kept], indices=indices)

    def is_correct(self, best: Int[Tensor, "b k"], batch: Batch) -> Bool[Tensor, "b k"]:
        """Return which predictions are among the labels of an image."""
        wanted = torch.zeros(len(best), 1000, dtype=torch.bool)
        for row, index in enumerate(batch.indices):
            wanted[row, self.labels[index]] = True
        return wanted.gather(1, self.columns[best])
