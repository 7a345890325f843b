"""Everything about a training of a detector; every field is an option."""

from dataclasses import asdict, dataclass, field, replace
from typing import Annotated, Any

import tyro

from ropevit.tasks.common.config import OptimConfig, RunConfig
from ropevit.tasks.detect.augment import ScaleConfig
from ropevit.tasks.detect.model import DetectModel

#: Options are named by their own names; only those of `dino` are --dino.NAME, as a backbone has a width, too.
WITHOUT_PREFIX = tyro.conf.arg(name="")


@dataclass(frozen=True, kw_only=True)
class DetectConfig:
    """A whole training of a detector.

    Raises:
        ValueError: If a field is out of range.
    """

    recipe: Annotated[str, tyro.conf.Fixed]
    """Name of the recipe that this started from."""
    data: str = "coco"
    """Folder with train2017, val2017 and annotations."""
    batch_size: int = 16
    """Images of a step, over all processes and parts."""
    keep_empty: bool = False
    """Train on pictures without boxes, too."""
    top: int = 300
    """Most objects that are found in an image."""
    model: Annotated[DetectModel, WITHOUT_PREFIX] = field(default_factory=DetectModel)
    scale: Annotated[ScaleConfig, WITHOUT_PREFIX] = field(default_factory=ScaleConfig)
    optim: Annotated[OptimConfig, WITHOUT_PREFIX] = field(default_factory=OptimConfig)
    run: Annotated[RunConfig, WITHOUT_PREFIX] = field(default_factory=RunConfig)

    def __post_init__(self):
        if self.batch_size < 1 or self.top < 1:
            raise ValueError(f"got batch_size={self.batch_size}, top={self.top}; expected at least 1")
        if self.run.shard:
            raise ValueError("got shard=True; a detector is not shared out among processes: leave it out")

    def to_dict(self) -> dict[str, Any]:
        """Write the config as JSON can hold it."""
        plain = asdict(self)
        plain["run"]["out"] = str(self.run.out)
        return plain

    def with_run(self, **changes: Any) -> "DetectConfig":
        """Replace fields of `run`."""
        return replace(self, run=replace(self.run, **changes))
