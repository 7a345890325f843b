"""What all evaluations share: their processes, the loop over sizes, what they report, and curves beside one another."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ropevit.analysis.curves import Curve, Evaluations, draw_curves
from ropevit.drawing import figure_bytes
from ropevit.extras import require
from ropevit.locks import lock_folder
from ropevit.machine import environment
from ropevit.models.published import PublishedResult
from ropevit.tasks.common.distributed import Communicator, check_device, choose_device, shutdown
from ropevit.tasks.common.eval_config import EvalConfig
from ropevit.tasks.common.eval_results import CURVE, ResultsDir, SizeResult, read_rows, read_settings
from ropevit.tasks.common.metrics_log import LogWindow
from ropevit.tasks.common.run_dir import RUN_FILES, checkpoint_in_run
from ropevit.tasks.registry import Metric

#: Unreadable images of a size that are named.
_MOST_NAMED = 3

#: What evaluations must have in common to be drawn side by side, and what else differs without being worth a word.
SAME = ("metric", "data", "images", "real", "annotations")
_UNSAID = ("fingerprint", "device", "batch_size", "save_detections")


@dataclass(frozen=True, kw_only=True)
class EvalStarted:
    """An evaluation begins, or goes on after `rows`."""

    name: str
    """What is measured on what, in words."""
    how: str
    """How, in words."""
    trained_at: int
    sizes: tuple[int, ...]
    paper: Mapping[int, PublishedResult]
    """The paper's figures for the same, by size."""
    rows: tuple[SizeResult, ...]
    out: Path
    notes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class EvalProgress:
    """`done` of `total` images are measured at a size."""

    size: int
    done: int
    total: int


@dataclass(frozen=True, kw_only=True)
class EvalSizeDone:
    """A size is done; `skipped` names some of the images that could not be read."""

    row: SizeResult
    left_out: tuple[str, ...] = ()


Event = EvalStarted | EvalProgress | EvalSizeDone
Report = Callable[[Event], None]


@dataclass(frozen=True, kw_only=True)
class EvalContext:
    """Where an evaluation runs: its processes and their devices."""

    config: EvalConfig
    world: int
    """Number of processes."""
    rank: int
    """Which of them this one is."""
    device: torch.device
    channel: Communicator
    report: Report
    """Shows what happens, in the first process."""

    @property
    def is_main_process(self) -> bool:
        """Whether this is the process that writes."""
        return self.rank == 0

    def autocast(self) -> torch.autocast:
        """Multiply matrices in the precision that is asked for."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.precision == "bfloat16")

    def watch(self, size: int, total: int) -> Callable[[int], None]:
        """Give what is told how many of `total` images this process has measured at a size."""
        return lambda done: self.report(EvalProgress(size=size, done=min(done * self.world, total), total=total))


@dataclass(frozen=True, kw_only=True)
class SizeEvaluation:
    """What was measured at one size."""

    row: SizeResult
    classes: Sequence[float] = ()
    """Score of each class in percent; NaN where there is none."""
    skipped: tuple[str, ...] = ()
    """Images that could not be read."""
    files: Mapping[str, bytes] = field(default_factory=dict)
    """Other files to be kept, by name."""


@dataclass(frozen=True, kw_only=True)
class EvalPlan:
    """What is measured at which sizes, and how."""

    name: str
    """A short name of the model, for a directory."""
    weights: str
    """Where they are."""
    model: str | None
    """The model's own name, if it has one."""
    position: str
    """Its position embedding."""
    trained_at: int
    """The test size in training, in pixels."""
    data: str
    """What the data are called."""
    how: str
    """How it is measured, in words."""
    metric: Metric
    """The score of the curve."""
    fixed: Mapping[str, Any]
    """Whatever else scores depend on: weights, data and options."""
    row: type
    """Type of a row of the results."""
    sizes: tuple[int, ...]
    """Test sizes in pixels, rising."""
    measure: Callable[[int], SizeEvaluation]
    """Evaluates at one size."""
    names: Mapping[str, str] = field(default_factory=dict)
    """Classes of the data and their names; empty where there are none."""
    paper: Mapping[int, PublishedResult] = field(default_factory=dict)
    """The paper's figures for the same, by size."""
    notes: tuple[str, ...] = ()
    """What else a reader should know."""


def weights_and_name(config: EvalConfig) -> tuple[Path, str]:
    """Return the file of a checkpoint of ours, and its name: that of the directory of a training for the file of one.

    Raises:
        ValueError: If the directory has no such weights, or `which` is given for a file.
    """
    place = Path(str(config.checkpoint)).expanduser()
    if config.which is not None and place.is_file():
        raise ValueError(f"got which={config.which!r} for a file; only the directory of a training has several")
    path = checkpoint_in_run(place, config.which) if place.is_dir() else place
    return path, short_name(path)


def short_name(path: Path) -> str:
    """Return the stem of a file, or, for the file of a training, the name of its directory."""
    path = path.resolve()
    return path.parent.name if path.name in RUN_FILES.values() else path.stem


@contextmanager
def distributed(config: EvalConfig, report: Report) -> Iterator[EvalContext]:
    """Join the other processes, and part from them at the end.

    Raises:
        ValueError: If the device is not to be had here.
    """
    for package, extra in (("torchvision", "train"), ("matplotlib", "figures")):
        require(package, extra)  # now, not after measuring
    device = choose_device(config.device)
    torch.backends.cudnn.allow_tf32 = False  # float32 is float32 in convolutions, too, as in training
    processes = require("accelerate", "train").PartialState(cpu=device.type == "cpu")
    check_device(device, processes.device)
    try:
        yield EvalContext(
            config=config,
            world=processes.num_processes,
            rank=processes.process_index,
            device=processes.device,
            channel=Communicator(),
            report=report if processes.is_main_process else lambda _: None,
        )
    finally:
        shutdown()


def evaluate_sizes(plan: EvalPlan, site: EvalContext) -> list[Any]:
    """Measure at every size that is not measured yet, and write each down as it comes.

    Returns:
        The rows, measured now or before, by size.

    Raises:
        ValueError: If the directory, or one to be drawn beside it, does not allow it, or another process writes there.
    """
    out = site.config.out or Path("runs/eval") / plan.name
    with ExitStack() as stack:
        site.channel.run_on_main(lambda: stack.enter_context(lock_folder(out)))
        return _measure_into(out, plan, site)


def _measure_into(out: Path, plan: EvalPlan, site: EvalContext) -> list[Any]:
    """Measure into a directory; see `evaluate_sizes`."""
    settings = describe(plan, site)
    beside = site.channel.run_on_main(lambda: [read_curve(folder, plan.row, settings) for folder in site.config.beside])
    results = site.channel.run_on_main(lambda: ResultsDir(out, settings, plan.names, plan.row, site.config.resume))
    rows = list(results.rows)
    site.report(
        EvalStarted(
            name=f"{plan.name} on {plan.data}",
            how=f"{plan.how}, {site.config.precision}, {site.device}",
            **{name: getattr(plan, name) for name in ("trained_at", "sizes", "paper")},
            rows=tuple(rows),
            out=out,
            notes=(f"weights: {plan.weights}", *plan.notes),
        )
    )
    if rows and site.is_main_process:
        draw(results, plan, beside)
    for size in plan.sizes:
        if size in [row.size for row in rows]:
            continue
        reading = plan.measure(size)
        rows.append(reading.row)
        if site.is_main_process:
            for name, content in reading.files.items():
                results.write_bytes(name, content)
            results.add(reading.row, reading.classes)
            draw(results, plan, beside)
        site.report(EvalSizeDone(row=reading.row, left_out=reading.skipped[:_MOST_NAMED]))
    return sorted(rows, key=lambda row: row.size)


def describe(plan: EvalPlan, site: EvalContext) -> dict[str, Any]:
    """Write down what is measured, how and where; what is under "config" must not change."""
    config, precision = site.config, site.config.precision
    dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
    machine = environment(site.device, dtype, config.workers, torch.get_num_threads())
    fixed = {
        "metric": plan.metric.label,
        "data": plan.data,
        **plan.fixed,
        "precision": precision,
        "device": machine["device"],
    }
    model = {name: getattr(plan, name) for name in ("name", "weights", "model", "position", "trained_at")}
    processes = {"batch_size": config.batch_size, "processes": site.world}
    return {"config": fixed, "data": config.data, "model": model, "machine": machine | processes}


def draw(results: ResultsDir, plan: EvalPlan, beside: Sequence[Curve]) -> None:
    """Draw the curve of what was measured, beside the paper's, if it has one, and those of other evaluations."""
    points = {row.size: row.scores[plan.metric.label] for row in results.rows}
    own = Curve(name=plan.name, position=plan.position, points=points, trained_at=plan.trained_at, paper=plan.paper)
    title = f"{plan.metric.label} on {plan.data}"
    figure = draw_curves(
        Evaluations(curves=(own, *beside), metric=plan.metric.label, title=title, unit=plan.metric.unit)
    )
    results.write_bytes(CURVE, figure_bytes(figure, "png"))


def read_curve(folder: Path, kind: type, settings: Mapping[str, Any], option: str = "--compare-with") -> Curve:
    """Read the curve of another evaluation.

    Args:
        folder: Its directory.
        kind: What rows are.
        settings: What it is to stand beside, as written down there.
        option: Which option names the directory.

    Raises:
        ValueError: If there is none, or something else was measured.
    """
    advice, metric = f"leave it out of {option}", settings["config"]["metric"]
    found, own = read_settings(folder, advice), settings["config"]
    theirs, ours = found["config"], "this evaluation" if option == "--compare-with" else "the first one"
    for key in SAME:
        if theirs.get(key) != own.get(key):
            raise ValueError(
                f"{folder} says {key}: {theirs.get(key)!r}, {ours} {own.get(key)!r}; only the same measure on the "
                f"same data stands beside one another: {advice}"
            )
    rows = read_rows(folder, kind)
    if not rows:
        raise ValueError(f"{folder} has not measured anything yet; {advice}")
    others = [key for key in {**own, **theirs} if key not in _UNSAID and theirs.get(key) != own.get(key)]
    name = ", ".join([found["model"]["name"], *(f"{key} {theirs.get(key)}" for key in others)])
    points = {row.size: row.scores[metric] for row in rows}
    return Curve(name=name, position=found["model"]["position"], points=points, trained_at=found["model"]["trained_at"])


class EvalTimer:
    """Takes the time and the memory of measuring at a size.

    Args:
        site: Where.
    """

    def __init__(self, site: EvalContext):
        self.site, self.window = site, LogWindow(site.device)
        if site.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(site.device)

    def stats(self, images: int, total: int) -> dict[str, Any]:
        """Give what every row holds besides scores; all processes ask together.

        Args:
            images: Images measured, over all processes.
            total: Images that there are.
        """
        seconds = self.window.seconds()
        return {
            "images": images,
            "skipped": total - images,
            "images_per_second": round(images / seconds, 2),
            "peak_memory_gib": round(max(self.site.channel.all_gather(self.window.memory())), 3),
        }
