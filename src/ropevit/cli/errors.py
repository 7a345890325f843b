"""Errors of the command line, each printed on one line."""

import io
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr

from rich.text import Text

from ropevit.cli.console import Console

#: Characters of the box that tyro draws around its errors.
_FRAME = "│╭╮╰╯"
#: Messages of tyro -> ours, which say what came and what was expected.
_WORDING = (
    (
        r"Error parsing (\S+): no type matching (?:\{None\}\|)?\{?(.+?)\}? could be .* from \[(.*)\]\.",
        r"got \3 for \1; expected \2",
    ),
    (r"Error parsing (\S+): invalid literal for int\(\) with base 10: (.*)", r"got \2 for \1; expected INT"),
    (r"Error parsing (\S+): could not convert string to float: (.*)", r"got \2 for \1; expected FLOAT"),
    (
        r"Error parsing (\S+): Could not find valid parse for arguments: \[(.*)\]",
        r"got \2 for \1, which has another form",
    ),
    (
        r"invalid choice (.*) for argument '(?:config\.)?(\S+)'\. Expected one of \((.*)\)\.",
        r"got \1 for \2; expected one of \3",
    ),
    (r"Missing value for argument '(-\S+)'\. Expected (\S+) values?\.", r"got \1 without a value"),
    (
        r"Missing value for argument '(?:config\.)?(\S+)'\. Expected (\S+) values?\.",
        r"got no value of \1: give it alone, without --\1",
    ),
    (r"Unrecognized options: ([^-\s]\S*)", r"got \1, which the command does not take"),
)
#: Types in messages.
_TYPES = {
    "expected INT": "expected a whole number",
    "expected FLOAT": "expected a number",
    "expected [INT [INT ...]]": "expected whole numbers",
}
#: Maximum number of suggestions for an unknown option.
_MAX_SUGGESTIONS = 3


def show_error(error: Exception) -> None:
    """Print an error as one line."""
    line = " ".join(str(error).split())
    Console(stderr=True, soft_wrap=True).print(Text.assemble(("error:", "bold red"), " ", line), highlight=False)


@contextmanager
def one_line_errors(more: str) -> Iterator[None]:
    """Raise ValueError with a one-line message where tyro would print a box and exit.

    Args:
        more: Command that explains the arguments, added to the message.

    Raises:
        ValueError: If an argument is wrong.
    """
    box = io.StringIO()
    try:
        with redirect_stderr(box):
            yield
    except BrokenPipeError:  # the reader of the help has ended, as in `ropevit study --help | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what is flushed at exit
        sys.exit(1)
    except SystemExit as ended:
        if ended.code in (None, 0):
            raise
        raise ValueError(
            _parser_message(ended, box.getvalue()) or f"{_strip_box(box.getvalue())}; see `{more}`"
        ) from None


def _parser_message(ended: BaseException, box: str) -> str | None:
    """Return the message of the error that a config raised, if that caused the box, else None."""
    found = re.fullmatch(r"Errorparsing\w[\w.-]*:(.*)", _remove_whitespace("".join(_box_lines(box))))
    error: BaseException | None = ended
    while found and error is not None:
        if isinstance(error, ValueError) and str(error) and found[1].startswith(_remove_whitespace(str(error))):
            return str(error)
        error = error.__cause__ or error.__context__
    return None


def _reword(message: str) -> str:
    """Replace the wording of tyro, if it is known."""
    for pattern, ours in _WORDING:
        if found := re.fullmatch(pattern, message):
            message = found.expand(ours)
            return next(
                (message.replace(name, plain) for name, plain in _TYPES.items() if message.endswith(name)), message
            )
    return message


def _remove_whitespace(text: str) -> str:
    """Remove all whitespace: the box may break lines anywhere."""
    return "".join(text.split())


def _box_lines(box: str) -> list[str]:
    """Return the lines in a box, without frame and title; unless stdout is in UTF-8, the frame consists of hyphens."""
    lines = [line.strip(_FRAME + " ") for line in box.splitlines() if not line.startswith(("╭", "╰"))]
    return lines if "╭" in box else lines[2:]


def _is_rule(line: str) -> bool:
    """Return whether a line separates paragraphs: a horizontal rule, or an empty line."""
    return not line.strip("─-")


def _strip_box(box: str) -> str:
    """Return the first paragraph of a box, and the options that it suggests."""
    lines = _box_lines(box)
    end = next((number for number, line in enumerate(lines) if _is_rule(line)), len(lines))
    message = " ".join(" ".join(lines[:end]).split())
    known = ("--help", *message.replace(":", " ").split())
    options = [found[0] for line in lines[end:] if (found := re.match(r"--\w[\w.-]*", line))]
    suggested = [option for option in dict.fromkeys(options) if option not in known][:_MAX_SUGGESTIONS]
    message = _reword(message)
    return message + (f"; did you mean {' or '.join(suggested)}?" if suggested else "")
