"""Where the command line prints: what comes from outside is shown as it is, and never obeyed.

Names of files, classes and runs may hold escape sequences, which would drive the terminal, and brackets, which would be
taken for markup. Here control characters of all text are escaped, and markup is off: give styles by `style` or `Text`.
"""

import logging
import warnings
from collections.abc import Iterable
from typing import Any

import rich.console
import rich.progress
from rich.console import ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.status import Status
from rich.text import Text

from ropevit.text import printable_lines


class Console(rich.console.Console):
    """Prints text as it is, without control characters."""

    def __init__(self, **options: Any):
        super().__init__(markup=False, emoji=False, **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Turn anything into segments: all text goes through here, in tables and live displays, too."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(printable_lines(segment.text), segment.style)

    def status(self, status: RenderableType, **options: Any) -> Status:
        """Show that something is being done."""
        return super().status(Text(status) if isinstance(status, str) else status, **options)


def print_line(console: Console, line: str) -> None:
    """Print a line, however long."""
    console.print(line, soft_wrap=True, highlight=False)


class TextColumn(rich.progress.TextColumn):
    """Text beside a progress bar, as it is."""

    def __init__(self, text_format: str):
        super().__init__(text_format, markup=False)


class LogFormatter(logging.Formatter):
    """Writes a record without control characters."""

    def format(self, record: logging.LogRecord) -> str:
        """Write a record."""
        return printable_lines(super().format(record))


def format_warning(*parts: Any, original: Any = warnings.formatwarning, **options: Any) -> str:
    """Write a warning without control characters."""
    return printable_lines(original(*parts, **options))


def guard_logs() -> None:
    """Keep control characters out of what logs and warnings print, which name files, too."""
    warnings.formatwarning = format_warning
    if logging.lastResort is not None:  # which prints them where nobody has set up logging
        logging.lastResort.setFormatter(LogFormatter())
