"""Findings of `ropevit data check`, with advice for each kind."""

from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple

from ropevit.data.annotation_faults import HANDLED

#: Kind of finding -> advice, in the order of a report.
ADVICE = {
    "empty": "0 bytes; download them again or remove them",
    "unreadable": "not decodable as images; convert or remove them",
    "no decoder": "install a decoder, or convert them: training skips them",
    "truncated": "cut off or damaged; download them again or remove them",
    "wrongly labeled": "the same file in two classes; keep it in the right one",
    "in two splits": "the same file for training and evaluation; keep it in one",
    "duplicate": "the same file twice in a class; keep one",
    "class without images": "add images or remove the class",
    "class in one split": "training and evaluation need the same classes",
    "shard": "cannot be used; download or create it again",
    "no sample": "images without a label: the key of a sample ends at the first dot of its name; rename them",
    "annotations": "cannot be used; download or write them again",
    "missing file": "download it, or remove references to it",
    "unknown image": "annotations of images that are not listed; list or remove them",
    "unknown category": "annotations of categories that are not listed; list or remove them",
    "unknown label": "labels above the number of classes; check how they were made, or name the classes in classes.txt",
    "ignored pixels": "many pixels have label 0: if it is a class, begin classes.txt with `0: NAME`, else use 255",
    "shared labels": "images that share a label file; rename or remove one",
    "damaged box": "not four numbers; correct or remove them",
    "damaged mask": "of another size than the image, or cut off; training uses their boxes all the same",
    "wrong size": "annotations of another size than the image; check which is right",
    "unclear orientation": "training applies the EXIF orientation; check that annotations match, or save them upright",
    "wrong mode": "labels that are not one byte per pixel; save them as gray or palette PNG",
    "empty box": "no width or height; training drops them",
    "box outside": "entirely outside the image; training drops them",
    "stretched": "each file is scaled from its own minimum to its maximum; save them as 8 or 16 bits, or as 0 to 1",
    "mixed bit depth": "on another scale than most files, judging by the largest value; save all with one depth",
    "CMYK": "print colors, which change in conversion; convert them to RGB yourself",
    "animated": "only the first image is used; keep one",
    "tiny": "too small to learn from; check whether they are thumbnails",
    "wrong suffix": "the content has another format; rename them",
    "converted": "nothing to do: they are read as RGB, transparency becomes white",
    "bit depth": "nothing to do: the upper 8 bits are used; floats from 0 to 1 are rounded to the nearest level",
    "orientation": "nothing to do: the EXIF orientation is applied if the annotated size matches",
    "box over the edge": "nothing to do: they are clipped to the image",
    "crowd": "nothing to do: training drops them, evaluation ignores detections on them",
    "without boxes": "nothing to do: training skips them unless keep_empty is set",
}
#: Kinds for information only.
HARMLESS = frozenset({"converted", "bit depth"}) | HANDLED


class Finding(NamedTuple):
    """A problem of a file, class or shard."""

    kind: str
    """A key of ADVICE."""
    split: str
    """Name of the split, such as train."""
    label: str
    """Name of the class, or empty."""
    file: str
    """Path, or shard and name; empty for a finding about a class."""
    detail: str
    """Details."""


@dataclass(frozen=True, kw_only=True)
class DataReport:
    """Result of checking a data set."""

    images: dict[str, int]
    """Number of images in each split."""
    classes: int
    """Number of classes."""
    findings: list[Finding]
    """In the order of ADVICE."""
    others: Counter[str] = field(default_factory=Counter)
    """Number of unchecked files, by suffix, and of hidden ones and links."""
    notes: tuple[str, ...] = ()
    """Further notes, one line each."""

    @property
    def clean(self) -> bool:
        """Whether there are no findings but harmless ones."""
        return all(finding.kind in HARMLESS for finding in self.findings)


def ordered(findings: list[Finding]) -> list[Finding]:
    """Sort findings in the order of ADVICE."""
    order = list(ADVICE)
    return sorted(findings, key=lambda finding: order.index(finding.kind))
