"""Figure of absolute position: how well a linear map reads a patch's place in the image from its features."""

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from ropevit.analysis.attention import add_label, batches_at_sizes, model_at_size, show_size
from ropevit.analysis.curves import COLORS
from ropevit.analysis.figure_model import FigureModel, FigureOptions, FigureResult, Rows
from ropevit.analysis.layers import NothingToDrawError
from ropevit.drawing import RC
from ropevit.extras import require
from ropevit.models.base import BaseModel
from ropevit.rope import grid_positions

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TITLE = "Absolute position in patch features"
OPTIONS = ("sizes", "images")
TEXT = (
    "How well a patch's features predict its absolute position: ridge regression of the column x (solid) and the row y "
    "(dashed) of a patch from its features, fitted to some images and tested on others. R squared is the part of the "
    "variance of the position that is predicted: 1 if the features determine it exactly, 0 or below if they predict "
    "nothing. Layer 0 is the embedding, before the first block; for a Swin, layers are its stages.\n\n"
    "A rotation gives attention relative positions only, but borders, class tokens and what images have in common at "
    "the top and bottom make features depend on the absolute position, too. Position that is not wanted shows as "
    "artifacts in dense features; a curve at a larger size that leaves the one of the training size shows features "
    "that place patches otherwise there."
)

#: Candidates for the penalty of standardized features; the one with the highest R squared on held-out images is taken.
_PENALTIES = (1e-3, 1e-2, 1e-1, 1.0)
#: Maximum number of folds; images are never divided.
_FOLDS = 4


class LayerPositions(NamedTuple):
    """R squared of positions predicted from the features of a layer, at one image size."""

    size: tuple[int, int]
    """Height and width in pixels."""
    layer: int
    """Number of blocks (or stages) before."""
    grid: tuple[int, int]
    """Rows and columns of the features."""
    x: float
    """R squared of the column."""
    y: float
    """R squared of the row."""


def position_r2(maps: Float[Tensor, "B C h w"]) -> tuple[float, float]:
    """Return R squared of ridge regression of column and row from features, on images that it is not fitted to.

    Args:
        maps: Features of images.

    Raises:
        ValueError: If there is only one image, so that none can be held out.
    """
    count, channels, rows, columns = maps.shape
    if count < 2:
        raise NothingToDrawError("got one image; this figure holds images out: give --images a folder with several")
    features = maps.double().permute(0, 2, 3, 1).reshape(count, rows * columns, channels)
    where = grid_positions(rows, columns, device=maps.device).double()
    where = where - where.mean(0)
    errors = torch.zeros(len(_PENALTIES), 2, dtype=torch.float64, device=maps.device)
    fold = torch.arange(count, device=maps.device) % min(_FOLDS, count)
    for held in fold.unique():
        known, asked = features[fold != held].flatten(0, 1), features[fold == held]
        mean, std = known.mean(0), known.std(0, correction=0).clamp(min=1e-9)
        known, asked = (known - mean) / std, (asked - mean) / std
        values, vectors = torch.linalg.eigh(known.T @ known / len(known))
        target = vectors.T @ (known.T @ where.repeat(len(known) // len(where), 1)) / len(known)
        for row, penalty in enumerate(_PENALTIES):
            weights = vectors @ (target / (values.clamp(min=0) + penalty).unsqueeze(1))
            errors[row] += (asked @ weights - where).square().sum((0, 1))
    variance = count * where.square().sum(0)
    x, y = (1 - errors / variance.clamp(min=1e-9)).amax(0).tolist()
    return x, y


@torch.no_grad()
def position_by_layer(model: BaseModel[Any], images: Float[Tensor, "B c H W"]) -> list[LayerPositions]:
    """Return how well positions are predicted after the embedding and after each block (or stage) of a model.

    Args:
        model: A model in eval mode.
        images: Images, normalized for it.
    """
    size, found = (images.shape[2], images.shape[3]), []
    for layer, state in enumerate(model.hidden_states(images)):
        maps = model.as_map(state, images)
        found.append(LayerPositions(size, layer, (maps.shape[2], maps.shape[3]), *position_r2(maps)))
    return found


def draw(data: list[LayerPositions], label: str = "") -> "Figure":
    """Draw R squared against layers, a color for each image size.

    Returns:
        A `matplotlib.figure.Figure`.
    """
    matplotlib = require("matplotlib", "figures")
    with matplotlib.rc_context(RC):
        figure = require("matplotlib.figure", "figures").Figure(figsize=(6.2, 4.4), layout="constrained")
        axes = figure.subplots()
        sizes = list(dict.fromkeys(each.size for each in data))
        for number, size in enumerate(sizes):
            own, color = [each for each in data if each.size == size], COLORS[number % len(COLORS)]
            layers = [each.layer for each in own]
            name = f"{show_size(size)} px"
            axes.plot(layers, [each.x for each in own], color=color, marker="o", label=f"{name}, column x")
            axes.plot(layers, [each.y for each in own], color=color, linestyle="--", label=f"{name}, row y")
        axes.set_title(add_label(TITLE, label), fontsize=10)
        axes.set_xlabel("layer (0: embedding)")
        axes.locator_params(axis="x", integer=True)
        axes.set_ylabel("R squared on other images")
        axes.set_ylim(min(-0.05, *(max(-1.0, min(each.x, each.y)) for each in data)), 1.03)
        axes.grid(axis="y", color="#EEEEEE")
        axes.spines[["top", "right"]].set_visible(False)
        figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    return figure


def rows(data: list[LayerPositions]) -> Rows:
    """Return a table row for each layer at each size."""
    return [
        {
            "height": each.size[0],
            "width": each.size[1],
            "layer": each.layer,
            "grid": show_size(each.grid),
            "r2_x": each.x,
            "r2_y": each.y,
        }
        for each in data
    ]


def make(figure_model: FigureModel, options: FigureOptions) -> FigureResult:
    """Compute and draw the figure."""
    if not isinstance(figure_model.model, BaseModel):
        raise NothingToDrawError("got a detector or segmenter; this figure supports classifiers only")
    data = []
    for size, batch in batches_at_sizes(figure_model, options):
        model: Any = model_at_size(figure_model.model, size[0], figure_model.trained_size[0])
        data += position_by_layer(model, batch)
    return FigureResult(draw(data, figure_model.label), rows(data))
