"""Registry of the layouts of annotated data sets, for detectors and segmenters: one row each."""

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
class DenseLayout:
    """How a folder of images and annotations is recognized, checked and written."""

    label: str
    """Name in messages, such as COCO."""
    recognize: Callable[[Path], bool]
    """Whether a folder has this layout."""
    prepare: Part
    """Opens a split for `ropevit data check`: called with folder and split, returns a `check_dense.DenseSplit`."""
    write_tiny: Part | None = None
    """Writes a split for `ropevit data make-tiny`: called with folder, split and a list of `tiny.Scene`."""
    annotations: str = "annotations"
    """What the annotations are, in the help."""

    def get(self, part: str) -> Callable[..., Any]:
        """Return a part, importing it if needed.

        Raises:
            ValueError: If the layout does not have it.
        """
        value = getattr(self, part)
        if value is None:
            raise ValueError(f"the layout of {self.label} has no {part}; its row does not define it")
        if isinstance(value, str):
            module, name = value.split(":")
            return getattr(import_module(module), name)
        return value


#: Every layout by name; the first one that recognizes a folder is taken.
LAYOUTS: dict[str, DenseLayout] = {
    "coco": DenseLayout(
        label="COCO",
        recognize=lambda root: any(coco_paths(root, split)[0].exists() for split in SPLITS),
        prepare="ropevit.data.check_dense:prepare_coco",
        write_tiny="ropevit.data.tiny:write_coco",
        annotations="bounding boxes",
    ),
    "ade": DenseLayout(
        label="ADE20K",
        recognize=lambda root: any((root / "annotations" / folder).is_dir() for folder in FOLDERS.values()),
        prepare="ropevit.data.check_dense:prepare_ade",
        write_tiny="ropevit.data.tiny:write_ade",
        annotations="segmentation maps",
    ),
}


def register_layout(name: str, layout: DenseLayout) -> None:
    """Add a layout, such as one of another package.

    Raises:
        ValueError: If the name is taken or not a word.
    """
    if name in LAYOUTS or not name.isidentifier():
        raise ValueError(f"got the layout {name!r}; expected a word other than {', '.join(LAYOUTS)}")
    LAYOUTS[name] = layout


def layout_labels() -> str:
    """Return the labels of all layouts, for messages and help."""
    return " or ".join(layout.label for layout in LAYOUTS.values())


def dense_layout(data: str | Path) -> DenseLayout | None:
    """Return the layout of a folder, or None if it has none of `LAYOUTS`."""
    root = Path(data).expanduser()
    return next((layout for layout in LAYOUTS.values() if layout.recognize(root)), None)
