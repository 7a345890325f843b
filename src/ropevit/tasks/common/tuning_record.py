"""Output file of `ropevit tune-scaling`: the result of every pass over the images, so that a search can be resumed."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ropevit.files import read_json, write_json
from ropevit.locks import is_empty
from ropevit.tasks.common.run_dir import differences

#: Name of the file.
FILE = "tuning.json"
#: Character of an image in the file: wrong, right, unreadable.
_WRONG, _RIGHT, _UNREAD = "01-"


class TuningRecord:
    """Stores the passes over the images in `tuning.json`.

    Args:
        folder: The output directory.
        settings: Settings that all passes share, for JSON.
        resume: Continue with the stored passes.

    Raises:
        ValueError: If the directory is not empty and `resume` is false, or it holds passes with other settings.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any], resume: bool):
        self.path = folder / FILE
        self.content: dict[str, Any] = {"config": dict(settings), "passes": []}
        if is_empty(folder):
            return
        if not resume:
            raise ValueError(f"{folder} is not empty; choose another --out, or continue the search in it with --resume")
        try:
            found = read_json(self.path)
            changed = differences(found["config"], self.content["config"])
            self.content["passes"] = [_check_pass(each) for each in found["passes"]]
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"cannot read {self.path} ({error}); choose another --out") from None
        if changed:
            raise ValueError(
                f"{folder} was started with other options ({'; '.join(changed)}); resume it with the same, or choose "
                "another --out"
            )

    def find(self, key: Mapping[str, Any]) -> Tensor | None:
        """Return the counts (M, n, 2) of a pass: correct and all predictions per image; None if it is not stored."""
        found = next((each for each in self.content["passes"] if all(each[name] == key[name] for name in key)), None)
        if found is None:
            return None
        rows = [[(mark == _RIGHT, mark != _UNREAD) for mark in marks] for marks in found["images"]]
        return torch.tensor(rows, dtype=torch.int64)

    def add(self, key: Mapping[str, Any], counts: Tensor) -> Tensor:
        """Store the counts of a pass, and return them."""
        marks = [
            "".join((_RIGHT if right else _WRONG) if seen else _UNREAD for right, seen in row)
            for row in counts.tolist()
        ]
        self.content["passes"].append({**key, "images": marks})
        write_json(self.path, self.content)
        return counts

    def finish(self, result: Mapping[str, Any]) -> None:
        """Store the result of the search beside the passes."""
        write_json(self.path, {**self.content, "result": dict(result)})


def _check_pass(content: Any) -> dict[str, Any]:
    """Return a pass from the file unchanged, after checking it.

    Raises:
        ValueError: If it is damaged.
    """
    marks = content["images"]
    if not all(isinstance(row, str) and not {*row} - {*"01-"} for row in marks) or len({*map(len, marks)}) != 1:
        raise ValueError("it holds no images")
    if len(marks) != len(content["scalings"]) or not {"size", "half"} <= content.keys():
        raise ValueError("a pass is incomplete")
    return content
