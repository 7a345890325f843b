"""Progress events of a training, for the command line or another front end."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class TrainStarted:
    """A training starts, or resumes after `first` of `steps` steps."""

    first: int
    steps: int
    """Step after which this call stops."""
    length: int
    """Length of the training in steps."""
    steps_per_epoch: int
    out: Path
    """Output directory."""
    parameters: int
    """Number of parameters of the model."""
    trainable: int
    """Number of those that are not frozen."""
    num_classes: int | None = None
    """Number of classes; None if the task has none."""


@dataclass(frozen=True, kw_only=True)
class LogLine:
    """`step` of `steps` are done; the values are means over the steps since the previous line."""

    step: int
    steps: int
    epoch: float
    loss: float
    lr: float
    images_per_second: float
    data_wait: float
    """Fraction of the time spent waiting for images."""
    memory_gib: float


@dataclass(frozen=True, kw_only=True)
class StepDone:
    """`step` steps are done. It holds no loss, as reading one synchronizes the GPU."""

    step: int


@dataclass(frozen=True, kw_only=True)
class EvalProgress:
    """The model is being evaluated: `done` of `total` images."""

    done: int
    total: int


@dataclass(frozen=True, kw_only=True)
class EvalDone:
    """The model was evaluated after `step` steps."""

    step: int
    epoch: float
    scores: dict[str, float]
    best: bool


@dataclass(frozen=True, kw_only=True)
class Notice:
    """A line for the user, such as about a damaged checkpoint or an unreadable image."""

    message: str


Event = TrainStarted | LogLine | StepDone | EvalProgress | EvalDone | Notice
Report = Callable[[Event], None]


def silent(event: Event) -> None:
    """Ignore an event."""
    del event
