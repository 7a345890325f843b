"""Loads weights of any layout into a model, strictly: all of them or none."""

from collections.abc import Mapping
from typing import TypeVar

import torch
from torch import Tensor, nn

from ropevit.models.architectures import Model
from ropevit.models.base import BaseModel
from ropevit.text import join_names
from ropevit.weights.errors import WeightsError
from ropevit.weights.match import LoadReport, check_implied, match_state_dict
from ropevit.weights.parse import ParsedCheckpoint, parse_checkpoint
from ropevit.weights.preprocessing import preprocessing_of_weights
from ropevit.weights.reading import Source, read_checkpoint

Wanted = TypeVar("Wanted", bound=nn.Module)


def load_weights(
    model: nn.Module,
    source: Source,
    *,
    replace_head: bool = False,
    ema: bool = False,
    grid: tuple[int, int] | None = None,
    revision: str | None = None,
) -> LoadReport:
    """Load weights into a model strictly: all of them, or none if any is missing, unknown, mismatched or not finite.

    The layout (published, timm's or ours) is recognized by the names of the weights. Derived tables, training state,
    EMA weights and an absolute embedding that the model does not have are dropped and listed. An absolute embedding of
    another grid and biases of another window are resized as in the reference (bicubic, not antialiased).

    Args:
        model: A model of this package, also compiled or wrapped for distributed training.
        source: Path (.safetensors .pth .pt .bin), hub id, published model name, or state dict. Fixed frequencies are
            not stored with weights: a state dict is assumed to have the model's, a file without a config the
            published ones.
        replace_head: Keep the model's own head instead of loading the file's.
        ema: Load the EMA weights that a training script stored beside the weights.
        grid: Rows and columns of the source's absolute embedding; None takes those in the file's config, or a square.
        revision: Branch, tag or commit on the hub.

    Returns:
        The loaded, dropped and resized weights.

    Raises:
        WeightsError: If the source cannot be read or does not match the model; the model is then unchanged.
    """
    parsed = parse_checkpoint(read_checkpoint(source, revision), ema)
    return load_parsed(unwrap_model(model), parsed, replace_head, grid)


def unwrap_model(
    model: nn.Module, wanted: type[Wanted] = BaseModel, name: str = "model of ropevit.create_model"
) -> Wanted:
    """Return the model inside torch.compile and DistributedDataParallel.

    Args:
        model: The model, or a wrapper of it.
        wanted: Its class.
        name: Name of such a model in the message.

    Raises:
        WeightsError: If it contains no such model.
    """
    inner = model
    while not isinstance(inner, wanted):
        inner = getattr(inner, "_orig_mod", None) or getattr(inner, "module", None)
        if not isinstance(inner, nn.Module):
            raise WeightsError(f"got {type(model).__name__}; expected a {name}")
    return inner


def load_parsed(
    model: Model, parsed: ParsedCheckpoint, replace_head: bool, grid: tuple[int, int] | None = None
) -> LoadReport:
    """Match a parsed checkpoint with a model, and load it."""
    check_implied(model.config, parsed)
    state, report = match_state_dict(model, parsed, replace_head, grid)
    preprocessing = preprocessing_of_weights(model.config, parsed)
    load_all_or_nothing(model, state, parsed.source)
    model.preprocessing = preprocessing
    return report


def load_all_or_nothing(model: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Load matched weights, all or none, in the model's dtypes.

    Raises:
        WeightsError: If they are not finite, or the model is on the meta device.
    """
    if any(parameter.is_meta for parameter in model.parameters()):
        raise WeightsError(
            "got a model on the meta device, which holds no weights; call model.to_empty(device=...) first"
        )
    own = model.state_dict()
    state = {name: tensor.to(own[name].dtype) for name, tensor in state.items()}
    check_finite(state, source)
    model.load_state_dict({**own, **state})


def check_finite(state: Mapping[str, Tensor], source: str) -> None:
    """Raise WeightsError for weights that are NaN, infinite, or overflow the model's dtype."""
    bad = [name for name, value in state.items() if value.is_meta or not torch.isfinite(value).all()]
    if bad:
        raise WeightsError(
            f"{source} holds NaN or infinity in {join_names(bad)}; take a checkpoint from before it diverged"
        )
