"""More epochs for a training that was started with fewer."""

from collections.abc import Mapping
from typing import Any

#: Entry of config.json: the lengths that the training had before, the first one first.
EXTENDED = "extended"
#: Fields of OptimConfig that say how long a training is.
_LENGTHS = ("epochs", "steps")


def longer(before: Mapping[str, Any], now: Mapping[str, Any]) -> str | None:
    """Return which field of the length of a training is larger than before; None if neither, or the unit changed.

    Args:
        before: Stored config, with that of the optimizer under "optim".
        now: The same of the resumed training.
    """
    old, new = (settings.get("optim") or {} for settings in (before, now))
    changed = [name for name in _LENGTHS if old.get(name) != new.get(name)]
    if len(changed) != 1 or None in (old.get(changed[0]), new.get(changed[0])):
        return None
    return changed[0] if new[changed[0]] > old[changed[0]] else None


def extend(before: Mapping[str, Any], now: Mapping[str, Any], unit: str) -> tuple[dict[str, Any], str]:
    """Return the stored config with the new length, which remembers the old one, and a line for the user.

    Args:
        before: Stored config.
        now: That of the resumed training.
        unit: Field that is larger, from `longer`.
    """
    old, new = before["optim"][unit], now["optim"][unit]
    lengths = [*before.get(EXTENDED, ()), {unit: old}]
    settings = {**before, "optim": {**before["optim"], unit: new}, EXTENDED: lengths}
    return settings, (
        f"extended from {old} to {new} {unit}: from here on, the learning rate is that of a training of {new} {unit}, "
        "so it may rise again"
    )
