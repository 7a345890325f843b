"""Where timm's description of a model says its weights are, and how they get into it."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from ropevit.extras import require
from ropevit.models.architectures import Model
from ropevit.models.config import as_pair
from ropevit.models.registry import MODELS, PUBLISHED
from ropevit.weights.errors import WeightsError
from ropevit.weights.hub import ANY_FILES, fetch, hub_id
from ropevit.weights.infer import infer_model
from ropevit.weights.loading import load_parsed
from ropevit.weights.parse import ParsedCheckpoint, parse_checkpoint
from ropevit.weights.reading import Checkpoint, read_checkpoint

timm_models = require("timm.models", "train")
log = logging.getLogger(__name__)

#: timm's tag for what the authors of the paper trained on ImageNet-1k.
TAG = "naver_in1k"

#: The convolution that timm adapts to other channels of the images.
FIRST = "patch_embed.proj"

#: Fields of timm's description that would change what is loaded, and what to do instead.
_UNREAD = {
    "url": "download it, and give its path as file",
    "hf_hub_filename": f"a repository holds {' or '.join(ANY_FILES)}; download another file, and give its path as file",
    "label_offset": "take the head's first rows off in the file",
}


def describe(name: str) -> dict[str, Any]:
    """Describe a model of the registry as timm does; mean and spread of the pixels are timm's default, ImageNet's.

    Source: evaluation of the reference: shorter side to the test size for a ViT, to 256/224 of it for a Swin, bicubic.
    """
    published = name in PUBLISHED
    return {
        "hf_hub_id": hub_id(name) if published else None,
        "license": "bsd-3-clause" if published else None,  # of the weights, as their cards on the hub say
        "input_size": (3, 224, 224),
        "interpolation": "bicubic",
        "crop_pct": MODELS[name].crop_pct,
        "num_classes": MODELS[name].num_classes,
        "first_conv": FIRST,
        "classifier": "head",
        "paper_name": "Rotary Position Embedding for Vision Transformer",
        "paper_ids": "arXiv:2403.13298",
        "origin_url": "https://github.com/naver-ai/rope-vit",
    }


def read_source(name: str, cfg: Any, cache_dir: str | Path | None) -> Checkpoint:
    """Read the weights to which timm's description of a model leads, in timm's order of preference.

    Args:
        name: A name of the registry.
        cfg: timm's `PretrainedCfg`.
        cache_dir: Where to keep what comes from the hub.

    Raises:
        ValueError: If the description asks for something that is not read here.
        WeightsError: If there are no such weights, or they cannot be read.
    """
    for field, advice in _UNREAD.items():
        if getattr(cfg, field):
            raise ValueError(f"got {field}={getattr(cfg, field)!r} in pretrained_cfg, which is not read here; {advice}")
    if cfg.source == "local-dir":
        return read_checkpoint(_file_in(Path(cfg.file)))
    if cfg.source != "hf-hub" and (cfg.state_dict or cfg.file):
        return read_checkpoint(cfg.state_dict or Path(cfg.file))
    repo, _, revision = (cfg.hf_hub_id or hub_id(name)).partition("@")
    return replace(read_checkpoint(fetch(repo, revision or None, cache_dir)), source=repo)


def _file_in(folder: Path) -> Path:
    """Find the weights in a folder that timm's `save_for_hf` wrote."""
    found = next((folder / file for file in ANY_FILES if (folder / file).exists()), None)
    if found is None:
        raise WeightsError(f"{folder} holds no {' or '.join(ANY_FILES)}; give a folder that save_for_hf wrote")
    return found


def load_pretrained(
    model: Model, checkpoint: Checkpoint, num_classes: int | None, img_size: int | Sequence[int] | None
) -> None:
    """Load weights as `ropevit.create_model` does, strictly, and adapt them to the channels of the images as timm does.

    Args:
        model: Where to.
        checkpoint: What was read.
        num_classes: Classes that the caller asked for: where the file has another number, the head stays new. Below 0,
            it stays new in any case; None asks for the file's.
        img_size: Image size for which an absolute embedding in the file is; None takes what a file of ours says, or a
            square.

    Raises:
        WeightsError: If they do not fit.
    """
    found = _adapt_channels(parse_checkpoint(checkpoint), model.config.in_channels)
    new_head = num_classes is not None and (num_classes < 0 or found.num_classes not in (None, num_classes))
    grid = None if img_size is None else replace(model.config, img_size=as_pair(img_size)).grid
    log.info("%s", load_parsed(model, found, new_head, grid))


def _adapt_channels(found: ParsedCheckpoint, channels: int) -> ParsedCheckpoint:
    """Turn the first convolution of colour images into one for other channels: their sum, or repeated and scaled."""
    kernel = found.state.get(f"{FIRST}.weight")
    if not isinstance(kernel, Tensor) or kernel.ndim != 4 or kernel.shape[1] == channels:
        return found
    if kernel.shape[1] != 3:
        raise WeightsError(
            f"{found.source} is for images of {kernel.shape[1]} channels, the model for {channels}; only those for 3 "
            f"can be adapted: pass in_chans={kernel.shape[1]}"
        )
    state = found.state | {f"{FIRST}.weight": timm_models.adapt_input_conv(channels, kernel)}
    config = None if found.config is None else replace(found.config, in_channels=channels)
    return replace(found, state=state, facts=infer_model(state), config=config)
