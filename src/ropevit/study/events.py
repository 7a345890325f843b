"""Progress events of a study; the command line turns them into bars or lines."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Run:
    """Identity of one training run."""

    panel: str
    embedding: str
    seed: int
    train_scaling: str | None = None
    """RoPE scaling during training, such as `jitter(rescale=2)`."""

    @property
    def name(self) -> str:
        """Name of the run's directory: panel, embedding, RoPE scaling in training if any, and seed."""
        parts = [self.panel, self.embedding, *([] if self.train_scaling is None else [self.train_scaling])]
        names = (re.sub(r"[(,:]", "-", re.sub(r"[)= ]", "", part)) for part in parts)
        return f"{'-'.join(names)}-seed{self.seed}"


@dataclass(frozen=True, kw_only=True)
class LoadingImages:
    """Images are being read: `done` of `total` files."""

    done: int
    total: int


@dataclass(frozen=True, kw_only=True)
class RunStarted:
    """A training starts, or goes on from step `first` of `steps`."""

    run: Run
    first: int
    steps: int


@dataclass(frozen=True, kw_only=True)
class StepDone:
    """`step` of `steps` are done; reported at most a few times per second."""

    run: Run
    step: int
    steps: int
    loss: float
    lr: float
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Evaluating:
    """The model is evaluated at `size` pixels, the `index`-th (from 0) of `total` sizes."""

    run: Run
    size: int
    index: int
    total: int


@dataclass(frozen=True, kw_only=True)
class Timing:
    """All runs are done; the training step of each embedding is being timed."""

    panel: str


@dataclass(frozen=True, kw_only=True)
class RunDone:
    """A run has its result, computed now or reused from an earlier call."""

    run: Run
    result: dict[str, Any]
    reused: bool = False


@dataclass(frozen=True, kw_only=True)
class RunFailed:
    """A run stopped with an error; `message` is one line."""

    run: Run
    message: str


Event = LoadingImages | RunStarted | StepDone | Evaluating | Timing | RunDone | RunFailed
Report = Callable[[Event], None]
