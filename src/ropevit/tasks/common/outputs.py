"""The folder that predictions are written to: new, and no file in it written twice."""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from PIL import Image

from ropevit.data.listing import ImageFile, join_names
from ropevit.files import write_atomically
from ropevit.locks import is_empty, lock_folder


class Summary(NamedTuple):
    """What was found in an image, in words."""

    line: str
    """All of it in short."""
    headings: tuple[str, ...]
    """Of the columns of a table."""
    rows: list[tuple[str, ...]]
    """Of the table; the first cell is a name, the others are numbers."""


def check_out(out: Path) -> None:
    """Refuse a folder with something in it.

    Raises:
        ValueError: Saying what to do.
    """
    if out.exists() and not out.is_dir():
        raise ValueError(f"got the file {out} for a folder; choose another --out")
    if not is_empty(out):
        raise ValueError(f"{out} is not empty; choose another --out")


@contextmanager
def new_folder(out: Path) -> Iterator[None]:
    """Keep a new folder for this process while it writes there; it is not left behind empty.

    Raises:
        ValueError: If something is in it, another process writes there, or the disk refuses.
    """
    with lock_folder(out):
        check_out(out)
        yield


def png_names(files: Sequence[ImageFile], others: Sequence[str] = ()) -> list[str]:
    """Name a PNG for each image: street.jpg becomes street.png, or street.jpg.png where there is a street.webp, too.

    Args:
        files: The images.
        others: Files and folders that are written beside the pictures, in lower case.

    Raises:
        ValueError: If two images have the same name, such as one from each of two folders, or a picture would lie in
            one of the others.
    """
    short = [str(PurePosixPath(file.name).with_suffix(".png")) for file in files]
    counts = Counter(name.lower() for name in short)  # some systems take A.png and a.png for the same file
    pairs = zip(files, short, strict=True)
    names = [name if counts[name.lower()] == 1 else f"{file.name}.png" for file, name in pairs]
    counts = Counter(name.lower() for name in names)
    same = [str(file.path) for file, name in zip(files, names, strict=True) if counts[name.lower()] > 1]
    if same:
        raise ValueError(
            f"got images of the same name ({join_names(same)}); predict them one after another, with --out"
        )
    for file, name in zip(files, names, strict=True):
        if (folder := PurePosixPath(name).parts[0]).lower() in others:
            raise ValueError(
                f"got {file.path}, whose picture would lie in {folder}, which holds other files; "
                "predict that folder alone, or rename it"
            )
    return names


def save_png(path: Path, picture: Image.Image) -> None:
    """Write a picture; its folder is made.

    Raises:
        WeightsError: If the disk refuses.
    """
    write_atomically(path, lambda file: picture.save(file, format="PNG"))
