"""Mean and standard deviation with which the images of a training are normalized."""

from pathlib import Path

from ropevit.data.imagenet import MEAN, STD
from ropevit.models.architectures import Config
from ropevit.models.preprocessing import preprocessing_of
from ropevit.models.registry import PUBLISHED
from ropevit.tasks.classify.config import ClassifierConfig
from ropevit.tasks.classify.eval_model import pixel_statistics
from ropevit.tasks.registry import TASKS
from ropevit.weights.metadata import stored_metadata
from ropevit.weights.reading import named_repository, read_checkpoint


def training_mean_std(model: ClassifierConfig) -> dict[str, tuple[float, ...]]:
    """Return mean and std with which a classifier is trained."""
    return initial_mean_std(model.build(num_classes=2), model.init or "")


def initial_mean_std(body: Config, init: str) -> dict[str, tuple[float, ...]]:
    """Return mean and std with which a classifier, or a model on its backbone, is trained.

    A model of the families of docs/pretrained.md has those of its initial weights: of the ropevit file that holds them,
    or of its family. All others have ImageNet's.

    Args:
        body: Config of the classifier.
        init: Its initial weights: a file, the name of a published model, or a hub id; empty for none.
    """
    family = preprocessing_of(body, init)
    if body.is_other_family and _is_held(init):
        header = read_checkpoint(init).metadata
        if header.get("format") in {name for task in TASKS.values() for name in task.formats}:
            return pixel_statistics(stored_metadata(header, init), body.in_channels, init, family)
    return {"mean": family.mean or MEAN, "std": family.std or STD}


def _is_held(init: str) -> bool:
    """Return whether initial weights are a file or folder, or a repository on the hub that is none of the published."""
    if not init or init in PUBLISHED or init in PUBLISHED.values():
        return False
    path = Path(init).expanduser()
    if path.exists():
        return path.is_dir() or path.suffix == ".safetensors"
    return named_repository(init) is not None
