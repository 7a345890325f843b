"""Everything about a training of a segmenter; every field is an option."""

from dataclasses import asdict, dataclass, field, replace
from typing import Annotated, Any

import tyro

from ropevit.tasks.common.config import OptimConfig, RunConfig
from ropevit.tasks.segment.augment import CropConfig
from ropevit.tasks.segment.inference import InferenceConfig
from ropevit.tasks.segment.model import SegmentModel

#: Options are named by their own names; only those of the heads and of the inference are --upernet.NAME and so on.
WITHOUT_PREFIX = tyro.conf.arg(name="")


@dataclass(frozen=True, kw_only=True)
class SegmentConfig:
    """A whole training of a segmenter.

    Raises:
        ValueError: If a field is out of range.
    """

    recipe: Annotated[str, tyro.conf.Fixed]
    """Name of the recipe that this started from."""
    data: str = "ADEChallengeData2016"
    """Folder with images and annotations, each with training and validation; classes.txt in it names its classes."""
    batch_size: int = 16
    """Crops of a step, over all processes and parts."""
    model: Annotated[SegmentModel, WITHOUT_PREFIX] = field(default_factory=SegmentModel)
    augment: Annotated[CropConfig, WITHOUT_PREFIX] = field(default_factory=CropConfig)
    inference: InferenceConfig = field(default_factory=InferenceConfig)
    optim: Annotated[OptimConfig, WITHOUT_PREFIX] = field(default_factory=OptimConfig)
    run: Annotated[RunConfig, WITHOUT_PREFIX] = field(default_factory=RunConfig)

    def __post_init__(self):
        least = 2 if self.model.head == "upernet" else 1
        if self.batch_size < least:
            why = "; the batch norms of UperNet need 2 images in each part of a batch" if least == 2 else ""
            raise ValueError(f"got batch_size={self.batch_size}; expected at least {least}{why}")
        if self.run.shard:
            raise ValueError("got shard=True; a segmenter is not shared out among processes: leave it out")

    def to_dict(self) -> dict[str, Any]:
        """Write the config as JSON can hold it."""
        plain = asdict(self)
        plain["run"]["out"] = str(self.run.out)
        return plain

    def with_run(self, **changes: Any) -> "SegmentConfig":
        """Replace fields of `run`."""
        return replace(self, run=replace(self.run, **changes))
