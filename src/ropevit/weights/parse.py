"""Parse a checkpoint: find its weights among what training scripts keep, tell their layout, and what their model is."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ropevit.models.architectures import ARCHITECTURES, Config, build_model
from ropevit.models.state_dict import InferredModel, KeyPattern, match_keys
from ropevit.weights.described import build_without_memory, check_size_of_model
from ropevit.weights.errors import WeightsError
from ropevit.weights.infer import infer_model
from ropevit.weights.metadata import FORMAT, stored_config
from ropevit.weights.reading import Checkpoint

#: Where files keep their weights, the first that is there; and where they keep an average of them.
WRAPPERS = ("model", "state_dict", "model_state_dict", "model_state", "module", "network", "net", "student")
_EMA_WRAPPERS = (
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
_PREFIXES = ("module.", "model.", "backbone.", "ropevit.")

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
    if ema and not any(isinstance(entries.get(key), Mapping) for key in _EMA_WRAPPERS):
        raise WeightsError(f"{checkpoint.source} holds no moving average of the weights; leave out ema=True")
    order = (*_EMA_WRAPPERS, *WRAPPERS) if ema else (*WRAPPERS, *_EMA_WRAPPERS)
    for _ in range(DEEPEST):
        _check_names(entries, checkpoint.source)
        chosen = next((key for key in order if isinstance(entries.get(key), Mapping)), None)
        if chosen is None:
            _check_stored(entries, checkpoint.source)
            return _strip_prefixes(entries, checkpoint.source), dropped
        dropped |= {
            key: _wrapper_reason(key, value, chosen, checkpoint.source)
            for key, value in entries.items()
            if key != chosen
        }
        entries = entries[chosen]
    raise WeightsError(f"{checkpoint.source} is wrapped more than {DEEPEST} times; give the state dict itself")


def _check_names(entries: Mapping[Any, Any], source: str) -> None:
    """Refuse entries that are not named by texts."""
    odd = next((key for key in entries if not isinstance(key, str)), None)
    if odd is not None:
        raise WeightsError(f"{source} names an entry by {type(odd).__name__}; expected texts: give a state dict")


def _check_stored(entries: Mapping[str, Any], source: str) -> None:
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


def _wrapper_reason(key: str, value: Any, chosen: str, source: str) -> str:
    """Say why an entry beside the chosen weights is dropped."""
    if key in _EMA_WRAPPERS:
        return "the moving average; ema=True loads it"
    if key in WRAPPERS and chosen in _EMA_WRAPPERS:
        return "the last weights; ema=True asked for their average"
    if key in TRAINING or not _holds_tensors(value):
        return "training state"
    raise WeightsError(f"{source} holds tensors in {key!r} beside its weights; give the state dict you mean")


def _holds_tensors(value: Any) -> bool:
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


def _strip_prefixes(entries: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Take off what wrappers put in front of all names, and torch.compile into them."""
    plain = {key.replace("_orig_mod.", ""): value for key, value in entries.items()}
    if len(plain) < len(entries):
        raise WeightsError(f"{source} holds weights both with and without the prefix _orig_mod.; keep one of them")
    while prefix := _common_prefix(plain):
        plain = {key.removeprefix(prefix): value for key, value in plain.items()}
    return plain


def _common_prefix(entries: Mapping[str, Any]) -> str | None:
    """Find a prefix of wrappers that all weights have."""
    own = [key for key in entries if key not in TRAINING]
    return next((prefix for prefix in _PREFIXES if own and all(key.startswith(prefix) for key in own)), None)


@dataclass(frozen=True)
class ParsedCheckpoint:
    """Weights by the names of their layout, and what is known about their model."""

    source: str
    state: dict[str, Any]
    dropped: dict[str, str]
    layout: str
    config: Config | None
    """The model's config, in files of ours."""
    facts: InferredModel | None

    @property
    def num_classes(self) -> int | None:
        """Classes of its head; 0 without one, None where it is no model of ours."""
        return None if self.facts is None else self.facts.fields["num_classes"]

    @property
    def is_video(self) -> bool:
        """Whether its patches are tubelets."""
        return self.facts is not None and "tubelet" in self.facts.fields


def parse_checkpoint(checkpoint: Checkpoint, ema: bool = False) -> ParsedCheckpoint:
    """Find weights, layout and config in a checkpoint.

    Raises:
        WeightsError: As `unwrap` and `stored_config`.
    """
    state, dropped = unwrap(checkpoint, ema)
    own = checkpoint.metadata.get("format") == FORMAT
    facts = infer_model(state)
    layout = "ropevit" if own else _recognise(state, facts)
    config = _described_config(checkpoint, state, facts) if own else None
    return ParsedCheckpoint(checkpoint.source, state, dropped, layout, config, facts)


def _described_config(checkpoint: Checkpoint, state: Mapping[str, Any], facts: InferredModel | None) -> Config:
    """Read the config in a file of ours, and make sure that its weights are those of such a model.

    Raises:
        WeightsError: If they are not, or the config cannot be read.
    """
    config = stored_config(checkpoint.metadata, facts, checkpoint.source)
    like = build_without_memory(lambda: build_model(config), len(state), checkpoint.source)
    check_size_of_model(like.state_dict(), state, checkpoint.source)
    return config


def _recognise(state: Mapping[str, Any], facts: InferredModel | None) -> str:
    """Return the name of the layout of weights; published where they look the same in all."""
    if facts is None:
        return "published"
    adapter = ARCHITECTURES[facts.architecture].weights
    for layout, rows in adapter.layouts.items():
        if any(_spelled_so(row, state) for row in rows):
            return layout
    return "ropevit" if any(match_keys(key, state) for key in adapter.own_keys) else "published"


def _spelled_so(row: KeyPattern, state: Mapping[str, Any]) -> bool:
    """Tell whether a weight has the name of another layout, and none has ours for it."""
    found = match_keys(row.theirs, state)
    if row.later:  # the same names: the first layer has no such weight, and a later one has
        return bool(found) and min(int(numbers[0]) for numbers in found) >= row.later
    return bool(found) and not match_keys(row.ours, state)
