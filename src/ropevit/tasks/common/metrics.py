"""The log of a training: JSON lines always, TensorBoard and Weights & Biases where asked for."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ropevit.extras import require
from ropevit.tasks.common.config import RunConfig
from ropevit.weights.saving import write_atomically

FILE = "metrics.jsonl"


class Metrics:
    """Writes what a training measures; one process alone does.

    Args:
        config: Where to, and what besides the JSON lines.
        settings: The whole config, for Weights & Biases.
        first: Steps done already; later lines of an interrupted run are dropped, as these steps are taken again.
    """

    def __init__(self, config: RunConfig, settings: Mapping[str, Any], first: int):
        trim(config.out / FILE, first)
        self.file = (config.out / FILE).open("a", encoding="utf-8")
        self.board = None
        if config.tensorboard:
            board = require("torch.utils.tensorboard", "train")
            self.board = board.SummaryWriter(str(config.out / "tensorboard"), purge_step=first + 1)
        self.wandb = None
        if config.wandb is not None:
            wandb = require("wandb", "train")
            name = config.out.resolve().name
            self.wandb = wandb.init(
                project=config.wandb, name=name, id=name, resume="allow", config=dict(settings), dir=str(config.out)
            )

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """Write a line, at once."""
        self.file.write(json.dumps({"step": step, **values}) + "\n")
        self.file.flush()
        numbers = {key: value for key, value in values.items() if isinstance(value, int | float)}
        if self.board is not None:
            for key, value in numbers.items():
                self.board.add_scalar(key, value, step)
            self.board.flush()
        if self.wandb is not None:
            self.wandb.log(numbers, step=step)

    def close(self) -> None:
        """Close the files."""
        self.file.close()
        if self.board is not None:
            self.board.close()
        if self.wandb is not None:
            self.wandb.finish()


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """Read the lines of a run's log; a last line that was cut short is left out."""
    path = folder / FILE
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines if line.endswith("}")]


def trim(path: Path, step: int) -> None:
    """Drop the lines of a log that come after a step."""
    if not path.exists():
        return
    kept = [line for line in read_metrics(path.parent) if line["step"] <= step]
    write_atomically(path, lambda file: file.write("".join(json.dumps(line) + "\n" for line in kept).encode()))
