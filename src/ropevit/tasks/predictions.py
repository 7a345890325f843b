"""Predictions of `ropevit predict`: their interface, their output folder, and the names of the drawings in it."""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import NamedTuple, Protocol, runtime_checkable

from PIL import Image

from ropevit.data.listing import ImageFile
from ropevit.files import write_atomically
from ropevit.locks import is_empty, lock_folder
from ropevit.text import join_names


class Summary(NamedTuple):
    """Predictions on an image as text: a line and a table."""

    line: str
    """Summary in one line."""
    headings: tuple[str, ...]
    """Headings of the table."""
    rows: list[tuple[str, ...]]
    """Rows of the table; the first cell is a name, the others are numbers."""


@runtime_checkable
class Predictor(Protocol):
    """Interface of a model that predicts on images one by one and writes the predictions to a folder."""

    def take(self, number: int, file: ImageFile, name: str, image: Image.Image) -> Summary:
        """Predict on an image, write the result, and return a summary.

        Args:
            number: Number of the file in the list, from 1.
            file: The file.
            name: Name of the PNG to write.
            image: As `read_image` returns it.
        """
        ...

    def close(self) -> str:
        """Write the files about all images, such as a JSON file of detections, and return their names."""
        ...


def check_out(out: Path) -> None:
    """Raise ValueError unless a folder is empty or does not exist.

    Raises:
        ValueError: If it is a file, or a folder that is not empty.
    """
    if out.exists() and not out.is_dir():
        raise ValueError(f"got the file {out} for a directory; choose another --out")
    if not is_empty(out):
        raise ValueError(f"{out} is not empty; choose another --out")


@contextmanager
def new_folder(out: Path) -> Iterator[None]:
    """Context that creates and locks an output folder; a folder that is empty at the end is removed.

    Raises:
        ValueError: If it is not empty, another process writes to it, or it cannot be created.
    """
    with lock_folder(out):
        check_out(out)
        yield


def png_names(files: Sequence[ImageFile], others: Sequence[str] = ()) -> list[str]:
    """Return a PNG name for each image: street.jpg becomes street.png, or street.jpg.png if there is a street.webp.

    Args:
        files: The images.
        others: Other files and folders of the output folder, in lower case.

    Raises:
        ValueError: If two images have the same name, such as those of two folders, or a drawing would be written into
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
            f"got images of the same name ({join_names(same)}); predict them in separate calls, each with its own --out"
        )
    for file, name in zip(files, names, strict=True):
        if (folder := PurePosixPath(name).parts[0]).lower() in others:
            raise ValueError(
                f"got {file.path}, whose drawing would be written into {folder}, which holds other files; "
                "predict that folder alone, or rename it"
            )
    return names


def save_png(path: Path, image: Image.Image) -> None:
    """Write an image atomically, and create its folder.

    Raises:
        WeightsError: If it cannot be written.
    """
    write_atomically(path, lambda file: image.save(file, format="PNG"))
