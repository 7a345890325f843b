"""Registry of the formats of annotated data sets, for detectors and segmenters: one row each."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from ropevit.data.ade import FOLDERS
from ropevit.data.coco import coco_paths

SPLITS = ("train", "val")

#: A function, or "module:name" of one that is imported on first use.
Part = str | Callable[..., Any]


@dataclass(frozen=True, kw_only=True)
class AnnotationFormat:
    """A format of images and annotations: functions that recognize, check and write it."""

    label: str
    """Name in messages, such as COCO."""
    recognize: Callable[[Path], bool]
    """Whether a folder has this format."""
    prepare: Part
    """Opens a split for `ropevit data check`: called with folder and split, returns a `check_dense.DenseSplit`."""
    write_tiny: Part | None = None
    """Writes a split for `ropevit data make-tiny`: called with folder, split and a list of `tiny.Scene`."""
    show: Part | None = None
    """Opens a split for `ropevit data show`: called with folder and split, returns a `show.ShownSplit`."""
    annotations: str = "annotations"
    """Description of the annotations, in the help."""

    def get(self, part: str) -> Callable[..., Any]:
        """Return a part, importing it if needed.

        Raises:
            ValueError: If the format does not have it.
        """
        value = getattr(self, part)
        if value is None:
            raise ValueError(f"the format of {self.label} has no {part}; its row does not define it")
        if isinstance(value, str):
            module, name = value.split(":")
            return getattr(import_module(module), name)
        return value


#: Every format by name; the first one that recognizes a folder is taken.
ANNOTATION_FORMATS: dict[str, AnnotationFormat] = {
    "coco": AnnotationFormat(
        label="COCO",
        recognize=lambda root: any(coco_paths(root, split)[0].exists() for split in SPLITS),
        prepare="ropevit.data.check_dense:prepare_coco",
        write_tiny="ropevit.data.tiny:write_coco",
        show="ropevit.data.show:show_coco",
        annotations="bounding boxes",
    ),
    "ade": AnnotationFormat(
        label="ADE20K",
        recognize=lambda root: any((root / "annotations" / folder).is_dir() for folder in FOLDERS.values()),
        prepare="ropevit.data.check_dense:prepare_ade",
        write_tiny="ropevit.data.tiny:write_ade",
        show="ropevit.data.show:show_ade",
        annotations="segmentation maps",
    ),
}


def register_annotation_format(name: str, row: AnnotationFormat) -> None:
    """Add a format, such as one of another package.

    Raises:
        ValueError: If the name is taken or not a word.
    """
    if name in ANNOTATION_FORMATS or not name.isidentifier():
        raise ValueError(f"got the format {name!r}; expected a word other than {', '.join(ANNOTATION_FORMATS)}")
    ANNOTATION_FORMATS[name] = row


def format_labels() -> str:
    """Return the labels of all formats, for messages and help."""
    return " or ".join(row.label for row in ANNOTATION_FORMATS.values())


def annotation_format(data: str | Path) -> AnnotationFormat | None:
    """Return the format of a folder, or None if it has none of `ANNOTATION_FORMATS`."""
    root = Path(data).expanduser()
    return next((row for row in ANNOTATION_FORMATS.values() if row.recognize(root)), None)
