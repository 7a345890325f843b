"""The HTML page that `ropevit figures all` writes."""

from collections.abc import Sequence
from pathlib import Path

import torch

import ropevit
from ropevit.analysis.catalog import FigureModel, FigureOutcome
from ropevit.analysis.explorer import ExplorerData, explorer
from ropevit.analysis.layers import NothingToDrawError, attention_layers
from ropevit.analysis.page import Section, render
from ropevit.files import write_atomically
from ropevit.models.architectures import Config
from ropevit.text import printable


def write_page(
    figure_model: FigureModel,
    outcomes: Sequence[FigureOutcome],
    sizes: tuple[int, ...],
    checkpoint: str | None,
    out: Path,
) -> Path:
    """Write figures.html next to the figures that it shows.

    Args:
        figure_model: The model.
        outcomes: All figures, with the reason for each one that was not drawn.
        sizes: Sizes of square images in pixels whose grids the explorer offers; default: 2 and 4 times the training
            size.
        checkpoint: The weights, as the user named them.
        out: The folder of the figures.

    Returns:
        Path of the page.
    """
    sections = [section(outcome, out) for outcome in outcomes]
    page = render(figure_model.label, facts(figure_model, checkpoint), sections, explorer_data(figure_model, sizes))
    out.mkdir(parents=True, exist_ok=True)
    path = out / "figures.html"
    write_atomically(path, lambda file: file.write(page.encode()))
    return path


def explorer_data(figure_model: FigureModel, sizes: tuple[int, ...]) -> ExplorerData | str:
    """Return the data of the explorer, or why the model has none."""
    try:
        return explorer(figure_model.model, figure_model.larger_grids(sizes))
    except NothingToDrawError as error:
        return " ".join(str(error).split())


def section(outcome: FigureOutcome, out: Path) -> Section:
    """Return the section of a figure: its SVG, or why it was not drawn."""
    name, title, text, *_ = outcome.spec
    svg = None if outcome.result is None else (out / f"{name}.svg").read_text(encoding="utf-8")
    return Section(name, title, text, svg, outcome.note or None)


def facts(figure_model: FigureModel, checkpoint: str | None) -> list[tuple[str, str]]:
    """Return labels and values that describe the model."""
    config, (height, width) = figure_model.config, figure_model.trained_size
    heads = [layer.heads for layer in attention_layers(figure_model.model)]
    heads_text = f"{heads[0]}" if len(set(heads)) == 1 else f"{min(heads)} to {max(heads)}"
    values = {
        "Model": figure_model.name or figure_model.label,
        "Position embedding": config.position + (f", theta {config.theta:g}" if config.rope else ""),
        "Trained at": f"{height} x {width} pixels{describe_grid(figure_model)}",
        "Attention": f"{len(heads)} layers of {heads_text} heads",
        "Scaling on larger grids": describe_scaling(config) if config.rope else "",
        "Parameters": f"{sum(parameter.numel() for parameter in figure_model.model.parameters()):,}",
        "Weights": checkpoint or "",
        "Versions": f"ropevit {ropevit.__version__}, PyTorch {torch.__version__}",
    }
    return [(label, printable(value)) for label, value in values.items() if value]


def describe_scaling(config: Config) -> str:
    """Describe what happens to positions on grids larger than the trained one."""
    scaling, convention = config.scaling or "none", getattr(config, "rope_convention", None)
    if convention is None or convention.coordinates == "index":
        return scaling
    if convention.reference_grid is None:
        return f"{scaling}; positions are normalized"
    rows, columns = convention.reference_grid
    return f"{scaling}; positions are rescaled to {rows} x {columns}"


def describe_grid(figure_model: FigureModel) -> str:
    """Describe the grid on which layers attend; empty if it differs between layers."""
    try:
        rows, columns = figure_model.trained_grid
    except ValueError:
        return ""
    template = "windows of {} x {} tokens" if figure_model.config.windowed else "{} x {} patches"
    return f", {template.format(rows, columns)}"
