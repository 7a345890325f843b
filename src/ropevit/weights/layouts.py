"""How weights are spelled: a table of (ours, theirs) names for each layout. All names that are not in it are shared."""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ropevit.weights.errors import WeightsError, join_names
from ropevit.weights.reading import Checkpoint


class KeyPattern(NamedTuple):
    """One weight whose name or shape differs; "{}" stands for the number of a layer.

    Where theirs has one number fewer, all layers are stacked in one tensor, along its axis 1.
    """

    ours: str
    theirs: str
    flat: bool = False
    """Theirs has heads and pairs in one axis, the heads outer."""
    later: int = 0
    """How much higher theirs counts the first number."""


#: Weights that merge the patches of a Swin's stage.
MERGING = ("norm.weight", "norm.bias", "reduction.weight")

LAYOUTS: dict[str, tuple[KeyPattern, ...]] = {
    "ropevit": (),
    "published": (
        KeyPattern("blocks.{}.attn.rope.freqs", "freqs", flat=True),  # ViT: (2, depth, A P)
        KeyPattern("layers.{}.blocks.{}.attn.rope.freqs", "layers.{}.blocks.{}.attn.rope_freqs"),  # Swin: (2, A, P)
    ),
    "timm": (
        KeyPattern("blocks.{}.attn.rope.freqs", "rope.freqs"),
        KeyPattern("register_tokens", "reg_token"),
    ),  # (2, depth, A, P)
    "timm-swin": (  # since timm 0.9, which counts the merging of a stage to the one behind it
        KeyPattern("head.weight", "head.fc.weight"),
        KeyPattern("head.bias", "head.fc.bias"),
        *(KeyPattern(f"layers.{{}}.downsample.{name}", f"layers.{{}}.downsample.{name}", later=1) for name in MERGING),
    ),
}

#: Most layers that one tensor may hold stacked, and most digits of a layer's number.
MOST_LAYERS, DIGITS = 1000, 4

#: Entries that say nothing new: pattern -> why they are dropped.
DERIVED = {
    r"(.+\.)?(freqs|rope)_t_[xy]": "positions, made anew for every image",
    r"(.+\.)?relative_(position_index|coords_table)": "a table, made anew for every window",
    r"(.+\.)?attn_mask": "a mask, made anew for every image",
}

#: Where files keep their weights, the first that is there; and where they keep an average of them.
WRAPPERS = ("model", "state_dict", "model_state_dict", "model_state", "module", "network", "net", "student")
EMA_WRAPPERS = (
    *("model_ema", "state_dict_ema", "ema", "ema_state", "ema_state_dict", "ema_model", "model_ema_state_dict"),
    "teacher",  # of self-distillation: a moving average of the student
)
TRAINING = (
    *("optimizer", "lr_scheduler", "scheduler", "scaler", "loss_scaler", "amp_scaler", "fp16_scaler", "epoch", "args"),
    *("optimizer_state_dict", "scheduler_state_dict", "lr_scheduler_state_dict", "scaler_state_dict", "loss"),
    *("trainer", "iteration", "hooks"),  # detectron2
    *("optimizer_states", "lr_schedulers", "callbacks", "loops"),  # Lightning
    *("dino_loss", "ibot_loss"),  # self-distillation
    "n_averaged",  # torch.optim.swa_utils.AveragedModel
)

#: What wrappers put in front of all names: DistributedDataParallel, Lightning, transformers, and modules that hold one.
PREFIXES = ("module.", "model.", "backbone.", "ropevit.")

#: Most wrappers inside each other.
DEEPEST = 10


def unwrap(checkpoint: Checkpoint, ema: bool = False) -> tuple[dict[str, Any], dict[str, str]]:
    """Find the weights in a checkpoint, and name the rest.

    Args:
        checkpoint: What was read.
        ema: Take the moving average instead of the last weights.

    Returns:
        Entries without the prefixes of wrappers, and what was left out: name -> why.

    Raises:
        WeightsError: If there is no average, an entry besides the weights may hold weights, too, or the entries are
            not named by texts or hold more than what is stored of them.
    """
    entries, dropped = checkpoint.entries, {}
    if ema and not any(isinstance(entries.get(key), Mapping) for key in EMA_WRAPPERS):
        raise WeightsError(f"{checkpoint.source} holds no moving average of the weights; leave out ema=True")
    order = (*EMA_WRAPPERS, *WRAPPERS) if ema else (*WRAPPERS, *EMA_WRAPPERS)
    for _ in range(DEEPEST):
        check_names(entries, checkpoint.source)
        chosen = next((key for key in order if isinstance(entries.get(key), Mapping)), None)
        if chosen is None:
            check_stored(entries, checkpoint.source)
            return strip_prefixes(entries, checkpoint.source), dropped
        dropped |= {
            key: wrapper_reason(key, value, chosen, checkpoint.source)
            for key, value in entries.items()
            if key != chosen
        }
        entries = entries[chosen]
    raise WeightsError(f"{checkpoint.source} is wrapped more than {DEEPEST} times; give the state dict itself")


def check_names(entries: Mapping[Any, Any], source: str) -> None:
    """Refuse entries that are not named by texts."""
    odd = next((key for key in entries if not isinstance(key, str)), None)
    if odd is not None:
        raise WeightsError(f"{source} names an entry by {type(odd).__name__}; expected texts: give a state dict")


def check_stored(entries: Mapping[str, Any], source: str) -> None:
    """Refuse large tensors that repeat a few stored numbers, which would fill the memory when they are copied."""
    for key, value in entries.items():
        if type(value) not in (Tensor, nn.Parameter) or value.layout != torch.strided or value.numel() <= 2**24:
            continue
        stored = 0 if value.is_meta else value.untyped_storage().nbytes() // value.element_size()
        if stored < value.numel():
            raise WeightsError(
                f"{source} holds {key} of shape {tuple(value.shape)}, of which only {stored} numbers are stored; "
                "save it again as a contiguous tensor"
            )


def wrapper_reason(key: str, value: Any, chosen: str, source: str) -> str:
    """Say why an entry beside the chosen weights is dropped."""
    if key in EMA_WRAPPERS:
        return "the moving average; ema=True loads it"
    if key in WRAPPERS and chosen in EMA_WRAPPERS:
        return "the last weights; ema=True asked for their average"
    if key in TRAINING or not holds_tensors(value):
        return "training state"
    raise WeightsError(f"{source} holds tensors in {key!r} beside its weights; give the state dict you mean")


def holds_tensors(value: Any) -> bool:
    """Tell whether there is a tensor anywhere inside; what is in several places, or in itself, is looked at once."""
    waiting, seen = [value], set()
    while waiting:
        value = waiting.pop()
        if isinstance(value, Tensor):
            return True
        if isinstance(value, Mapping | list | tuple) and id(value) not in seen:
            seen.add(id(value))
            waiting.extend(value.values() if isinstance(value, Mapping) else value)
    return False


def strip_prefixes(entries: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Take off what wrappers put in front of all names, and torch.compile into them."""
    plain = {key.replace("_orig_mod.", ""): value for key, value in entries.items()}
    if len(plain) < len(entries):
        raise WeightsError(f"{source} holds weights both with and without the prefix _orig_mod.; keep one of them")
    while prefix := common_prefix(plain):
        plain = {key.removeprefix(prefix): value for key, value in plain.items()}
    return plain


def common_prefix(entries: Mapping[str, Any]) -> str | None:
    """Find a prefix of wrappers that all weights have."""
    own = [key for key in entries if key not in TRAINING]
    return next((prefix for prefix in PREFIXES if own and all(key.startswith(prefix) for key in own)), None)


def recognise(state: Mapping[str, Any], metadata: Mapping[str, str]) -> str:
    """Tell the layout by its names; one whose names are shared by all is called published."""
    if metadata.get("format") == "ropevit":
        return "ropevit"
    if "head.fc.weight" in state or merges_later(state):
        return "timm-swin"
    rows = [(layout, row) for layout, rows in LAYOUTS.items() for row in rows if layout != "timm-swin"]
    if any(matches(row.ours, state) for _, row in rows):
        return "ropevit"
    return next((layout for layout, row in rows if matches(row.theirs, state)), "published")


def merges_later(state: Mapping[str, Any]) -> bool:
    """Tell whether a Swin counts mergings to the stage behind them: the first has none, and the last one has."""
    stages = {int(number) for name in MERGING for (number,) in matches(f"layers.{{}}.downsample.{name}", state)}
    return bool(stages) and 0 not in stages


def matches(template: str, state: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """List the numbers of all names that a template stands for, in order."""
    pattern = re.compile(re.escape(template).replace(r"\{\}", rf"(\d{{1,{DIGITS}}})"))
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
        raise WeightsError(f"entries that are no dense floating-point tensors: {join_names(wrong)}; give weights only")
    ours = {key: value.detach() for key, value in ours.items()}
    for row in LAYOUTS[layout]:
        found = [(numbers, ours.pop(row.theirs.format(*numbers))) for numbers in matches(row.theirs, ours)]
        for numbers, tensor in found:
            ours |= split(row, earlier(row, numbers), tensor, heads)
    return ours, {key: why for key, why in reasons.items() if why}


def is_weight(value: Any) -> bool:
    """Tell a dense floating-point tensor."""
    return isinstance(value, Tensor) and value.is_floating_point() and value.layout == torch.strided


def earlier(row: KeyPattern, numbers: tuple[str, ...]) -> tuple[str, ...]:
    """Count layers as ours are counted; those that ours do not have keep their number, and are left to the checks."""
    if not row.later or int(numbers[0]) < row.later:
        return numbers
    return str(int(numbers[0]) - row.later), *numbers[1:]


def split(row: KeyPattern, numbers: tuple[str, ...], tensor: Tensor, heads: int | None) -> dict[str, Tensor]:
    """Spell one weight of theirs as ours, layer by layer if stacked; an impossible shape is left to the checks."""
    if row.flat and heads and tensor.ndim == 3 and tensor.shape[-1] % heads == 0:
        tensor = tensor.unflatten(-1, (heads, -1))
    if row.ours.count("{}") == len(numbers):
        return {row.ours.format(*numbers): tensor}
    if tensor.ndim < 2 or tensor.shape[1] > MOST_LAYERS:
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
