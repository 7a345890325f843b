"""`ropevit models`."""

from fnmatch import fnmatchcase
from typing import Annotated

import tyro
from rich import box
from rich.table import Table

from ropevit.cli.console import Console, print_line
from ropevit.models.cost import count_macs, count_parameters
from ropevit.models.published import SOURCE, TOP1
from ropevit.models.registry import MODELS, PUBLISHED, VARIANTS, get_config, list_models, split_model_name
from ropevit.text import suggest


def models(pattern: Annotated[str, tyro.conf.Positional] = "*", /, size: int = 224, published: bool = False) -> None:
    """List models with parameters, MACs and published accuracy.

    For example:
      ropevit models
      ropevit models 'rope_mixed*' --size 384

    Args:
        pattern: Shell-style pattern of names, quoted; or a variant such as deit_small, for all its position embeddings.
        size: Image size in pixels for which MACs are counted; Swin uses windows of 1/32 of it.
        published: List only models with published weights.
    """
    names = [
        name
        for name in list_models(pretrained=published)
        if fnmatchcase(name, pattern) or split_model_name(name)[0] == pattern
    ]
    if not names:
        hint = suggest(pattern, [*VARIANTS, *MODELS], f"`ropevit models` lists all {len(MODELS)}")
        raise ValueError(f"no model matches {pattern!r}; {hint}")
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for heading in ("name", "params", "MACs", "224", "384", "hub"):
        table.add_column(heading, justify="left" if heading == "name" else "right", no_wrap=True)
    for name in names:
        top1, macs = TOP1.get(name, {}), count_macs(get_config(name, img_size=size), size, size)
        cost = _short(count_parameters(MODELS[name]), ("M", "B"), 1e6), _short(macs, ("G", "T"), 1e9)
        accuracy = (f"{top1[at]:.1f}" if at in top1 else "-" for at in (224, 384))
        table.add_row(name, *cost, *accuracy, "yes" if name in PUBLISHED else "-")
    accounts = ", ".join(dict.fromkeys(hub_id.rpartition("/")[0] for hub_id in PUBLISHED.values()))
    console = Console()
    console.print(table)
    notes = (
        f"MACs: multiply-accumulates per image of {size} x {size} pixels, which papers often call FLOPs",
        f"224, 384: top-1 percent on ImageNet-1k at that many pixels, reported by {SOURCE}",
        f"hub: create_model(name, pretrained=True) loads the published weights, as {accounts}/<name>",
    )
    print_line(console, "\n".join(notes), style="dim")


def _short(count: float, units: tuple[str, str], unit: float) -> str:
    """Write a count in a unit, or from 1000 of it on in the next one."""
    value, name = (count / unit, units[0]) if count < 1000 * unit else (count / unit / 1000, units[1])
    return f"{value:.{1 if value >= 100 else 2}f}{name}"
