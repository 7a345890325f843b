"""Evaluation loop of all tasks: processes, image sizes, progress events, and the plot of scores over size."""

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
from ropevit.tasks.distributed import Communicator, check_device, choose_device, shutdown
from ropevit.tasks.evaluation.config import EvalConfig
from ropevit.tasks.evaluation.inference_modes import BASELINE_LABELS, InferenceMode
from ropevit.tasks.evaluation.report import EvalSummary, nearest_size, write_eval_report
from ropevit.tasks.evaluation.results import CURVE, OUT, ResultsDir, SizeResult, mode_of, read_rows, read_settings
from ropevit.tasks.registry import Metric, task_of_result
from ropevit.tasks.runs.run_dir import RUN_FILES, checkpoint_in_run
from ropevit.tasks.runs.run_names import choose_folder
from ropevit.tasks.training.metrics_log import LogWindow

#: Maximum number of skipped images that are named for each size.
_MOST_NAMED = 3

#: Settings that must be equal for curves in one plot, and those that are never shown in the legend.
_SHARED_SETTINGS = ("metric", "data", "images", "real", "annotations")
_OMITTED = ("fingerprint", "device", "batch_size", "save_detections")


@dataclass(frozen=True, kw_only=True)
class EvalStarted:
    """An evaluation starts, or resumes after the sizes in `rows`."""

    name: str
    """Name of the model and the data."""
    description: str
    """The evaluation protocol in words."""
    trained_at: int
    """Test size during training, in pixels."""
    sizes: tuple[int, ...]
    """Test sizes in pixels, in ascending order."""
    paper: Mapping[int, PublishedResult]
    """The paper's results of this model on these data, by size."""
    rows: tuple[SizeResult, ...]
    """Results of earlier runs."""
    out: Path
    """Output directory."""
    notes: tuple[str, ...]
    """Further lines for the user."""


@dataclass(frozen=True, kw_only=True)
class EvalSizeProgress:
    """`done` of `total` images are evaluated at a size."""

    size: int
    done: int
    total: int
    mode: InferenceMode = "whole"
    """Inference mode."""


@dataclass(frozen=True, kw_only=True)
class EvalSizeDone:
    """A size is done; `skipped` names up to three images that could not be read."""

    row: SizeResult
    skipped: tuple[str, ...] = ()


Event = EvalStarted | EvalSizeProgress | EvalSizeDone
Report = Callable[[Event], None]


@dataclass(frozen=True, kw_only=True)
class EvalContext:
    """Options, processes and device of an evaluation."""

    config: EvalConfig
    world: int
    """Number of processes."""
    rank: int
    """Rank of this process."""
    device: torch.device
    communicator: Communicator
    report: Report
    """Receives the events, in the main process."""

    @property
    def is_main_process(self) -> bool:
        """Whether this is the main process, which writes the files."""
        return self.rank == 0

    def autocast(self) -> torch.autocast:
        """Return the autocast context of the requested precision."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.precision == "bfloat16")

    def watch(self, size: int, total: int, mode: InferenceMode = "whole") -> Callable[[int], None]:
        """Return a function that reports progress at a size from the number of images that this process has done."""

        def report(done: int) -> None:
            self.report(EvalSizeProgress(size=size, done=min(done * self.world, total), total=total, mode=mode))

        return report


@dataclass(frozen=True, kw_only=True)
class SizeEvaluation:
    """Results at one test size."""

    row: SizeResult
    classes: Sequence[float] = ()
    """Score of each class in percent; NaN for a class without one."""
    skipped: tuple[str, ...] = ()
    """Images that could not be read, with the reason."""
    files: Mapping[str, bytes] = field(default_factory=dict)
    """Content of further files for the output directory, by name."""
    draw_mistakes: Callable[[], Mapping[str, bytes]] = dict
    """Makes the content of files that the directory has once, of the test size nearest to the training's, by name."""


@dataclass(frozen=True, kw_only=True)
class BaselinePlan:
    """A further inference mode, evaluated with `--baselines`."""

    evaluate_size: Callable[[int], SizeEvaluation]
    """Evaluates at one size."""
    differs: Callable[[int], bool] = lambda _: True
    """Whether it differs from the default mode at a size."""


@dataclass(frozen=True, kw_only=True)
class EvalPlan:
    """Model, data, sizes and settings of an evaluation."""

    name: str
    """Short name of the model, used for the default output directory."""
    weights: str
    """Source of the weights: path, hub id or name."""
    model: str | None
    """Name of the registered model; None if there is none."""
    position: str
    """Position embedding."""
    trained_at: int
    """Test size during training, in pixels."""
    data: str
    """Name of the data."""
    description: str
    """Description of the settings, such as protocol and scaling."""
    metric: Metric
    """Metric of the curve."""
    resume_settings: Mapping[str, Any]
    """Everything else that determines the scores: weights, data and options."""
    row_type: type
    """Dataclass of a row of the results."""
    sizes: tuple[int, ...]
    """Test sizes in pixels, in ascending order."""
    evaluate_size: Callable[[int], SizeEvaluation]
    """Evaluates at one size."""
    mode: InferenceMode = "whole"
    """Inference mode of `evaluate_size`."""
    baselines: Mapping[InferenceMode, BaselinePlan] = field(default_factory=dict)
    """Further inference modes that the task offers."""
    class_names: Mapping[str, str] = field(default_factory=dict)
    """Classes of the data and their names; empty for a task without classes."""
    paper: Mapping[int, PublishedResult] = field(default_factory=dict)
    """The paper's results of this model on these data, by size."""
    notes: tuple[str, ...] = ()
    """Further lines for the user."""

    def modes_at(
        self, size: int, baselines: Sequence[InferenceMode]
    ) -> dict[InferenceMode, Callable[[int], SizeEvaluation]]:
        """Return the inference modes at a size, the default first; baselines only where they differ from it."""
        found: dict[InferenceMode, Callable[[int], SizeEvaluation]] = {self.mode: self.evaluate_size}
        found |= {mode: self.baselines[mode].evaluate_size for mode in baselines if self.baselines[mode].differs(size)}
        return found


def weights_and_name(config: EvalConfig) -> tuple[Path, str]:
    """Return the file and the short name of `--checkpoint`: a ropevit file, or the directory of a training run.

    Raises:
        ValueError: If the directory has no such weights, or `weights` is given for a file.
    """
    source = Path(str(config.checkpoint)).expanduser()
    if config.weights is not None and source.is_file():
        raise ValueError(f"got --weights {config.weights} for a file; only the directory of a training run has several")
    path = checkpoint_in_run(source, config.weights) if source.is_dir() else source
    return path, short_name(path)


def short_name(path: Path) -> str:
    """Return the stem of a file, or, for the file of a training, the name of its directory."""
    path = path.resolve()
    return path.parent.name if path.name in RUN_FILES.values() else path.stem


@contextmanager
def distributed(config: EvalConfig, report: Report) -> Iterator[EvalContext]:
    """Context of an evaluation in one or several processes; leaves the process group at the end.

    Raises:
        MissingExtraError: If torchvision, matplotlib or accelerate is not installed.
        ValueError: If the device is not available.
    """
    for package, extra in (("torchvision", "train"), ("matplotlib", "figures")):
        require(package, extra)  # before the evaluation, not after it
    device = choose_device(config.device)
    torch.backends.cudnn.allow_tf32 = False  # full float32 in convolutions, as in training
    processes = require("accelerate", "train").PartialState(cpu=device.type == "cpu")
    check_device(device, processes.device)
    try:
        yield EvalContext(
            config=config,
            world=processes.num_processes,
            rank=processes.process_index,
            device=processes.device,
            communicator=Communicator(),
            report=report if processes.is_main_process else lambda _: None,
        )
    finally:
        shutdown()


def evaluate_sizes(plan: EvalPlan, context: EvalContext) -> list[Any]:
    """Evaluate every size that the output directory lacks, and save each result as soon as it is known.

    Returns:
        The rows by size, including those of earlier runs.

    Raises:
        ValueError: If the output directory cannot be used or resumed, another process writes to it, or a directory of
            `--compare-with` holds no comparable evaluation.
    """
    given, resume = context.config.out, context.config.resume
    out = context.communicator.run_on_main(lambda: given or choose_folder(OUT / plan.name, resume))
    with ExitStack() as stack:
        context.communicator.run_on_main(lambda: stack.enter_context(lock_folder(out)))
        return _evaluate_into(out, plan, context)


def _evaluate_into(out: Path, plan: EvalPlan, context: EvalContext) -> list[Any]:
    """Evaluate into a locked directory; see `evaluate_sizes`."""
    settings = settings_of(plan, context)
    others = context.communicator.run_on_main(
        lambda: [read_curve(folder, plan.row_type, settings) for folder in context.config.compare_with]
    )
    results = context.communicator.run_on_main(lambda: open_results(out, plan, settings, context.config.resume))
    rows = list(results.rows)
    context.report(
        EvalStarted(
            name=f"{plan.name} on {plan.data}",
            description=f"{plan.description}, {context.config.precision}, {context.device}",
            **{name: getattr(plan, name) for name in ("trained_at", "sizes", "paper")},
            rows=tuple(rows),
            out=out,
            notes=(f"weights: {plan.weights}", *plan.notes),
        )
    )
    known = {(row.size, mode_of(row) or plan.mode) for row in rows}
    wanted = [(size, *one) for size in plan.sizes for one in plan.modes_at(size, context.config.baselines).items()]
    todo = [(size, evaluate_size) for size, mode, evaluate_size in wanted if (size, mode) not in known]
    alike = [size for size, mode in known if mode == plan.mode]
    nearest = nearest_size([*alike, *plan.sizes], plan.trained_at)
    if rows and context.is_main_process:
        draw_results(results, plan, others, len(todo))
    for done, (size, evaluate_size) in enumerate(todo, 1):
        result = evaluate_size(size)
        rows.append(result.row)
        if context.is_main_process:
            for name, content in {**result.files, **(result.draw_mistakes() if size == nearest else {})}.items():
                results.write_bytes(name, content)
            results.add(result.row, result.classes)
            draw_results(results, plan, others, len(todo) - done)
        context.report(EvalSizeDone(row=result.row, skipped=result.skipped[:_MOST_NAMED]))
    return sorted(rows, key=results.sort_key)


def open_results(out: Path, plan: EvalPlan, settings: Mapping[str, Any], resume: bool) -> ResultsDir:
    """Open the directory of an evaluation; see `ResultsDir`."""
    return ResultsDir(out, settings, plan.class_names, plan.row_type, resume, tuple(plan.baselines))


def settings_of(plan: EvalPlan, context: EvalContext) -> dict[str, Any]:
    """Return the content of eval.json; on resuming, the values under "config" must be the same."""
    task = task_of_result(plan.row_type)
    config, precision = context.config, context.config.precision
    dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
    machine = environment(context.device, dtype, config.workers, torch.get_num_threads())
    fixed = {
        "metric": plan.metric.label,
        "data": plan.data,
        **plan.resume_settings,
        "precision": precision,
        "device": machine["device"],
    }
    model = {name: getattr(plan, name) for name in ("name", "weights", "model", "position", "trained_at")}
    processes = {"batch_size": config.batch_size, "processes": context.world}
    return {"task": task, "config": fixed, "data": config.data, "model": model, "machine": machine | processes}


def draw_results(results: ResultsDir, plan: EvalPlan, others: Sequence[Curve], missing: int = 0) -> None:
    """Plot the results over size beside the paper's and those of other evaluations, and write the report.

    `missing` is the number of results that are not known yet.
    """
    scores = scores_by_mode(results.rows, plan.metric.label, plan.trained_at)
    own = Curve(name=plan.name, position=plan.position, trained_at=plan.trained_at, paper=plan.paper, **scores)
    title = f"{plan.metric.label} on {plan.data}"
    figure = draw_curves(
        Evaluations(curves=(own, *others), metric=plan.metric.label, title=title, unit=plan.metric.unit)
    )
    curve = figure_bytes(figure, "png")
    results.write_bytes(CURVE, curve)
    about = {name: getattr(plan, name) for name in ("name", "data", "description", "trained_at")}
    notes = f"weights: {plan.weights}", *plan.notes
    write_eval_report(results, EvalSummary(**about, metric=plan.metric.label, missing=missing, notes=notes), curve)


def read_curve(folder: Path, row_type: type, settings: Mapping[str, Any], option: str = "--compare-with") -> Curve:
    """Read the curve of another evaluation.

    Args:
        folder: Its directory.
        row_type: Dataclass of the rows.
        settings: Settings of the evaluation that it is compared with, from its eval.json.
        option: Command-line option that named the directory, for messages.

    Raises:
        ValueError: If there is none, or its metric or data differ.
    """
    advice, metric = f"leave it out of {option}", settings["config"]["metric"]
    found, own = read_settings(folder, advice), settings["config"]
    theirs, ours = found["config"], "this evaluation" if option == "--compare-with" else "the first one"
    for key in _SHARED_SETTINGS:
        if theirs.get(key) != own.get(key):
            raise ValueError(
                f"{folder} has {key}={theirs.get(key)!r}, {ours} {own.get(key)!r}; only evaluations with the same "
                f"metric on the same data can be compared: {advice}"
            )
    rows = read_rows(folder, row_type)
    if not rows:
        raise ValueError(f"{folder} has no results yet; {advice}")
    others = [key for key in {**own, **theirs} if key not in _OMITTED and theirs.get(key) != own.get(key)]
    name = ", ".join([found["model"]["name"], *(f"{key} {theirs.get(key)}" for key in others)])
    position, trained_at = found["model"]["position"], found["model"]["trained_at"]
    return Curve(name=name, position=position, trained_at=trained_at, **scores_by_mode(rows, metric, trained_at))


def scores_by_mode(rows: Sequence[Any], metric: str, trained_at: int) -> dict[str, Any]:
    """Return the scores as keyword arguments of `Curve`: points of the default inference mode and of baselines.

    Args:
        rows: Rows of one evaluation.
        metric: Name of the score in the rows.
        trained_at: Test size during training, in pixels.
    """
    modes: dict[str, dict[int, float]] = {}
    for row in rows:
        modes.setdefault(mode_of(row) or "whole", {})[row.size] = row.scores[metric]
    points = modes.pop("whole", {})
    labels = {mode: BASELINE_LABELS[mode].format(size=trained_at) for mode in modes}
    return {"points": points, "baselines": {labels[mode]: modes[mode] for mode in modes}}


class EvalTimer:
    """Measures throughput and memory of the evaluation at one size.

    Args:
        context: Options, processes and device of the evaluation.
    """

    def __init__(self, context: EvalContext):
        self.context, self.window = context, LogWindow(context.device)
        if context.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(context.device)

    def stats(self, images: int, total: int) -> dict[str, Any]:
        """Return the fields that every row has besides scores; all processes must call this.

        Args:
            images: Images evaluated, over all processes.
            total: Images in the data set.
        """
        seconds = self.window.seconds()
        return {
            "images": images,
            "skipped": total - images,
            "images_per_second": round(images / seconds, 2),
            "peak_memory_gib": round(max(self.context.communicator.all_gather(self.window.memory())), 3),
        }
