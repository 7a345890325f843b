"""What can be wrong with the annotations of images, and what a training makes of it."""

from typing import NamedTuple

#: Faults with which a training does not begin.
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

#: Faults for which a training leaves a box out, and lists it.
DROPPED = frozenset({"empty box", "box outside"})

#: What a training handles, and which is worth knowing.
HANDLED = frozenset({"box over the edge", "crowd", "without boxes", "orientation"})

#: What a training does not see, or cannot know to be wrong; it goes on.
UNSEEN = frozenset({"damaged mask", "unclear orientation", "shared labels", "ignored pixels"})


class Fault(NamedTuple):
    """Something that is wrong with an image or its annotation."""

    kind: str
    """A member of REFUSED, DROPPED, HANDLED or UNSEEN."""
    file: str
    """Where it is."""
    detail: str
    """Which image or annotation, by its id, and what exactly."""

    def __str__(self) -> str:
        return f"{self.file}: {self.detail}"


class RefusedError(ValueError):
    """An image must not be left out as one that cannot be read is: the whole data set means something else."""


def refuse(fault: Fault) -> ValueError:
    """Make the error of a fault that no training can take.

    Raises:
        ValueError: Never; it is returned.
    """
    kind = RefusedError if fault.kind == "unknown label" else ValueError
    return kind(f"{fault.file}: {fault.detail} ({fault.kind}); correct or remove it: `ropevit data check` lists all")
