"""Decode image files of any mode to RGB; every failure becomes one type of error."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from ropevit.data.bit_depth import is_deep, to_levels
from ropevit.data.formats import install_advice_by_content, readable_suffixes

#: EXIF tag of the orientation.
_ORIENTATION = 0x0112
#: EXIF orientation -> transpose operation that makes the stored image upright.
_EXIF_TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
#: Orientations that swap width and height.
SIDEWAYS = frozenset({5, 6, 7, 8})


class UnreadableImageError(ValueError):
    """The content of a file cannot be decoded as an image."""


#: Errors of reading an image: of the file system, and undecodable content.
UNREADABLE = (OSError, ValueError)


def reason(error: Exception) -> str:
    """Return in one line why an image cannot be read."""
    text = re.sub(r"(cannot identify image file) .*", r"\1", str(error))  # the caller names the file
    return " ".join(text.split()) or type(error).__name__


@contextmanager
def open_image(source: Path | BytesIO) -> Iterator[Image.Image]:
    """Open an image; any failure while it is open means that its content is unreadable.

    Args:
        source: Image file, or its content.

    Raises:
        OSError: If the file cannot be opened.
        UnreadableImageError: If its content cannot be decoded (decoders raise any type of error on damaged files).
    """
    with source.open("rb") if isinstance(source, Path) else source as file:
        try:
            readable_suffixes()  # loads plugins
            with Image.open(file) as image:
                yield image
        except UnidentifiedImageError as error:
            file.seek(0)
            raise UnreadableImageError(_unidentified(file.read(16), error)) from error
        except Exception as error:
            raise UnreadableImageError(reason(error)) from error


def _unidentified(beginning: bytes, error: Exception) -> str:
    """Return why no installed decoder reads a file with this beginning, and which one would."""
    needed = install_advice_by_content(beginning)
    return f"no decoder for it is installed ({needed})" if needed else reason(error)


def open_rgb(source: Path | BytesIO, enough: int | None = None) -> Image.Image:
    """Read an image as RGB, rotated by its EXIF orientation, with transparency on white.

    Args:
        source: Image file, or its content.
        enough: Sufficient shorter side in pixels; JPEGs are then decoded at a reduced size where possible.

    Raises:
        OSError: If the file cannot be opened.
        UnreadableImageError: If its content cannot be decoded.
    """
    with open_image(source) as image:
        if enough:
            image.draft("RGB", (enough, enough))
        return to_rgb(transpose(image, orientation(image)))


def orientation(image: Image.Image) -> int:
    """Return the EXIF orientation of an image, 1 (upright) to 8; 1 if it has none.

    Only this tag is read, so that damaged values of other tags do no harm.
    """
    image.load()
    try:
        found = image.getexif().get(_ORIENTATION)
    except Exception:  # damaged metadata do not affect the pixels
        return 1
    return found if isinstance(found, int) and found in _EXIF_TRANSPOSE else 1


def transpose(image: Image.Image, stored: int) -> Image.Image:
    """Transpose an image with an EXIF orientation so that it is upright."""
    return image.transpose(_EXIF_TRANSPOSE[stored]) if stored in _EXIF_TRANSPOSE else image


def upright_size(size: tuple[int, int], stored: int) -> tuple[int, int]:
    """Return width and height of an image after transposing it upright."""
    return (size[1], size[0]) if stored in SIDEWAYS else size


def matching_orientation(size: tuple[int, int], stored: int, annotated: tuple[int, int]) -> int | None:
    """Choose the orientation in which an image matches its annotation, by the size that was annotated.

    Args:
        size: Width and height as stored.
        stored: Orientation, from `orientation`.
        annotated: Width and height of the annotation.

    Returns:
        The orientation for `transpose`: `stored` (upright) where the size matches, else 1; None where neither
        matches.
    """
    if upright_size(size, stored) == annotated:
        return stored
    return 1 if size == annotated else None


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert any mode to RGB: transparency becomes white; see `bit_depth.py` for grayscale of more than 8 bits.

    Raises:
        ValueError: If values are NaN or infinite.
    """
    if is_deep(image.mode):
        return Image.fromarray(to_levels(image)).convert("RGB")
    if not image.has_transparency_data:
        return image.convert("RGB")
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
