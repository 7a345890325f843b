"""Preprocessing (mean, standard deviation, crop ratio) of weights whose config does not determine it."""

from typing import Any

from ropevit.models.architectures import Config
from ropevit.models.preprocessing import preprocessing_of
from ropevit.weights.metadata import stored_metadata
from ropevit.weights.parse import ParsedCheckpoint


def preprocessing_of_weights(config: Config, parsed: ParsedCheckpoint) -> dict[str, Any]:
    """Return mean, std and crop as `save_model` takes them for metadata; empty where the config determines them.

    Only the families of docs/pretrained.md have them: a ropevit file in its metadata, any other one by its name or hub
    id.

    Args:
        config: Config of the model.
        parsed: Its weights.

    Raises:
        WeightsError: If the metadata of a ropevit file cannot be read.
    """
    if not config.is_other_family:
        return {}
    if parsed.config is not None:
        stored = stored_metadata(parsed.header, parsed.source)
        return {key: stored[key] for key in ("mean", "std", "crop") if stored.get(key) is not None}
    found = preprocessing_of(config, parsed.source)
    if found == preprocessing_of(config):
        return {}
    return {"mean": found.mean, "std": found.std, "crop": found.crop or config.crop_pct}
