"""A task from outside: regress the brightness of noise, with an error to minimize and without classes."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any

import torch
import tyro
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ropevit.tasks import TASKS, Metric, PredictOption, TaskSpec, register_task
from ropevit.tasks.evaluation.loop import (
    EvalPlan,
    EvalTimer,
    SizeEvaluation,
    distributed,
    evaluate_sizes,
    weights_and_name,
)
from ropevit.tasks.predictions import Summary
from ropevit.tasks.training.config import OptimConfig, RunConfig
from ropevit.tasks.training.events import silent
from ropevit.tasks.training.run_training import run_training


@dataclass(frozen=True, kw_only=True)
class ToyConfig:
    """A training."""

    recipe: Annotated[str, tyro.conf.Fixed] = "toy/line"
    optim: OptimConfig = field(default_factory=lambda: OptimConfig(lr=0.1, epochs=2, warmup_epochs=0, min_lr=0.0))
    run: RunConfig = field(default_factory=lambda: RunConfig(workers=0, device="cpu", log_interval=1))

    def to_dict(self) -> dict[str, Any]:
        plain = asdict(self)
        plain["run"]["out"] = str(self.run.out)
        return plain


def line() -> ToyConfig:
    """One linear layer."""
    return ToyConfig()


class Line(nn.Linear):
    """A model, with what the optimizer asks for."""

    def no_weight_decay(self) -> set[str]:
        return set()

    def layer_index(self, name: str) -> int:  # noqa: ARG002
        return 0


def noise(seed: int, size: int = 8) -> Tensor:
    return torch.rand(4, size * size, generator=torch.Generator().manual_seed(seed))


class Toy:
    """What the engine trains."""

    steps_per_epoch, batch_size, metric = 1, 4, Metric("rmse", higher_is_better=False, unit="")

    def __init__(self):
        self.skipped = []

    def batches(self, first, last):
        return (noise(step) for step in range(first, last))

    def loss(self, model: nn.Module, batch: Tensor, step: int) -> Tensor:  # noqa: ARG002
        return (model(batch)[:, 0] - batch.mean(1)).square().mean()

    def evaluate(self, model: nn.Module, report) -> dict[str, float]:  # noqa: ARG002
        return {"rmse": rmse(model, 8)}

    def save_weights(self, path, weights: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        save_file(dict(weights), path, {"format": "toy-line", "metadata": json.dumps(facts)})


@torch.no_grad()
def rmse(model: nn.Module, size: int) -> float:
    images = noise(-1, size)
    shrunk = nn.functional.adaptive_avg_pool1d(images, 64)
    return (model(shrunk)[:, 0] - images.mean(1)).square().mean().sqrt().item()


def train(config: ToyConfig, report=silent) -> dict[str, float]:
    return run_training(config, lambda *_: (Toy(), Line(64, 1)), report)


def load(path):
    model = Line(64, 1)
    model.load_state_dict(load_file(path))
    return model, None


@dataclass(frozen=True, kw_only=True)
class ToyResult:
    """One size."""

    size: int
    rmse: float
    images: int
    skipped: int
    images_per_second: float
    peak_memory_gib: float

    @property
    def scores(self) -> dict[str, float]:
        return {"rmse": self.rmse}

    @property
    def view(self) -> dict[str, int]:
        return {}


@dataclass(frozen=True, kw_only=True)
class ToyOptions:
    """Toys only."""

    shift: float = 0.0
    """Added to each error."""


def evaluate(config, report=silent) -> list[ToyResult]:
    config.check(TASKS["toy"])
    path, name = weights_and_name(config)
    with distributed(config, report) as context:
        model, _ = load(path)
        shift = config.task_options(ToyOptions).shift

        def evaluate_size(size: int) -> SizeEvaluation:
            timer = EvalTimer(context)
            return SizeEvaluation(row=ToyResult(size=size, rmse=rmse(model, size) + shift, **timer.stats(4, 4)))

        plan = EvalPlan(
            name=name,
            weights=str(path),
            model=None,
            position="none",
            trained_at=8,
            data="noise",
            description="noise",
            metric=TASKS["toy"].metric,
            resume_settings={"shift": shift},
            row_type=ToyResult,
            sizes=config.sizes or (8, 16),
            evaluate_size=evaluate_size,
        )
        return evaluate_sizes(plan, context)


class Brightness:
    """Says how bright images are."""

    def __init__(self, shift: float):
        self.shift = shift

    def take(self, number, file, name, image):  # noqa: ARG002
        return Summary(f"brightness {image.convert('L').getpixel((0, 0)) + self.shift:g}", (), [])

    def close(self) -> str:
        return "nothing else"


def open_predictor(path, out, device, *, size=None, shift=0.0):  # noqa: ARG001
    return Brightness(shift)


def register() -> None:
    register_task(
        "toy",
        TaskSpec(
            noun="toy",
            metric=Toy.metric,
            recipes={"toy/line": line},
            config=ToyConfig,
            train=train,
            evaluate=evaluate,
            result=ToyResult,
            eval_options=ToyOptions,
            predict=open_predictor,
            predict_options={"shift": PredictOption(float, "added to the brightness", least=0)},
            load=load,
            formats=("toy-line",),
        ),
    )
