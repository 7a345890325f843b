"""Loads the weights to which a model's `PretrainedCfg` of timm points."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from ropevit.extras import require
from ropevit.models.architectures import Model
from ropevit.models.config import as_pair
from ropevit.models.registry import MODELS, PUBLISHED, weights_license
from ropevit.models.swin import SwinConfig
from ropevit.weights.errors import WeightsError
from ropevit.weights.hub import ANY_FILES, fetch, hub_id
from ropevit.weights.infer import infer_model
from ropevit.weights.loading import load_parsed
from ropevit.weights.parse import ParsedCheckpoint, parse_checkpoint
from ropevit.weights.reading import Checkpoint, read_checkpoint

timm_models = require("timm.models", "train")
log = logging.getLogger(__name__)

#: Pretrained tag, in timm's sense, of the weights that the paper's authors trained on ImageNet-1k.
TAG = "naver_in1k"

#: The convolution that is adapted to other numbers of image channels.
FIRST_CONV = "patch_embed.proj"

#: Unsupported fields of a `PretrainedCfg` that would change what is loaded -> what to do instead.
_UNSUPPORTED = {
    "url": "download it, and give its path as file",
    "hf_hub_filename": f"a repository holds {' or '.join(ANY_FILES)}; download another file, and give its path as file",
    "label_offset": "remove the head's first rows from the file",
}


def default_cfg(name: str) -> dict[str, Any]:
    """Return timm's `PretrainedCfg` fields of a registered model; mean and std are timm's default, ImageNet's.

    Source: evaluation of the reference: shorter side to the test size for a ViT, to 256/224 of it for a Swin, bicubic.
    """
    published, config = name in PUBLISHED, MODELS[name]
    return {
        "hf_hub_id": hub_id(name) if published else None,
        "license": weights_license(name),
        "input_size": (3, 224, 224),
        "pool_size": (224 // config.stride,) * 2 if isinstance(config, SwinConfig) else None,
        "interpolation": "bicubic",
        "crop_pct": config.crop_pct,
        "num_classes": config.num_classes,
        "first_conv": FIRST_CONV,
        "classifier": "head",
        "paper_name": "Rotary Position Embedding for Vision Transformer",
        "paper_ids": "arXiv:2403.13298",
        "origin_url": "https://github.com/naver-ai/rope-vit",
    }


def read_source(name: str, cfg: Any, cache_dir: str | Path | None) -> Checkpoint:
    """Read the checkpoint to which a `PretrainedCfg` points, with timm's precedence of sources.

    Args:
        name: A name of the registry.
        cfg: timm's `PretrainedCfg`.
        cache_dir: Cache folder for downloads from the hub; None takes the hub's own.

    Raises:
        ValueError: If an unsupported field is set.
        WeightsError: If there are no such weights, or they cannot be read.
    """
    for field, advice in _UNSUPPORTED.items():
        if getattr(cfg, field):
            raise ValueError(f"got {field}={getattr(cfg, field)!r} in pretrained_cfg, which is not supported; {advice}")
    if cfg.source == "local-dir":
        return read_checkpoint(_file_in(Path(cfg.file)))
    if cfg.source != "hf-hub" and (cfg.state_dict or cfg.file):
        return read_checkpoint(cfg.state_dict or Path(cfg.file))
    repo, _, revision = (cfg.hf_hub_id or hub_id(name)).partition("@")
    return replace(read_checkpoint(fetch(repo, revision or None, cache_dir)), source=repo)


def _file_in(folder: Path) -> Path:
    """Return the path of the weights in a folder that timm's `save_for_hf` wrote."""
    found = next((folder / file for file in ANY_FILES if (folder / file).exists()), None)
    if found is None:
        raise WeightsError(f"{folder} holds no {' or '.join(ANY_FILES)}; give a folder that save_for_hf wrote")
    return found


def load_pretrained(
    model: Model, checkpoint: Checkpoint, num_classes: int | None, img_size: int | Sequence[int] | None
) -> None:
    """Load weights strictly, as `ropevit.create_model` does, after adapting the first convolution as timm does.

    Args:
        model: The model.
        checkpoint: The checkpoint, as read.
        num_classes: Requested number of classes. If the file has another number, or this is negative, the head stays
            newly initialized; None takes the file's head.
        img_size: Image size of the file's absolute embedding; None takes that in a ropevit file, or assumes a square.

    Raises:
        WeightsError: If the weights do not match the model.
    """
    parsed = _adapt_channels(parse_checkpoint(checkpoint), model.config.in_channels)
    new_head = num_classes is not None and (num_classes < 0 or parsed.num_classes not in (None, num_classes))
    grid = None if img_size is None else replace(model.config, img_size=as_pair(img_size)).grid
    log.info("%s", load_parsed(model, parsed, new_head, grid))


def _adapt_channels(parsed: ParsedCheckpoint, channels: int) -> ParsedCheckpoint:
    """Adapt a first convolution of 3 input channels to another number: sum them, or repeat and scale them."""
    kernel = parsed.state.get(f"{FIRST_CONV}.weight")
    if not isinstance(kernel, Tensor) or kernel.ndim != 4 or kernel.shape[1] == channels:
        return parsed
    if kernel.shape[1] != 3:
        raise WeightsError(
            f"{parsed.source} is for images of {kernel.shape[1]} channels, the model for {channels}; only weights for "
            f"3 channels can be adapted: pass in_chans={kernel.shape[1]}"
        )
    state = parsed.state | {f"{FIRST_CONV}.weight": timm_models.adapt_input_conv(channels, kernel)}
    config = None if parsed.config is None else replace(parsed.config, in_channels=channels)
    return replace(parsed, state=state, inferred=infer_model(state), config=config)
