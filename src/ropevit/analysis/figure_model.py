"""Inputs and outputs of the figures: the model, options, results, and the entry of the catalog."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from jaxtyping import Float
from torch import Tensor, nn

from ropevit.analysis.curves import Evaluations
from ropevit.analysis.layers import Grid, find_body, trained_grid
from ropevit.models.architectures import Config

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: A table: one dict per row, with the same keys in all.
Rows = list[dict[str, str | int | float]]

#: Points of the paper's Fig. 1, as far as its author's script is known: (x, y) in patches from the query.
POINTS = ((3, 3), (-2, 2))


@dataclass(frozen=True, kw_only=True)
class FigureModel:
    """A model to draw figures of, with its training size and images."""

    model: nn.Module
    """A model of this package, or a module that contains one, such as a detector."""
    label: str
    """Name in titles."""
    trained_size: tuple[int, int]
    """Height and width of the training images in pixels."""
    images: Float[Tensor, "B c S S"] | None = None
    """Images normalized for the model, with S the largest of all sizes of the figures, to be resized for the others.
    None if no images were given."""
    name: str | None = None
    """Name of the model in the registry, which may differ in head and size."""
    published: bool = False
    """Whether the weights are the published ones, as far as their file shows, with the model's own RoPE scaling."""

    @property
    def config(self) -> Config:
        """The config of the model, or of the one that it contains."""
        return find_body(self.model).config

    @property
    def trained_grid(self) -> Grid:
        """Rows and columns of tokens that attended to each other in training."""
        return trained_grid(self.model)

    def grid_at(self, size: int) -> Grid:
        """Return rows and columns of tokens that attend to each other in square images of a size in pixels.

        For a Swin, those of the window, which grows with the image as in the paper.

        Raises:
            ValueError: If the patches do not tile such images.
        """
        return self.config.at_size(size, self.trained_size[0]).attention_grid

    def larger_grids(self, sizes: tuple[int, ...]) -> tuple[Grid, ...]:
        """Return the grids of sizes in pixels; by default 2 and 4 times the trained one."""
        rows, columns = self.trained_grid
        if not sizes:
            return (2 * rows, 2 * columns), (4 * rows, 4 * columns)
        return tuple(dict.fromkeys(self.grid_at(size) for size in sizes))


@dataclass(frozen=True, kw_only=True)
class FigureOptions:
    """Options of the figures."""

    sizes: tuple[int, ...] = ()
    """Sizes of square images in pixels; empty for each figure's default."""
    points: tuple[tuple[int, int], ...] = POINTS
    """Points to reconstruct: (x, y) in patches from the query."""
    evaluations: Evaluations | None = None
    """Evaluations at several sizes, if any."""


class FigureResult(NamedTuple):
    """A figure and its numbers."""

    figure: "Figure"
    """A `matplotlib.figure.Figure`."""
    rows: Rows


#: Options of `ropevit figures` that not all figures read: two fields of `FigureOptions`, the images of the model, and
#: where its evaluations come from.
FIGURE_OPTIONS = ("points", "sizes", "images", "evals", "data")


class FigureSpec(NamedTuple):
    """Entry of the catalog of figures: name, title, explanation and function."""

    name: str
    """Name on the command line and of the output files."""
    title: str
    text: str
    """Explanation in a few sentences: what is drawn, in which unit, how to read it."""
    make: Callable[[FigureModel, FigureOptions], FigureResult]
    """Makes the figure; raises NothingToDrawError if it does not apply to the model."""
    options: tuple[str, ...] = ()
    """Options of `ropevit figures` that it reads, of `FIGURE_OPTIONS`; the command refuses the others."""
