"""The evaluations that `ropevit figures extrapolation` draws: read, or measured first."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from ropevit.analysis.curves import Evaluations
from ropevit.cli.console import Console
from ropevit.cli.eval import EvalBars
from ropevit.tasks.common.eval_config import EvalConfig
from ropevit.tasks.compare import read_evaluations
from ropevit.tasks.evaluate import evaluate

#: Folder in that of the figures for what is measured for them.
MEASURED = "eval"


@dataclass(frozen=True, kw_only=True)
class EvaluationFiles:
    """Of extrapolation curves alone."""

    evals: Annotated[tuple[Path, ...], tyro.conf.arg(metavar="DIR")] = ()
    """Directories of `ropevit eval`, whose scores `extrapolation` draws; it needs no model then."""
    data: Annotated[str | None, tyro.conf.arg(metavar="fashion|PATH")] = None
    """Data that `extrapolation` measures the model on, as `ropevit eval` does, at --sizes (or eval's own)."""


def measure(config: EvalConfig, console: Console) -> Evaluations:
    """Measure a model with a progress bar, and read what that wrote."""
    with EvalBars(console) as bars:
        evaluate(config, bars.update)
    assert config.out is not None
    return read_evaluations([config.out], "--data")
