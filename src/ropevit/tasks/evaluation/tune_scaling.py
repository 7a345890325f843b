"""Chooses a RoPE scaling method for a model on a user's images, and keeps it beside the weights."""

import datetime
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol, runtime_checkable

import torch
import tyro
from torch import Tensor

from ropevit.data.subset import ImageSubset, random_subset
from ropevit.locks import lock_folder
from ropevit.tasks.evaluation.config import SIZES, EvalConfig
from ropevit.tasks.evaluation.loop import distributed
from ropevit.tasks.evaluation.passes import Codec, PassesStarted, PassFormat, PassProgress, PassRecord, Report
from ropevit.tasks.evaluation.scaling_search import (
    Gain,
    Half,
    Score,
    SearchResult,
    paired_gain,
    search_scaling,
    split_images,
)
from ropevit.tasks.evaluation.tuned_scaling import TunedScaling, choices_file, save_choice
from ropevit.tasks.registry import TASKS
from ropevit.tasks.runs.run_dir import WeightsChoice, describe_task, task_of_checkpoint
from ropevit.text import join_names

#: Name of the file of all evaluations.
FILE = "tuning.json"


@dataclass(frozen=True, kw_only=True)
class TuneConfig:
    """Model, images and sizes of the choice of a scaling method."""

    data: str
    """Images that the model was not trained on. Classifier: a folder with `val/<class>/`, or with `<class>/` only (its
    held-out fifth is taken); `fashion`; or WebDataset shards. Segmenter: a folder in the format of ADE20K."""
    sizes: Annotated[tuple[int, ...], SIZES]
    """Image sizes in pixels, above the training size, separated by commas or spaces (the shorter side for segmenters);
    one method is chosen for all."""
    model: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
    """Classifier by name, as in `ropevit eval`."""
    checkpoint: Annotated[str | None, tyro.conf.arg(metavar="FILE|DIR|HUB-ID")] = None
    """Weights: a file, or the directory of a training run; classifiers also from the hub, and in any known layout."""
    weights: WeightsChoice | None = None
    """Which weights in the directory of a training run: best (default), last, or ema (their moving average)."""
    max_images: int = 2000
    """Largest number of images, a fixed random subset of the data; half of them are for the choice."""
    out: Path | None = None
    """Directory of the evaluations; default: runs/tune-scaling/NAME. The choice itself is kept beside the weights."""
    resume: bool = False
    """Go on with the evaluations in the output directory."""
    protocol: Literal["paper", "timm"] | None = None
    """Classifiers: protocol of the evaluation, as in `ropevit eval`."""
    crop_pct: float | None = None
    """Classifiers: crop ratio instead of the protocol's."""
    batch_size: int | None = None
    """Classifiers: images per batch; default: 128."""
    whole: bool = False
    """Segmenters: predict on whole images, even if the model's file says sliding windows."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """bfloat16: autocast; weights and rotation angles stay float32."""
    workers: int = 4
    """DataLoader workers; 0 reads images in the process itself."""
    device: str = "auto"
    """auto (an accelerator if available, else the CPU), cpu, cuda, cuda:N, mps or xpu."""

    def __post_init__(self):
        if not self.sizes:
            raise ValueError("got no size; give the sizes in pixels at which the model is to be used: --sizes 384,512")
        if self.max_images < 1:
            raise ValueError(f"got max_images={self.max_images}; expected 1 or more")

    def eval_config(self) -> EvalConfig:
        """Return the options that an evaluation of the same model shares."""
        names = ("data", "model", "checkpoint", "weights", "sizes", "batch_size", "precision", "workers", "device")
        return EvalConfig(**{name: getattr(self, name) for name in names})


@dataclass(frozen=True, kw_only=True)
class TuneResult:
    """The outcome of the choice."""

    search: SearchResult
    by_size: Mapping[int, Gain]
    """Gain of the chosen method at each size; that of `search` is of the mean over sizes."""
    choice: TunedScaling
    path: Path
    """The file that keeps it."""
    verbs: tuple[str, ...]
    """Verbs that take the choice for such a model."""
    skipped: tuple[str, ...] = ()
    """Names of the images without any counts: they could not be read, or have no labeled pixels."""


@runtime_checkable
class Count(Protocol):
    """Interface of a pass over images."""

    def __call__(
        self, size: int, scalings: Sequence[str], images: ImageSubset, progress: Callable[[int], None]
    ) -> Tensor:
        """Return counts (M, n, ...) of the images with each of M scaling methods; zeros for an unreadable image.

        Args:
            size: Image size in pixels.
            scalings: Values of `--scaling`.
            images: The images.
            progress: Called with the number of images that are done.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class TuneTarget:
    """A model whose scaling is tuned, and its images: what a task provides."""

    name: str
    """Short name of the model."""
    weights: str
    """Source of the weights: path, hub id or name."""
    fingerprint: str
    """Digest of the weights."""
    source: Any
    """The images; see `ImageSubset`."""
    count: Count
    codec: Codec
    """Writes the counts of images as JSON."""
    score: Score
    """Computes the score in percent of counts (M, sizes, ...) that are summed over images."""
    baseline: str
    """The model's own scaling, or `none`."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Settings of the passes that only this task has, for JSON."""
    verbs: tuple[str, ...] = ("eval",)
    """Verbs that take `--scaling auto` for such a model."""


class Measurer:
    """Measures the images of each half with scaling methods.

    Args:
        target: Model and images.
        sizes: Image sizes in pixels.
        halves: Images of each half.
        record: Keeps every pass over the images, and returns it when it is asked for again.
        report: Called with the progress.
    """

    def __init__(
        self,
        target: TuneTarget,
        sizes: Sequence[int],
        halves: Mapping[Half, ImageSubset],
        record: PassRecord,
        report: Report,
    ):
        self.target, self.sizes, self.halves, self.record, self.report = target, sizes, halves, record, report
        self.skipped: dict[Half, set[int]] = {half: set() for half in halves}

    def __call__(self, scalings: Sequence[str], half: Half) -> Tensor:
        """Return counts (M, n, sizes, ...) of each image; zeros for an unreadable one, which `skipped` then has."""
        counts = torch.stack([self._measure_at(size, scalings, half) for size in self.sizes], 2)
        empty = (counts.flatten(2) == 0).all(2).all(0).nonzero()[:, 0]
        self.skipped[half].update(self.halves[half].indices[index] for index in empty.tolist())
        return counts

    def skipped_names(self) -> tuple[str, ...]:
        """Return the names of the images without any counts, of both halves."""
        return tuple(self.target.source.describe(index) for index in sorted(set().union(*self.skipped.values())))

    def _measure_at(self, size: int, scalings: Sequence[str], half: Half) -> Tensor:
        """Return counts (M, n, ...) at one size, from the record if it has them."""
        key = {"size": size, "half": half, "scalings": list(scalings)}
        known = self.record.find(key)
        return self.record.add(key, self._evaluate(size, scalings, half)) if known is None else known

    def _evaluate(self, size: int, scalings: Sequence[str], half: Half) -> Tensor:
        """Read the images of a half once, and count with every method."""
        images = self.halves[half]
        text = f"{size} px, {'choosing' if half == 'choose' else 'reporting'}, {len(scalings)} methods"

        def progress(done: int) -> None:
            self.report(PassProgress(text=text, done=done, total=len(images)))

        return self.target.count(size, scalings, images, progress)


@torch.no_grad()
def tune_scaling(config: TuneConfig, report: Report = lambda _: None) -> TuneResult:
    """Choose a scaling method on half of the images, measure its gain on the others, and keep it beside the weights.

    Args:
        config: Model, images and sizes.
        report: Called with events.

    Returns:
        The choice, with its gain.

    Raises:
        ValueError: If the model's task cannot be tuned, it has no RoPE, a size is not above the training size, there
            are too few images, or the output directory does not allow it.
    """
    task = task_of_checkpoint(config.checkpoint, config.weights)
    if task.tune is None:
        nouns = join_names(f"{each.noun}s" for each in TASKS.values() if each.tune)
        raise ValueError(f"{describe_task(task, config.checkpoint)}; tune-scaling is for {nouns}")
    with distributed(config.eval_config(), lambda _: None) as context:
        if context.world > 1:
            raise ValueError(f"got {context.world} processes; tune-scaling runs in one: start it without torchrun")
        target: TuneTarget = task.get("tune")(config, context)
        halves = _halves(target.source, config.max_images)
        out = config.out or Path("runs/tune-scaling") / target.name
        with lock_folder(out):
            record = PassRecord(
                out / FILE,
                _settings(config, target, context.device.type),
                PassFormat(
                    target.codec,
                    {"scalings": list, "size": int, "half": str},
                    lambda found, images: found["half"] in halves and images == len(halves[found["half"]]),
                ),
                config.resume,
            )
            return _tune(config, target, halves, record, task.metric.label, report)


def _tune(
    config: TuneConfig,
    target: TuneTarget,
    halves: Mapping[Half, ImageSubset],
    record: PassRecord,
    metric: str,
    report: Report,
) -> TuneResult:
    """Choose while the output directory is locked."""
    sizes, (used, reported) = config.sizes, (len(halves[half]) for half in ("choose", "report"))
    report(
        PassesStarted(
            name=f"{target.name} on {target.source.name} at {', '.join(map(str, sizes))} px",
            notes=(f"weights: {target.weights}", f"{used} images to choose on, {reported} others for the gain"),
        )
    )
    measure = Measurer(target, sizes, halves, record, report)
    search = search_scaling(measure, target.score, baseline=target.baseline)
    before, after = search.counts
    by_size = {size: paired_gain(before[:, [i]], after[:, [i]], target.score) for i, size in enumerate(sizes)}
    choice = TunedScaling(
        fingerprint=target.fingerprint,
        weights=Path(target.weights).name,
        scaling=search.recommended,
        chosen=search.chosen,
        baseline=search.baseline,
        gain=round(search.gain.points, 4),
        low=round(search.gain.low, 4),
        high=round(search.gain.high, 4),
        metric=metric,
        sizes=list(sizes),
        data=target.source.name,
        images_chosen_on=used - len(measure.skipped["choose"]),
        images_reported_on=reported - len(measure.skipped["report"]),
        date=datetime.datetime.now(tz=datetime.UTC).date().isoformat(),
    )
    path = choices_file(config.model, config.checkpoint)
    save_choice(path, choice)
    record.finish({**asdict(choice), "trials": [asdict(trial) for trial in search.trials]})
    return TuneResult(
        search=search, by_size=by_size, choice=choice, path=path, verbs=target.verbs, skipped=measure.skipped_names()
    )


def _settings(config: TuneConfig, target: TuneTarget, device: str) -> dict[str, Any]:
    """Return what all passes of an output directory have in common."""
    return {
        "fingerprint": target.fingerprint,
        "data": target.source.name,
        "images": len(target.source),
        "max_images": config.max_images,
        "sizes": list(config.sizes),
        **target.settings,
        "precision": config.precision,
        "device": device,
    }


def _halves(source: Any, most: int) -> dict[Half, ImageSubset]:
    """Split a source, or a random subset of it, in two halves."""
    chosen = random_subset(len(source), most, "scaling", "images")
    halves = split_images(len(chosen), "images")
    return {half: ImageSubset(source, tuple(chosen[index].tolist())) for half, index in halves.items()}
