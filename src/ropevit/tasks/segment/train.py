"""Training of segmenters: data, loss and mIoU for the engine."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ropevit.data.ade import AdeSource, open_ade
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
from ropevit.tasks.segment.base import SegmentationModel
from ropevit.tasks.segment.batches import Batch, count_masks, normalised, train_batches
from ropevit.tasks.segment.confusion_matrix import InferenceSettings, confusion_matrix
from ropevit.tasks.segment.criterion import mask_losses
from ropevit.tasks.segment.mean_iou import segmentation_scores
from ropevit.tasks.segment.model import SEGMENTER, build_segmenter, save_segmenter
from ropevit.tasks.segment.train_config import SegmentConfig
from ropevit.tasks.segment.upernet import upernet_losses


def train(config: SegmentConfig, report: Report = silent) -> dict[str, float]:
    """Train a segmenter, or go on with it.

    Args:
        config: A recipe, perhaps with some fields replaced.
        report: Called with the events of the training, in the first process alone.

    Returns:
        mIoU, aAcc and mAcc of the last evaluation in percent.

    Raises:
        ValueError: If the options, the data or the directory do not allow it.
        Interrupted: If a signal asked for it; everything is saved.
    """
    for module, extra in (("timm", "train"), ("transformers", "dense")):
        require(module, extra)
    return run_training(config, partial(prepare, config, report), report)


def prepare(
    config: SegmentConfig, report: Report, accelerator: Any, channel: Communicator
) -> "tuple[Segmentation, nn.Module]":
    """Open the data, and draw or load the first weights; batch norms of several GPUs are taken over all of them."""
    learned, measured = open_ade(config.data, "train"), open_ade(config.data, "val")
    torch.manual_seed(derive_seed("weights", config.run.seed))
    tell = report if accelerator.is_main_process else silent
    model: nn.Module = init_model(SEGMENTER, config.model, learned.classes, lambda line: tell(Notice(message=line)))
    if accelerator.num_processes > 1 and accelerator.device.type == "cuda":
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    return Segmentation(config, learned, measured, accelerator, channel), model


class Segmentation:
    """What the engine needs to train a segmenter.

    Args:
        config: The training.
        train: Training pictures.
        test: Pictures to measure on.
        accelerator: The processes.
        channel: What connects them.
    """

    metric = "mIoU"

    def __init__(
        self, config: SegmentConfig, train: AdeSource, test: AdeSource, accelerator: Any, channel: Communicator
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
        config = self.config
        parts = train_batches(self.train, config.augment, self.order, first, last, config.run.workers)
        return parts if config.model.head == "upernet" else count_objects(parts, config.run.accumulate, count_masks)

    def loss(self, model: nn.Module, batch: Batch, step: int) -> Tensor:  # noqa: ARG002
        """Give the sum of the head's weighted losses of a part, sums over masks divided by those of the whole step."""
        self.note(self.train, batch.bad)
        labels = torch.stack(batch.labels).to(self.accelerator.device, non_blocking=True)
        output = model(normalised(batch, self.mean, self.std))
        heads, count = self.config.model, len(self.classes)
        if heads.head == "upernet":
            losses = upernet_losses(output, labels, replace(heads.upernet, classes=count))
        else:
            divisor = step_divisor(batch.objects, self.config.run.accumulate, labels.device)
            losses = mask_losses(output, labels, replace(heads.mask2former, classes=count), divisor)
        return torch.stack(list(losses.values())).sum()

    def note(self, source: AdeSource, bad: Sequence[int]) -> None:
        """Remember pictures that could not be read."""
        self.skipped += describe_skipped(source, bad)

    def evaluate(self, model: nn.Module, report: Report) -> dict[str, float]:
        """Measure mIoU, aAcc and mAcc in percent, each picture once over all processes.

        Raises:
            ValueError: If no pixel has a label.
        """
        assert isinstance(model, SegmentationModel)
        config, world, total = self.config, self.accelerator.num_processes, len(self.test)
        look = InferenceSettings(
            short=config.augment.test_short,
            long=config.augment.test_long,
            inference=config.inference,
            workers=config.run.workers,
            world=world,
            rank=self.accelerator.process_index,
            mean=self.mean,
            std=self.std,
            autocast=self.accelerator.autocast,
        )

        def watch(done: int) -> None:
            report(EvalProgress(done=min(done * world, total), total=total))

        counts, bad = confusion_matrix(model, self.test, look, self.channel, watch)
        self.note(self.test, bad)
        return segmentation_scores(counts).percent()

    def save_weights(self, path: Path, weights: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        """Save weights with the segmenter's config, its classes, how it was trained and how pictures are fed to it."""
        model = build_segmenter(self.config.model, len(self.classes))
        model.load_state_dict(dict(weights))
        augment = self.config.augment
        metadata = {**facts, "recipe": self.config.recipe, "mean": MEAN, "std": STD, "crop": augment.crop}
        metadata |= {"test_short": augment.test_short, "test_long": augment.test_long}
        metadata["inference"] = asdict(self.config.inference)
        save_segmenter(path, model, self.config.model, self.classes, metadata)
