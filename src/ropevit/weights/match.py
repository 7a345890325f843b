"""Matches weights with a model: renames and resizes them, and rejects those of another model."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from torch import Tensor

from ropevit.models.architectures import ARCHITECTURES, Config, Model, architecture
from ropevit.models.layers import resize_embedding, resize_time
from ropevit.models.positions import is_published
from ropevit.models.registry import MODELS
from ropevit.models.swin.attention import resize_bias
from ropevit.rope import DISTANCE_BIAS_TYPES
from ropevit.text import join_names
from ropevit.weights.errors import WeightsError
from ropevit.weights.infer import claimed_name, explain_mismatch, square_grid
from ropevit.weights.layouts import to_ours
from ropevit.weights.metadata import check_config
from ropevit.weights.parse import ParsedCheckpoint
from ropevit.weights.reading import GIVEN

HEAD = ("head.weight", "head.bias")
#: Why weights of a backbone stayed as they were.
NEW = "no classifier has them; they are not trained unless you trained them"


@dataclass(frozen=True)
class LoadReport:
    """Result of loading weights; `print(report)` summarizes it."""

    source: str
    """Path, hub id, or "the given state dict"."""
    layout: str
    """published, timm, timm-swin (timm's Swins since 0.9) or ropevit; published also where all have the same names."""
    loaded: int
    """Number of weights of the model that were set."""
    dropped: Mapping[str, str]
    """Entries of the file that were dropped: name -> reason."""
    resized: Mapping[str, str]
    """Weights that were resized: name -> old and new grid."""
    head_replaced: bool
    """Whether the model kept its own head."""
    new: tuple[str, ...] = ()
    """Weights that a classifier's checkpoint does not contain and that were not changed: new layers of a backbone."""

    def __str__(self) -> str:
        """Summarize what was loaded, resized, kept and dropped."""
        lines = [f"loaded {self.loaded} weights from {self.source} ({self.layout} layout)"]
        lines += grouped(self.resized, "resized")
        if self.head_replaced:
            lines.append("  kept the model's own head: it is not trained unless you trained it")
        lines += grouped(dict.fromkeys(self.new, NEW), "kept")
        return "\n".join([*lines, *grouped(self.dropped, "dropped")])


def grouped(names: Mapping[str, str], verb: str) -> list[str]:
    """Return one line for each reason, with the names it applies to."""
    reasons = dict.fromkeys(names.values())
    return [f"  {verb} {join_names([name for name in names if names[name] == why], 3)}: {why}" for why in reasons]


def match_state_dict(
    model: Model, parsed: ParsedCheckpoint, replace_head: bool = False, grid: tuple[int, int] | None = None
) -> tuple[dict[str, Tensor], LoadReport]:
    """Rename and resize the weights of a checkpoint for a model, using only names and shapes.

    Returns:
        Weights by the model's names (all of them, but for a replaced head), and the report.

    Raises:
        WeightsError: If they do not match.
    """
    if parsed.inferred is not None and parsed.is_video != model.config.is_video:
        theirs, ours = ("a video", "an image") if parsed.is_video else ("an image", "a video")
        advice = (
            "give weights of an image model, or build a video model with frames="
            if parsed.is_video
            else "use create_model(NAME, frames=..., pretrained=SOURCE), which inflates such weights"
        )
        raise WeightsError(f"{parsed.source} holds {theirs} model, while the model is {ours} model; {advice}")
    if parsed.config is not None:
        check_config(parsed.config, model.config, parsed.source, replace_head)
    try:
        state, dropped = to_ours(parsed.state, parsed.layout, model.config)
    except WeightsError as error:
        raise WeightsError(f"{parsed.source} holds {error}") from error
    dropped = parsed.dropped | dropped
    if replace_head:
        dropped |= {
            name: "replace_head=True keeps the model's own" for name in HEAD if state.pop(name, None) is not None
        }
    own = model.state_dict()
    if "pos_embed" not in own and state.pop("pos_embed", None) is not None:
        dropped["pos_embed"] = "the model has no absolute embedding"
    dropped |= drop_fixed(state, model.config, parsed.source)
    resized = _resize_tables(state, own) | _resize_steps(state, own) | resize(state, own, model.config, parsed, grid)
    wanted = {name: value for name, value in own.items() if not (replace_head and name in HEAD)}
    config = replace(model.config, num_classes=parsed.num_classes or 0) if replace_head else model.config
    check_shapes(state, wanted, parsed, config)
    check_rotation(model.config, parsed)
    _check_claim(model.config, parsed)
    return state, LoadReport(parsed.source, parsed.layout, len(state), dropped, resized, replace_head)


def drop_fixed(state: dict[str, Tensor], config: Config, source: str) -> dict[str, str]:
    """Remove fixed frequencies, which models recompute, from weights in the ropevit layout.

    Returns:
        Removed entries: name -> reason.

    Raises:
        WeightsError: If they differ from the model's.
    """
    drop = ARCHITECTURES[architecture(config)].weights.drop_fixed
    try:
        return {} if drop is None else drop(state, config)
    except ValueError as error:
        raise WeightsError(f"{source} {error}") from error


def resize(
    state: dict[str, Tensor],
    own: Mapping[str, Tensor],
    config: Config,
    parsed: ParsedCheckpoint,
    grid: tuple[int, int] | None,
) -> dict[str, str]:
    """Resize an absolute embedding of another grid in place; one of a wrong shape is left to the checks."""
    embedding = state.get("pos_embed")
    if embedding is None or embedding.ndim != 3 or "pos_embed" not in own or embedding.shape[-1] != config.width:
        return {}
    patches = embedding.shape[1]
    theirs = grid or (parsed.config.grid if parsed.config else square_grid(patches))
    if theirs is None or theirs[0] * theirs[1] != patches:
        problem = f"but grid={theirs} has {theirs[0] * theirs[1]}" if theirs else "which is not a square grid"
        raise WeightsError(
            f"pos_embed in {parsed.source} is for {patches} patches, {problem}; pass its grid=(rows, columns)"
        )
    ours = config.grid
    if theirs == ours:
        return {}
    state["pos_embed"] = resize_embedding(embedding, theirs, *ours)
    return {"pos_embed": f"from {theirs[0]} x {theirs[1]} to {ours[0]} x {ours[1]} patches"}


def _resize_steps(state: dict[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, str]:
    """Resize a temporal embedding of another number of tubelets in place; a wrong shape is left to the checks."""
    theirs, ours = state.get("time_embed"), own.get("time_embed")
    if theirs is None or ours is None or theirs.ndim != 3 or theirs.shape[1] == ours.shape[1]:
        return {}
    state["time_embed"] = resize_time(theirs, ours.shape[1])
    return {"time_embed": f"from {theirs.shape[1]} to {ours.shape[1]} tubelets"}


def _resize_tables(state: dict[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, str]:
    """Resize relative position biases of another window in place; one of a wrong shape is left to the checks."""
    resized = {}
    for name, table in own.items():
        theirs = state.get(name)
        if not name.endswith("relative_position_bias_table") or theirs is None or theirs.ndim != 2:
            continue
        side, wanted = math.isqrt(theirs.shape[0]), math.isqrt(table.shape[0])
        if side**2 == theirs.shape[0] and side % 2 and side != wanted and theirs.shape[1] == table.shape[1]:
            before, after = (side + 1) // 2, (wanted + 1) // 2
            state[name] = resize_bias(theirs, after)
            resized[name] = f"from windows of {before} x {before} to {after} x {after} tokens"
    return resized


def check_shapes(
    state: Mapping[str, Tensor], wanted: Mapping[str, Tensor], parsed: ParsedCheckpoint, config: Config
) -> None:
    """Raise WeightsError unless names and shapes equal those of the model."""
    shape = {name: tuple(value.shape) for name, value in state.items()}
    want = {name: tuple(value.shape) for name, value in wanted.items()}
    kinds = {
        "missing": [f"{name} {want[name]}" for name in want if name not in shape],
        "unexpected": [f"{name} {shape[name]}" for name in shape if name not in want],
        "of the wrong shape": [
            f"{name} {shape[name]} instead of {want[name]}"
            for name in want
            if shape.get(name, want[name]) != want[name]
        ],
    }
    if any(kinds.values()):
        listed = "; ".join(f"{len(names)} {kind}: {join_names(names, 3)}" for kind, names in kinds.items() if names)
        head_alone = not {name for name in {**want, **shape} if want.get(name) != shape.get(name)} - set(HEAD)
        reasons = explain_mismatch(parsed.inferred, parsed.state, config, head_alone)
        raise WeightsError(f"{parsed.source} does not fit the model; {reasons} [{listed}]")


def check_rotation(config: Config, parsed: ParsedCheckpoint) -> None:
    """Raise WeightsError for fixed frequencies in a model with learned ones: published Swins use the same key for both.

    Rope types without published weights have their own keys.
    """
    if parsed.config is not None or parsed.inferred is None or not is_published(config.position):
        return
    convention = parsed.inferred.fields.get("rope_convention")
    if convention is not None and convention != getattr(config, "rope_convention", None):
        raise WeightsError(
            f"{parsed.source} does not fit the model; {explain_mismatch(parsed.inferred, parsed.state, config)}"
        )
    embeddings = ARCHITECTURES[parsed.inferred.architecture].config.embeddings
    if config.rope not in {embeddings[name].rope for name in parsed.inferred.positions}:
        raise WeightsError(
            f"{parsed.source} does not fit the model; {explain_mismatch(parsed.inferred, parsed.state, config)}"
        )


def check_implied(config: Config, parsed: ParsedCheckpoint) -> None:
    """Raise WeightsError if the file lacks a config and the model has other fixed frequencies than published models.

    Shapes do not show fixed frequencies, so a file without a config is assumed to have RoPE-Axial with equally many
    pairs for x and y, as published, or no RoPE. A state dict is assumed to be of the caller's model. There are no
    published video models.

    Raises:
        WeightsError: With the model's rotation and the assumed one.
    """
    if parsed.config is not None or parsed.inferred is None or parsed.source == GIVEN or config.is_video:
        return
    pairs = config.pairs_per_axis
    half = sum(pairs or ()) // 2
    if config.distance and not DISTANCE_BIAS_TYPES[config.distance].learned:
        raise WeightsError(
            f"{parsed.source} has no config, so it is assumed to have no distance bias, as published models, while the "
            f"model has position {config.position}; load a state dict if it is this model's"
        )
    if config.rope and not config.learns_rope and not is_published(config.position):
        own, other = f"position {config.position}", f"position {config.position.replace(config.rope, 'axial')}"
    elif config.rope == "axial" and pairs not in (None, (half, half, 0)):
        own, other = f"pairs={pairs}", f"pairs={(half, half, 0)} or none"
    else:
        return
    raise WeightsError(
        f"{parsed.source} has no config, so its rotation is assumed to be the published RoPE-Axial, with equally many "
        f"pairs for x and y, while the model has {own}; build it with {other}, or load a state dict if it is this "
        "model's"
    )


def _check_claim(config: Config, parsed: ParsedCheckpoint) -> None:
    """Raise WeightsError if the file name is that of a published model with another position embedding.

    Position embeddings with fixed frequencies have the same names and shapes of weights.
    """
    name = claimed_name(parsed.source)
    if name is None or parsed.config is not None or parsed.inferred is None:
        return
    position, convention = MODELS[name].position, getattr(MODELS[name], "rope_convention", None)
    if position == config.position and convention != getattr(config, "rope_convention", None):
        raise WeightsError(
            f"{parsed.source} is named like {name} with {convention}, which the model does not have; build that model, "
            "or rename the file if its name is wrong"
        )
    if position != config.position:
        raise WeightsError(
            f"{parsed.source} is named like {name} with position {position}, while the model has position "
            f"{config.position}; build that model, or rename the file if its name is wrong"
        )
