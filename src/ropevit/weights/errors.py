"""The exception of this package, with one-line messages."""

from ropevit.text import printable

#: Maximum length of a message, since names and values in a file may have any length.
LONGEST = 2000


class WeightsError(ValueError):
    """A checkpoint cannot be read, written, or does not fit the model; the message is one printable line."""

    def __init__(self, message: str):
        line = printable(message)
        super().__init__(line if len(line) <= LONGEST else f"{line[:LONGEST]}...")


def first_line(error: BaseException) -> str:
    """Return the first line of another library's error."""
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__
