"""Chooses a RoPE scaling method for a classifier on a user's images, and keeps it beside the weights."""

import datetime
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import tyro
from PIL import Image
from torch import Tensor

from ropevit.data.augment import eval_transform
from ropevit.data.loading import eval_batches
from ropevit.data.rng import make_generator
from ropevit.data.sources import ImageSource
from ropevit.locks import lock_folder
from ropevit.models.architectures import Model
from ropevit.models.rotary import set_scaling
from ropevit.rope.scaling import parse_override
from ropevit.tasks.classify.evaluate import BATCH, ClassifierOptions, EvalInputs, classifier, prepare, views_of
from ropevit.tasks.classify.protocol import View
from ropevit.tasks.common.eval_config import SIZES, EvalConfig
from ropevit.tasks.common.eval_results import hash_weights
from ropevit.tasks.common.evaluation import distributed
from ropevit.tasks.common.run_dir import WeightsChoice, task_of_checkpoint
from ropevit.tasks.common.scaling_search import (
    NONE,
    Gain,
    Half,
    SearchResult,
    accuracy,
    paired_gain,
    search_scaling,
    split_images,
)
from ropevit.tasks.common.tuned_scaling import TunedScaling, choices_file, save_choice
from ropevit.tasks.common.tuning_record import TuningRecord
from ropevit.tasks.registry import CLASSIFY, TASKS


@dataclass(frozen=True, kw_only=True)
class TuneConfig:
    """Model, images and sizes of the choice of a scaling method."""

    data: str
    """Images that the model was not trained on: a folder with `val/<class>/`, or with `<class>/` only (its held-out
    fifth is taken); `fashion`; or WebDataset shards."""
    sizes: Annotated[tuple[int, ...], SIZES]
    """Image sizes in pixels, above the training size, separated by commas or spaces; one method is chosen for all."""
    model: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
    """Classifier by name, as in `ropevit eval`."""
    checkpoint: Annotated[str | None, tyro.conf.arg(metavar="FILE|DIR|HUB-ID")] = None
    """Weights: a file or hub id in any known layout, or the directory of a training."""
    weights: WeightsChoice | None = None
    """Which weights in the directory of a training: best (default), last, or ema (their moving average)."""
    max_images: int = 2000
    """Largest number of images, a fixed random subset of the data; half of them are for the choice."""
    out: Path | None = None
    """Directory of the evaluations; default: runs/tune-scaling/NAME. The choice itself is kept beside the weights."""
    resume: bool = False
    """Go on with the evaluations in the output directory."""
    protocol: Literal["paper", "timm"] = "paper"
    """Protocol of the evaluation, as in `ropevit eval`."""
    crop_pct: float | None = None
    """Crop ratio instead of the protocol's."""
    batch_size: int | None = None
    """Images per batch; default: 128."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """bfloat16: autocast; weights and rotation angles stay float32."""
    workers: int = 4
    """DataLoader workers; 0 reads images in the process itself."""
    device: str = "auto"
    """auto (an accelerator if available, else the CPU), cpu, cuda, cuda:N, mps or xpu."""

    def __post_init__(self):
        if not self.sizes:
            raise ValueError("got no size; give the sizes in pixels at which the model is to be used: --sizes 384,512")

    def eval_config(self) -> EvalConfig:
        """Return the options that an evaluation of the same model shares."""
        names = ("data", "model", "checkpoint", "weights", "sizes", "batch_size", "precision", "workers", "device")
        options = ClassifierOptions(protocol=self.protocol, crop_pct=self.crop_pct)
        return EvalConfig(**{name: getattr(self, name) for name in names}, options=options)


@dataclass(frozen=True, kw_only=True)
class TuneStarted:
    """The search begins: on which model and images."""

    name: str
    notes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class TuneProgress:
    """`done` of `total` images are evaluated with all methods of a pass."""

    text: str
    """What the pass is."""
    done: int
    total: int


Report = Callable[[TuneStarted | TuneProgress], None]


@dataclass(frozen=True, kw_only=True)
class TuneResult:
    """The outcome of the choice."""

    search: SearchResult
    by_size: Mapping[int, Gain]
    """Gain of the chosen method at each size; that of `search` is of the mean over sizes."""
    choice: TunedScaling
    path: Path
    """The file that keeps it."""


@dataclass(frozen=True)
class ImageSubset:
    """Some images of a source."""

    source: ImageSource
    indices: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes."""
        return self.source.classes

    @property
    def name(self) -> str:
        """Name of the set and split."""
        return self.source.name

    @property
    def blocks(self) -> tuple[int, ...]:
        """Always empty."""
        return ()

    def read(self, index: int) -> tuple[Image.Image, int]:
        """Return an image as RGB, and its label."""
        return self.source.read(self.indices[index])

    def describe(self, index: int) -> str:
        """Return the name of the file, for messages."""
        return self.source.describe(self.indices[index])


class Measurer:
    """Measures which images are classified correctly with scaling methods.

    Args:
        inputs: Model and data.
        views: Preprocessing at each size.
        halves: Images of each half.
        record: Keeps every pass over the images, and returns it when it is asked for again.
        report: Called with the progress.
    """

    def __init__(
        self,
        inputs: EvalInputs,
        views: Sequence[View],
        halves: Mapping[Half, ImageSubset],
        record: TuningRecord,
        report: Report,
    ):
        self.inputs, self.views, self.halves, self.record, self.report = inputs, views, halves, record, report
        self.built: dict[int, Model] = {}

    def __call__(self, scalings: Sequence[str], half: Half) -> Tensor:
        """Return correct and all predictions (M, n, sizes, 2) of each image, 0 of 0 for an unreadable one."""
        return torch.stack([self._measure_at(view, scalings, half) for view in self.views], 2)

    def _measure_at(self, view: View, scalings: Sequence[str], half: Half) -> Tensor:
        """Return correct and all predictions (M, n, 2) at one size, from the record if it has them."""
        key = {"size": view.size, "half": half, "scalings": list(scalings)}
        known = self.record.find(key)
        return self.record.add(key, self._evaluate(view, scalings, half)) if known is None else known

    def _evaluate(self, view: View, scalings: Sequence[str], half: Half) -> Tensor:
        """Read the images of a half once, and classify them with every method."""
        images, config = self.halves[half], self.inputs.context.config
        text = f"{view.size} px, {'choosing' if half == 'choose' else 'reporting'}, {len(scalings)} methods"
        counts = torch.zeros(len(scalings), len(images), 2, dtype=torch.int64)
        model = self._model(view)
        logits_of = classifier(model, self.inputs)
        transform, size = eval_transform(view.size, view.crop, view.squash), config.batch_size or BATCH
        for batch in eval_batches(images, transform, size, config.workers):
            places = torch.tensor(list(batch.indices), dtype=torch.long)
            if not len(places):
                continue
            for row, scaling in enumerate(scalings):
                set_scaling(model, parse_override(scaling))
                best = logits_of(batch.images).float().argmax(1).cpu()
                counts[row, places] = torch.stack([best == batch.labels, torch.ones_like(best).bool()], 1).long()
            self.report(TuneProgress(text=text, done=int(places.max()) + 1, total=len(images)))
        return counts

    def _model(self, view: View) -> Model:
        """Build the model for a size; one at a time is kept."""
        if view.size not in self.built:
            self.built.clear()
            subject = self.inputs.subject
            self.built[view.size] = subject.build(view.fit(subject.config)).to(self.inputs.context.device)
        return self.built[view.size]


@torch.no_grad()
def tune_scaling(config: TuneConfig, report: Report = lambda _: None) -> TuneResult:
    """Choose a scaling method on half of the images, measure its gain on the others, and keep it beside the weights.

    Args:
        config: Model, images and sizes.
        report: Called with events.

    Returns:
        The choice, with its gain.

    Raises:
        ValueError: If the model is no classifier with RoPE, a size is not above the training size, there are too few
            images, or the output directory does not allow it.
    """
    task = task_of_checkpoint(config.checkpoint, config.weights)
    if task is not TASKS[CLASSIFY]:
        raise ValueError(f"{config.checkpoint} is a {task.noun}; tune-scaling is for classifiers")
    with distributed(config.eval_config(), lambda _: None) as context:
        if context.world > 1:
            raise ValueError(f"got {context.world} processes; tune-scaling runs in one: start it without torchrun")
        inputs = _with_trained_grid(prepare(context))
        views = _plan(inputs, config)
        halves = _halves(inputs.source, config.max_images)
        out = config.out or Path("runs/tune-scaling") / inputs.subject.name
        with lock_folder(out):
            return _tune_into(out, config, Plan(inputs, views, halves), report)


@dataclass(frozen=True)
class Plan:
    """What is evaluated."""

    inputs: EvalInputs
    views: Sequence[View]
    halves: Mapping[Half, ImageSubset]


def _tune_into(out: Path, config: TuneConfig, plan: Plan, report: Report) -> TuneResult:
    """Choose while the output directory is locked."""
    inputs, subject = plan.inputs, plan.inputs.subject
    record = TuningRecord(out, _settings(config, plan), config.resume)
    used, reported = (len(plan.halves[half]) for half in ("choose", "report"))
    report(
        TuneStarted(
            name=f"{subject.name} on {inputs.source.name} at {', '.join(str(view.size) for view in plan.views)} px",
            notes=(f"weights: {subject.found.source}", f"{used} images to choose on, {reported} others for the gain"),
        )
    )
    measure = Measurer(inputs, plan.views, plan.halves, record, report)
    search = search_scaling(measure, accuracy, baseline=subject.config.scaling or NONE)
    before, after = search.counts
    by_size = {view.size: paired_gain(before[:, i], after[:, i], accuracy) for i, view in enumerate(plan.views)}
    choice = _choice(search, plan)
    path = choices_file(config.model, config.checkpoint)
    save_choice(path, choice)
    record.finish({**asdict(choice), "trials": [asdict(trial) for trial in search.trials]})
    return TuneResult(search=search, by_size=by_size, choice=choice, path=path)


def _choice(search: SearchResult, plan: Plan) -> TunedScaling:
    """Return the choice as it is kept."""
    subject, gain = plan.inputs.subject, search.gain
    return TunedScaling(
        fingerprint=hash_weights(subject.found.state),
        weights=Path(subject.found.source).name,
        scaling=search.recommended,
        chosen=search.chosen,
        baseline=search.baseline,
        gain=round(gain.points, 4),
        low=round(gain.low, 4),
        high=round(gain.high, 4),
        metric=TASKS[CLASSIFY].metric.label,
        sizes=[view.size for view in plan.views],
        data=plan.inputs.source.name,
        images_chosen_on=len(plan.halves["choose"]),
        images_reported_on=len(plan.halves["report"]),
        date=datetime.datetime.now(tz=datetime.UTC).date().isoformat(),
    )


def _settings(config: TuneConfig, plan: Plan) -> dict[str, Any]:
    """Return what all passes of an output directory have in common."""
    return {
        "fingerprint": hash_weights(plan.inputs.subject.found.state),
        "data": plan.inputs.source.name,
        "images": len(plan.inputs.source),
        "max_images": config.max_images,
        "sizes": [view.size for view in plan.views],
        "protocol": config.protocol,
        "crop": config.crop_pct,
        "precision": config.precision,
        "device": plan.inputs.context.device.type,
    }


def _with_trained_grid(inputs: EvalInputs) -> EvalInputs:
    """Fix the grid of the training as the reference of scaling, before the model is built for other sizes.

    Raises:
        ValueError: If the model has no RoPE.
    """
    subject = inputs.subject
    if subject.config.rope is None:
        raise ValueError(
            f"got {subject.name} with the position embedding {subject.config.position}; RoPE scaling needs a model "
            "with RoPE"
        )
    grid = subject.config.trained_grid or subject.config.attention_grid
    return replace(inputs, subject=replace(subject, config=replace(subject.config, trained_grid=grid)))


def _plan(inputs: EvalInputs, config: TuneConfig) -> list[View]:
    """Return the preprocessing at each size.

    Raises:
        ValueError: If scaling would change nothing at a size.
    """
    subject = inputs.subject
    views = views_of(subject, config.sizes, config.protocol, config.crop_pct)
    for view in views:
        if view.size <= subject.trained_at:
            raise ValueError(
                f"got size {view.size} for a model trained at {subject.trained_at} px; RoPE scaling is for larger "
                f"sizes, such as {2 * subject.trained_at}"
            )
        if view.window is not None and view.fit(subject.config).attention_grid == subject.config.trained_grid:
            raise ValueError(
                f"got size {view.size}, at which windows are as large as in training, so that RoPE scaling changes "
                "nothing; give --protocol paper, or a larger size"
            )
    return views


def _halves(source: ImageSource, most: int) -> dict[Half, ImageSubset]:
    """Split a source, or a random subset of it, in two halves."""
    count = len(source)
    chosen = torch.arange(count)
    if count > most:
        chosen = torch.randperm(count, generator=make_generator("scaling", "images"))[:most].sort().values
    halves = split_images(len(chosen), "images")
    return {half: ImageSubset(source, tuple(chosen[index].tolist())) for half, index in halves.items()}
