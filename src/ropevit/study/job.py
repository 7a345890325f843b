"""What one training of a study is given, and how it stops."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from ropevit.study.events import Report, Run
from ropevit.study.panels import Panel


class Interrupted(Exception):  # noqa: N818
    """The training was asked to stop; its checkpoint is saved."""


@dataclass(frozen=True, kw_only=True)
class RunJob:
    """A run, where it is kept, and how it is computed."""

    run: Run
    panel: Panel
    folder: Path
    device: torch.device
    dtype: torch.dtype
    report: Report
    should_stop: Callable[[], bool]
    scaling: tuple[str, ...] = ()
    """Rules for larger grids with which the trained model is measured, besides without."""
    images: str | None = None
    """Digest of the images' fingerprint, which the checkpoint and the result keep."""

    def check(self) -> None:
        """Stop between two batches of an evaluation.

        Raises:
            Interrupted: If it was asked for.
        """
        if self.should_stop():
            raise Interrupted(self.run.name)
