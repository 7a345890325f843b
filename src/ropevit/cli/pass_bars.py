"""Progress bar of commands that evaluate images several times."""

from collections.abc import Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

from ropevit.cli.console import Console, LiveDisplay, TextColumn, print_line
from ropevit.tasks.evaluation.passes import Event, PassesStarted, PassSkipped, Report


class PassBars(LiveDisplay):
    """Live display with a progress bar for one pass over images at a time."""

    def __init__(self, console: Console):
        columns = BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
        super().__init__(Progress(TextColumn("{task.description}"), *columns, console=console, transient=True))
        self.task, self.text, self.skipped = None, "", set()

    def update(self, event: Event) -> None:
        """Display an event."""
        if isinstance(event, PassesStarted):
            for line in (event.name, *event.notes):
                self.print_line(line)
            return
        if isinstance(event, PassSkipped):
            for name in event.names:
                if name not in self.skipped:  # once, not in every pass
                    self.print_line(f"skipped {name}")
            self.skipped.update(event.names)
            return
        self.progress.start()
        if self.task is None or event.text != self.text:
            if self.task is not None:
                self.progress.remove_task(self.task)
            self.task, self.text = self.progress.add_task(event.text, total=event.total), event.text
        self.progress.update(self.task, completed=event.done)


@contextmanager
def pass_bars(console: Console, resume: str) -> Iterator[Report]:
    """Show a progress bar for one pass at a time; on Ctrl-C remove it, and print how to go on.

    Args:
        console: The console.
        resume: What the same command with --resume does.

    Yields:
        A function that displays an event.
    """
    with PassBars(console) as bars:
        try:
            yield bars.update
        except KeyboardInterrupt:
            bars.stop()
            print_line(console, f"stopped; the same command with --resume {resume}")
            raise
