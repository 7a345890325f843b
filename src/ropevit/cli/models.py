"""`ropevit models`."""

from typing import Annotated

import tyro
from rich import box
from rich.table import Table

from ropevit.cli.console import Console
from ropevit.models.cost import count_macs, count_parameters
from ropevit.models.published import SOURCE, TOP1
from ropevit.models.registry import MODELS, PUBLISHED, get_config, list_models


def models(pattern: Annotated[str, tyro.conf.Positional] = "*", /, size: int = 224, published: bool = False) -> None:
    """List models: parameters, multiply-adds, published accuracy.

    For example:
      ropevit models
      ropevit models 'rope_mixed*' --size 384

    Args:
        pattern: Shell-style pattern of names, quoted.
        size: Side of the image in pixels for which multiply-adds are counted; Swin takes windows of 1/32 of it.
        published: Only models with published weights.
    """
    names = list_models(pattern, pretrained=published)
    if not names:
        raise ValueError(f"no model matches {pattern!r}; `ropevit models` lists all {len(MODELS)}")
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for heading in ("name", "params", "adds", "224", "384", "hub"):
        table.add_column(heading, justify="left" if heading == "name" else "right", no_wrap=True)
    for name in names:
        top1, adds = TOP1.get(name, {}), count_macs(get_config(name, img_size=size), size, size)
        cost = f"{count_parameters(MODELS[name]) / 1e6:.2f}M", f"{adds / 1e9:.2f}G"
        accuracy = (f"{top1[at]:.1f}" if at in top1 else "-" for at in (224, 384))
        table.add_row(name, *cost, *accuracy, "yes" if name in PUBLISHED else "-")
    console = Console()
    console.print(table)
    notes = (
        f"adds: multiply-adds of one image of {size} x {size} pixels, which the literature calls FLOPs",
        f"224, 384: top-1 percent on ImageNet-1k at that many pixels, as reported by {SOURCE}; not measured here",
        "hub: create_model(name, pretrained=True) loads the published weights, as naver-ai/<name>",
    )
    console.print("\n".join(notes), style="dim", highlight=False, soft_wrap=True)
