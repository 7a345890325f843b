"""Faults of annotations, and how training handles each."""

from typing import NamedTuple

#: Faults for which training raises an error.
REFUSED = frozenset(
    {
        "annotations",
        "missing file",
        "unknown image",
        "unknown category",
        "damaged box",
        "wrong size",
        "wrong mode",
        "unknown label",
    }
)

#: Faults for which training drops the box, and lists it.
DROPPED = frozenset({"empty box", "box outside"})

#: Faults that training handles, listed for information.
HANDLED = frozenset({"box over the edge", "crowd", "without boxes", "orientation"})

#: Faults that training does not detect.
UNSEEN = frozenset({"damaged mask", "unclear orientation", "shared labels", "ignored pixels"})


class Fault(NamedTuple):
    """A fault of an image or its annotation."""

    kind: str
    """A member of REFUSED, DROPPED, HANDLED or UNSEEN."""
    file: str
    """Path of the file."""
    detail: str
    """Id of the image or annotation, and what is wrong."""

    def __str__(self) -> str:
        return f"{self.file}: {self.detail}"


class RefusedError(ValueError):
    """A fault that concerns the whole data set, so that the image must not be skipped like an unreadable one."""


def refuse(fault: Fault) -> ValueError:
    """Return the error to raise for a fault in `REFUSED`.

    Raises:
        ValueError: Never; it is returned.
    """
    kind = RefusedError if fault.kind == "unknown label" else ValueError
    return kind(f"{fault.file}: {fault.detail} ({fault.kind}); correct or remove it: `ropevit data check` lists all")
