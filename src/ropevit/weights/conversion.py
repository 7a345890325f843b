"""Converts a checkpoint from one layout to another, bit for bit."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from ropevit.files import write_atomically
from ropevit.models.architectures import ARCHITECTURES, Config, architecture, build_model
from ropevit.models.registry import MODELS, get_config
from ropevit.models.state_dict import InferredModel
from ropevit.rope import RopeConvention
from ropevit.weights.errors import WeightsError
from ropevit.weights.infer import claimed_name, explain_mismatch, square_grid
from ropevit.weights.layouts import from_ours
from ropevit.weights.loading import check_finite
from ropevit.weights.match import grouped, match_state_dict
from ropevit.weights.metadata import own_metadata, stored_classes, stored_metadata
from ropevit.weights.parse import ParsedCheckpoint, parse_checkpoint
from ropevit.weights.preprocessing import preprocessing_of_weights
from ropevit.weights.reading import Source, read_checkpoint
from ropevit.weights.saving import separate, write_safetensors

#: Allowed file suffixes by layout; only safetensors have a header, which the ropevit layout needs for the config.
_CONTAINERS = {
    "ropevit": (".safetensors",),
    "published": (".bin", ".pth", ".safetensors"),
    "timm": (".safetensors", ".bin", ".pth"),
    "dinov3": (".pth", ".safetensors"),
    "transformers": (".safetensors", ".bin"),
    "eva02": (".pt", ".pth", ".safetensors"),
    "pe": (".pt", ".pth", ".safetensors"),
}


@dataclass(frozen=True)
class ConvertReport:
    """Result of a conversion; `print(report)` summarizes it."""

    source: str
    """Path or hub id."""
    destination: Path
    """The new file."""
    layout: tuple[str, str]
    """Source and target layout."""
    written: int
    """Number of entries in the new file."""
    dropped: Mapping[str, str]
    """Entries that were dropped: name -> reason."""
    config: Config
    """Config of the model, given or inferred."""

    def __str__(self) -> str:
        """Summarize the conversion, with everything that was dropped."""
        first = f"wrote {self.written} entries to {self.destination} ({self.layout[0]} to {self.layout[1]} layout)"
        names = "position", "width", "depth", "depths", "heads"
        described = [f"{name} {getattr(self.config, name)}" for name in names if hasattr(self.config, name)]
        described += [f"theta {self.config.theta:g}", f"images of {' x '.join(map(str, self.config.img_size))} pixels"]
        model = ", ".join([*self.names[:1], *described])
        return "\n".join([first, f"  model: {model}", *grouped(self.dropped, "dropped")])

    @property
    def names(self) -> list[str]:
        """Names of registered models that differ in the head at most."""
        return [
            name
            for name, config in MODELS.items()
            if type(config) is type(self.config) and replace(config, num_classes=self.config.num_classes) == self.config
        ]


def convert(
    source: Source,
    destination: str | os.PathLike[str],
    to: str = "ropevit",
    *,
    model: str | Config | None = None,
    overwrite: bool = False,
    ema: bool = False,
    revision: str | None = None,
) -> ConvertReport:
    """Convert a checkpoint to another layout; values and dtypes are unchanged, and converting back restores the file.

    Args:
        source: Path, hub id, published model name, or state dict.
        destination: New file. The suffix decides the container: .safetensors, or .bin and .pth for PyTorch's own
            (with the weights under `model` in the published layout).
        to: "published", "timm" or "ropevit"; "dinov3" (its authors' names) or "transformers" for a DINOv3; "eva02" or
            "pe" (their authors' names) for an EVA-02 or a Perception Encoder.
        model: Name or config of the model, if the file has no config and its name and shapes do not determine it.
        overwrite: Replace an existing file.
        ema: Convert the EMA weights that a training script stored beside the weights.
        revision: Branch, tag or commit on the hub.

    Raises:
        WeightsError: If the source cannot be read, is not the given model, or cannot be stored in the layout.
    """
    path = _check_destination(Path(destination), to, overwrite)
    checkpoint = read_checkpoint(source, revision)
    parsed = parse_checkpoint(checkpoint, ema)
    config = _find_config(parsed, model, to)
    if to != "ropevit":
        _check_expressible(config, to, parsed.source)
    with torch.device("meta"):
        like = build_model(config)
    state, report = match_state_dict(like, parsed)
    check_finite(state, parsed.source)
    classes = None
    if parsed.config is not None:
        classes = stored_classes(checkpoint.metadata, parsed.num_classes, parsed.source)
        metadata = stored_metadata(checkpoint.metadata, parsed.source)
    else:
        metadata = preprocessing_of_weights(config, parsed)
    theirs = _entries(state, to, config, parsed.source)
    write(path, theirs, to, own_metadata(config, classes, metadata))
    return ConvertReport(parsed.source, path, (parsed.layout, to), len(theirs), report.dropped, config)


def _check_destination(path: Path, to: str, overwrite: bool) -> Path:
    """Raise WeightsError for an unknown layout, a wrong suffix or an existing file, before anything is read."""
    if to not in _CONTAINERS:
        raise WeightsError(f"no layout named {to!r}; choose one of {', '.join(_CONTAINERS)}")
    if path.suffix not in _CONTAINERS[to]:
        raise WeightsError(f"got {str(path)!r}; a file in {to} layout ends in {' or '.join(_CONTAINERS[to])}")
    if path.is_dir() or (path.exists() and not overwrite):
        raise WeightsError(f"{path} exists; choose another name, or pass overwrite=True to replace a file")
    return path


def _find_config(parsed: ParsedCheckpoint, model: str | Config | None, to: str) -> Config:
    """Return the config of a checkpoint: from the caller, its header, its name, or its shapes.

    Raises:
        WeightsError: If it cannot be determined.
    """
    if isinstance(model, Config):
        return model
    inferred = parsed.inferred
    if inferred is None:
        raise WeightsError(
            f"cannot convert {parsed.source}; {explain_mismatch(None, parsed.state, MODELS[next(iter(MODELS))])}"
        )
    if parsed.config is not None and model is None:
        return parsed.config
    name = model or claimed_name(parsed.source)
    if name is None:
        return _inferred_config(inferred, parsed.source, to)
    config = get_config(name)
    size = _made_for(inferred, parsed.source) or config.img_size
    config = replace(config, num_classes=inferred.fields["num_classes"], img_size=size)
    if config.windowed and inferred.architecture == architecture(config):
        return replace(config, window_size=inferred.suggested["window_size"])
    return config


def _entries(state: Mapping[str, Tensor], to: str, config: Config, source: str) -> dict[str, Tensor]:
    """Return all entries of a file in a layout: weights, derived tables, and their prefix.

    Raises:
        WeightsError: If the layout cannot store a weight.
    """
    try:
        theirs = from_ours(state, to, config)
    except WeightsError as error:
        raise WeightsError(f"{source} holds {error}") from error
    theirs |= _derived_tables(config) if to in ("published", "dinov3", "eva02") else {}
    prefix = ARCHITECTURES[architecture(config)].weights.prefix(config, to)
    return {f"{prefix}{name}": value for name, value in theirs.items()}


def _derived_tables(config: Config) -> dict[str, Tensor]:
    """Compute the tables that a file in the published layout has besides weights."""
    make = ARCHITECTURES[architecture(config)].weights.derived_tables
    return {} if make is None else make(config)


def _inferred_config(inferred: InferredModel, source: str, to: str) -> Config:
    """Infer the config from shapes; heads that shapes do not show are those of registered models of that width."""
    if "tubelet" in inferred.fields:
        raise WeightsError(f"{source} holds a video model without its config; give the config (model=CONFIG in Python)")
    if inferred.unnamed_family:
        raise WeightsError(
            f"{source} holds weights of another family than the published models (by its names, with register tokens, "
            "or without class token or biases of queries, keys and values in one), and these do not determine which; "
            "name the model (--model NAME, or model=CONFIG in Python)"
        )
    positions = [name for name in inferred.positions if name != "none"]  # never published
    config_class = ARCHITECTURES[inferred.architecture].config
    same = [
        config
        for config in MODELS.values()
        if type(config) is config_class and config.width == inferred.fields["width"]
    ]
    heads = inferred.heads or next((config.heads for config in same), None)
    known = {"heads": heads, **inferred.suggested, **inferred.fields}
    convention = inferred.fields.get("rope_convention", RopeConvention())
    sizes = {config.img_size for config in same if getattr(config, "rope_convention", RopeConvention()) == convention}
    if size := _made_for(inferred, source) or (sizes.pop() if len(sizes) == 1 else None):
        known["img_size"] = size
    configs = [config_class(position=position, **known) for position in positions] if heads else []
    same_file = to != "ropevit" and len({tuple(_derived_tables(config)) for config in configs}) == 1
    if not configs or (len(configs) > 1 and not same_file):
        known = f"with {heads} heads" if heads else f"nor how many heads share its {inferred.fields['width']} channels"
        raise WeightsError(
            f"the shapes in {source} do not determine whether it is {' or '.join(positions)}, {known}; "
            "name the model (--model NAME, or model=CONFIG in Python)"
        )
    return configs[0]


def _made_for(inferred: InferredModel, source: str) -> tuple[int, int] | None:
    """Return the image size of the file's tables; None if it has none."""
    if inferred.patches is None:
        return None
    grid = square_grid(inferred.patches)
    if grid is None:
        raise WeightsError(
            f"tables in {source} are for {inferred.patches} patches, which is not a square grid; give the config "
            "(model=CONFIG in Python)"
        )
    return grid[0] * inferred.fields["patch_size"], grid[1] * inferred.fields["patch_size"]


def _check_expressible(config: Config, to: str, source: str) -> None:
    """Raise WeightsError for a model that a layout without a config would represent as another one."""
    row = ARCHITECTURES[architecture(config)]
    if to not in row.weights.writable:
        layouts = " or ".join((*row.weights.writable, "ropevit"))
        raise WeightsError(f"{source} is {row.label}, which the {to} layout does not have; choose {layouts}")
    try:
        implied = row.weights.implied_fields(config, to) if row.weights.implied_fields else {}
    except ValueError as error:
        raise WeightsError(f"{source} {error}") from error
    wrong = [f"{field}={getattr(config, field)}" for field in implied if getattr(config, field) != implied[field]]
    if wrong:
        expected = ", ".join(f"{field}={value}" for field, value in implied.items())
        raise WeightsError(
            f"{source} has {', '.join(wrong)}, which the {to} layout cannot store (it implies {expected}); "
            "convert it to the ropevit layout"
        )


def write(path: Path, state: Mapping[str, Tensor], to: str, header: Mapping[str, str]) -> None:
    """Write a state dict in the container that the suffix names."""
    if path.suffix == ".safetensors":
        write_safetensors(path, state, header if to == "ropevit" else {"format": "pt"})
        return
    tensors = separate(state)
    write_atomically(path, lambda file: torch.save({"model": tensors} if to == "published" else tensors, file))
