"""Options behind the name of a position embedding, such as `rope_axial:theta=10,rest=0.25`, as fields of a config."""

import math
from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any, TypeVar

ConfigT = TypeVar("ConfigT")

#: Option -> largest value, not included.
_OPTIONS = {"theta": math.inf, "rest": 1.0}


def split_options(name: str) -> tuple[str, dict[str, float]]:
    """Split `rope_axial:theta=10,rest=0.25` into the position embedding and its options.

    The options are theta, the base of the frequencies, and rest, the fraction of the pairs that are not rotated.

    Raises:
        ValueError: If anything else stands behind the colon.
    """
    position, colon, text = name.partition(":")
    found: dict[str, float] = {}
    for option in text.split(",") if colon else ():
        key, _, value = option.partition("=")
        if key not in _OPTIONS or key in found or not 0 < _number(value) < _OPTIONS[key]:
            raise ValueError(
                f"got {option!r} behind {position!r}; expected theta=NUMBER (above 0) or rest=NUMBER (between 0 and "
                "1), such as rope_axial:theta=10,rest=0.25"
            )
        found[key] = float(value)
    return position, found


def _number(text: str) -> float:
    """Return a number, or NaN if the text is none."""
    try:
        return float(text)
    except ValueError:
        return math.nan


def with_options(config: ConfigT, options: Mapping[str, float]) -> ConfigT:
    """Return the config of a model with the options of its position embedding.

    Args:
        config: A config of a ViT or a Swin.
        options: Options that `split_options` found.

    Raises:
        ValueError: If the model or its position embedding does not have an option.
    """
    body: Any = config
    changes: dict[str, Any] = {"rope_theta": options["theta"]} if "theta" in options else {}
    if "rest" in options:
        if "pairs" not in {field.name for field in fields(body)} or body.rope != "axial" or body.is_video:
            raise ValueError(
                f"got rest={options['rest']:g} for {body.position} of a {type(body).__name__.removesuffix('Config')}; "
                "expected rope_axial of a ViT for images, with or without an absolute embedding or a decay"
            )
        changes["pairs"] = pairs_with_rest(body.width // body.heads // 2, options["rest"])
    return replace(body, **changes) if changes else config


def position_with_options(config: Any) -> str:
    """Return the position embedding of a model with its options (see `split_options`), such as `rope_axial:theta=10`.

    An option that the model has by default is left out.

    Args:
        config: A config of a ViT or a Swin.
    """
    options = {}
    if config.rope is not None and config.theta != config.default_theta(config.rope):
        options["theta"] = config.theta
    pairs = getattr(config, "pairs", None)
    if pairs is not None and len(pairs) == 3 and not config.is_video:
        options["rest"] = pairs[2] / sum(pairs)
    text = ",".join(f"{name}={value:.6g}" for name, value in options.items())
    return f"{config.position}:{text}" if text else config.position


def pairs_with_rest(pairs: int, rest: float) -> tuple[int, int, int]:
    """Return the pairs of a head that rotate along x and y, and those that are not rotated.

    The rotated pairs have the whole range of frequencies, as in partial rotary embeddings of language models.

    Args:
        pairs: Pairs of a head, P.
        rest: Fraction of the pairs that are not rotated.

    Raises:
        ValueError: If it is not a whole number of pairs that leaves x and y the same number.

    Source: Black et al. 2022 (arXiv:2204.06745), GPT-NeoX, whose rotary embedding leaves three quarters unrotated.
    """
    resting = round(rest * pairs)
    if (pairs - resting) % 2 or abs(resting - rest * pairs) > 1e-6 or not 0 < resting < pairs:
        choices = ", ".join(f"{count / pairs:.6g}" for count in range(1, pairs) if (pairs - count) % 2 == 0)
        raise ValueError(
            f"got rest={rest:g} for heads of {pairs} pairs; expected whole pairs, the same number for x and y: one of "
            f"{choices}"
        )
    return (pairs - resting) // 2, (pairs - resting) // 2, resting
