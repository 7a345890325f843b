"""Progress of `ropevit study`: bars in a terminal, plain lines elsewhere."""

import time
from collections.abc import Sequence
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TimeRemainingColumn
from rich.text import Text

from ropevit.cli.console import Console, LiveDisplay, TextColumn, print_line
from ropevit.study.events import (
    Evaluating,
    Event,
    LoadingImages,
    RunDone,
    RunFailed,
    RunStarted,
    Timing,
    TrainProgress,
    Tuning,
)

#: Seconds after which a line is printed, whatever the progress.
_MAX_SILENCE = 30.0


class ProgressBars(LiveDisplay):
    """Progress bars of a study: one for all trainings, and one for each running training."""

    def __init__(self, console: Console, runs: int):
        columns = BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.fields[note]}")
        super().__init__(Progress(TextColumn("{task.description:<24}"), *columns, console=console))
        self.whole = self.progress.add_task("trainings", total=runs, note="")
        self.tasks: dict[str, TaskID] = {}

    def update(self, event: Event) -> None:
        """Display an event of the study."""
        self.progress.start()
        match event:
            case LoadingImages(done=done, total=total):
                self.bar("reading images", done, total, "")
                if done == total:
                    self.progress.remove_task(self.tasks.pop("reading images"))
            case RunStarted(run=run, first=first, steps=steps):
                self.bar(run.name, first, steps, "")
            case TrainProgress(run=run, step=step, steps=steps, loss=loss):
                self.bar(run.name, step, steps, f"loss {loss:.3f}")
            case Timing(panel=panel):
                self.progress.console.print(f"timing a step of each embedding ({panel})", highlight=False)
            case Evaluating(run=run, size=size):
                self.progress.update(self.tasks[run.name], note=f"evaluating at {size} px")
            case Tuning(run=run, size=size, done=done):
                self.progress.update(self.tasks[run.name], note=f"choosing a scaling at {size} px ({done})")
            case RunDone(run=run, result=result, reused=reused):
                self.close(run.name, _describe_run(run.name, result, reused))
            case RunFailed(run=run, message=message):
                self.close(run.name, Text.assemble((f"{run.name} failed:", "red"), " ", message))

    def bar(self, name: str, done: int, total: int, note: str) -> None:
        """Update the bar of a task, creating it if needed."""
        if name not in self.tasks:
            self.tasks[name] = self.progress.add_task(name, total=total, note="")
        self.progress.update(self.tasks[name], completed=done, total=total, note=note)

    def close(self, name: str, text: str | Text) -> None:
        """Replace the bar of a training by a line."""
        if name in self.tasks:
            self.progress.remove_task(self.tasks.pop(name))
        self.progress.advance(self.whole)
        self.print_line(text)


class ProgressLines:
    """Progress of a study outside a terminal, such as in a log: plain lines at intervals."""

    def __init__(self, console: Console):
        self.console = console
        self.last_printed: dict[str, tuple[float, int]] = {}

    def __enter__(self) -> "ProgressLines":
        return self

    def __exit__(self, *_: object) -> None:
        return

    def update(self, event: Event) -> None:
        """Print an event of the study; frequent ones only at intervals."""
        match event:
            case LoadingImages(done=done, total=total):
                self.print_sometimes("reading images", done, total, f"{done} of {total}")
            case RunStarted(run=run, first=first, steps=steps):
                self.last_printed[run.name] = time.monotonic(), first
                self.print_line(f"{run.name}: training{f' resumes at step {first}' if first else ''}, {steps} steps")
            case TrainProgress(run=run, step=step, steps=steps, loss=loss):
                self.print_sometimes(run.name, step, steps, f"step {step} of {steps}, loss {loss:.3f}")
            case Evaluating(run=run, index=0, total=total):
                self.print_line(f"{run.name}: evaluating at {total} sizes")
            case Tuning(run=run, size=size, done=1):
                self.print_line(f"{run.name}: choosing a scaling at {size} px")
            case Timing(panel=panel):
                self.print_line(f"timing a step of each embedding ({panel})")
            case RunDone(run=run, result=result, reused=reused):
                self.print_line(_describe_run(run.name, result, reused))
            case RunFailed(run=run, message=message):
                self.print_line(f"{run.name} failed: {message}")

    def print_sometimes(self, name: str, done: int, total: int, text: str) -> None:
        """Print a line about a task if a tenth of it, or half a minute, has passed since the last one."""
        now = time.monotonic()
        when, before = self.last_printed.get(name, (float("-inf"), 0))
        if done - before >= total / 10 or now - when >= _MAX_SILENCE:
            self.last_printed[name] = now, done
            self.print_line(f"{name}: {text}")

    def print_line(self, text: str) -> None:
        """Print one line."""
        print_line(self.console, text)


def _describe_run(name: str, result: dict[str, Any], reused: bool) -> str:
    """Summarize one training."""
    scores: Sequence[str] = [f"{size} px {score:.1f}" for size, score in result["scores"].items()]
    when = "reused" if reused else f"{result['train_seconds'] + result['eval_seconds']:.0f} s"
    return f"{name} ({when}): {', '.join(scores)}"
