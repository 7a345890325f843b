"""Console output of the command line: text from outside is printed literally.

Names of files, classes and runs may contain escape sequences, which would control the terminal, and brackets, which
rich would interpret as markup. Control characters are escaped and markup is off; pass styles by `style` or `Text`.
"""

import logging
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import rich.console
import rich.progress
from rich.console import ConsoleOptions, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn
from rich.segment import Segment
from rich.status import Status
from rich.text import Text

from ropevit.text import printable_lines


class Console(rich.console.Console):
    """A rich console that prints text literally, without control characters."""

    def __init__(self, **options: Any):
        super().__init__(markup=False, emoji=False, **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Render to segments; all text passes through here, also in tables and live displays."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(printable_lines(segment.text), segment.style)

    def status(self, status: RenderableType, **options: Any) -> Status:
        """Show a spinner with a message."""
        return super().status(Text(status) if isinstance(status, str) else status, **options)


def print_line(console: rich.console.Console, line: str | Text, style: str = "") -> None:
    """Print a line without wrapping or highlighting."""
    console.print(line, style=style, soft_wrap=True, highlight=False)


class TextColumn(rich.progress.TextColumn):
    """A text column of a progress bar, without markup."""

    def __init__(self, text_format: str):
        super().__init__(text_format, markup=False)


DisplayT = TypeVar("DisplayT", bound="LiveDisplay")


class LiveDisplay:
    """Base of the live displays of events: progress bars, and lines above them.

    A display starts with its first event, not when it is entered, so that an error about wrong input stands alone.
    """

    def __init__(self, progress: Progress):
        self.progress = progress

    def __enter__(self: DisplayT) -> DisplayT:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Stop the live display."""
        if self.progress.live.is_started:
            self.progress.stop()

    def print_line(self, line: str | Text, style: str = "") -> None:
        """Print a line above the bars."""
        print_line(self.progress.console, line, style=style)


@contextmanager
def progress_bar(console: Console, what: str) -> Iterator[Callable[[int, int], None]]:
    """Show a progress bar, from its first update on, and remove it at the end.

    Yields:
        A function that takes the number of done and of all items.
    """
    columns = BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    progress = Progress(TextColumn("{task.description}"), *columns, console=console, transient=True)
    task = progress.add_task(what, total=None)

    def update(done: int, total: int) -> None:
        progress.start()
        progress.update(task, completed=done, total=total)

    try:
        yield update
    finally:
        if progress.live.is_started:  # else it would print an empty line
            progress.stop()


class LogFormatter(logging.Formatter):
    """A log formatter that escapes control characters."""

    def format(self, record: logging.LogRecord) -> str:
        """Format a record."""
        return printable_lines(super().format(record))


def format_warning(*parts: Any, original: Any = warnings.formatwarning, **options: Any) -> str:
    """Format a warning without control characters."""
    return printable_lines(original(*parts, **options))


def guard_logs() -> None:
    """Escape control characters in log records and warnings, which contain file names, too."""
    warnings.formatwarning = format_warning
    if logging.lastResort is not None:  # the handler that is used unless logging is configured
        logging.lastResort.setFormatter(LogFormatter())
