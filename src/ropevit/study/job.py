"""Arguments of one training run of a study, and the exception with which it stops."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from ropevit.study.events import Report, Run
from ropevit.study.panels import Panel
from ropevit.tasks.evaluation.scaling_search import Half


class StopRequested(Exception):  # noqa: N818
    """The training was asked to stop; its checkpoint is saved."""


@dataclass(frozen=True, kw_only=True)
class RunJob:
    """A run, its directory, and how it is computed."""

    run: Run
    panel: Panel
    folder: Path
    device: torch.device
    dtype: torch.dtype
    report: Report
    should_stop: Callable[[], bool]
    scaling: tuple[str, ...] = ()
    """RoPE scaling methods with which the trained model is also evaluated; `auto` chooses one on `tuning`."""
    tuning: Mapping[Half, Panel] | None = None
    """Panels of held-out training images, to choose a RoPE scaling method on and to report its gain on."""
    images: str | None = None
    """Digest of the fingerprint of the images, stored in the checkpoint and in the result."""

    def check(self) -> None:
        """Stop between two batches of an evaluation.

        Raises:
            StopRequested: If a stop was requested.
        """
        if self.should_stop():
            raise StopRequested(self.run.name)
