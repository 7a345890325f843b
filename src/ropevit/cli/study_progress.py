"""The progress of `ropevit study`: bars in a terminal, plain lines elsewhere."""

import time
from collections.abc import Sequence
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TimeRemainingColumn
from rich.text import Text

from ropevit.cli.console import Console, TextColumn, print_line
from ropevit.study.events import Evaluating, Event, LoadingImages, RunDone, RunFailed, RunStarted, StepDone, Timing

#: Seconds after which a line is written, however little was done.
_PAUSE = 30.0


class ProgressBars:
    """Progress of a study: one bar for the whole, one for each training that runs."""

    def __init__(self, console: Console, runs: int):
        columns = BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.fields[note]}")
        self.progress = Progress(TextColumn("{task.description:<24}"), *columns, console=console)
        self.whole = self.progress.add_task("trainings", total=runs, note="")
        self.tasks: dict[str, TaskID] = {}

    def __enter__(self) -> "ProgressBars":
        return self  # drawn from the first event on: wrong input is answered by its error alone

    def __exit__(self, *_: object) -> None:
        if self.progress.live.is_started:
            self.progress.stop()

    def update(self, event: Event) -> None:
        """Show an event of the study."""
        self.progress.start()
        match event:
            case LoadingImages(done=done, total=total):
                self.bar("reading images", done, total, "")
                if done == total:
                    self.progress.remove_task(self.tasks.pop("reading images"))
            case RunStarted(run=run, first=first, steps=steps):
                self.bar(run.name, first, steps, "")
            case StepDone(run=run, step=step, steps=steps, loss=loss):
                self.bar(run.name, step, steps, f"loss {loss:.3f}")
            case Timing(panel=panel):
                self.progress.console.print(f"timing a step of each embedding ({panel})", highlight=False)
            case Evaluating(run=run, size=size):
                self.progress.update(self.tasks[run.name], note=f"evaluating at {size} px")
            case RunDone(run=run, result=result, reused=kept):
                self.close(run.name, _describe_run(run.name, result, kept))
            case RunFailed(run=run, message=message):
                self.close(run.name, Text.assemble((f"{run.name} failed:", "red"), " ", message))

    def bar(self, name: str, done: int, total: int, note: str) -> None:
        """Move the bar of a task, which is made at first sight."""
        if name not in self.tasks:
            self.tasks[name] = self.progress.add_task(name, total=total, note="")
        self.progress.update(self.tasks[name], completed=done, total=total, note=note)

    def close(self, name: str, text: str | Text) -> None:
        """Take a training's bar away, and leave a line in its place."""
        if name in self.tasks:
            self.progress.remove_task(self.tasks.pop(name))
        self.progress.advance(self.whole)
        print_line(self.progress.console, text)


class ProgressLines:
    """Progress of a study where nobody watches, such as in a log: plain lines, seldom."""

    def __init__(self, console: Console):
        self.console = console
        self.told: dict[str, tuple[float, int]] = {}

    def __enter__(self) -> "ProgressLines":
        return self

    def __exit__(self, *_: object) -> None:
        return

    def update(self, event: Event) -> None:
        """Write an event of the study, of those that come often only some."""
        match event:
            case LoadingImages(done=done, total=total):
                self.pace("reading images", done, total, f"{done} of {total}")
            case RunStarted(run=run, first=first, steps=steps):
                self.told[run.name] = time.monotonic(), first
                self.say(f"{run.name}: training{f' goes on from step {first}' if first else ''}, {steps} steps")
            case StepDone(run=run, step=step, steps=steps, loss=loss):
                self.pace(run.name, step, steps, f"step {step} of {steps}, loss {loss:.3f}")
            case Evaluating(run=run, index=0, total=total):
                self.say(f"{run.name}: evaluating at {total} sizes")
            case Timing(panel=panel):
                self.say(f"timing a step of each embedding ({panel})")
            case RunDone(run=run, result=result, reused=kept):
                self.say(_describe_run(run.name, result, kept))
            case RunFailed(run=run, message=message):
                self.say(f"{run.name} failed: {message}")

    def pace(self, name: str, done: int, total: int, text: str) -> None:
        """Write a line about a task, but no more often than each tenth of it, or each half a minute."""
        now = time.monotonic()
        when, before = self.told.get(name, (float("-inf"), 0))
        if done - before >= total / 10 or now - when >= _PAUSE:
            self.told[name] = now, done
            self.say(f"{name}: {text}")

    def say(self, text: str) -> None:
        """Write one line."""
        print_line(self.console, text)


def _describe_run(name: str, result: dict[str, Any], kept: bool) -> str:
    """Sum up one training."""
    scores: Sequence[str] = [f"{size} px {score:.1f}" for size, score in result["scores"].items()]
    when = "kept" if kept else f"{result['train_seconds'] + result['eval_seconds']:.0f} s"
    return f"{name} ({when}): {', '.join(scores)}"
