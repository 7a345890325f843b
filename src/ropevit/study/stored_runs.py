"""Stored results of a study, and the check that a resumed study has compatible options."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ropevit.files import read_json, write_json
from ropevit.study.config import EXECUTION_FIELDS, StudyConfig, components
from ropevit.study.events import Run
from ropevit.study.fingerprint import digest
from ropevit.study.panels import InferenceMode
from ropevit.study.settings import EMBEDDED, STORED_NAMES, as_json
from ropevit.tasks.evaluation.tuned_scaling import AUTO
from ropevit.weights.errors import first_line

#: Options that may be extended when a study is resumed.
_EXTENDABLE = ("seeds", "scaling", "train_scaling", "train_sizes", "test_sizes")


def stored_result(config: StudyConfig, run: Run, images: str | None = None) -> dict[str, Any] | None:
    """Read the result of a finished run; None unless it has a score for every requested test size and RoPE scaling.

    Raises:
        ValueError: If it is damaged or of another run, see `read_result`.
    """
    path = config.out / "runs" / run.name / "result.json"
    if not path.exists():
        return None
    result = read_result(path, run, images)
    methods = config.scaling or () if components(run.embedding).rope else ()
    tables = [result["scores"], *(result.get("scaled", {}).get(method, {}) for method in methods)]
    sizes = {str(size) for size in config.settings(run.panel).test_sizes}
    return result if all(sizes <= set(table) for table in tables) else None


def write_result(path: Path, content: dict[str, Any]) -> dict[str, Any]:
    """Write the result of a run with its checksum, and return it so."""
    sealed = as_json(content)
    sealed["digest"] = digest(sealed)
    write_json(path, sealed)
    return sealed


def read_result(path: Path, run: Run, images: str | None = None) -> dict[str, Any]:
    """Read the result of a finished run.

    Args:
        path: `result.json` of the run.
        run: Expected run.
        images: Digest of the expected training images; not compared if None or if an older result has none.

    Raises:
        ValueError: If it is damaged, of another run, or was trained on other images.
    """
    hint = "delete it, and --resume evaluates that model again"
    try:
        result = read_json(path)
    except (OSError, ValueError) as error:
        raise ValueError(f"cannot read {path}: {first_line(error)}; {hint}") from None
    if not _is_result(result):
        raise ValueError(f"{path} is damaged: it holds no result; {hint}")
    if "digest" in result and digest({key: result[key] for key in result if key != "digest"}) != result["digest"]:
        raise ValueError(f"{path} is damaged: its checksum differs; {hint}")
    found = {name: result[name] for name in asdict(run) if result.get(name) is not None}
    if found != {name: value for name, value in run.to_dict().items() if value is not None}:
        raise ValueError(f"{path} is the result of another run ({found}); give another --out")
    if None not in (images, result.get("images")) and result["images"] != images:
        raise ValueError(
            f"{path.parent} was trained on other images, and its seed would be mixed with those of these images in one "
            "mean; delete it to train it again, or give another --out"
        )
    return result


def _is_result(content: object) -> bool:
    """Return whether a value has the fields of a run's result that are read elsewhere."""
    kinds = {"metric": str, "train_size": int, "parameters": int, "step_ms": int | float}
    kinds |= {"train_seconds": int | float, "eval_seconds": int | float}
    if not isinstance(content, dict) or not all(isinstance(content.get(key), kind) for key, kind in kinds.items()):
        return False
    scaled, tuned = content.get("scaled", {}), content.get("tuned", {})
    if not isinstance(scaled, dict) or not isinstance(tuned, dict):
        return False
    if not all(size.isdecimal() and _is_choice(choice) for size, choice in tuned.items()):
        return False
    baselines = content.get("baselines", {"older": content.get("baseline", {})})
    if not isinstance(baselines, dict):
        return False
    return all(map(_is_score_table, (content.get("scores"), *baselines.values(), *scaled.values())))


def _is_choice(content: object) -> bool:
    """Return whether a value is the choice of a RoPE scaling method."""
    return isinstance(content, dict) and all(isinstance(content.get(name), str) for name in ("scaling", "baseline"))


def stored_baselines(result: Mapping[str, Any], first: InferenceMode) -> dict[str, dict[str, float]]:
    """Return the scores of the baselines in a result; older ones have the panel's first alone, under `baseline`."""
    return result.get("baselines") or {first: result.get("baseline", {})}


def _is_score_table(content: object) -> bool:
    """Return whether a value maps sizes to scores in percent."""
    return isinstance(content, dict) and all(
        size.isdecimal() and isinstance(score, int | float) and 0 <= score <= 100 for size, score in content.items()
    )


def refuse_other_study(config: StudyConfig, path: Path) -> None:
    """Compare the stored config with the requested one; execution options may differ, and some may be extended.

    Raises:
        ValueError: If the stored study differs or cannot be read.
    """
    asked = config.to_dict()
    try:
        stored = read_json(path)
        different = sorted({*_changed_options(stored, asked), *_shrunk_options(stored, asked)})
        sides = _largest_size(stored, "zoom"), _largest_size(asked, "zoom")
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        why = first_line(error) if isinstance(error, OSError | ValueError) else "it is not the config of a study"
        raise ValueError(f"cannot read {path}: {why}; give another --out") from error
    if different:
        key, fields = different[0], {name: field for field, name in STORED_NAMES.items()}
        options = [fields.get(name, name) for name in different]
        raise ValueError(
            f"{path.parent} holds a study with other options ({', '.join(options)}): {options[0]} was "
            f"{stored.get(key)!r}, now {asked.get(key)!r}; repeat its options, or give another --out"
        )
    if config.data not in EMBEDDED and sides[0] != sides[1]:
        raise ValueError(
            f"{path.parent} holds a study of images prepared for {sides[0]} px; with test_sizes up to {sides[1]} px "
            "they would differ: give another --out"
        )


def _changed_options(stored: Mapping[str, Any], asked: Mapping[str, Any]) -> set[str]:
    """Return the options that differ, except those that may differ or be extended."""
    compared = ({**stored, "settings": _training_fields(stored)}, {**asked, "settings": _training_fields(asked)})
    held_out = [AUTO in (config.get("scaling") or ()) for config in (stored, asked)]  # from the training images
    return ({"scaling"} if held_out[0] != held_out[1] else set()) | {
        key
        for key in {*stored, *asked} - {*EXECUTION_FIELDS, *_EXTENDABLE}
        if compared[0].get(key) != compared[1].get(key)  # an older study lacks newer options
    }


def _training_fields(config: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the settings of each panel that affect its trainings."""
    return {
        panel: {name: value for name, value in settings.items() if name != "test_sizes"}
        for panel, settings in config["settings"].items()
    }


def _shrunk_options(stored: Mapping[str, Any], asked: Mapping[str, Any]) -> set[str]:
    """Return the extendable options of which fewer values are requested than stored."""
    less = {name for name in ("scaling", "train_scaling") if not {*(stored.get(name) or ())} <= {*(asked[name] or ())}}
    if asked["seeds"] < stored["seeds"]:
        less.add("seeds")
    panels = stored["settings"].keys() & asked["settings"].keys()
    sizes = [[{*config["settings"][panel]["test_sizes"]} for config in (stored, asked)] for panel in panels]
    return less if all(before <= now for before, now in sizes) else {*less, "test_sizes"}


def _largest_size(config: Mapping[str, Any], panel: str) -> int:
    """Return the largest image side of a panel in pixels; 0 without that panel."""
    settings = config["settings"].get(panel)
    return 0 if settings is None else max(settings["train_size"], *settings["test_sizes"])
