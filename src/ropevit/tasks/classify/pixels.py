"""Mean and standard deviation of the pixels of a training."""

from pathlib import Path

from ropevit.data.imagenet import MEAN, STD
from ropevit.models.config import Preprocessing
from ropevit.models.preprocessing import preprocessing_of
from ropevit.tasks.classify.config import ClassifierConfig
from ropevit.tasks.classify.eval_model import pixel_statistics
from ropevit.weights.metadata import FORMAT, stored_metadata
from ropevit.weights.reading import read_checkpoint


def pixels_of(model: ClassifierConfig) -> dict[str, tuple[float, ...]]:
    """Return mean and std with which a model is trained.

    A model of the families of docs/pretrained.md has those of its initial weights: of the file of ours that holds them,
    or of its family. All others have ImageNet's.
    """
    init, body = model.init or "", model.build(num_classes=2)
    family = preprocessing_of(body, init)
    if family != Preprocessing() and Path(init).suffix == ".safetensors" and Path(init).expanduser().is_file():
        header = read_checkpoint(init).metadata
        if header.get("format") == FORMAT:
            return pixel_statistics(stored_metadata(header, init), body.in_channels, init, family)
    return {"mean": family.mean or MEAN, "std": family.std or STD}
