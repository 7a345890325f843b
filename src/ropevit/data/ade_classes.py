"""Class names of a segmentation data set in the format of ADE20K."""

import re
from pathlib import Path

#: Classes of the published set; label PNGs number them from 1, 0 is ignored.
CLASSES = 150
#: Maximum number of classes in label PNGs of one byte per pixel, beside the ignored value.
_MAX_CLASSES = 255
#: Class names of a custom data set: one per line, the first for label 1; or for label 0, written `0: NAME`.
CLASSES_FILE = "classes.txt"
#: First line of such a file where label 0 is a class.
_BACKGROUND_LINE = re.compile(r"0\s*:\s*(.*)")
#: Table of classes in the published set.
PUBLISHED_FILE = "objectInfo150.txt"
#: Its columns, separated by tabs; synonyms in a name are separated by commas. Some copies also have a column `Stuff`.
COLUMNS = ("Idx", "Ratio", "Train", "Val", "Name")


def read_classes(root: Path) -> tuple[str, ...]:
    """Read the class names from classes.txt, else from objectInfo150.txt; without either, number the classes.

    Args:
        root: Folder of the data set.

    Returns:
        Names of the labels, starting at `first_label`.

    Raises:
        ValueError: If a file exists but cannot be parsed.
    """
    for file, read in ((root / CLASSES_FILE, _own_names), (root / PUBLISHED_FILE, published_names)):
        if file.exists():
            try:
                return read(file.read_text(encoding="utf-8-sig").splitlines())
            except (OSError, ValueError) as error:
                raise ValueError(f"{file}: {error}; correct it, or remove it to number the classes") from error
    return tuple(f"class {number}" for number in range(1, CLASSES + 1))


def first_label(root: Path) -> int:
    """Return the label of the first class: 0 if classes.txt names label 0, else 1 (then 0 is ignored)."""
    file = root / CLASSES_FILE
    lines = file.read_text(encoding="utf-8-sig").splitlines() if file.exists() else []
    return 0 if lines and _BACKGROUND_LINE.fullmatch(lines[0].strip()) else 1


def _own_names(lines: list[str]) -> tuple[str, ...]:
    """Parse names, one per line; the first may be that of label 0.

    Raises:
        ValueError: If there are none or too many, or a line is empty.
    """
    names = tuple(line.strip() for line in lines)
    zero = _BACKGROUND_LINE.fullmatch(names[0]) if names else None
    if zero:
        names = (zero[1], *names[1:])
    if not 1 <= len(names) <= _MAX_CLASSES:
        raise ValueError(f"{len(names)} lines, expected 1 to {_MAX_CLASSES} class names, one per line")
    if "" in names:
        number = names.index("") + 1
        raise ValueError(f"line {number} is empty, expected the name of label {number - bool(zero)}")
    return names


def published_names(lines: list[str]) -> tuple[str, ...]:
    """Parse the column of names of the published table; spaces around cells are stripped.

    Raises:
        ValueError: If the columns or row numbers are not those of the published table.
    """
    header, *rows = [[cell.strip() for cell in line.split("\t")] for line in lines] or [[]]
    if not {"Idx", "Name"} <= set(header):
        raise ValueError(f"the columns {header}, expected {', '.join(COLUMNS)} separated by tabs")
    first, name = header.index("Idx"), header.index("Name")
    for number, row in enumerate(rows, 1):
        if len(row) != len(header) or row[first] != str(number):
            raise ValueError(f"line {number + 1} is {row}, expected the {len(header)} columns of class {number}")
    return _own_names([row[name] for row in rows])


def published_table(rows: list[tuple[float, int, int, str]]) -> str:
    """Format a table of classes like the published one.

    Args:
        rows: For each class: fraction of the pixels, number of train and val images, and name.
    """
    lines = ["\t".join(COLUMNS)]
    for number, (ratio, train, val, name) in enumerate(rows, 1):
        lines.append("\t".join((str(number), f"{ratio:.4f}", str(train), str(val), name)))
    return "\n".join(lines) + "\n"
