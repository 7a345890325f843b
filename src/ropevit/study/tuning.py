"""`--scaling auto`: chooses a RoPE scaling method for each trained model and size, on held-out training images."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ropevit.data.labeled import LabeledImages
from ropevit.data.rng import make_generator
from ropevit.models.rotary import set_scaling
from ropevit.models.vit import ViT
from ropevit.rope.scaling import parse_override
from ropevit.study.panels.base import CheckStop, Panel
from ropevit.study.settings import PanelSettings
from ropevit.tasks.evaluation.scaling_search import MIN_IMAGES, NONE, Half, SearchResult, search_scaling
from ropevit.tasks.evaluation.tuned_scaling import AUTO

#: Fraction of the training images that is held out.
_SHARE = 0.2
#: Largest numbers of images and canvases of a half: a choice takes up to 27 evaluations.
_IMAGES, _CANVASES = 500, 100

#: The images of both halves.
Halves = Mapping[Half, LabeledImages]


def hold_out(train: LabeledImages) -> tuple[LabeledImages, Halves]:
    """Hold a fifth of the training images out, in two halves; copies of an image are never in two parts.

    The choice depends on the images alone. Every class keeps an image for training.

    Returns:
        The images to train on; those to choose on, and those to report on.

    Raises:
        ValueError: If there are too few images.
    """
    copies: dict[bytes, list[int]] = {}
    for index, image in enumerate(train.images.cpu()):
        copies.setdefault(image.numpy().tobytes(), []).append(index)
    groups, labels = list(copies.values()), train.labels.tolist()
    left, parts = train.labels.bincount(minlength=len(train.classes)).tolist(), ([], [])
    wanted = round(_SHARE * len(train))
    for index in torch.randperm(len(groups), generator=make_generator("scaling", "held out")).tolist():
        group = groups[index]
        taken = len(parts[0]) + len(parts[1])
        if taken + len(group) > wanted or any(left[label] <= len(group) for label in {labels[i] for i in group}):
            continue
        for member in group:
            left[labels[member]] -= 1
        parts[len(parts[0]) > len(parts[1])].extend(group)
    if min(map(len, parts)) < MIN_IMAGES:
        raise ValueError(
            f"got {len(train)} training images, of which {' and '.join(str(len(part)) for part in parts)} can be held "
            f"out; --scaling {AUTO} needs {MIN_IMAGES} to choose on and {MIN_IMAGES} to report on: name methods instead"
        )
    used = torch.ones(len(train), dtype=torch.bool)
    chosen, reported = (torch.tensor(sorted(part)) for part in parts)
    used[chosen] = used[reported] = False
    halves: Halves = {
        "choose": train.subset(chosen, f"{train.name}/choose"),
        "report": train.subset(reported, f"{train.name}/report"),
    }
    return train.subset(used.nonzero().flatten()), halves


def tuning_panels(
    make: Callable[[PanelSettings, LabeledImages, LabeledImages], Panel],
    settings: PanelSettings,
    train: LabeledImages,
    halves: Halves,
) -> dict[Half, Panel]:
    """Make a panel whose test images are those of a half, for each half."""
    settings = replace(
        settings,
        test_images=min(settings.test_images, _IMAGES),
        test_canvases=min(settings.test_canvases, _CANVASES),
    )
    return {half: make(settings, train, images) for half, images in halves.items()}


@torch.no_grad()
def tune(
    model: ViT, panels: Mapping[Half, Panel], size: int, check: CheckStop, done: Callable[[], None]
) -> SearchResult:
    """Choose a scaling method for a model at a size; the model keeps its own.

    Args:
        model: A model with RoPE.
        panels: From `tuning_panels`.
        size: Side of the images in pixels.
        check: Called between batches.
        done: Called after each method.
    """
    own = model.config.scaling

    def measure(scalings: Sequence[str], half: Half) -> Tensor:
        found = []
        for scaling in scalings:
            set_scaling(model, parse_override(scaling))
            found.append(panels[half].counts(model, size, check))
            done()
        return torch.stack(found).cpu()

    model.eval()
    try:
        return search_scaling(measure, panels["choose"].score_of, baseline=own or NONE)
    finally:
        set_scaling(model, own)


def describe_search(found: SearchResult) -> dict[str, Any]:
    """Return the outcome of a search for `result.json`."""
    gain = found.gain
    return {
        "scaling": found.recommended,
        "chosen": found.chosen,
        "baseline": found.baseline,
        "gain": round(gain.points, 4),
        "low": round(gain.low, 4),
        "high": round(gain.high, 4),
    }


def describe_choices(runs: Sequence[Mapping[str, Any]]) -> str | None:
    """Describe what was chosen for trainings that differ only in the seed, such as `parts+log`; None if nothing was.

    Sizes with other choices are named one by one; seeds with other choices are joined by `or`.
    """
    tables = [run.get("tuned") or {} for run in runs]
    sizes = sorted({int(size) for table in tables for size in table})
    by_size = {
        size: " or ".join(sorted({table[str(size)]["scaling"] for table in tables if str(size) in table}))
        for size in sizes
    }
    if len(set(by_size.values())) <= 1:
        return next(iter(by_size.values()), None)
    return ", ".join(f"{size} px {names}" for size, names in by_size.items())
