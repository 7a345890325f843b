"""What a training reports while it runs; a front end shows these as it likes."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class TrainStarted:
    """A training starts, or goes on from step `first` of `steps`."""

    first: int
    steps: int
    """Step at which this run of it ends."""
    length: int
    """Steps of the whole training."""
    steps_per_epoch: int


@dataclass(frozen=True, kw_only=True)
class LogLine:
    """`step` of `steps` are done; the figures are means over the steps since the line before."""

    step: int
    steps: int
    epoch: float
    loss: float
    lr: float
    images_per_second: float
    data_wait: float
    """Share of the time in which nothing was computed because images were waited for."""
    memory_gib: float


@dataclass(frozen=True, kw_only=True)
class StepDone:
    """`step` of `steps` are done; no figures yet, as they would have to be waited for."""

    step: int


@dataclass(frozen=True, kw_only=True)
class EvalProgress:
    """The model is measured: `done` of `total` images."""

    done: int
    total: int


@dataclass(frozen=True, kw_only=True)
class EvalDone:
    """The model was measured after `step` steps."""

    step: int
    epoch: float
    scores: dict[str, float]
    best: bool


@dataclass(frozen=True, kw_only=True)
class Notice:
    """Something that a person should read, in a line: a damaged checkpoint, images that could not be read."""

    message: str


Event = TrainStarted | LogLine | StepDone | EvalProgress | EvalDone | Notice
Report = Callable[[Event], None]


def silent(event: Event) -> None:
    """Show nothing."""
    del event
