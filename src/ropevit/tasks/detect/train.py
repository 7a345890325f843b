"""Training of detectors: data, loss and average precision for the engine."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ropevit.data.coco import CocoSource, open_coco
from ropevit.data.imagenet import MEAN, STD
from ropevit.data.loading import describe_skipped
from ropevit.data.rng import derive_seed
from ropevit.extras import require
from ropevit.tasks.common.batches import count_objects, mean_and_std, train_order
from ropevit.tasks.common.distributed import Communicator
from ropevit.tasks.common.events import EvalProgress, Notice, Report, silent
from ropevit.tasks.common.training import run_training
from ropevit.tasks.dense.init_weights import init_model
from ropevit.tasks.dense.set_prediction import step_divisor
from ropevit.tasks.detect.augment import train_transform
from ropevit.tasks.detect.average_precision import average_precision
from ropevit.tasks.detect.batches import Batch, normalise, train_batches
from ropevit.tasks.detect.criterion import dino_losses
from ropevit.tasks.detect.inference import InferenceSettings, run_detector
from ropevit.tasks.detect.model import DETECTOR, Detector, save_detector
from ropevit.tasks.detect.train_config import DetectConfig


def train(config: DetectConfig, report: Report = silent) -> dict[str, float]:
    """Train a detector, or go on with it.

    Args:
        config: A recipe, perhaps with some fields replaced.
        report: Called with the events of the training, in the first process alone.

    Returns:
        Scores of the last evaluation in percent, such as AP and AP50.

    Raises:
        ValueError: If the options, the data or the directory do not allow it.
        Interrupted: If a signal asked for it; everything is saved.
    """
    for module, extra in (("timm", "train"), ("transformers", "dense"), ("faster_coco_eval", "dense")):
        require(module, extra)
    return run_training(config, partial(prepare, config, report), report)


def prepare(
    config: DetectConfig, report: Report, accelerator: Any, channel: Communicator
) -> "tuple[Detection, Detector]":
    """Open the data, and draw or load the first weights."""
    learned = open_coco(config.data, "train", keep_empty=config.keep_empty)
    measured = open_coco(config.data, "val", keep_empty=True)
    check_sources(learned, measured)
    torch.manual_seed(derive_seed("weights", config.run.seed))
    tell = report if accelerator.is_main_process else silent
    for source in (learned, measured):
        if source.dropped:
            tell(Notice(message=f"left out {len(source.dropped)} boxes without an area, such as {source.dropped[0]}"))
    model = init_model(DETECTOR, config.model, learned.classes, lambda line: tell(Notice(message=line)))
    return Detection(config, learned, measured, accelerator, channel), model


def check_sources(learned: CocoSource, measured: CocoSource) -> None:
    """Refuse pictures to measure on with other classes than those to train on, or without objects.

    Raises:
        ValueError: Naming what differs.
    """
    pairs = [list(zip(each.category_ids, each.classes, strict=True)) for each in (learned, measured)]
    if pairs[0] != pairs[1]:
        odd = sorted(set(pairs[0]) ^ set(pairs[1]))[:5]
        raise ValueError(
            f"{learned.annotations} and {measured.annotations} list other categories: {odd}; give the same"
        )
    if not len(measured.labels):
        raise ValueError(f"{measured.annotations} has no objects; there is nothing to measure")


class Detection:
    """What the engine needs to train a detector.

    Args:
        config: The training.
        train: Training pictures.
        test: Pictures to measure on.
        accelerator: The processes.
        channel: What connects them.
    """

    metric = "AP"

    def __init__(
        self, config: DetectConfig, train: CocoSource, test: CocoSource, accelerator: Any, channel: Communicator
    ):
        self.config, self.train, self.test = config, train, test
        self.accelerator, self.channel = accelerator, channel
        self.order = train_order(config, len(train), accelerator)
        self.steps_per_epoch = self.order.steps_per_epoch
        self.classes = train.classes
        self.batch_size = config.batch_size
        self.skipped: list[str] = []
        self.mean, self.std = mean_and_std(accelerator.device)

    def batches(self, first: int, last: int) -> Iterator[Batch]:
        """Give this process's parts of the steps from `first` to before `last`."""
        run, transform = self.config.run, train_transform(self.config.scale)
        parts = train_batches(self.train, transform, self.order, first, last, run.workers)
        return count_objects(parts, run.accumulate, lambda part: sum(len(target.labels) for target in part.targets))

    def loss(self, model: nn.Module, batch: Batch, step: int) -> Tensor:  # noqa: ARG002
        """Give the sum of DINO's weighted losses of a part, such that the mean of the parts' is that of the step."""
        self.note(self.train, batch.bad)
        targets = [target.to(self.accelerator.device) for target in batch.targets]
        output = model(self.normalise(batch), batch.sizes, targets)
        divisor = step_divisor(batch.objects, self.config.run.accumulate, self.accelerator.device)
        return torch.stack(list(dino_losses(output, targets, self.config.model.dino, divisor).values())).sum()

    def normalise(self, batch: Batch) -> Tensor:
        """Bring bytes to the device, with ImageNet's mean at 0 and its spread at 1, and zeros in the padding."""
        return normalise(batch, self.mean, self.std)

    def note(self, source: CocoSource, bad: Sequence[int]) -> None:
        """Remember pictures that could not be read."""
        self.skipped += describe_skipped(source, bad)

    def evaluate(self, model: nn.Module, report: Report) -> dict[str, float]:
        """Measure the average precision in percent, each picture once over all processes."""
        config, processes, total = self.config, self.accelerator.num_processes, len(self.test)
        search = InferenceSettings(
            short=config.scale.test_side,
            longest=config.scale.longest,
            top=config.top,
            batch_size=max(1, config.batch_size // processes // config.run.accumulate),
            workers=config.run.workers,
            world=processes,
            rank=self.accelerator.process_index,
            normalise=self.normalise,
            autocast=self.accelerator.autocast,
        )

        def watch(done: int) -> None:
            report(EvalProgress(done=min(done * processes, total), total=total))

        rows, bad = run_detector(model, self.test, search, self.channel, watch)
        self.note(self.test, bad)
        return self.channel.run_on_main(lambda: average_precision(self.test.annotations, rows).scores)

    def save_weights(self, path: Path, weights: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        """Save weights with the detector's config, its classes and how it was trained."""
        model = Detector(self.config.model, len(self.train.classes))
        model.load_state_dict(dict(weights))
        metadata = {**facts, "recipe": self.config.recipe, "category_ids": list(self.train.category_ids)}
        metadata |= {"mean": MEAN, "std": STD, "test_side": self.config.scale.test_side}
        metadata |= {"longest": self.config.scale.longest, "top": self.config.top}
        save_detector(path, model, self.config.model, self.train.classes, metadata)
