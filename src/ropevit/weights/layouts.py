"""How weights are spelled: a table of (ours, theirs) names for each layout. All names that are not in it are shared."""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ropevit.weights.errors import WeightsError, few
from ropevit.weights.reading import Checkpoint


class Row(NamedTuple):
    """One weight whose name or shape differs; "{}" stands for the number of a layer.

    Where theirs has one number fewer, all layers are stacked in one tensor, along its axis 1.
    """

    ours: str
    theirs: str
    flat: bool = False
    """Theirs has heads and pairs in one axis, the heads outer."""


LAYOUTS: dict[str, tuple[Row, ...]] = {
    "ropevit": (),
    "published": (
        Row("blocks.{}.attn.rope.freqs", "freqs", flat=True),  # ViT: (2, depth, A P)
        Row("layers.{}.blocks.{}.attn.rope.freqs", "layers.{}.blocks.{}.attn.rope_freqs"),  # Swin: (2, A, P)
    ),
    "timm": (Row("blocks.{}.attn.rope.freqs", "rope.freqs"), Row("register_tokens", "reg_token")),  # (2, depth, A, P)
}

#: Entries that say nothing new: pattern -> why they are dropped.
DERIVED = {
    r"(.+\.)?(freqs|rope)_t_[xy]": "positions, made anew for every image",
    r"(.+\.)?relative_(position_index|coords_table)": "a table, made anew for every window",
    r"(.+\.)?attn_mask": "a mask, made anew for every image",
}

#: Where files keep their weights, the first that is there; and where they keep an average of them.
WRAPPERS = ("model", "state_dict", "module")
EMA_WRAPPERS = ("model_ema", "state_dict_ema", "ema", "ema_state")
TRAINING = (
    *("optimizer", "lr_scheduler", "scheduler", "scaler", "loss_scaler", "amp_scaler", "epoch", "args"),
    *("trainer", "iteration", "hooks"),  # detectron2
    "n_averaged",  # torch.optim.swa_utils.AveragedModel
)


def unwrap(checkpoint: Checkpoint, ema: bool = False) -> tuple[dict[str, Any], dict[str, str]]:
    """Find the weights in a checkpoint, and name the rest.

    Args:
        checkpoint: What was read.
        ema: Take the moving average instead of the last weights.

    Returns:
        Entries without the prefixes of wrappers, and what was left out: name -> why.

    Raises:
        WeightsError: If there is no average, or an entry besides the weights may hold weights, too.
    """
    entries, dropped = checkpoint.entries, {}
    if ema and not any(isinstance(entries.get(key), Mapping) for key in EMA_WRAPPERS):
        raise WeightsError(f"{checkpoint.source} holds no moving average of the weights; leave out ema=True")
    order = (*EMA_WRAPPERS, *WRAPPERS) if ema else (*WRAPPERS, *EMA_WRAPPERS)
    while chosen := next((key for key in order if isinstance(entries.get(key), Mapping)), None):
        for key in entries:
            if key != chosen:
                dropped[key] = outer_reason(key, entries[key], checkpoint.source)
        entries = entries[chosen]
    return strip_prefixes(entries, checkpoint.source), dropped


def outer_reason(key: str, value: Any, source: str) -> str:
    """Say why an entry beside the weights is dropped."""
    if key in EMA_WRAPPERS:
        return "the moving average; ema=True loads it"
    if key in WRAPPERS:
        return "the last weights; ema=True asked for their average"
    if key in TRAINING or not holds_tensors(value):
        return "training state"
    raise WeightsError(f"{source} holds tensors in {key!r} beside its weights; give the state dict you mean")


def holds_tensors(value: Any) -> bool:
    """Tell whether there is a tensor anywhere inside."""
    if isinstance(value, Mapping):
        return any(holds_tensors(item) for item in value.values())
    if isinstance(value, list | tuple):
        return any(holds_tensors(item) for item in value)
    return isinstance(value, Tensor)


def strip_prefixes(entries: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Take off what DistributedDataParallel and torch.compile put in front of names."""
    plain = {str(key).replace("_orig_mod.", ""): value for key, value in entries.items()}
    while (own := [key for key in plain if key not in TRAINING]) and all(key.startswith("module.") for key in own):
        plain = {key.removeprefix("module."): value for key, value in plain.items()}
    if len(plain) < len(entries):
        raise WeightsError(f"{source} holds weights both with and without the prefix _orig_mod.; keep one of them")
    return plain


def recognise(state: Mapping[str, Any], metadata: Mapping[str, str]) -> str:
    """Tell the layout by its names; one whose names are shared by all is called published."""
    rows = [(layout, row) for layout, rows in LAYOUTS.items() for row in rows]
    if metadata.get("format") == "ropevit" or any(matches(row.ours, state) for _, row in rows):
        return "ropevit"
    return next((layout for layout, row in rows if matches(row.theirs, state)), "published")


def matches(template: str, state: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """List the numbers of all names that a template stands for, in order."""
    pattern = re.compile(re.escape(template).replace(r"\{\}", r"(\d+)"))
    found = [match.groups() for key in state if (match := pattern.fullmatch(key))]
    return sorted(found, key=lambda numbers: [int(number) for number in numbers])


def to_ours(state: Mapping[str, Any], layout: str, heads: int | None) -> tuple[dict[str, Any], dict[str, str]]:
    """Spell weights as our models do, bit for bit.

    Args:
        state: Entries of one layout.
        layout: Its row in LAYOUTS.
        heads: Heads of a layer, which a flat layout does not say; None where each stage has its own (Swin, never flat).

    Returns:
        Weights by our names, and what was left out: name -> why.

    Raises:
        WeightsError: If an entry is neither a weight nor a known extra.
    """
    reasons = {key: extra_reason(key) for key in state}
    ours = {key: value for key, value in state.items() if reasons[key] is None}
    wrong = [key for key, value in ours.items() if not is_weight(value)]
    if wrong:
        raise WeightsError(f"entries that are no dense floating-point tensors: {few(wrong)}; give weights only")
    ours = {key: value.detach() for key, value in ours.items()}
    for row in LAYOUTS[layout]:
        for numbers in matches(row.theirs, ours):
            ours |= split(row, numbers, ours.pop(row.theirs.format(*numbers)), heads)
    return ours, {key: why for key, why in reasons.items() if why}


def is_weight(value: Any) -> bool:
    """Tell a dense floating-point tensor."""
    return isinstance(value, Tensor) and value.is_floating_point() and value.layout == torch.strided


def split(row: Row, numbers: tuple[str, ...], tensor: Tensor, heads: int | None) -> dict[str, Tensor]:
    """Spell one weight of theirs as ours, layer by layer if stacked; an impossible shape is left to the checks."""
    if row.flat and heads and tensor.ndim == 3 and tensor.shape[-1] % heads == 0:
        tensor = tensor.unflatten(-1, (heads, -1))
    if row.ours.count("{}") == len(numbers):
        return {row.ours.format(*numbers): tensor}
    if tensor.ndim < 2:
        return {row.theirs: tensor}
    return {row.ours.format(*numbers, layer): part for layer, part in enumerate(tensor.unbind(1))}


def extra_reason(key: str) -> str | None:
    """Say why an entry among the weights is dropped, or None where it is a weight."""
    if key in TRAINING:
        return "training state"
    return next((why for pattern, why in DERIVED.items() if re.fullmatch(pattern, key)), None)


def from_ours(state: Mapping[str, Tensor], layout: str) -> dict[str, Tensor]:
    """Spell weights of ours as another layout does, bit for bit; without its derived tables."""
    theirs = dict(state)
    for row in LAYOUTS[layout]:
        found = [(numbers, theirs.pop(row.ours.format(*numbers))) for numbers in matches(row.ours, theirs)]
        if not found:
            continue
        if row.ours.count("{}") == row.theirs.count("{}"):
            theirs |= {row.theirs.format(*numbers): tensor for numbers, tensor in found}
            continue
        stacked = torch.stack([tensor for _, tensor in found], dim=1)
        theirs[row.theirs] = stacked.flatten(-2) if row.flat else stacked
    return theirs
