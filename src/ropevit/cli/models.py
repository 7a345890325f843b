"""`ropevit models`: the registered models with parameters, MACs and accuracy."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import tyro
from rich import box
from rich.table import Table

from ropevit.cli.console import Console, print_line
from ropevit.models.cost_formula import compute_cost
from ropevit.models.published import SOURCE, TOP1
from ropevit.models.registry import MODELS, PUBLISHED, VARIANTS, get_config, list_models, weights_license
from ropevit.text import suggest


def models(
    patterns: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="[PATTERN ...]")] = ("*",),
    /,
    size: int = 224,
    published: bool = False,
) -> None:
    """List models with parameters, MACs and published accuracy, or license and hub id of the weights.

    For example:
      ropevit models
      ropevit models 'rope_mixed*' --size 384
      ropevit models 'dinov3*' 'eva02*'

    Args:
        patterns: Shell-style patterns of names, quoted; or of variants, such as deit_small, for all its embeddings.
        size: Image size in pixels for which MACs are counted; Swin uses windows of 1/32 of it.
        published: List only models with published weights.
    """
    matches = {name for pattern in patterns for name in _match(pattern, published)}
    names = [name for name in MODELS if name in matches]
    scored = any(name in TOP1 for name in names)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for heading in ("name", "params", "MACs", *(("224", "384") if scored else ("license",)), "hub"):
        left = heading in ("name", "license") or (heading == "hub" and not scored)
        table.add_column(heading, justify="left" if left else "right", no_wrap=True)
    for name in names:
        macs = compute_cost(get_config(name, img_size=size), size, size).macs
        parameters = compute_cost(MODELS[name], *MODELS[name].img_size).parameters
        cost = _short(parameters, ("M", "B"), 1e6), _short(macs, ("G", "T"), 1e9)
        table.add_row(name, *cost, *(_scores(name) if scored else _weights(name)))
    console = Console()
    if not scored:  # hub ids are long, and are to be copied
        console = Console(width=max(console.width, Console(width=1000).measure(table).maximum))
    console.print(table)
    print_line(console, "\n".join(_notes(size, scored)), style="dim")


def _match(pattern: str, published: bool) -> list[str]:
    """Return the names that a pattern matches.

    Raises:
        ValueError: If there are none.
    """
    if names := list_models(pattern, pretrained=published):
        return names
    if Path(pattern).exists():  # an unquoted pattern that the shell has replaced by the names of files
        raise ValueError(f"no model matches {pattern!r}, which is a file here; put a pattern with * in quotes")
    hint = suggest(pattern, [*VARIANTS, *MODELS], f"`ropevit models` lists all {len(MODELS)}")
    if inside := list_models(f"*{pattern}*"):
        hint = f"'*{pattern}*', in quotes, matches {len(inside)}, such as {inside[0]}"
    raise ValueError(f"no model matches {pattern!r}; {hint}")


def _scores(name: str) -> tuple[str, ...]:
    """Return the cells of a table with published accuracy."""
    top1 = TOP1.get(name, {})
    return (*(f"{top1[at]:.1f}" if at in top1 else "-" for at in (224, 384)), "yes" if name in PUBLISHED else "-")


def _weights(name: str) -> tuple[str, str]:
    """Return the cells of a table with license and hub id of the weights."""
    return weights_license(name) or "-", PUBLISHED.get(name, "-")


def _notes(size: int, scored: bool) -> Iterator[str]:
    """Yield lines that explain the columns."""
    yield f"MACs: multiply-accumulates per image of {size} x {size} pixels, which papers often call FLOPs"
    if not scored:
        yield "license: of the weights, which their authors give; read it before you use them"
        yield "hub: create_model(name, pretrained=True) loads these weights"
        return
    yield f"224, 384: top-1 percent on ImageNet-1k at that many pixels, reported by {SOURCE}"
    yield "hub: create_model(name, pretrained=True) loads the published weights; the paper's are naver-ai/<name>"
    yield "`ropevit models 'dinov3*'`, 'eva02*', 'vit_pe*' or '*reg*_gap*' shows license and hub id of these families"


def _short(count: float, units: tuple[str, str], unit: float) -> str:
    """Write a count in a unit, or from 1000 of it on in the next one."""
    value, name = (count / unit, units[0]) if count < 1000 * unit else (count / unit / 1000, units[1])
    return f"{value:.{1 if value >= 100 else 2}f}{name}"
