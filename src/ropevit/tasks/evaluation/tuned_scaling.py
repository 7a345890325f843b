"""Store the scaling method that `ropevit tune-scaling` chose beside the weights, and read it for `--scaling auto`."""

from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from ropevit.files import read_json, write_json
from ropevit.rope.scaling import parse_override, parse_scaling
from ropevit.tasks.evaluation.scaling_search import NONE

#: Name of the file, and the value of `--scaling` that reads it.
FILE, AUTO = "scaling.json", "auto"
#: Folder of the choices for weights without a local file, such as published ones, by name.
FOLDER = Path("runs/scaling")


@dataclass(frozen=True, kw_only=True)
class TunedScaling:
    """A scaling method that was chosen for some weights, and the images that it was chosen on."""

    fingerprint: str
    """Digest of the weights."""
    weights: str
    """Name of the file of weights."""
    scaling: str
    """The method to use; it is the baseline if the chosen method had no significant gain."""
    chosen: str
    """The method with the highest score in the search."""
    baseline: str
    """Method to which the gain is relative: `none`, or the model's own scaling."""
    gain: float
    """Gain of the chosen method on images that the search has not seen, in points of the metric."""
    low: float
    """Lower end of its 95 % interval."""
    high: float
    """Upper end of the interval."""
    metric: str
    sizes: list[int]
    """Image sizes in pixels."""
    data: str
    """Name of the data set and split."""
    images_chosen_on: int
    images_reported_on: int
    date: str
    """Date of the search, such as 2026-01-31."""

    def describe(self) -> str:
        """Return the method, and when and on which images it was chosen, in one line."""
        sizes = ", ".join(map(str, self.sizes))
        why = "" if self.scaling == self.chosen else f" (no gain of {self.chosen} was shown)"
        return f"scaling {AUTO}: {self.scaling}{why}, chosen at {sizes} px on images of {self.data}, {self.date}"

    def describe_for(self, data: str) -> str:
        """Describe it for an evaluation on a data set: its scores are too high if the choice has seen its images."""
        seen = "; it has seen images of this evaluation, whose scores are too high for it by some of its gain"
        return self.describe() + (seen if self.data == data else "")


def choices_file(model: str | None, checkpoint: str | None) -> Path:
    """Return the path of the choices: in the directory of a run, beside a file of weights, or by name in `FOLDER`.

    Args:
        model: Name of a model, if its published weights are meant.
        checkpoint: A file, the directory of a run, or a hub id; None for published weights.
    """
    path = Path(checkpoint or "").expanduser()
    if checkpoint and path.is_dir():
        return path / FILE
    if checkpoint and path.is_file():
        return path.parent / FILE
    return FOLDER / str(checkpoint or model).replace("/", "--") / FILE


def save_choice(path: Path, choice: TunedScaling) -> None:
    """Add a choice to a file; an earlier one for the same weights is replaced.

    Raises:
        ValueError: If the file is damaged, or cannot be written.
    """
    others = [each for each in _read_choices(path) if each.fingerprint != choice.fingerprint] if path.exists() else []
    write_json(path, {"choices": [asdict(each) for each in (*others, choice)]})


def find_choice(path: Path, fingerprint: str) -> TunedScaling:
    """Read the choice for some weights.

    Raises:
        ValueError: If there is none, or the file is damaged.
    """
    hint = "choose one with `ropevit tune-scaling`, or name a method, such as --scaling pi"
    if not path.is_file():
        raise ValueError(f"got --scaling {AUTO}, but there is no {path}; {hint}")
    choices = _read_choices(path)
    found = next((each for each in choices if each.fingerprint == fingerprint), None)
    if found is None:
        names = ", ".join(sorted({each.weights for each in choices})) or "none"
        raise ValueError(f"got --scaling {AUTO}, but {path} is for other weights ({names}); {hint}")
    return found


def _read_choices(path: Path) -> list[TunedScaling]:
    """Read all choices of a file.

    Raises:
        ValueError: If it is damaged.
    """
    try:
        return [_parse_choice(each) for each in read_json(path)["choices"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"cannot read {path} ({error}); delete it, and run `ropevit tune-scaling` again") from None


def _parse_choice(content: dict[str, Any]) -> TunedScaling:
    """Parse a choice.

    Raises:
        ValueError: If a field is missing, unknown or of a wrong type, or a method does not exist.
    """
    types = {field.name: field.type for field in fields(TunedScaling)}
    if content.keys() != types.keys():
        raise ValueError(f"expected the fields {', '.join(types)}")
    for name, expected in types.items():
        if not isinstance(content[name], {list[int]: list, float: (int, float)}.get(expected, expected)):  # pyright: ignore[reportArgumentType, reportCallIssue]
            raise ValueError(f"{name} is {str(content[name])[:40]!r}")
    if content["scaling"] != NONE:
        parse_scaling(content["scaling"], (1, 1))
    return TunedScaling(**content)


def resolve_scaling(
    scaling: str | None, path: Path, fingerprint: str, own: str | None
) -> tuple[str | None, TunedScaling | None]:
    """Resolve `--scaling` to a scaling method.

    Args:
        scaling: Value of the option: methods, `none` or `auto`; None if it is not given.
        path: From `choices_file`.
        fingerprint: Digest of the weights.
        own: The model's own scaling, used if the option is not given.

    Returns:
        The scaling methods (None for no scaling), and the stored choice if the value is `auto`.

    Raises:
        ValueError: If it is `auto`, and there is no choice for these weights.
    """
    if scaling is None:
        return own, None
    choice = find_choice(path, fingerprint) if scaling == AUTO else None
    return parse_override(choice.scaling if choice else scaling), choice
