"""What is wrong with an image file by itself."""

from collections import Counter
from collections.abc import Iterable
from io import BytesIO
from typing import Any, NamedTuple

from PIL import Image

from ropevit.data.decoding import UNREADABLE, open_image, orientation, reason, to_rgb
from ropevit.data.depth import STRETCHED, DepthScale, depth_scale, is_deep
from ropevit.data.findings import Finding

#: Images with a shorter side of fewer pixels are tiny.
TINY = 32


class ImageFacts(NamedTuple):
    """What a look at a file gave."""

    found: list[tuple[str, str]]
    """Kinds of ADVICE, each with a detail."""
    size: tuple[int, int] | None = None
    """Width and height as stored, of an image that can be decoded."""
    orientation: int = 1
    """How it is stored, as EXIF counts."""
    scale: str = ""
    """Name of the scale of a deep image that is not black."""


def inspect_image(content: bytes, suffix: str) -> ImageFacts:
    """Find what is wrong with a file by itself.

    Args:
        content: The file.
        suffix: The end of its name, such as ".jpg".
    """
    if not content:
        return ImageFacts([("empty", "0 bytes")])
    try:
        with open_image(BytesIO(content)) as image:
            facts = image.format or "", image.mode, image.size, getattr(image, "n_frames", 1)
    except UNREADABLE as error:
        return ImageFacts([("unreadable", reason(error))])
    found = list(container_findings(suffix, *facts))
    try:
        with open_image(BytesIO(content)) as image:
            stored, size = orientation(image), image.size
            scale = depth_scale(image) if is_deep(image.mode) else None
            to_rgb(image)
    except UNREADABLE as error:
        return ImageFacts([*found, ("truncated", reason(error))])
    if scale is None:
        return ImageFacts(found, size, stored)
    found.append(("stretched" if scale.name == STRETCHED else "bit depth", f"{facts[1]}, {scale}"))
    return ImageFacts(found, size, stored, scale.name if comparable(scale) else "")


def container_findings(
    suffix: str, form: str, mode: str, size: tuple[int, int], frames: int
) -> "Iterable[tuple[str, str]]":
    """Find what the head of an image tells."""
    if form == "MPO":  # a JPEG with a second image behind, as telephones write it
        form, frames = "JPEG", 1
    if (expected := Image.registered_extensions().get(suffix.lower())) != form:
        yield "wrong suffix", f"{form} in a file named as {expected}"
    if mode != "RGB" and not is_deep(mode):
        yield ("CMYK", mode) if mode == "CMYK" else ("converted", mode)
    if min(size) < TINY:
        yield "tiny", f"{size[0]} x {size[1]} pixels"
    if frames > 1:
        yield "animated", f"{frames} images"


def comparable(scale: DepthScale) -> bool:
    """Tell whether a file's scale says how the others should be read: not of a black one, or one by itself."""
    return scale.name != STRETCHED and scale.found[1] > 0


def mixed_depths(scales: Iterable[tuple[Any, ...]]) -> list[Finding]:
    """Find the deep images whose values became levels in another way than those of most.

    Args:
        scales: Split, class, file, and name of the scale, of each.
    """
    rows = list(scales)
    counts = Counter(scale for *_, scale in rows).most_common()
    return [
        Finding("mixed bit depth", split, label, file, f"read as {scale}, {counts[0][1]} others as {counts[0][0]}")
        for split, label, file, scale in rows
        if scale != counts[0][0]
    ]
