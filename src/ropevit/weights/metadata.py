"""What a file of ours says about itself: the model's config and the convention of its rotation, as JSON."""

import json
from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any

from ropevit.files import parse_json
from ropevit.models.architectures import ARCHITECTURES, Config, architecture
from ropevit.models.state_dict import InferredModel
from ropevit.rope import CONVENTION
from ropevit.weights.errors import WeightsError, first_line
from ropevit.weights.fields import check_value, check_values

#: Value of "format" in the header of our files.
FORMAT = "ropevit"

#: Fields in which two models may differ and still have the same weights; shapes and names show the first three, and
#: bias tables are resized to another window.
IGNORED_FIELDS = {
    *("img_size", "window_size", "num_classes", "layer_scale", "drop_path", "drop_path_rule", "ape_std"),
    *("scaling", "trained_grid", "frames"),
}

#: Fields that older files do not have: those from before there were rules for larger grids, or videos.
_OPTIONAL_FIELDS = {"scaling", "trained_grid", "frames", "tubelet", "pairs"}


def own_metadata(config: Config, classes: list[str] | None, metadata: Mapping[str, Any]) -> dict[str, str]:
    """Make the header of a file of ours.

    Raises:
        WeightsError: If the metadata cannot be written as JSON.
    """
    try:
        free = json.dumps(dict(metadata))
    except (TypeError, ValueError) as error:
        raise WeightsError(f"got metadata that JSON cannot hold ({first_line(error)}); give plain values") from error
    return {
        "format": FORMAT,
        "architecture": architecture(config),
        "config": json.dumps(asdict(config)),
        "convention": json.dumps(CONVENTION),
        "classes": json.dumps(classes),
        "metadata": free,
    }


def stored_json(metadata: Mapping[str, str], key: str, source: str) -> Any:
    """Read one entry of the header of a file of ours."""
    try:
        return parse_json(metadata[key], f"its {key!r}")
    except (KeyError, ValueError) as error:
        raise WeightsError(
            f"{source} has no readable {key!r} in its header ({first_line(error)}); save the model again"
        ) from error


def stored_classes(metadata: Mapping[str, str], count: int | None, source: str) -> list[str] | None:
    """Read the names of the classes in a file of ours; None where it names none.

    Args:
        metadata: Its header.
        count: How many there have to be; None takes any number.
        source: What messages call the file.

    Raises:
        WeightsError: If they are no list of names, or another number.
    """
    try:
        classes = check_value(stored_json(metadata, "classes", source), tuple[str, ...] | None, "classes")
    except ValueError as error:
        raise WeightsError(
            f"{source} has no readable class names: {first_line(error)}; save the model again"
        ) from error
    if classes is not None and count is not None and len(classes) != count:
        raise WeightsError(f"{source} names {len(classes)} classes for a head of {count}; save the model again")
    return None if classes is None else list(classes)


def stored_facts(metadata: Mapping[str, str], source: str) -> dict[str, Any]:
    """Read whatever else was saved in a file of ours.

    Raises:
        WeightsError: If it is no table.
    """
    facts = stored_json(metadata, "metadata", source)
    if not isinstance(facts, dict):
        raise WeightsError(f"the metadata in {source} are {type(facts).__name__}, no table; save the model again")
    return facts


def fact(facts: Mapping[str, Any], name: str, kind: Any, source: str) -> Any:
    """Read one fact that was saved beside a model.

    Args:
        facts: What `stored_facts` read.
        name: Its name, which is there.
        kind: Its type, as `ropevit.weights.fields.check_value` takes it.
        source: What messages call the file.

    Raises:
        WeightsError: If it is of another type.
    """
    try:
        return check_value(facts[name], kind, name)
    except ValueError as error:
        raise WeightsError(f"the metadata in {source} cannot be used: {first_line(error)}; save it again") from error


def check_convention(metadata: Mapping[str, str], source: str) -> None:
    """Compare the convention of a file of ours with this version's.

    Raises:
        WeightsError: If it is damaged, or made by a version that does something else.
    """
    convention = stored_json(metadata, "convention", source)
    if convention != CONVENTION:
        raise WeightsError(
            f"{source} follows another convention ({differences(convention, CONVENTION)}); "
            "load it with the version of ropevit that wrote it"
        )


def stored_config(metadata: Mapping[str, str], facts: InferredModel | None, source: str) -> Config:
    """Read the config in a file of ours, after comparing its convention with this version's.

    Args:
        metadata: The header.
        facts: What the shapes of its weights tell, with which the config has to agree.
        source: What messages call the file.

    Raises:
        WeightsError: If either is damaged, or made by a version that does something else.
    """
    check_convention(metadata, source)
    name = metadata.get("architecture", "vit")  # files from before Swin do not say
    if name not in ARCHITECTURES:
        raise WeightsError(f"{source} holds a {name!r}, which this version does not know; use the one that wrote it")
    kind = ARCHITECTURES[name].config
    stored = stored_json(metadata, "config", source)
    known = {field.name for field in fields(kind)}
    if not isinstance(stored, dict) or set(stored) | _OPTIONAL_FIELDS & known != known:
        given = set(stored) if isinstance(stored, dict) else set()
        unknown, missing = sorted(given - known), sorted(known - given - _OPTIONAL_FIELDS)
        raise WeightsError(
            f"the config in {source} has unknown fields {unknown} and lacks {missing}; "
            "load it with the version of ropevit that wrote it"
        )
    try:
        values = check_values(kind, stored)
        _check_facts(values, name, facts)
        return kind(**values)
    except (TypeError, ValueError, OverflowError) as error:
        raise WeightsError(
            f"the config in {source} describes no model: {first_line(error)}; save the model again"
        ) from error


def _check_facts(values: Mapping[str, Any], name: str, facts: InferredModel | None) -> None:
    """Compare a config with what shapes tell, before anything as large as it says is made.

    Raises:
        ValueError: Naming the fields that differ.
    """
    if facts is None or facts.architecture != name:
        raise ValueError(f"its weights are not those of a {name}")
    wrong = [
        f"{field} {values[field]}, its weights {value}"
        for field, value in facts.fields.items()
        if field in values and field != "mlp_ratio" and values[field] != value
    ]
    ratio = facts.fields.get("mlp_ratio")
    if not wrong and ratio and int(values["mlp_ratio"] * values["width"]) != round(ratio * facts.fields["width"]):
        wrong = [f"mlp_ratio {values['mlp_ratio']:g}, its weights {ratio:g}"]
    if wrong:
        raise ValueError(f"it says {'; '.join(wrong)}")


def check_images(config: Config, source: str) -> None:
    """Refuse a video model where images are fed.

    Raises:
        WeightsError: Saying what to do instead.
    """
    if config.is_video:
        raise WeightsError(
            f"{source} holds a video model, and this takes models of images; in Python, feed clips to what "
            "ropevit.load_model gives"
        )


def differences(theirs: Any, ours: Mapping[str, Any]) -> str:
    """List in one line where two tables differ."""
    if not isinstance(theirs, dict):
        return "not a table"
    keys = [key for key in {**ours, **theirs} if theirs.get(key) != ours.get(key)]
    return "; ".join(f"{key}: {theirs.get(key)!r} instead of {ours.get(key)!r}" for key in keys)


def check_config(stored: Config, config: Config, source: str, new_head: bool) -> None:
    """Refuse the weights of another architecture, also where no shape shows it (heads, theta, pooling).

    Raises:
        WeightsError: Naming the fields that differ.
    """
    names = architecture(stored), architecture(config)
    if names[0] != names[1]:
        raise WeightsError(
            f"{source} holds a {names[0]}, while the model is a {names[1]}; build the model of its own config with "
            "ropevit.load_model"
        )
    skipped = IGNORED_FIELDS | {"rope_theta", "pairs"} | ({"pooling"} if new_head else set())
    compared = [field.name for field in fields(stored) if field.name not in skipped]
    theirs = {field: getattr(stored, field) for field in compared}
    ours = {field: getattr(config, field) for field in compared}
    if config.rope and not config.learns_rope:  # learned frequencies do not need the start's theta
        theirs |= {"rope_theta": stored.theta, "pairs": stored.pairs_per_axis}
        ours |= {"rope_theta": config.theta, "pairs": config.pairs_per_axis}
    if theirs != ours:
        raise WeightsError(
            f"{source} does not fit the model ({differences(theirs, ours)}); build the model of its own config with "
            "ropevit.load_model"
        )
