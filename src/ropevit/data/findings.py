"""Findings of `ropevit data check`, with advice for each kind."""

from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple

from ropevit.data.annotation_faults import HANDLED

#: What can be found, and what to do about it; in the order of a report.
ADVICE = {
    "empty": "0 bytes; fetch them again or remove them",
    "unreadable": "no images; convert or remove them",
    "no decoder": "install what reads them, or convert them: they are left out",
    "truncated": "cut off or damaged; fetch them again or remove them",
    "wrongly labelled": "the same file in two classes; keep it in the right one",
    "in two splits": "the same file to train and to measure on; keep it in one",
    "duplicate": "the same file twice in a class; keep one",
    "class without images": "add images or remove the class",
    "class in one split": "training and measuring need the same classes",
    "shard": "cannot be used; fetch or make it again",
    "left out": "a sample's key ends at the first dot of its name; rename them",
    "annotations": "cannot be used; fetch or write them again",
    "missing file": "fetch it, or remove what refers to it",
    "unknown image": "annotations of images that are not listed; list or remove them",
    "unknown category": "annotations of categories that are not listed; list or remove them",
    "unknown label": "labels above the number of classes; look how they were made, or name the classes in classes.txt",
    "ignored pixels": "much has label 0: if it is a class, begin classes.txt with a line `0: NAME`, else label it 255",
    "shared labels": "images of one name with one file of labels; rename or remove one",
    "damaged box": "not four numbers; correct or remove them",
    "damaged mask": "not for their image, or cut off; boxes are trained on all the same",
    "wrong size": "annotations of another size than the image; find out which is right",
    "unclear orientation": "trained on as turned by EXIF; look whether annotations are for that, or save them upright",
    "wrong mode": "labels that are not one byte a pixel; save them as grey or palette PNG",
    "empty box": "no width or height; a training leaves them out",
    "box outside": "wholly beside the image; a training leaves them out",
    "stretched": "each file by its own lowest and highest value; save them as 8 or 16 bits, or as 0 to 1",
    "mixed bit depth": "on another scale than most files, by their largest value; save all with one depth",
    "CMYK": "colours of print, which change when converted; convert them to RGB yourself",
    "animated": "only the first image is used; keep one",
    "tiny": "too small to learn from; look whether they are thumbnails",
    "wrong suffix": "the content is of another kind; rename them",
    "converted": "nothing: they are read as RGB, transparency on white",
    "bit depth": "nothing: the upper 8 bits are used, of floats 0 to 1 the nearest level",
    "orientation": "nothing: turned by EXIF, or not, as the annotated size says",
    "box over the edge": "nothing: they are cut to the image",
    "crowd": "nothing: a training leaves them out, an evaluation ignores what lies on them",
    "without boxes": "nothing: a training leaves them out unless asked to keep them",
}
#: What is worth knowing but no problem.
HARMLESS = frozenset({"converted", "bit depth"}) | HANDLED


class Finding(NamedTuple):
    """A problem of a file, class or shard."""

    kind: str
    """A key of ADVICE."""
    split: str
    """Such as train."""
    label: str
    """The class, where there is one."""
    file: str
    """Path, or shard and name; empty where it concerns a class."""
    detail: str
    """What exactly."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """What was looked at and what was found."""

    images: dict[str, int]
    """Number of each split."""
    classes: int
    """Number of classes."""
    findings: list[Finding]
    """In the order of ADVICE."""
    others: Counter[str] = field(default_factory=Counter)
    """What was not looked at: number of files by suffix, and of hidden ones and links."""
    notes: tuple[str, ...] = ()
    """What else a reader should know, a line each."""

    @property
    def clean(self) -> bool:
        """Whether there are no problems."""
        return all(finding.kind in HARMLESS for finding in self.findings)


def ordered(findings: list[Finding]) -> list[Finding]:
    """Sort findings as ADVICE is."""
    order = list(ADVICE)
    return sorted(findings, key=lambda finding: order.index(finding.kind))
