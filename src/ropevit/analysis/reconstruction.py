"""Figure of 2D Fourier reconstruction: how well the frequencies of a head localize points (the paper's Fig. 1)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from jaxtyping import Float
from torch import nn

from ropevit.analysis.figure_model import POINTS, FigureModel, FigureOptions, FigureResult, Rows
from ropevit.analysis.grouping import HeadGroup, LayerHeads, group_layers, plot_rows
from ropevit.analysis.layers import find_body, rotated_layers
from ropevit.analysis.plot_grid import PlotGrid, PlotRow, plot_grid
from ropevit.rope import axial_frequencies

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TITLE = "Points reconstructed from a head's frequencies"
OPTIONS = ("points",)
TEXT = (
    "An image that is 1 at a few points and 0 elsewhere is Fourier transformed and reconstructed from only the "
    "frequencies of a head's pairs (the paper's Fig. 1). Waves along x and y only, RoPE-Axial, can only draw crosses: "
    "where the row of one point meets the column of another, the reconstruction is as high as at the points. Oblique "
    "waves, RoPE-Mixed, can separate the points, if they are fast enough to distinguish neighbors. The number above a "
    "cell is the lowest value at the points over the highest elsewhere: above 1, the points are the highest values."
)

#: Minimum number of patches to each side of the center.
_RADIUS = 5


@dataclass(frozen=True)
class Reconstruction:
    """Points and their reconstructions."""

    points: tuple[tuple[int, int], ...]
    """(x, y) in patches."""
    target: Float[np.ndarray, "S S"]
    """1 at the points; rows are y, columns x, both from -radius to radius."""
    axial: Float[np.ndarray, "S S"]
    """Reconstruction from RoPE-Axial's frequencies, with as many channels as the heads of the first layer."""
    theta: float
    """Base of these frequencies."""
    layers: tuple[LayerHeads, ...]
    """Reconstructions from each head's frequencies, (1, A, S, S)."""

    @property
    def radius(self) -> int:
        """Patches to each side of the center."""
        return len(self.target) // 2


def grid_around(radius: int) -> Float[np.ndarray, "2 S S"]:
    """Return the offsets (x, y) around the center, in patches; rows are y, columns x."""
    line = np.arange(-radius, radius + 1, dtype=np.float64)
    return np.stack(np.meshgrid(line, line))


def least_squares(
    frequencies: Float[np.ndarray, "2 *A P"], points: Sequence[tuple[int, int]], positions: Float[np.ndarray, "2 S S"]
) -> Float[np.ndarray, "*A S S"]:
    """Reconstruct a sum of points from a few frequencies.

    The Fourier coefficient of the points at f is F(f) = sum over points of exp(-i f · point). Reconstructed from f and
    -f of all pairs, the value at x is the sum of F(f) exp(i f · x) over these 2 P waves, divided by 2 P. The two of a
    pair are conjugates, so it is the mean over pairs of the real part.

    Args:
        frequencies: Radians per patch; row 0 for x, row 1 for y.
        points: (x, y) in patches.
        positions: Where to evaluate it, (x, y) in patches.

    Returns:
        Values; a single point has value 1 at its position.

    Source: Heo et al. 2024 (arXiv:2403.13298), Fig. 1, from its description; frequencies are not weighted.
    """
    point_positions = np.array(points, dtype=np.float64).T
    coefficient = np.exp(-1j * np.tensordot(frequencies, point_positions, (0, 0))).sum(-1)
    waves = np.exp(1j * np.tensordot(frequencies, positions, (0, 0)))
    return (coefficient[..., None, None] * waves).real.mean(-3)


def reconstruction(model: nn.Module, points: Sequence[tuple[int, int]] = POINTS) -> Reconstruction:
    """Reconstruct points from the frequencies of every head, and from RoPE-Axial's.

    Args:
        model: A model of this package, or a module that contains one.
        points: (x, y) in patches; the plane extends at least 2 patches beyond them.

    Raises:
        ValueError: If no layer has RoPE, or there is no point.
    """
    if not points:
        raise ValueError("got no points; give at least one, such as (3, 3)")
    layers = rotated_layers(model)
    radius = max(_RADIUS, 2 + max(abs(side) for point in points for side in point))
    positions, theta = grid_around(radius), find_body(model).config.default_theta("axial")
    axial = axial_frequencies(2 * layers[0].frequencies.shape[-1], theta).double().numpy()
    target = np.zeros(positions.shape[1:])
    for x, y in points:
        target[y + radius, x + radius] = 1
    return Reconstruction(
        points=tuple(points),
        target=target,
        axial=least_squares(axial, points, positions),
        theta=theta,
        layers=tuple(
            LayerHeads(name, least_squares(f.double().numpy(), points, positions)[None]) for name, f in layers
        ),
    )


def draw(data: Reconstruction, label: str = "") -> "Figure":
    """Draw the points, their reconstruction from RoPE-Axial, and a cell for each head.

    Args:
        data: Result of `reconstruction`.
        label: Name of the model, for the title.

    Returns:
        A `matplotlib.figure.Figure`.
    """
    shown = group_layers(data.layers)
    listed = " and ".join(f"({x}, {y})" for x, y in data.points)
    caption = (
        f"The points {listed} (circled; patches right of and below the center), reconstructed from each head's pairs. "
        "Dark to bright: from the lowest to the highest value of each cell. Number: lowest value at the points over "
        f"the highest elsewhere. RoPE-Axial: theta {data.theta:g}, same number of channels."
    )
    first = PlotRow("for comparison", ("points", f"RoPE-Axial: {contrast(data, data.axial).ratio:.2f}"))
    named = [layer._replace(cells=_cell_names(data, layer)) for layer in shown]
    frame = plot_grid([first, *plot_rows(named)], TITLE, label, caption)
    cells = [np.stack([data.target, data.axial]), *(layer.values[0] for layer in shown)]
    for images, centers in zip(cells, frame.centers, strict=True):
        for image, center in zip(images, centers, strict=True):
            frame.draw_image(image, center, cmap="viridis")
            _circle_points(frame, center, data)
    return frame.figure


def _cell_names(data: Reconstruction, layer: HeadGroup) -> tuple[str, ...]:
    """Append the ratio to the label of each cell."""
    ratios = [contrast(data, image).ratio for image in layer.values[0]]
    return tuple(f"{name}: {ratio:.2f}" for name, ratio in zip(layer.cells, ratios, strict=True))


def _circle_points(frame: PlotGrid, center: tuple[float, float], data: Reconstruction) -> None:
    """Circle the points inside a cell."""
    patch = 2 / len(data.target)
    x, y = (patch * np.array(axis) for axis in zip(*data.points, strict=True))
    area = (72 * frame.inches * 1.3 * patch) ** 2
    frame.axes.scatter(center[0] + x, center[1] - y, area, facecolors="none", edgecolors="#FF6A00", linewidths=0.8)


class Contrast(NamedTuple):
    """Contrast of the points in a reconstructed image."""

    lowest: float
    """Lowest value at the points."""
    elsewhere: float
    """Highest value elsewhere."""
    x: int
    y: int
    """Position of that value, in patches."""
    crossing: float | None
    """Highest value where the column of a point meets the row of another; None without such crossings."""

    @property
    def ratio(self) -> float:
        """Lowest at the points over highest elsewhere."""
        return self.lowest / self.elsewhere


def contrast(data: Reconstruction, image: Float[np.ndarray, "S S"]) -> Contrast:
    """Compare a reconstructed image at its points with the rest of it."""
    rest = np.where(data.target > 0, -np.inf, image)
    y, x = np.unravel_index(rest.argmax(), rest.shape)
    point_positions = np.array(data.points) + data.radius
    crossings = np.zeros_like(data.target, dtype=bool)
    crossings[np.ix_(point_positions[:, 1], point_positions[:, 0])] = True
    crossings &= data.target == 0
    return Contrast(
        lowest=float(image[data.target > 0].min()),
        elsewhere=float(rest[y, x]),
        x=int(x) - data.radius,
        y=int(y) - data.radius,
        crossing=float(image[crossings].max()) if crossings.any() else None,
    )


def rows(data: Reconstruction) -> Rows:
    """Return a table row for each head, after one for RoPE-Axial."""
    table = [_row_of("RoPE-Axial", "", contrast(data, data.axial))]
    for layer in data.layers:
        table += [_row_of(layer.name, head, contrast(data, image)) for head, image in enumerate(layer.values[0])]
    return table


def _row_of(layer: str, head: int | str, found: Contrast) -> dict[str, str | int | float]:
    """Return the table row of a head."""
    return {
        "layer": layer,
        "head": head,
        "lowest_at_points": found.lowest,
        "highest_elsewhere": found.elsewhere,
        "ratio": found.ratio,
        "elsewhere_x": found.x,
        "elsewhere_y": found.y,
        "highest_at_crossings": "" if found.crossing is None else found.crossing,
    }


def make(figure_model: FigureModel, options: FigureOptions) -> FigureResult:
    """Compute and draw the figure."""
    data = reconstruction(figure_model.model, options.points)
    return FigureResult(draw(data, figure_model.label), rows(data))
