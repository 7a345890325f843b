"""The metadata in the header of a ropevit file: the model's config, rotation convention and classes, as JSON."""

import json
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from ropevit.files import parse_json
from ropevit.models.architectures import ARCHITECTURES, Config, architecture
from ropevit.models.state_dict import InferredModel
from ropevit.rope import CONVENTION
from ropevit.weights.errors import WeightsError, first_line
from ropevit.weights.fields import check_value, check_values

#: Value of "format" in the header of our files.
FORMAT = "ropevit"

#: Fields that may differ between a file and the model that loads it: they do not change the weights, are checked by
#: shapes, or have their tables resized.
IGNORED_FIELDS = {
    *("img_size", "window_size", "num_classes", "layer_scale", "drop_path", "drop_path_rule", "ape_std"),
    *("scaling", "trained_grid", "frames"),
}

#: Fields that older files lack: those from before scaling methods or video models.
_OPTIONAL_FIELDS = {"scaling", "trained_grid", "frames", "tubelet", "pairs"}


def own_metadata(config: Config, classes: list[str] | None, metadata: Mapping[str, Any]) -> dict[str, str]:
    """Return the header of a ropevit file.

    Raises:
        WeightsError: If the metadata cannot be written as JSON.
    """
    try:
        free = json.dumps(dict(metadata))
    except (TypeError, ValueError) as error:
        raise WeightsError(
            f"got metadata that JSON cannot represent ({first_line(error)}); give numbers, strings, lists and dicts"
        ) from error
    return {
        "format": FORMAT,
        "architecture": architecture(config),
        "config": json.dumps(config.to_dict()),
        "convention": json.dumps(CONVENTION),
        "classes": json.dumps(classes),
        "metadata": free,
    }


def stored_json(metadata: Mapping[str, str], key: str, source: str) -> Any:
    """Read one entry of the header of a ropevit file."""
    try:
        return parse_json(metadata[key], f"its {key!r}")
    except (KeyError, ValueError) as error:
        raise WeightsError(
            f"{source} has no readable {key!r} in its header ({first_line(error)}); save the model again"
        ) from error


def stored_classes(metadata: Mapping[str, str], count: int | None, source: str) -> list[str] | None:
    """Read the class names in a ropevit file; None if it has none.

    Args:
        metadata: Header of the file.
        count: Expected number of classes; None accepts any number.
        source: Name of the file in messages.

    Raises:
        WeightsError: If they are not a list of strings, or another number.
    """
    try:
        classes = check_value(stored_json(metadata, "classes", source), tuple[str, ...] | None, "classes")
    except ValueError as error:
        raise WeightsError(
            f"{source} has no readable class names: {first_line(error)}; save the model again"
        ) from error
    if classes is not None and count is not None and len(classes) != count:
        raise WeightsError(f"{source} names {len(classes)} classes for a head with {count}; save the model again")
    return None if classes is None else list(classes)


def stored_metadata(header: Mapping[str, str], source: str) -> dict[str, Any]:
    """Read the metadata that was passed to `save_model`.

    Raises:
        WeightsError: If it is no JSON object.
    """
    metadata = stored_json(header, "metadata", source)
    if not isinstance(metadata, dict):
        raise WeightsError(
            f"the metadata in {source} is a {type(metadata).__name__}; expected a dict: save the model again"
        )
    return metadata


def metadata_value(metadata: Mapping[str, Any], name: str, hint: Any, source: str) -> Any:
    """Read one value of the metadata in a file, and check its type.

    Args:
        metadata: Metadata from `stored_metadata`.
        name: A key of it.
        hint: The expected type, as `ropevit.weights.fields.check_value` takes it.
        source: Name of the file in messages.

    Raises:
        WeightsError: If the value has another type.
    """
    try:
        return check_value(metadata[name], hint, name)
    except ValueError as error:
        raise WeightsError(f"the metadata in {source} cannot be used: {first_line(error)}; save it again") from error


def check_convention(metadata: Mapping[str, str], source: str) -> None:
    """Raise WeightsError unless the rotation convention of a ropevit file is that of this version.

    Raises:
        WeightsError: If it is damaged, or written by a version with another convention.
    """
    convention = stored_json(metadata, "convention", source)
    if convention != CONVENTION:
        raise WeightsError(
            f"{source} follows another rotation convention ({differences(convention, CONVENTION)}); "
            "load it with the version of ropevit that wrote it"
        )


def stored_config(metadata: Mapping[str, str], inferred: InferredModel | None, source: str) -> Config:
    """Read the config in a ropevit file, after checking its rotation convention.

    Args:
        metadata: Header of the file.
        inferred: The model inferred from the weights, with which the config must agree.
        source: Name of the file in messages.

    Raises:
        WeightsError: If config or convention is damaged or of an incompatible version, or the weights contradict it.
    """
    check_convention(metadata, source)
    name = metadata.get("architecture", "vit")  # files from before Swin lack the entry
    if name not in ARCHITECTURES:
        raise WeightsError(
            f"{source} holds a {name!r}, an architecture that this version does not have; load it with the version of "
            "ropevit that wrote it"
        )
    config_class = ARCHITECTURES[name].config
    stored = stored_json(metadata, "config", source)
    known = {field.name for field in fields(config_class)}
    optional = _OPTIONAL_FIELDS | {*config_class.later_fields}
    if not isinstance(stored, dict) or set(stored) | optional & known != known:
        given = set(stored) if isinstance(stored, dict) else set()
        unknown, missing = sorted(given - known), sorted(known - given - optional)
        raise WeightsError(
            f"the config in {source} has unknown fields {unknown} and lacks {missing}; "
            "load it with the version of ropevit that wrote it"
        )
    try:
        values = check_values(config_class, stored)
        _check_against_weights(values, name, inferred)
        return config_class(**values)
    except (TypeError, ValueError, OverflowError) as error:
        raise WeightsError(f"the config in {source} is invalid: {first_line(error)}; save the model again") from error


def _check_against_weights(values: Mapping[str, Any], name: str, inferred: InferredModel | None) -> None:
    """Compare a config with the shapes of the weights, before a model of that size is built.

    Raises:
        ValueError: Listing the fields that differ.
    """
    if inferred is None or inferred.architecture != name:
        raise ValueError(f"its weights are not those of a {name}")
    wrong = [
        f"{field} {values[field]}, its weights have {value}"
        for field, value in inferred.fields.items()
        if field in values and field != "mlp_ratio" and values[field] != value
    ]
    ratio = inferred.fields.get("mlp_ratio")
    if not wrong and ratio and int(values["mlp_ratio"] * values["width"]) != round(ratio * inferred.fields["width"]):
        wrong = [f"mlp_ratio {values['mlp_ratio']:g}, its weights have {ratio:g}"]
    if wrong:
        raise ValueError(f"it has {'; '.join(wrong)}")


def refuse_video(config: Config, source: str) -> None:
    """Raise WeightsError for a video model where images are expected.

    Raises:
        WeightsError: With what to do instead.
    """
    if config.is_video:
        raise WeightsError(
            f"{source} holds a video model; expected an image model: in Python, load it with ropevit.load_model and "
            "call it on clips"
        )


def differences(theirs: Any, ours: Mapping[str, Any]) -> str:
    """Return in one line the entries in which two dicts differ."""
    if not isinstance(theirs, dict):
        return "not a dict"
    keys = [key for key in {**ours, **theirs} if theirs.get(key) != ours.get(key)]
    return "; ".join(f"{key}: {theirs.get(key)!r} instead of {ours.get(key)!r}" for key in keys)


def check_config(stored: Config, config: Config, source: str, new_head: bool) -> None:
    """Raise WeightsError unless two configs agree, also in fields that shapes do not show (heads, theta, pooling).

    Raises:
        WeightsError: Listing the fields that differ.
    """
    names = architecture(stored), architecture(config)
    if names[0] != names[1]:
        raise WeightsError(
            f"{source} holds a {names[0]}, while the model is a {names[1]}; build it from the file's config with "
            "ropevit.load_model"
        )
    skipped = IGNORED_FIELDS | {"rope_theta", "pairs"} | ({"pooling"} if new_head else set())
    compared = [field.name for field in fields(stored) if field.name not in skipped]
    theirs = {field: getattr(stored, field) for field in compared}
    ours = {field: getattr(config, field) for field in compared}
    if config.rope and not config.learns_rope:  # for learned frequencies, theta only matters at initialization
        theirs |= {"rope_theta": stored.theta, "pairs": stored.pairs_per_axis}
        ours |= {"rope_theta": config.theta, "pairs": config.pairs_per_axis}
    if theirs != ours:
        raise WeightsError(
            f"{source} does not fit the model ({differences(theirs, ours)}); build it from the file's config with "
            "ropevit.load_model"
        )
