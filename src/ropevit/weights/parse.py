"""Parses a checkpoint: finds the weights among other entries, their layout, and the config of their model."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ropevit.models.architectures import ARCHITECTURES, Config, build_model
from ropevit.models.state_dict import InferredModel, JoinedPattern, KeyMapping, KeyPattern, match_keys
from ropevit.weights.errors import WeightsError
from ropevit.weights.file_config import build_without_memory, check_matches_config
from ropevit.weights.infer import infer_model
from ropevit.weights.metadata import FORMAT, stored_config
from ropevit.weights.reading import Checkpoint

#: Keys under which files store the weights, in order of precedence; then those of their moving average (EMA).
WRAPPERS = ("model", "state_dict", "model_state_dict", "model_state", "module", "network", "net", "student")
_EMA_WRAPPERS = (
    *("model_ema", "state_dict_ema", "ema", "ema_state", "ema_state_dict", "ema_model", "model_ema_state_dict"),
    "teacher",  # of self-distillation: a moving average of the student
)
#: Keys of training state, which is dropped.
TRAINING = (
    *("optimizer", "lr_scheduler", "scheduler", "scaler", "loss_scaler", "amp_scaler", "fp16_scaler", "epoch", "args"),
    *("optimizer_state_dict", "scheduler_state_dict", "lr_scheduler_state_dict", "scaler_state_dict", "loss"),
    *("trainer", "iteration", "hooks"),  # detectron2
    *("optimizer_states", "lr_schedulers", "callbacks", "loops"),  # Lightning
    *("dino_loss", "ibot_loss"),  # self-distillation
    "n_averaged",  # torch.optim.swa_utils.AveragedModel
)

#: Prefixes of all names from wrappers: DistributedDataParallel, Lightning, transformers, and modules around a model.
_PREFIXES = ("module.", "model.", "backbone.", "ropevit.")

#: Prefixes of the image tower in files of CLIP models: of open_clip with a model of timm, and of others.
_TOWERS = ("visual.trunk.", "visual.")

#: Names of the other weights of CLIP models, and starts of such names.
_NON_TOWER_KEYS = (
    *("logit_scale", "logit_bias", "positional_embedding", "text_projection", "attn_mask"),
    *("input_resolution", "context_length", "vocab_size"),  # of OpenAI's TorchScript files
    *("text.", "text_decoder.", "transformer.", "token_embedding.", "ln_final.", "text_projection."),
)

#: Maximum depth of nested wrappers.
MAX_DEPTH = 10


def unwrap(checkpoint: Checkpoint, ema: bool = False) -> tuple[dict[str, Any], dict[str, str]]:
    """Find the weights in a checkpoint.

    Args:
        checkpoint: The checkpoint, as read.
        ema: Take the EMA weights instead of the last ones.

    Returns:
        Weights without the prefixes of wrappers, and dropped entries: name -> reason.

    Raises:
        WeightsError: If there are no EMA weights, another entry contains tensors too, a key is not a string, or a large
            tensor repeats a few stored numbers.
    """
    entries, dropped = checkpoint.entries, {}
    if ema and not any(isinstance(entries.get(key), Mapping) for key in _EMA_WRAPPERS):
        raise WeightsError(f"{checkpoint.source} holds no EMA (moving average) of the weights; leave out ema=True")
    order = (*_EMA_WRAPPERS, *WRAPPERS) if ema else (*WRAPPERS, *_EMA_WRAPPERS)
    for _ in range(MAX_DEPTH):
        _check_names(entries, checkpoint.source)
        chosen = next((key for key in order if isinstance(entries.get(key), Mapping)), None)
        if chosen is None:
            _check_stored(entries, checkpoint.source)
            image, text = _image_tower(_strip_prefixes(entries, checkpoint.source), checkpoint.source)
            return image, dropped | text
        dropped |= {
            key: _wrapper_reason(key, value, chosen, checkpoint.source)
            for key, value in entries.items()
            if key != chosen
        }
        entries = entries[chosen]
    raise WeightsError(
        f"{checkpoint.source} has weights nested deeper than {MAX_DEPTH} dicts; give the state dict itself"
    )


def _check_names(entries: Mapping[Any, Any], source: str) -> None:
    """Raise WeightsError for a key that is not a string."""
    wrong = next((key for key in entries if not isinstance(key, str)), None)
    if wrong is not None:
        raise WeightsError(f"{source} has a key of type {type(wrong).__name__}; expected strings: give a state dict")


def _check_stored(entries: Mapping[str, Any], source: str) -> None:
    """Raise WeightsError for a large expanded tensor, which would fill the memory when it is copied."""
    for key, value in entries.items():
        if type(value) not in (Tensor, nn.Parameter) or value.layout != torch.strided or value.numel() <= 2**24:
            continue
        stored = 0 if value.is_meta else value.untyped_storage().nbytes() // value.element_size()
        if stored < value.numel():
            raise WeightsError(
                f"{source} holds {key} of shape {tuple(value.shape)}, but only {stored} of its numbers are stored; "
                "save it again as a contiguous tensor"
            )


def _wrapper_reason(key: str, value: object, chosen: str, source: str) -> str:
    """Return why an entry beside the chosen weights is dropped."""
    if key in _EMA_WRAPPERS:
        return "EMA weights; ema=True loads them"
    if key in WRAPPERS and chosen in _EMA_WRAPPERS:
        return "the last weights; ema=True loads their EMA instead"
    if key in TRAINING or not _holds_tensors(value):
        return "training state"
    raise WeightsError(f"{source} holds tensors in {key!r} beside the weights in {chosen!r}; give one of the two dicts")


def _holds_tensors(value: object) -> bool:
    """Return whether nested dicts, lists and tuples contain a tensor; they may contain themselves."""
    pending, seen = [value], set()
    while pending:
        value = pending.pop()
        if isinstance(value, Tensor):
            return True
        if isinstance(value, Mapping | list | tuple) and id(value) not in seen:
            seen.add(id(value))
            pending.extend(value.values() if isinstance(value, Mapping) else value)
    return False


def _strip_prefixes(entries: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Remove the prefixes of wrappers, and the `_orig_mod.` of torch.compile."""
    plain = {key.replace("_orig_mod.", ""): value for key, value in entries.items()}
    if len(plain) < len(entries):
        raise WeightsError(f"{source} holds weights both with and without the prefix _orig_mod.; remove one of the two")
    while prefix := _common_prefix(plain):
        plain = {key.removeprefix(prefix): value for key, value in plain.items()}
    return plain


def _image_tower(entries: Mapping[str, Any], source: str) -> tuple[dict[str, Any], dict[str, str]]:
    """Divide the weights of a CLIP model into those of the image tower, without their prefix, and the other names."""
    prefix = next((prefix for prefix in _TOWERS if any(key.startswith(prefix) for key in entries)), "")
    if not prefix:
        return dict(entries), {}
    image = {key.removeprefix(prefix): value for key, value in entries.items() if key.startswith(prefix)}
    others = {key: "of a CLIP model beside the image tower" for key in entries if not key.startswith(prefix)}
    others |= {key: "training state" for key in others if key in TRAINING}
    unknown = [key for key in others if key not in TRAINING and not _is_beside_tower(key)]
    if unknown:
        raise WeightsError(
            f"{source} holds weights under {prefix}, as a CLIP model's image tower, beside {len(unknown)} that are "
            f"neither its nor the text tower's ({unknown[0]}); remove those, or give the weights under {prefix} alone"
        )
    return image, others


def _is_beside_tower(key: str) -> bool:
    """Return whether CLIP models have a weight of this name outside the image tower."""
    return any(key.startswith(name) if name.endswith(".") else key == name for name in _NON_TOWER_KEYS)


def _common_prefix(entries: Mapping[str, Any]) -> str | None:
    """Return the wrapper's prefix that all weights have, if any."""
    keys = [key for key in entries if key not in TRAINING]
    return next((prefix for prefix in _PREFIXES if keys and all(key.startswith(prefix) for key in keys)), None)


@dataclass(frozen=True)
class ParsedCheckpoint:
    """The weights of a checkpoint by the names of their layout, with the config or the inferred model."""

    source: str
    """Path, hub id, or "the given state dict"."""
    state: dict[str, Any]
    """Weights without wrappers and prefixes."""
    dropped: dict[str, str]
    """Dropped entries: name -> reason."""
    layout: str
    """Name of the layout: ropevit, published, timm, ..."""
    config: Config | None
    """The model's config; only ropevit files have one."""
    inferred: InferredModel | None
    """The model inferred from names and shapes; None if no architecture matches."""
    header: Mapping[str, str]
    """The header of a safetensors file; empty for others."""

    @property
    def num_classes(self) -> int | None:
        """Classes of its head; 0 without one, None if no architecture matches."""
        return None if self.inferred is None else self.inferred.fields["num_classes"]

    @property
    def is_video(self) -> bool:
        """Whether it is a video model, whose patches are tubelets."""
        return self.inferred is not None and "tubelet" in self.inferred.fields


def parse_checkpoint(checkpoint: Checkpoint, ema: bool = False) -> ParsedCheckpoint:
    """Find weights, layout and config in a checkpoint.

    Args:
        checkpoint: The checkpoint, as read.
        ema: Take the EMA weights instead of the last ones.

    Raises:
        WeightsError: If the weights cannot be found (see `unwrap`), or the config in a ropevit file cannot be read or
            does not match them.
    """
    state, dropped = unwrap(checkpoint, ema)
    own = checkpoint.metadata.get("format") == FORMAT
    inferred = infer_model(state)
    layout = "ropevit" if own else _recognize_layout(state, inferred)
    config = _described_config(checkpoint, state, inferred) if own else None
    return ParsedCheckpoint(checkpoint.source, state, dropped, layout, config, inferred, checkpoint.metadata)


def _described_config(checkpoint: Checkpoint, state: Mapping[str, Any], inferred: InferredModel | None) -> Config:
    """Read the config in a ropevit file, and check that names and shapes of the weights are those of its model.

    Raises:
        WeightsError: If they are not, or the config cannot be read.
    """
    config = stored_config(checkpoint.metadata, inferred, checkpoint.source)
    model = build_without_memory(lambda: build_model(config), len(state), checkpoint.source)
    check_matches_config(model.state_dict(), state, checkpoint.source)
    return config


def _recognize_layout(state: Mapping[str, Any], inferred: InferredModel | None) -> str:
    """Return the name of the weights' layout; "published" if all layouts have the same names."""
    if inferred is None:
        return "published"
    adapter = ARCHITECTURES[inferred.architecture].weights
    for layout, rows in adapter.layouts.items():
        if any(_has_layout(row, state) for row in rows):
            return layout
    return "ropevit" if any(match_keys(key, state) for key in adapter.own_keys) else "published"


def _has_layout(row: KeyMapping, state: Mapping[str, Any]) -> bool:
    """Return whether a weight has another layout's name for a key, and none has ours."""
    if isinstance(row, JoinedPattern):
        stored = [part for part in row.theirs if part is not None]
        return all(match_keys(part, state) for part in stored) and not match_keys(row.ours, state)
    if not isinstance(row, KeyPattern):
        return False
    found = match_keys(row.theirs, state)
    if row.index_offset:  # both layouts use the name; in the other one, the first layer has no such weight
        return bool(found) and min(int(numbers[0]) for numbers in found) >= row.index_offset
    return bool(found) and not match_keys(row.ours, state)
