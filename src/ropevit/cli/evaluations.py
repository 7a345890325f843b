"""Evaluations plotted by `ropevit figures extrapolation`: existing ones, or a new one."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from ropevit.analysis.curves import Evaluations
from ropevit.cli.console import Console
from ropevit.cli.eval import EvalBars
from ropevit.tasks.compare import read_evaluations
from ropevit.tasks.evaluate import evaluate
from ropevit.tasks.evaluation.config import EvalConfig

#: Subfolder of the figures' folder for the results of a new evaluation.
EVAL_FOLDER = "eval"


@dataclass(frozen=True, kw_only=True)
class EvaluationFiles:
    """Options of `ropevit figures extrapolation`."""

    evals: Annotated[tuple[Path, ...], tyro.conf.arg(metavar="DIR")] = ()
    """Output directories of `ropevit eval` whose scores `extrapolation` plots; no --model or --checkpoint then."""
    data: Annotated[str | None, tyro.conf.arg(metavar="fashion|emoji|PATH")] = None
    """Data for `extrapolation` to evaluate the model on, as `ropevit eval` does, at --sizes (default: eval's)."""


def run_evaluation(config: EvalConfig, console: Console) -> Evaluations:
    """Evaluate a model with a progress bar, and read the results."""
    with EvalBars(console) as bars:
        evaluate(config, bars.update)
    assert config.out is not None
    return read_evaluations([config.out], "--data")
