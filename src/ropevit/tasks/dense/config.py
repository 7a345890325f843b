"""Checks that the configurations of detectors and segmenters share."""

#: Groups of the group norms in DINO's neck and in Mask2Former's maps.
GROUPS = 32


def check_positive(config: object, *names: str) -> None:
    """Raise ValueError for a field below 1."""
    for name in names:
        if getattr(config, name) < 1:
            raise ValueError(f"got {name}={getattr(config, name)}; expected at least 1")


def check_not_negative(config: object, *names: str) -> None:
    """Raise ValueError for a field that is negative or NaN."""
    for name in names:
        if not getattr(config, name) >= 0:
            raise ValueError(f"got {name}={getattr(config, name)}; expected 0 or more")


def check_width(width: int, heads: int) -> None:
    """Raise ValueError unless the width is a multiple of the heads and of the groups of group norm."""
    if width % heads or width % GROUPS:
        raise ValueError(f"got width={width}; expected a multiple of heads={heads} and of {GROUPS}")
