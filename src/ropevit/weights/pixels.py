"""Mean and standard deviation of the pixels, and crop ratio, that weights need and the config of their model hides."""

from typing import Any

from ropevit.models.architectures import Config
from ropevit.models.preprocessing import preprocessing_of
from ropevit.weights.metadata import stored_metadata
from ropevit.weights.parse import ParsedCheckpoint


def pixels_of_weights(config: Config, parsed: ParsedCheckpoint) -> dict[str, Any]:
    """Return mean, std and crop as `save_model` takes them for metadata; empty where the config alone determines them.

    Only the families of docs/pretrained.md have them. A ropevit file has them in its metadata, any other one by its
    name or hub id.

    Args:
        config: Config of the model.
        parsed: Its weights.

    Raises:
        WeightsError: If the metadata of a ropevit file cannot be read.
    """
    if not config.is_foreign:
        return {}
    if parsed.config is not None:
        stored = stored_metadata(parsed.header, parsed.source)
        return {key: stored[key] for key in ("mean", "std", "crop") if stored.get(key) is not None}
    told = preprocessing_of(config, parsed.source)
    return (
        {}
        if told == preprocessing_of(config)
        else {"mean": told.mean, "std": told.std, "crop": told.crop or config.crop_pct}
    )
