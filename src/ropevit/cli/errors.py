"""How errors look."""

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr

from rich.text import Text

from ropevit.cli.console import Console

#: What tyro draws around its errors.
_FRAME = "│╭╮╰╯"
#: Options that are suggested instead of an unknown one.
_MOST_SUGGESTED = 3


def show_error(error: Exception) -> None:
    """Print an error as one line."""
    line = " ".join(str(error).split())
    Console(stderr=True, soft_wrap=True).print(Text.assemble(("error:", "bold red"), " ", line), highlight=False)


@contextmanager
def one_line_errors(more: str) -> Iterator[None]:
    """Turn the boxes in which tyro shows wrong arguments into errors as all others are.

    Args:
        more: Command that explains the arguments.

    Raises:
        ValueError: Where tyro would end the process.
    """
    box = io.StringIO()
    try:
        with redirect_stderr(box):
            yield
    except SystemExit as ended:
        if ended.code in (None, 0):
            raise
        raise ValueError(
            _parser_message(ended, box.getvalue()) or f"{_strip_box(box.getvalue())}; see `{more}`"
        ) from None


def _parser_message(ended: BaseException, box: str) -> str | None:
    """Give what one of our configs said, if that is what the box is about."""
    found = re.fullmatch(r"Errorparsing[\w.]+:(.*)", _collapse_spaces("".join(_box_lines(box))))
    error: BaseException | None = ended
    while found and error is not None:
        if isinstance(error, ValueError) and str(error) and found[1].startswith(_collapse_spaces(str(error))):
            return str(error)
        error = error.__cause__ or error.__context__
    return None


def _collapse_spaces(text: str) -> str:
    """Leave blanks out: a box breaks lines anywhere."""
    return "".join(text.split())


def _box_lines(box: str) -> list[str]:
    """Give the lines in a box, without its frame and title; where stdout is not in UTF-8, its frame is of hyphens."""
    lines = [line.strip(_FRAME + " ") for line in box.splitlines() if not line.startswith(("╭", "╰"))]
    return lines if "╭" in box else lines[2:]


def _is_rule(line: str) -> bool:
    """Tell whether a line is drawn between paragraphs; an empty one is, too."""
    return not line.strip("─-")


def _strip_box(box: str) -> str:
    """Give the first paragraph of a box, and the options that it suggests."""
    lines = _box_lines(box)
    end = next((number for number, line in enumerate(lines) if _is_rule(line)), len(lines))
    said = " ".join(" ".join(lines[:end]).split())
    known = ("--help", *said.replace(":", " ").split())
    options = [found[0] for line in lines[end:] if (found := re.match(r"--\w[\w.-]*", line))]
    suggested = [option for option in dict.fromkeys(options) if option not in known][:_MOST_SUGGESTED]
    return said + (f"; did you mean {' or '.join(suggested)}?" if suggested else "")
