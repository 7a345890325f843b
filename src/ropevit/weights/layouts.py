"""Renames and reshapes weights between layouts, by the key patterns of their architecture."""

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ropevit.models.architectures import ARCHITECTURES, Config, architecture
from ropevit.models.state_dict import JoinedPattern, KeyMapping, KeyPattern, SplitPattern, ZeroPattern, match_keys
from ropevit.text import join_names
from ropevit.weights.errors import WeightsError
from ropevit.weights.parse import TRAINING

#: Maximum number of layers stacked in one tensor.
_MOST_LAYERS = 1000


def to_ours(state: Mapping[str, Any], layout: str, config: Config) -> tuple[dict[str, Any], dict[str, str]]:
    """Convert weights to the ropevit layout, bit for bit.

    Args:
        state: Entries of one layout.
        layout: Its name.
        config: Config of the target model; a flat layout does not store the number of heads.

    Returns:
        Weights in the ropevit layout, and dropped entries: name -> reason.

    Raises:
        WeightsError: If an entry is neither a weight nor a known extra.
    """
    reasons = {key: _extra_reason(key) for key in state}
    ours = {key: value for key, value in state.items() if reasons[key] is None}
    wrong = [key for key, value in ours.items() if not _is_weight(value)]
    if wrong:
        raise WeightsError(
            f"entries that are not dense floating-point tensors: {join_names(wrong)}; remove them from the state dict"
        )
    ours = {key: value.detach() for key, value in ours.items()}
    heads = config.heads if isinstance(config.heads, int) else None
    for row in _mappings_of(config, layout):
        if isinstance(row, JoinedPattern):
            _join(row, ours)
            continue
        if isinstance(row, SplitPattern):
            _split(row, ours)
            continue
        if isinstance(row, ZeroPattern):
            _add_zeros(row, ours)
            continue
        found = [(numbers, ours.pop(row.theirs.format(*numbers))) for numbers in match_keys(row.theirs, ours)]
        for numbers, tensor in found:
            ours |= _convert(row, _shift_index(row, numbers), tensor, heads)
    if layout != "ropevit":
        ours = _reordered(ours, layout, config, back=False)
    return ours, {key: why for key, why in reasons.items() if why}


def _reordered(state: Mapping[str, Tensor], layout: str, config: Config, *, back: bool) -> dict[str, Tensor]:
    """Reorder the channels of queries and keys between another layout and ours, where they differ.

    Raises:
        WeightsError: If the names are ambiguous: the weights may have the order of the layout or ours.
    """
    adapter = ARCHITECTURES[architecture(config)].weights
    if adapter.reorder is None or not adapter.permutes_channels(config):
        return dict(state)
    if layout == "published":
        raise WeightsError(
            "names that several layouts share, which do not determine the order of the channels of queries and keys; "
            "give a file of save_model, or weights under the names of the model's authors, timm or transformers"
        )
    return {name: adapter.reorder(name, tensor, config, back) for name, tensor in state.items()}


def _join(row: JoinedPattern, state: dict[str, Tensor]) -> None:
    """Join the parts of weights in place; incomplete ones, or those of impossible shapes, are left to later checks."""
    stored = [part for part in row.theirs if part is not None]
    for numbers in match_keys(stored[0], state):
        keys = [part.format(*numbers) for part in stored]
        parts = {part: state[key] for part, key in zip(stored, keys, strict=True) if key in state}
        if len(parts) < len(stored) or len({part.shape for part in parts.values()}) > 1:
            continue
        zeros = torch.zeros_like(parts[stored[0]])
        joined = torch.cat([zeros if part is None else parts[part] for part in row.theirs])
        for key in keys:
            del state[key]
        state[row.ours.format(*numbers)] = joined


def _split(row: SplitPattern, state: dict[str, Tensor]) -> None:
    """Divide one weight into our two, in place; one of an impossible shape is left to later checks."""
    whole = state.get(row.theirs)
    whole = whole if whole is None or not row.squeezed else whole[None]
    if whole is not None and whole.ndim > row.axis and whole.shape[row.axis] > row.split_at:
        del state[row.theirs]
        state |= dict(zip(row.ours, whole.tensor_split([row.split_at], dim=row.axis), strict=True))


def _unsplit(row: SplitPattern, state: dict[str, Tensor]) -> None:
    """Join two ropevit weights to one of another layout, in place."""
    if all(name in state for name in row.ours):
        whole = torch.cat([state.pop(name) for name in row.ours], dim=row.axis)
        state[row.theirs] = whole[0] if row.squeezed else whole


def _add_zeros(row: ZeroPattern, state: dict[str, Tensor]) -> None:
    """Add a bias of zeros, in place, beside its weight."""
    if row.beside in state and row.ours not in state:
        state[row.ours] = state[row.beside].new_zeros(state[row.beside].shape[0])


def _drop_zeros(row: ZeroPattern, layout: str, state: dict[str, Tensor]) -> None:
    """Remove a bias of zeros, in place.

    Raises:
        WeightsError: If it is not zero.
    """
    if row.ours in state and state.pop(row.ours).any():
        raise WeightsError(
            f"a {row.ours} other than 0, which the {layout} layout cannot store; keep the ropevit layout"
        )


def _separate(row: JoinedPattern, state: dict[str, Tensor]) -> None:
    """Divide joined weights into the parts of another layout, in place."""
    for numbers in match_keys(row.ours, state):
        parts = state.pop(row.ours.format(*numbers)).chunk(len(row.theirs))
        named = zip(row.theirs, parts, strict=True)
        state |= {key.format(*numbers): part for key, part in named if key is not None}


def _mappings_of(config: Config, layout: str) -> tuple[KeyMapping, ...]:
    """Return the key patterns in which a layout of an architecture differs."""
    adapter = ARCHITECTURES[architecture(config)].weights
    return adapter.layouts.get(layout, ()) if adapter.key_mappings is None else adapter.key_mappings(config, layout)


def _is_weight(value: object) -> bool:
    """Return whether a value is a dense floating-point tensor."""
    return isinstance(value, Tensor) and value.is_floating_point() and value.layout == torch.strided


def _shift_index(row: KeyPattern, numbers: tuple[str, ...]) -> tuple[str, ...]:
    """Shift the layer index to the ropevit layout; others are kept for later checks to reject."""
    if not row.index_offset or int(numbers[0]) < row.index_offset:
        return numbers
    return str(int(numbers[0]) - row.index_offset), *numbers[1:]


def _convert(row: KeyPattern, numbers: tuple[str, ...], tensor: Tensor, heads: int | None) -> dict[str, Tensor]:
    """Convert one weight, layer by layer if stacked; an impossible shape is left to later checks."""
    if row.flat and heads and tensor.ndim == 3 and tensor.shape[-1] % heads == 0:
        tensor = tensor.unflatten(-1, (heads, -1))
    if row.unsqueezed and tensor.ndim and tensor.shape[0] == 1:
        tensor = tensor[0]
    tensor = tensor[(None,) * row.squeezed]
    tensor = tensor.T if row.transposed and tensor.ndim == 2 else tensor
    if row.ours.count("{}") == len(numbers):
        return {row.ours.format(*numbers): tensor}
    if tensor.ndim < 2 or tensor.shape[1] > _MOST_LAYERS:
        return {row.theirs: tensor}
    return {row.ours.format(*numbers, layer): part for layer, part in enumerate(tensor.unbind(1))}


def _convert_back(row: KeyPattern, tensor: Tensor) -> Tensor:
    """Convert one weight to the shape of another layout."""
    tensor = tensor.T if row.transposed else tensor
    return tensor[None] if row.unsqueezed else tensor[(0,) * row.squeezed]


def _extra_reason(key: str) -> str | None:
    """Return the reason for dropping an entry, or None if it is a weight."""
    if key in TRAINING:
        return "training state"
    derived = [row.weights.derived for row in ARCHITECTURES.values()]
    return next((why for table in derived for pattern, why in table.items() if re.fullmatch(pattern, key)), None)


def from_ours(state: Mapping[str, Tensor], layout: str, config: Config) -> dict[str, Tensor]:
    """Convert weights from the ropevit layout to another, bit for bit; without its derived tables and prefix.

    Raises:
        WeightsError: If the layout cannot store a weight.
    """
    theirs = dict(state) if layout == "ropevit" else _reordered(state, layout, config, back=True)
    for row in _mappings_of(config, layout):
        if isinstance(row, JoinedPattern):
            _separate(row, theirs)
        elif isinstance(row, SplitPattern):
            _unsplit(row, theirs)
        elif isinstance(row, ZeroPattern):
            _drop_zeros(row, layout, theirs)
        else:
            _rename_back(row, theirs)
    return theirs


def _rename_back(row: KeyPattern, state: dict[str, Tensor]) -> None:
    """Rename and reshape ropevit weights to those of another layout, in place; stacked ones are joined."""
    found = [(numbers, state.pop(row.ours.format(*numbers))) for numbers in match_keys(row.ours, state)]
    if not found:
        return
    if row.ours.count("{}") == row.theirs.count("{}"):
        state |= {row.theirs.format(*numbers): _convert_back(row, tensor) for numbers, tensor in found}
        return
    stacked = torch.stack([tensor for _, tensor in found], dim=1)
    state[row.theirs] = stacked.flatten(-2) if row.flat else stacked
