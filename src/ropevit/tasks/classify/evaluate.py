"""Measuring a classifier at many sizes."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from torch import Tensor

from ropevit.data.augment import eval_transform
from ropevit.data.loading import Batch, eval_batches
from ropevit.data.sources import ImageSource, open_source
from ropevit.extras import require
from ropevit.machine import environment
from ropevit.models.architectures import Config, Model
from ropevit.models.published import Figure, curve
from ropevit.tasks.classify.classes import ClassMap, RealLabels, match_classes
from ropevit.tasks.classify.measured import Results, Row
from ropevit.tasks.classify.protocol import SIZES, View, plan_views
from ropevit.tasks.classify.score import Tally, by_label, tally
from ropevit.tasks.classify.subject import Subject, open_subject
from ropevit.tasks.common.kept import Which
from ropevit.tasks.common.processes import Channel, choose_cpu, leave
from ropevit.tasks.common.window import Window

#: Unreadable images of a size that are named.
MOST_NAMED = 3


@dataclass(frozen=True, kw_only=True)
class EvalConfig:
    """What is measured on what, and how."""

    data: str
    """`fashion`, the embedded images; a folder with val/<class>/*, or with <class>/* alone; or shards."""
    model: str | None = None
    """Name of a model; its published weights are measured unless a checkpoint is given."""
    checkpoint: str | None = None
    """Weights: a file or hub id of any layout, or the directory of a training."""
    which: Which | None = None
    """Weights of a training's directory: best (unless told otherwise), last, or ema, their moving average."""
    sizes: Annotated[tuple[int, ...], SIZES] = ()
    """Sizes in pixels, with commas or spaces between them; by default the paper's, or such in proportion for models
    trained on small images."""
    protocol: Literal["paper", "timm"] = "paper"
    """paper: crop ratio 1 for ViT; 0.875, and windows that grow with the size, for Swin. timm: 0.9, windows as
    trained."""
    crop: float | None = None
    """Size as a share of the resized shorter side, instead of the protocol's."""
    real: Path | None = None
    """ReaL labels of ImageNet's validation images, a JSON file: any label of an image counts, none leaves it out."""
    out: Path | None = None
    """Directory for the results; runs/eval/NAME if left out."""
    resume: bool = False
    """Measure the sizes that the directory lacks."""
    batch_size: int = 128
    """Images of a batch of each process."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """bfloat16 multiplies matrices in it; weights and angles stay float32."""
    workers: int = 4
    """Processes that read images, for each measuring process; 0 reads in the measuring process itself."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto takes a GPU if there is one."""

    def __post_init__(self):
        if self.batch_size < 1 or self.workers < 0:
            raise ValueError(
                f"got batch_size={self.batch_size}, workers={self.workers}; expected 1 or more, and 0 or more"
            )


@dataclass(frozen=True, kw_only=True)
class Begun:
    """An evaluation begins, or goes on after `rows`."""

    name: str
    """What is measured, in words."""
    on: str
    """On what and how."""
    trained_at: int
    sizes: tuple[int, ...]
    paper: dict[int, Figure]
    """The paper's figures for the same, by size."""
    rows: tuple[Row, ...]
    out: Path
    notes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Measuring:
    """`done` of `total` images are measured at a size."""

    size: int
    done: int
    total: int


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A size is done; `left_out` names some of the images that could not be read."""

    row: Row
    left_out: tuple[str, ...] = ()


Event = Begun | Measuring | Measured
Report = Callable[[Event], None]


@dataclass(frozen=True, kw_only=True)
class Bench:
    """All that one size needs besides the model."""

    config: EvalConfig
    subject: Subject
    source: ImageSource
    match: ClassMap
    real: RealLabels | None
    processes: Any
    device: torch.device
    channel: Channel
    report: Report


def evaluate(config: EvalConfig, report: Report = lambda _: None) -> list[Row]:
    """Measure top-1 and top-5 at every size, and write them down as they come.

    Started by `torchrun`, the processes share the images.

    Args:
        config: What, on what and how.
        report: Called with what happens, in the first process alone.

    Returns:
        What was measured, now or before, by size.

    Raises:
        ValueError: If the options, the weights, the data or the directory do not allow it.
    """
    for package, extra in (("torchvision", "train"), ("matplotlib", "figures")):
        require(package, extra)  # now, not after measuring
    on_cpu = choose_cpu(config.device)
    processes = require("accelerate", "train").PartialState(cpu=on_cpu)
    try:
        bench = prepare(config, processes, on_cpu, report)
        views = plan_views(bench.subject.config, bench.subject.trained_at, config.sizes, config.protocol, config.crop)
        return measure_all(bench, views)
    finally:
        leave()


def prepare(config: EvalConfig, processes: Any, on_cpu: bool, report: Report) -> Bench:
    """Read the weights, find the images and match their classes."""
    subject = open_subject(config.model, config.checkpoint, config.which)
    source = open_source(config.data, "val")
    match = match_classes(source, subject.classes, subject.config.num_classes, subject.name)
    if config.real is not None and not match.imagenet:
        raise ValueError(f"got ReaL labels for {source.name}; they label ImageNet-1k's validation images alone")
    return Bench(
        config=config,
        subject=subject,
        source=source,
        match=match,
        real=None if config.real is None else RealLabels(config.real, source, match.columns),
        processes=processes,
        device=torch.device("cpu") if on_cpu else torch.device("cuda", processes.local_process_index),
        channel=Channel(),
        report=report if processes.is_main_process else lambda _: None,
    )


def measure_all(bench: Bench, views: list[View]) -> list[Row]:
    """Measure at every size that is not measured yet."""
    subject, channel = bench.subject, bench.channel
    results = channel.first(lambda: open_results(bench))
    done = list(results.rows)
    paper = paper_curve(bench)
    bench.report(beginning(bench, views, done, paper))
    model: tuple[Config, Model] | None = None
    for view in views:
        if view.size in [row.size for row in done]:
            continue
        config = view.fit(subject.config)
        if model is None or model[0] != config:
            model = config, subject.build(config).to(bench.device)
        row, classes, left_out = measure(model[1], view, bench)
        done.append(row)
        if bench.processes.is_main_process:
            results.add(row, classes)
            results.draw(describe(bench), subject.trained_at, paper)
        bench.report(Measured(row=row, left_out=left_out))
    return sorted(done, key=lambda row: row.size)


def measure(model: Model, view: View, bench: Bench) -> tuple[Row, list[float], tuple[str, ...]]:
    """Measure at one size: the row, top-1 of each class in percent, and some of the images left out."""
    source, channel, device = bench.source, bench.channel, bench.device
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    window, bad = Window(device), []
    batches = read(view, bench, bad)

    def watch(done: int) -> None:
        total = len(source)
        bench.report(Measuring(size=view.size, done=min(done * bench.processes.num_processes, total), total=total))

    right = by_label if bench.real is None else bench.real.right
    if bench.real is not None:
        batches = bench.real.labelled(batches)
    logits_of = classifier(model, bench)
    counts = tally(logits_of, batches, len(source.classes), channel, watch, right=right)
    seconds = window.seconds()
    left_out = [source.describe(index) for part in channel.gather(bad) for index in part]
    images = int(counts.images.sum())
    row = Row(
        size=view.size,
        **counts.scores(),
        images=images,
        skipped=len(source) - images,
        images_per_second=round(images / seconds, 2),
        peak_memory_gib=round(max(channel.gather(window.memory())), 3),
        window=view.window,
        resize=view.resize,
        crop=view.crop,
    )
    return row, by_class(counts), tuple(left_out[:MOST_NAMED])


def read(view: View, bench: Bench, bad: list[int]) -> Iterator[Batch]:
    """Read this process's images for a size; numbers of those that cannot be read are added to `bad`."""
    places = {"world": bench.processes.num_processes, "rank": bench.processes.process_index}
    transform = eval_transform(view.size, view.crop)
    for batch in eval_batches(bench.source, transform, bench.config.batch_size, bench.config.workers, **places):
        bad += batch.bad
        yield batch


def classifier(model: Model, bench: Bench) -> Callable[[Tensor], Tensor]:
    """Give what turns uint8 images (b, 3, S, S) into logits (b, K) of the data's classes."""
    device, subject = bench.device, bench.subject
    mean, std = (torch.tensor(values, device=device).view(-1, 1, 1) for values in (subject.mean, subject.std))
    columns = torch.tensor(bench.match.columns, device=device)
    mixed = bench.config.precision == "bfloat16"

    def logits_of(images: Tensor) -> Tensor:
        pixels = images.to(device, non_blocking=True).float() / 255
        with torch.autocast(device.type, torch.bfloat16, enabled=mixed):
            return model((pixels - mean) / std)[:, columns]

    return logits_of


def by_class(counts: Tally) -> list[float]:
    """Give top-1 of each class in percent; NaN where it has no images."""
    return (100 * counts.first.double() / counts.images.double()).tolist()


def paper_curve(bench: Bench) -> dict[int, Figure]:
    """Give the paper's figures for what is measured: its model, as it does, on all classes of ImageNet-1k."""
    config, name = bench.config, bench.subject.published_name
    same = bench.match.imagenet and config.protocol == "paper" and config.crop is None and config.real is None
    return curve(name) if same and name is not None else {}


def describe(bench: Bench) -> str:
    """Say what is measured on what, in a line."""
    labels = ", ReaL labels" if bench.real else ""
    return f"{bench.subject.name} on {bench.source.name}{labels}"


def beginning(bench: Bench, views: list[View], done: list[Row], paper: dict[int, Figure]) -> Begun:
    """Say what is about to be measured."""
    config, subject = bench.config, bench.subject
    notes = [f"weights: {subject.found.source}"]
    notes += [bench.match.note] if bench.match.note else []
    if subject.crop not in (None, views[0].crop):
        notes.append(f"its training was evaluated with crop ratio {subject.crop}, this is {views[0].crop}: see --crop")
    return Begun(
        name=describe(bench),
        on=f"protocol {config.protocol}, crop ratio {views[0].crop:g}, {config.precision}, {bench.device}",
        trained_at=subject.trained_at,
        sizes=tuple(view.size for view in views),
        paper=paper,
        rows=tuple(done),
        out=place(bench),
        notes=tuple(notes),
    )


def place(bench: Bench) -> Path:
    """Choose the directory of the results."""
    return bench.config.out or Path("runs/eval") / bench.subject.name


def open_results(bench: Bench) -> Results:
    """Make the directory of the results, or check that what is there was measured in the same way."""
    config, subject, device = bench.config, bench.subject, bench.device
    dtype = torch.bfloat16 if config.precision == "bfloat16" else torch.float32
    machine = environment(device, dtype, config.workers, torch.get_num_threads())
    fixed = {
        "fingerprint": subject.fingerprint(),
        "data": bench.source.name,
        "images": len(bench.source),
        "real": None if config.real is None else config.real.name,
        **{name: getattr(config, name) for name in ("protocol", "crop", "precision")},
        "device": machine["device"],
    }
    model = {"weights": subject.found.source, "name": subject.published_name, "trained_at": subject.trained_at}
    processes = {"batch_size": config.batch_size, "processes": bench.processes.num_processes}
    settings = {"config": fixed, "data": config.data, "model": model, "machine": machine | processes}
    names = dict(zip(bench.source.classes, bench.match.names, strict=True))
    return Results(place(bench), settings, names, config.resume)
