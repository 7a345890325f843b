"""What an earlier call of a study has found, and what one may ask for on top of it without training again."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ropevit.models.vit import POSITION_EMBEDDINGS
from ropevit.study.config import HOW, StudyConfig
from ropevit.study.events import Run

#: Options that may grow when a study goes on.
GROWING = ("seeds", "scaling", "train_scaling", "test_sizes")


def kept_result(config: StudyConfig, run: Run) -> dict[str, Any] | None:
    """Read the result of a run that was finished before, if it has all that the study asks for."""
    path = config.out / "runs" / run.name / "result.json"
    if not path.exists():
        return None
    result = json.loads(path.read_text(encoding="utf-8"))
    rules = config.scaling or () if POSITION_EMBEDDINGS[run.embedding].rope else ()
    tables = [result["scores"], *(result.get("scaled", {}).get(rule, {}) for rule in rules)]
    sizes = {str(size) for size in config.settings(run.panel).test_sizes}
    return result if all(sizes <= set(table) for table in tables) else None


def refuse_other_study(config: StudyConfig, path: Path) -> None:
    """Compare the stored config with the one asked for: the ways to run may differ, and some options may grow.

    Raises:
        ValueError: If the study is another one, or cannot be read.
    """
    asked = config.to_dict()
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        different = sorted({*changed(stored, asked), *shrunk(stored, asked)})
    except (json.JSONDecodeError, KeyError, AttributeError, TypeError) as error:
        raise ValueError(f"cannot read {path}: {error}; give another --out") from error
    if different:
        key = different[0]
        raise ValueError(
            f"{path.parent} holds a study with other options ({', '.join(different)}): {key} was "
            f"{stored.get(key)!r}, now {asked.get(key)!r}; repeat its options, or give another --out"
        )
    if config.data != "fashion" and largest(stored, "zoom") != largest(asked, "zoom"):
        raise ValueError(
            f"{path.parent} holds a study with images read for {largest(stored, 'zoom')} px, and test_sizes up to "
            f"{largest(asked, 'zoom')} px would have it trained on others; give another --out"
        )


def changed(stored: Mapping[str, Any], asked: Mapping[str, Any]) -> set[str]:
    """Name the options that are others, those apart that may differ or grow."""
    compared = ({**stored, "settings": trained(stored)}, {**asked, "settings": trained(asked)})
    return {
        key
        for key in {*stored, *asked} - {*HOW, *GROWING}
        if compared[0].get(key) != compared[1].get(key)  # a study from before there was an option lacks it
    }


def trained(config: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Give the settings of each panel that its trainings depend on."""
    return {
        panel: {name: value for name, value in settings.items() if name != "test_sizes"}
        for panel, settings in config["settings"].items()
    }


def shrunk(stored: Mapping[str, Any], asked: Mapping[str, Any]) -> set[str]:
    """Name the growing options of which less is asked for than there is."""
    less = {name for name in ("scaling", "train_scaling") if not {*(stored.get(name) or ())} <= {*(asked[name] or ())}}
    if asked["seeds"] < stored["seeds"]:
        less.add("seeds")
    panels = stored["settings"].keys() & asked["settings"].keys()
    sizes = [[{*config["settings"][panel]["test_sizes"]} for config in (stored, asked)] for panel in panels]
    return less if all(before <= now for before, now in sizes) else {*less, "test_sizes"}


def largest(config: Mapping[str, Any], panel: str) -> int:
    """Give the largest side in pixels at which a panel looks at an image, 0 where there is no such panel."""
    settings = config["settings"].get(panel)
    return 0 if settings is None else max(settings["train_size"], *settings["test_sizes"])
