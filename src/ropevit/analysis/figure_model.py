"""What the figures look at, and what can be chosen about them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from jaxtyping import Float
from torch import Tensor, nn

from ropevit.analysis.curves import Evaluations
from ropevit.analysis.layers import Grid, find_body, trained_grid
from ropevit.models.architectures import Config

#: A table: one dict a row, with the same keys in all.
Rows = list[dict[str, str | int | float]]

#: Points that Fig. 1 of the paper looks at, as far as its author's script is known: (x, y) in patches from the query.
POINTS = ((3, 3), (-2, 2))


@dataclass(frozen=True, kw_only=True)
class FigureModel:
    """A model, and what is known about its training."""

    model: nn.Module
    """A model of this package, or one that holds a single one, such as a detector."""
    label: str
    """What titles call it."""
    trained_size: tuple[int, int]
    """Height and width in pixels of the images of its training."""
    images: Float[Tensor, "B c S S"] | None = None
    """Images, normalised as the model wants them, S being the largest of all sizes that are looked at: resize them
    down for the others. None where no images were given."""
    name: str | None = None
    """Name in the registry of the model that it is, its head and size apart."""
    published: bool = False
    """Whether it is as published: with those weights, as far as their file tells, and by its own rules."""

    @property
    def config(self) -> Config:
        """The config of the model, or of the only one that it holds."""
        return find_body(self.model).config

    @property
    def trained_grid(self) -> Grid:
        """Rows and columns of tokens that attended to each other in training."""
        return trained_grid(self.model)

    def grid_at(self, size: int) -> Grid:
        """Give rows and columns of tokens that attend to each other in square images of a size in pixels.

        Of a Swin, those of the window, which grows with the image as in the paper.

        Raises:
            ValueError: If the patches do not tile such images.
        """
        return self.config.at_size(size, self.trained_size[0]).attention_grid

    def larger_grids(self, sizes: tuple[int, ...]) -> tuple[Grid, ...]:
        """Give the grids of sizes in pixels; where none is given, 2 and 4 times the trained one."""
        rows, columns = self.trained_grid
        if not sizes:
            return (2 * rows, 2 * columns), (4 * rows, 4 * columns)
        return tuple(dict.fromkeys(self.grid_at(size) for size in sizes))


@dataclass(frozen=True, kw_only=True)
class FigureOptions:
    """What can be chosen about the figures."""

    sizes: tuple[int, ...] = ()
    """Sizes of square images in pixels; none for each figure's own."""
    points: tuple[tuple[int, int], ...] = POINTS
    """Points to be rebuilt of waves: (x, y) in patches from the query."""
    evaluations: Evaluations | None = None
    """What was measured at several sizes; None where nothing was."""


class FigureResult(NamedTuple):
    """A figure and its numbers."""

    figure: Any
    """A `matplotlib.figure.Figure`, which belongs to no window."""
    rows: Rows


class Analysis(NamedTuple):
    """One figure: what it is called, what it says, and how it is made."""

    name: str
    """As the command line calls it, and its files."""
    title: str
    text: str
    """A few sentences: what is drawn, in which unit, how to read it."""
    make: Callable[[FigureModel, FigureOptions], FigureResult]
    """Raises NothingToDrawError, in one line, where a model does not have the figure."""
