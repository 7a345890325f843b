"""Progress events of a study; the command line turns them into bars or lines."""

import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Run:
    """Identity of one training run."""

    panel: str
    embedding: str
    seed: int
    train_scaling: str | None = None
    """RoPE scaling during training, such as `jitter(rescale=2)`."""
    train_sizes: tuple[int, ...] | None = None
    """Sides of the training images in pixels, one drawn for each step; None for the training size of the panel."""

    @property
    def name(self) -> str:
        """Name of the run's directory: panel, embedding, what is special about its training if anything, and seed."""
        parts = [self.panel, self.embedding]
        if self.train_scaling is not None:
            parts.append(self.train_scaling)
        if self.train_sizes is not None:
            parts.append(f"sizes{'-'.join(map(str, self.train_sizes))}")
        names = (re.sub(r"[(,:]", "-", re.sub(r"[)= ]", "", part)) for part in parts)
        return f"{'-'.join(names)}-seed{self.seed}"

    def to_dict(self) -> dict[str, Any]:
        """Return the fields for JSON; without `train_sizes` where there are none, as in older files."""
        fields = asdict(self)
        sizes = fields.pop("train_sizes")
        return fields if sizes is None else fields | {"train_sizes": list(sizes)}


def describe_training(run: Mapping[str, Any]) -> str | None:
    """Describe what is special about a training, such as `jitter(rescale=2)`; None if nothing is.

    Args:
        run: The fields of a `Run`, or a result that has them.
    """
    sizes = run.get("train_sizes")
    parts = [run.get("train_scaling"), f"sizes {', '.join(map(str, sizes))}" if sizes else None]
    return " and ".join(part for part in parts if part) or None


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
class TrainProgress:
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
class Tuning:
    """A RoPE scaling method is being chosen for the model at `size` pixels; `done` evaluations are done."""

    run: Run
    size: int
    done: int


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


Event = LoadingImages | RunStarted | TrainProgress | Evaluating | Tuning | Timing | RunDone | RunFailed
Report = Callable[[Event], None]
