"""`ropevit figures`: plots of rotary position embeddings and attention."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

import tyro

from ropevit.analysis import extrapolation
from ropevit.analysis.catalog import (
    FIGURES,
    FigureModel,
    FigureOptions,
    FigureOutcome,
    FigureResult,
    find_figures,
    try_figure,
)
from ropevit.analysis.curves import Evaluations
from ropevit.analysis.figure_model import FIGURE_OPTIONS, POINTS, Rows
from ropevit.analysis.layers import find_body
from ropevit.cli.console import Console, print_line
from ropevit.cli.evaluations import EVAL_FOLDER, EvaluationFiles, run_evaluation
from ropevit.cli.figure_models import FASHION, load_images, open_figure_model, random_figure_model
from ropevit.cli.figures_page import write_page
from ropevit.drawing import save_figure
from ropevit.extras import require
from ropevit.files import write_text
from ropevit.models import set_scaling
from ropevit.rope.scaling import parse_override
from ropevit.tasks.compare import read_evaluations
from ropevit.tasks.evaluation.config import SIZES, EvalConfig
from ropevit.tasks.evaluation.results import to_csv
from ropevit.tasks.predictions import check_out, new_folder
from ropevit.tasks.runs.run_dir import WeightsChoice

#: Value of `name` for all figures.
ALL = "all"
#: The figure that plots scores of evaluations.
_EXTRAPOLATION = "extrapolation"
#: Largest distance of a reconstructed point, in patches along x or y.
_FARTHEST = 100


@dataclass(frozen=True, kw_only=True)
class FiguresConfig:
    """Figure, model and images."""

    name: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="{" + ",".join([*FIGURES, ALL]) + "}")]
    """The figure, or all of them."""
    model: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
    """Classifier by name (see `ropevit models`), or a variant such as deit_small (with its original position
    embedding). Loads the published weights unless --checkpoint is given."""
    checkpoint: Annotated[str | None, tyro.conf.arg(metavar="FILE|DIR|HUB-ID")] = None
    """Weights: a file or hub id in any known layout, or the directory of a training run or of a study's run. ropevit's
    own files define the model and its classes: omit --model then."""
    weights: WeightsChoice | None = None
    """Which weights in the directory of a training run: best (default), last, or ema (their moving average)."""
    random: bool = False
    """Draw --model with random weights, as before training."""
    scaling: str | None = None
    """RoPE scaling methods for grids larger than in training, such as ntk or parts+log, instead of the model's own;
    `none` disables scaling."""
    images: Annotated[str | None, tyro.conf.arg(metavar="FILE|DIR|fashion|emoji")] = None
    """Images for the figures that need some: a file, a folder (its val split, if it has one), or `fashion`, the
    embedded Fashion-MNIST images (default for models that were trained on them)."""
    sizes: Annotated[tuple[int, ...], SIZES] = ()
    """Image sizes in pixels, separated by commas or spaces; default: 2 and 4 times the training size. `distance`,
    `entropy` and `position_probe` add the training size (default: that and 2 times it). Defaults keep the aspect ratio
    of the training."""
    points: Annotated[str, tyro.conf.arg(metavar="'X,Y X,Y'")] = " ".join(f"{x},{y}" for x, y in POINTS)
    """Points for `reconstruction`, in patches relative to the query, from -100 to 100 along x and y."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """Output folder; must not exist, or be empty. Default: runs/figures/MODEL-NAME."""
    scores: tyro.conf.OmitArgPrefixes[EvaluationFiles] = field(default_factory=EvaluationFiles)

    def __post_init__(self):
        find_figures(self.name)
        self.options()
        if self.random and (self.model is None or self.checkpoint is not None):
            raise ValueError("--random needs --model NAME, and excludes --checkpoint")
        self.check_used()
        self.check_scores()
        if not self.random and self.model is None and self.checkpoint is None and not self.scores_alone:
            raise ValueError("got neither --model nor --checkpoint; name a model (see `ropevit models`) or a file")

    def given(self, *names: str) -> list[str]:
        """Return those of the options that differ from their defaults."""
        values = {**vars(self), **vars(self.scores)}
        defaults = {**vars(type(self)), **vars(EvaluationFiles)}
        return [name for name in names if values[name] != defaults[name]]

    def check_used(self) -> None:
        """Refuse options that the figure does not use."""
        for option in self.given(*FIGURE_OPTIONS):
            readers = [name for name, spec in FIGURES.items() if option in spec.options]
            if self.name not in (*readers, ALL):
                raise ValueError(f"got --{option} for {self.name}; it is for {', '.join((*readers, ALL))}: omit it")

    def check_scores(self) -> None:
        """Refuse evaluations, or a model, that no figure would use."""
        if len(self.given("evals", "data")) > 1:
            raise ValueError("got --evals and --data; plot existing evaluations, or run a new one: omit one")
        unused = self.given("model", "checkpoint", "random", "weights", "scaling", "sizes") if self.scores_alone else []
        if unused:
            raise ValueError(f"got --{unused[0]} with --evals; evaluations contain their model and settings: omit it")
        if self.name == _EXTRAPOLATION and self.sizes and self.scores.data is None:
            raise ValueError("got --sizes without --data; give --data PATH to evaluate at these sizes, or omit it")
        if self.random and self.scores.data is not None:
            raise ValueError("got --random with --data; random weights are not evaluated: omit one")

    @property
    def scores_alone(self) -> bool:
        """Whether only existing evaluations are plotted, so that no model is needed."""
        return self.name == _EXTRAPOLATION and bool(self.scores.evals)

    def options(self) -> FigureOptions:
        """Return the options of the figures.

        Raises:
            ValueError: If sizes or points are wrong.
        """
        if not all(size > 0 for size in self.sizes) or len(set(self.sizes)) < len(self.sizes):
            raise ValueError(f"got sizes {self.sizes}; expected different numbers of pixels above 0")
        return FigureOptions(sizes=self.sizes, points=parse_points(self.points))


def figures(config: Annotated[FiguresConfig, tyro.conf.arg(name="")]) -> None:
    """Plot a model's rotary position embedding: each figure as PNG and SVG, with its data as CSV.

    `all` draws every figure that applies to the model, and writes figures.html: a page with all of them, and an
    explorer of layers, heads and queries.

    For example:
      ropevit figures all --checkpoint runs/study/runs/zoom-rope_mixed-seed0
      ropevit figures frequencies --model rope_mixed_deit_small_patch16_LS
      ropevit figures frequencies --model swin_rope_axial_tiny_patch4_window7_224 --random --out axial
      ropevit figures distance --model rope_mixed_deit_small_patch16_LS --images photos --sizes 224,448
      ropevit figures extrapolation --evals runs/eval/mixed runs/eval/axial
    """
    for module in ("matplotlib", "jinja2"):
        require(module, "figures")  # now, not after the weights
    console = Console()
    if config.out is not None:
        check_out(config.out)
    if config.scores_alone:
        _draw_evaluations(config, console)
        return
    with console.status("loading the model"):
        figure_model = load_figure_model(config)
    for size in config.sizes:
        figure_model.grid_at(size)  # raises for a wrong size now, not after the first figures
    out = config.out or Path("runs/figures") / f"{file_name(figure_model.label)}-{config.name}"
    with new_folder(out):
        evaluations = _collect_evaluations(config, out, console)
        outcomes = _draw_figures(config, figure_model, evaluations, console)
        for outcome in outcomes:
            _print_written(_write_outcome(outcome, out), console)
            if outcome.note:
                print_line(console, f"skipped {outcome.spec.name}: {outcome.note}")
        if config.name == ALL:
            _print_written([write_page(figure_model, outcomes, config.sizes, config.checkpoint, out)], console)


def load_figure_model(config: FiguresConfig) -> FigureModel:
    """Load the model, apply --scaling, and read the images for its figures."""
    if config.random:
        assert config.model is not None
        figure_model, preprocessing = random_figure_model(config.model)
    else:
        figure_model, preprocessing = open_figure_model(config.model, config.checkpoint, config.weights)
    if config.scaling is not None:
        set_scaling(figure_model.model, parse_override(config.scaling))
        figure_model = replace(figure_model, published=False)
    if config.images is not None and find_body(figure_model.model) is not figure_model.model:
        raise ValueError("got --images with a detector or segmenter; figures from images support classifiers only")
    source = config.images or (FASHION if preprocessing.embedded else None)
    if source is None:
        return figure_model
    trained = max(figure_model.trained_size)  # drawn in any case
    size = max(trained, *(config.sizes or (2 * trained,)))
    return replace(figure_model, images=load_images(source, preprocessing, size))


def _collect_evaluations(config: FiguresConfig, out: Path, console: Console) -> Evaluations | None:
    """Read existing evaluations, or run a new one, if either is given."""
    if config.scores.evals:
        return read_evaluations(config.scores.evals)
    if config.scores.data is None:
        return None
    shared = {name: getattr(config, name) for name in ("model", "checkpoint", "sizes", "scaling")}
    return run_evaluation(
        EvalConfig(data=config.scores.data, out=out / EVAL_FOLDER, weights=config.weights, **shared), console
    )


def _draw_evaluations(config: FiguresConfig, console: Console) -> None:
    """Plot existing evaluations, without loading models."""
    out = config.out or Path("runs/figures") / _EXTRAPOLATION
    data = read_evaluations(config.scores.evals)
    result = FigureResult(extrapolation.draw(data), extrapolation.rows(data))
    with new_folder(out):
        _print_written(_write_outcome(FigureOutcome(FIGURES[_EXTRAPOLATION], result), out), console)


def _print_written(paths: Sequence[Path], console: Console) -> None:
    """Print the names of written files."""
    for path in paths:
        print_line(console, f"wrote {path}")


def _draw_figures(
    config: FiguresConfig, figure_model: FigureModel, evaluations: Evaluations | None, console: Console
) -> list[FigureOutcome]:
    """Draw the requested figures; if a single one cannot be drawn, that is an error."""
    chosen, options = find_figures(config.name), replace(config.options(), evaluations=evaluations)
    if config.name != ALL:
        with console.status(f"drawing {chosen[0].name}"):
            return [FigureOutcome(chosen[0], chosen[0].make(figure_model, options))]
    outcomes = []
    for spec in chosen:
        with console.status(f"drawing {spec.name}"):
            outcomes.append(try_figure(spec, figure_model, options))
    return outcomes


def _write_outcome(outcome: FigureOutcome, out: Path) -> list[Path]:
    """Write a figure, if it was drawn, and its data as CSV."""
    if outcome.result is None:
        return []
    out.mkdir(parents=True, exist_ok=True)
    table = out / f"{outcome.spec.name}.csv"
    write_text(table, _rows_to_csv(outcome.result.rows))
    return [*save_figure(outcome.result.figure, out / outcome.spec.name), table]


def _rows_to_csv(rows: Rows) -> str:
    """Return rows as CSV."""
    return to_csv(list(rows[0]), [list(row.values()) for row in rows])


def parse_points(text: str) -> tuple[tuple[int, int], ...]:
    """Parse points such as "3,3 -2,2".

    Raises:
        ValueError: If they are not points, one is repeated, or one is too far away.
    """
    found = [re.fullmatch(r"(-?\d+),(-?\d+)", word) for word in text.split()]
    points = tuple((int(point[1]), int(point[2])) for point in found if point)
    if not points or len(points) < len(found) or len(set(points)) < len(points):
        raise ValueError(f"got points {text!r}; expected different x,y in patches, such as --points '3,3 -2,2'")
    if max(abs(side) for point in points for side in point) > _FARTHEST:
        raise ValueError(f"got points {text!r}; expected x and y from -{_FARTHEST} to {_FARTHEST}, in patches")
    return points


def file_name(label: str) -> str:
    """Make a folder name from the label of a model."""
    return re.sub(r"[^\w.+-]+", "-", label)
