"""What a study reports while it runs; a front end shows these as it likes."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Run:
    """One training of a study."""

    panel: str
    embedding: str
    seed: int
    train_scaling: str | None = None
    """Rules that were on while it was trained."""

    @property
    def name(self) -> str:
        """The directory of the run: panel, embedding, rules if there are any, and seed."""
        rules = (
            "" if self.train_scaling is None else "-" + re.sub(r"[(,]", "-", re.sub(r"[)= ]", "", self.train_scaling))
        )
        return f"{self.panel}-{self.embedding}{rules}-seed{self.seed}"


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
    """`step` of `steps` are done; a few of these come per second at most."""

    run: Run
    step: int
    steps: int
    loss: float
    lr: float
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Evaluating:
    """The model is measured at `size` pixels, the `index`-th (from 0) of `total` sizes."""

    run: Run
    size: int
    index: int
    total: int


@dataclass(frozen=True, kw_only=True)
class Timing:
    """All trainings are done, and a step of each embedding is timed."""

    panel: str


@dataclass(frozen=True, kw_only=True)
class RunDone:
    """A run has its result (also when it was there already and is kept)."""

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
