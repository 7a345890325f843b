"""`ropevit figures`."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

import tyro

from ropevit.analysis import extrapolation
from ropevit.analysis.catalogue import (
    ANALYSES,
    FigureModel,
    FigureOptions,
    FigureOutcome,
    FigureResult,
    attempt,
    choose,
)
from ropevit.analysis.curves import Evaluations
from ropevit.analysis.figure_model import POINTS, Rows
from ropevit.analysis.layers import find_body
from ropevit.cli.console import Console, print_line
from ropevit.cli.evaluations import MEASURED, EvaluationFiles, measure
from ropevit.cli.figure_models import FASHION, load_images, open_figure_model, random_figure_model
from ropevit.cli.figures_page import write_page
from ropevit.drawing import save_figure
from ropevit.extras import require
from ropevit.files import write_text
from ropevit.models import set_scaling
from ropevit.rope.scaling import parse_override
from ropevit.tasks.common.drawing import check_out, new_folder
from ropevit.tasks.common.eval_config import SIZES, EvalConfig, Flag
from ropevit.tasks.common.eval_results import to_csv
from ropevit.tasks.common.run_dir import Which
from ropevit.tasks.compare import read_evaluations

#: Value of `name` that stands for all figures.
ALL = "all"
#: The figure that draws scores, which are read or measured.
EXTRAPOLATION = "extrapolation"
#: Option -> figures that read it, where not all do.
READ_BY = {
    "points": ("reconstruction",),
    "sizes": ("response", "phases", "distance", "entropy", EXTRAPOLATION),
    "images": ("distance", "entropy"),
    "evals": (EXTRAPOLATION,),
    "data": (EXTRAPOLATION,),
}
#: The farthest that a point to be rebuilt may lie, in patches along x or y.
FARTHEST = 100


@dataclass(frozen=True, kw_only=True)
class FiguresConfig:
    """Which figures of which model."""

    name: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="{" + ",".join([*ANALYSES, ALL]) + "}")]
    """Which figure."""
    model: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
    """Name of a model; its published weights are loaded unless a checkpoint is given."""
    checkpoint: Annotated[str | None, tyro.conf.arg(metavar="FILE|DIR|HUB-ID")] = None
    """Weights of any layout, or the directory of a training or of a study's run. A file of ours knows its model: no
    --model then."""
    which: Which | None = None
    """Which weights of a directory: the best (if left out), the last, or their moving average."""
    random: Flag = False
    """Draw --model before any training, with random weights."""
    scaling: str | None = None
    """Rules for grids larger than in training, such as ntk or parts+log, instead of the model's own; none
    draws it without."""
    images: Annotated[str | None, tyro.conf.arg(metavar="FILE|DIR|fashion")] = None
    """Images for the figures that need some: a file, a folder (its val part, if it has one), or the embedded ones.
    If left out, the embedded ones for a model that was trained on them."""
    sizes: Annotated[tuple[int, ...], SIZES] = ()
    """Sizes of square images in pixels, with commas or spaces between them; 2 and 4 times the training's if none.
    `distance` and `entropy` measure at the training's size, too; if none are given, at that and twice it. A training's
    size that is not square is taken, and multiplied, as it is."""
    points: Annotated[str, tyro.conf.arg(metavar="'X,Y X,Y'")] = " ".join(f"{x},{y}" for x, y in POINTS)
    """Points that `reconstruction` rebuilds, in patches from the query, at most 100 along x or y."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """Folder to write; must not exist, or be empty; runs/figures/MODEL-NAME if left out."""
    scores: tyro.conf.OmitArgPrefixes[EvaluationFiles] = field(default_factory=EvaluationFiles)

    def __post_init__(self):
        choose(self.name)
        self.options()
        if self.random and (self.model is None or self.checkpoint is not None):
            raise ValueError("got --random; it takes --model NAME, and no --checkpoint")
        self.check_read()
        self.check_scores()
        if not self.random and self.model is None and self.checkpoint is None and not self.scores_alone:
            raise ValueError("got neither --model nor --checkpoint; name a model (see `ropevit models`) or a file")

    def given(self, *names: str) -> list[str]:
        """Find out which options differ from their defaults."""
        values = {**vars(self), **vars(self.scores)}
        defaults = {**vars(type(self)), **vars(EvaluationFiles)}
        return [name for name in names if values[name] != defaults[name]]

    def check_read(self) -> None:
        """Refuse options that the figure does not read."""
        for option in self.given(*READ_BY):
            if self.name not in (*READ_BY[option], ALL):
                readers = ", ".join(READ_BY[option])
                raise ValueError(f"got --{option} for {self.name}; it is for {readers} and {ALL}: leave it out")

    def check_scores(self) -> None:
        """Refuse scores, or a model, that no figure would look at."""
        if len(self.given("evals", "data")) > 1:
            raise ValueError("got --evals and --data; draw what was measured, or measure: leave one out")
        known = self.given("model", "checkpoint", "random", "which", "scaling", "sizes") if self.scores_alone else []
        if known:
            raise ValueError(
                f"got --{known[0]} with --evals; evaluations know what they measured, and how: leave it out"
            )
        if self.name == EXTRAPOLATION and self.sizes and self.scores.data is None:
            raise ValueError("got --sizes with nothing to measure; give --data PATH, or leave it out")
        if self.random and self.scores.data is not None:
            raise ValueError("got --random with --data; random weights have no scores worth a figure: leave one out")

    @property
    def scores_alone(self) -> bool:
        """Whether evaluations are all that is drawn, so that no model is needed."""
        return self.name == EXTRAPOLATION and bool(self.scores.evals)

    def options(self) -> FigureOptions:
        """Give what is chosen about the figures."""
        if not all(size > 0 for size in self.sizes) or len(set(self.sizes)) < len(self.sizes):
            raise ValueError(f"got sizes {self.sizes}; expected pixels, above 0, and none twice")
        return FigureOptions(sizes=self.sizes, points=read_points(self.points))


def figures(config: Annotated[FiguresConfig, tyro.conf.arg(name="")]) -> None:
    """Draw what the rotation of a model does: a PNG, an SVG and a CSV of each figure.

    `all` draws those that the model has, and writes figures.html: one page with all of them, and an explorer in which
    layer, head and query can be picked.

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
        draw_scores(config, console)
        return
    with console.status("loading the model"):
        subject = find(config)
    for size in config.sizes:
        subject.grid_at(size)  # refuses it now, not after the first figures
    out = config.out or Path("runs/figures") / f"{file_name(subject.label)}-{config.name}"
    with new_folder(out):
        evaluations = find_scores(config, out, console)
        outcomes = draw(config, subject, evaluations, console)
        for outcome in outcomes:
            show(write(outcome, out), console)
            if outcome.note:
                print_line(console, f"left out {outcome.analysis.name}: {outcome.note}")
        if config.name == ALL:
            show([write_page(subject, outcomes, config.sizes, config.checkpoint, out)], console)


def find(config: FiguresConfig) -> FigureModel:
    """Load the model, set its rules, and read the images for its figures."""
    if config.random:
        assert config.model is not None
        subject, look = random_figure_model(config.model)
    else:
        subject, look = open_figure_model(config.model, config.checkpoint, config.which)
    if config.scaling is not None:
        set_scaling(subject.model, parse_override(config.scaling))
        subject = replace(subject, published=False)
    if config.images is not None and find_body(subject.model) is not subject.model:
        raise ValueError("got --images with a detector or segmenter; figures that need images are of classifiers")
    place = config.images or (FASHION if look.embedded else None)
    if place is None:
        return subject
    trained = max(subject.trained_size)  # is looked at in any case
    size = max(trained, *(config.sizes or (2 * trained,)))
    return replace(subject, images=load_images(place, look, size))


def find_scores(config: FiguresConfig, out: Path, console: Console) -> Evaluations | None:
    """Read the scores that are drawn, or measure them."""
    if config.scores.evals:
        return read_evaluations(config.scores.evals)
    if config.scores.data is None:
        return None
    same = {name: getattr(config, name) for name in ("model", "checkpoint", "which", "sizes", "scaling")}
    return measure(EvalConfig(data=config.scores.data, out=out / MEASURED, **same), console)


def draw_scores(config: FiguresConfig, console: Console) -> None:
    """Draw evaluations, without looking at their models."""
    out = config.out or Path("runs/figures") / EXTRAPOLATION
    data = read_evaluations(config.scores.evals)
    made = FigureResult(extrapolation.draw(data), extrapolation.rows(data))
    with new_folder(out):
        show(write(FigureOutcome(ANALYSES[EXTRAPOLATION], made), out), console)


def show(paths: Sequence[Path], console: Console) -> None:
    """Say what was written."""
    for path in paths:
        print_line(console, f"wrote {path}")


def draw(
    config: FiguresConfig, subject: FigureModel, evaluations: Evaluations | None, console: Console
) -> list[FigureOutcome]:
    """Make the figures that are asked for; one that is asked for alone and cannot be had is an error."""
    chosen, options = choose(config.name), replace(config.options(), evaluations=evaluations)
    if config.name != ALL:
        with console.status(f"drawing {chosen[0].name}"):
            return [FigureOutcome(chosen[0], chosen[0].make(subject, options))]
    outcomes = []
    for analysis in chosen:
        with console.status(f"drawing {analysis.name}"):
            outcomes.append(attempt(analysis, subject, options))
    return outcomes


def write(outcome: FigureOutcome, out: Path) -> list[Path]:
    """Write a figure, if there is one, and its numbers."""
    if outcome.made is None:
        return []
    out.mkdir(parents=True, exist_ok=True)
    table = out / f"{outcome.analysis.name}.csv"
    write_text(table, table_of(outcome.made.rows))
    return [*save_figure(outcome.made.figure, out / outcome.analysis.name), table]


def table_of(rows: Rows) -> str:
    """Write rows as comma-separated values."""
    return to_csv(list(rows[0]), [list(row.values()) for row in rows])


def read_points(text: str) -> tuple[tuple[int, int], ...]:
    """Read points such as "3,3 -2,2".

    Raises:
        ValueError: If they are no points, one is there twice, or one is too far away.
    """
    found = [re.fullmatch(r"(-?\d+),(-?\d+)", word) for word in text.split()]
    points = tuple((int(point[1]), int(point[2])) for point in found if point)
    if not points or len(points) < len(found) or len(set(points)) < len(points):
        raise ValueError(f"got points {text!r}; expected x,y in patches, none twice, such as --points '3,3 -2,2'")
    if max(abs(side) for point in points for side in point) > FARTHEST:
        raise ValueError(f"got points {text!r}; expected x and y from -{FARTHEST} to {FARTHEST}, in patches")
    return points


def file_name(label: str) -> str:
    """Make a name of a folder of what titles say."""
    return re.sub(r"[^\w.+-]+", "-", label)
