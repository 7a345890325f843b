"""Commands that evaluate images several times: their progress events, and a file of every pass, to resume from."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ropevit.files import read_json, write_json
from ropevit.locks import is_empty
from ropevit.tasks.runs.run_dir import differences


@dataclass(frozen=True, kw_only=True)
class PassesStarted:
    """The passes begin: of which model, over which images."""

    name: str
    notes: tuple[str, ...]
    """Further lines for the user."""


@dataclass(frozen=True, kw_only=True)
class PassProgress:
    """`done` of `total` images of a pass are evaluated."""

    text: str
    """Description of the pass."""
    done: int
    total: int


@dataclass(frozen=True, kw_only=True)
class PassSkipped:
    """Images of a pass could not be read."""

    names: tuple[str, ...]
    """Some of them, with the reason."""


Event = PassesStarted | PassProgress | PassSkipped
Report = Callable[[Event], None]


class Codec(NamedTuple):
    """Writes and reads counts of images as JSON."""

    encode: Callable[[Tensor], Any]
    """Takes the counts (n, ...) of one scaling method."""
    decode: Callable[[Any], Tensor]
    """The inverse; raises ValueError for anything else."""


class PassFormat(NamedTuple):
    """Format of a stored pass."""

    codec: Codec
    entries: Mapping[str, type | tuple[type, ...]]
    """Entries beside the counts, with their types; the first is the list of what the counts are of."""
    fits: Callable[[Mapping[str, Any], int], bool]
    """Whether a pass of a file is complete, from its entries and its number of images."""


class PassRecord:
    """Stores passes over images in a JSON file.

    Args:
        path: The file, in the output directory.
        settings: Settings that all passes share, for JSON.
        form: What a pass holds.
        resume: Continue with the stored passes.
        about: Further facts in the file, such as the machine; it may differ when passes are continued.

    Raises:
        ValueError: If the directory is not empty and `resume` is false, or it holds damaged passes or other settings.
    """

    def __init__(
        self,
        path: Path,
        settings: Mapping[str, Any],
        form: PassFormat,
        resume: bool,
        about: Mapping[str, Any] | None = None,
    ):
        self.path, self.form = path, form
        folder = path.parent
        self.content: dict[str, Any] = {"config": dict(settings), **(about or {}), "passes": []}
        if is_empty(folder):
            return
        if not resume:
            raise ValueError(f"{folder} is not empty; choose another --out, or continue in it with --resume")
        try:
            found = read_json(self.path)
            changed = differences(found["config"], self.content["config"])
            self.content["passes"] = [] if changed else [self._check_pass(each) for each in found["passes"]]
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"cannot read {self.path} ({error}); choose another --out") from None
        if changed:
            raise ValueError(
                f"{folder} was started with other options ({'; '.join(changed)}); resume it with the same, or choose "
                "another --out"
            )

    def find(self, key: Mapping[str, Any]) -> Tensor | None:
        """Return the counts (M, n, ...) of a pass; None if it is not stored."""
        found = next((each for each in self.passes if all(each[name] == key[name] for name in key)), None)
        return None if found is None else self.counts(found)

    @property
    def passes(self) -> list[dict[str, Any]]:
        """The stored passes, in the order of the file."""
        return self.content["passes"]

    def counts(self, found: Mapping[str, Any]) -> Tensor:
        """Return the counts (M, n, ...) of a stored pass."""
        return torch.stack([self.form.codec.decode(each) for each in found["images"]])

    def add(self, key: Mapping[str, Any], counts: Tensor, facts: Mapping[str, Any] | None = None) -> Tensor:
        """Store the counts of a pass, and return them.

        Args:
            key: What identifies the pass.
            counts: Counts (M, n, ...).
            facts: Further entries, such as a speed.
        """
        images = [self.form.codec.encode(each) for each in counts]
        self.passes.append({**key, **(facts or {}), "images": images})
        write_json(self.path, self.content)
        return counts

    def finish(self, result: Mapping[str, Any]) -> None:
        """Store the result of the search beside the passes."""
        write_json(self.path, {**self.content, "result": dict(result)})

    def _check_pass(self, content: Any) -> dict[str, Any]:
        """Return a pass from the file unchanged, after checking it.

        Raises:
            ValueError: If it is damaged.
        """
        counts, entries = [self.form.codec.decode(each) for each in content["images"]], self.form.entries
        wrong = [name for name, kind in entries.items() if not isinstance(content.get(name), kind)]
        if wrong:
            raise ValueError(f"a pass has no valid {', '.join(wrong)}")
        lengths = {len(each) for each in counts}
        if (
            len(lengths) != 1
            or len(counts) != len(content[next(iter(entries))])
            or not self.form.fits(content, *lengths)
        ):
            raise ValueError("a pass is incomplete")
        return content
