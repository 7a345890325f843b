"""Inspection of a single image file: format, size, orientation, depth and damage."""

from collections import Counter
from collections.abc import Iterable
from io import BytesIO
from typing import Any, NamedTuple

from PIL import Image

from ropevit.data.bit_depth import STRETCHED, DepthScale, depth_scale, is_deep
from ropevit.data.decoding import UNREADABLE, open_image, orientation, reason, to_rgb
from ropevit.data.findings import Finding

#: Images with a shorter side of fewer pixels are tiny.
TINY = 32


class ImageFacts(NamedTuple):
    """Result of inspecting an image file."""

    found: list[tuple[str, str]]
    """Findings: kinds of ADVICE, each with details."""
    size: tuple[int, int] | None = None
    """Width and height as stored; None if the image cannot be decoded."""
    orientation: int = 1
    """EXIF orientation."""
    scale: str = ""
    """Name of the scale of a deep image that is not black."""


def inspect_image(content: bytes, suffix: str) -> ImageFacts:
    """Inspect an image file.

    Args:
        content: Bytes of the file.
        suffix: Suffix of its name, such as ".jpg".
    """
    if not content:
        return ImageFacts([("empty", "0 bytes")])
    try:
        with open_image(BytesIO(content)) as image:
            facts = image.format or "", image.mode, image.size, getattr(image, "n_frames", 1)
    except UNREADABLE as error:
        return ImageFacts([("unreadable", reason(error))])
    found = list(_container_findings(suffix, *facts))
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


def _container_findings(
    suffix: str, form: str, mode: str, size: tuple[int, int], frames: int
) -> "Iterable[tuple[str, str]]":
    """Yield findings from the header of an image."""
    if form == "MPO":  # a JPEG followed by a second image, as phones write it
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
    """Return whether the scale of a file can be compared with others: neither stretched nor all black."""
    return scale.name != STRETCHED and scale.found[1] > 0


def mixed_depths(scales: Iterable[tuple[Any, ...]]) -> list[Finding]:
    """Find deep images that are read on another scale than most.

    Args:
        scales: Split, class, file and name of the scale, for each image.
    """
    rows = list(scales)
    counts = Counter(scale for *_, scale in rows).most_common()
    return [
        Finding("mixed bit depth", split, label, file, f"read as {scale}, {counts[0][1]} others as {counts[0][0]}")
        for split, label, file, scale in rows
        if scale != counts[0][0]
    ]
