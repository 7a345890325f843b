"""Training of segmenters: their task for the training engine."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from torch import Tensor, nn

from ropevit.data.ade import IGNORED, open_ade
from ropevit.data.rng import derive_seed
from ropevit.device import to_device
from ropevit.extras import require
from ropevit.painting import Tile, classes_in, paint_classes
from ropevit.tasks.dense.init_weights import freeze_backbone, init_model
from ropevit.tasks.dense.set_prediction import step_divisor
from ropevit.tasks.dense.training import DenseTask, count_objects, make_notify
from ropevit.tasks.distributed import Communicator
from ropevit.tasks.registry import TASKS
from ropevit.tasks.segment.base import SegmentationModel, pixel_loss
from ropevit.tasks.segment.batches import Batch, count_masks, normalize, train_batches
from ropevit.tasks.segment.confusion_matrix import SegmenterSettings, confusion_matrix
from ropevit.tasks.segment.criterion import mask_losses
from ropevit.tasks.segment.mean_iou import segmentation_scores
from ropevit.tasks.segment.model import SEGMENTER, build_segmenter, save_segmenter
from ropevit.tasks.segment.train_config import SegmentTrainConfig
from ropevit.tasks.segment.upernet import upernet_losses
from ropevit.tasks.training.events import Report, silent
from ropevit.tasks.training.first_batches import SIDES, DrawnBatch
from ropevit.tasks.training.run_training import run_training

if TYPE_CHECKING:
    from accelerate import Accelerator


def train(config: SegmentTrainConfig, report: Report = silent) -> dict[str, float]:
    """Train a segmenter, or resume its training.

    Args:
        config: A recipe, possibly with some fields replaced.
        report: Called with the events of the training, in the main process only.

    Returns:
        mIoU, aAcc and mAcc of the last evaluation in percent.

    Raises:
        ValueError: If options, data or the output directory do not fit together.
        Interrupted: If a signal stopped the training; a checkpoint is saved.
    """
    for module, extra in (("timm", "train"), ("transformers", "dense")):
        require(module, extra)
    return run_training(config, partial(prepare, config, report), report)


def prepare(
    config: SegmentTrainConfig, report: Report, accelerator: "Accelerator", communicator: Communicator
) -> "tuple[Segmentation, nn.Module]":
    """Open the data and build the model; on several GPUs, batch norms are synchronized."""
    sources = open_ade(config.data, "train"), open_ade(config.data, "val")
    torch.manual_seed(derive_seed("weights", config.run.seed))
    notify = make_notify(report, accelerator)
    model: nn.Module = init_model(SEGMENTER, config.model, sources[0].classes, notify)
    if config.freeze_backbone:
        freeze_backbone(model, config.model, notify)
    if accelerator.num_processes > 1 and accelerator.device.type == "cuda":
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    return Segmentation(config, *sources, accelerator, communicator), model


class Segmentation(DenseTask):
    """The task of training a segmenter, for the engine."""

    metric = TASKS["segment"].metric

    def batches(self, first: int, last: int) -> Iterator[Batch]:
        """Return this process's micro-batches of the steps `first` to `last` (exclusive)."""
        config = self.config
        parts = train_batches(self.train, config.augment, self.order, first, last, config.run.workers)
        if config.model.head != "mask2former":
            return parts
        return count_objects(parts, config.run.grad_accum_steps, count_masks)

    def loss(self, model: nn.Module, batch: Batch, step: int) -> Tensor:  # noqa: ARG002
        """Return the total loss of a micro-batch; mask losses are divided by the number of masks of the whole step."""
        self.note_skipped(self.train, batch.unreadable)
        labels = torch.stack(batch.labels)
        output = model(normalize(batch, self.mean, self.std))
        heads, count = self.config.model, len(self.classes)
        if heads.head == "linear":
            return pixel_loss(output, to_device(labels, self.accelerator.device), heads.body_config().patch_size)
        if heads.head == "upernet":
            losses = upernet_losses(
                output, to_device(labels, self.accelerator.device), replace(heads.upernet, classes=count)
            )
        else:
            divisor = step_divisor(batch.objects, self.config.run.grad_accum_steps, self.accelerator.device)
            losses = mask_losses(output, labels, replace(heads.mask2former, classes=count), divisor)
        return torch.stack(list(losses.values())).sum()

    def draw_batch(self, batch: Batch, step: int, most: int) -> DrawnBatch:  # noqa: ARG002
        """Draw the first crops of a micro-batch, without padding, in the colors of their classes."""
        tiles, found = [], set()
        for pixels, labels, (height, width) in zip(batch.images[:most], batch.labels, batch.sizes, strict=False):
            image = Image.fromarray(pixels[:, :height, :width].permute(1, 2, 0).numpy())
            truth = labels[:height, :width].numpy()
            tiles.append(Tile(paint_classes(image, truth, IGNORED, SIDES[1])))
            found.update(classes_in(truth, IGNORED))
        return DrawnBatch(tiles, sorted(found))

    def evaluate(self, model: nn.Module, report: Report) -> dict[str, float]:
        """Return mIoU, aAcc and mAcc in percent; each image is evaluated by one process.

        Raises:
            ValueError: If no pixel has a label.
        """
        assert isinstance(model, SegmentationModel)
        augment = self.config.augment
        fields = self.inference_fields(augment.test_short, augment.test_long)
        settings = SegmenterSettings(**fields, inference=self.config.inference)
        counts, unreadable = confusion_matrix(model, self.test, settings, self.communicator, self.progress(report))
        self.note_skipped(self.test, unreadable)
        return segmentation_scores(counts).percent()

    def save_weights(self, path: Path, weights: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        """Save weights with the segmenter's config, classes, and settings of training and evaluation."""
        config = self.config
        model = build_segmenter(config.model, len(self.classes))
        model.load_state_dict(dict(weights))
        augment = config.augment
        sizes = {"crop": augment.crop_size, "test_short": augment.test_short, "test_long": augment.test_long}
        metadata = self.metadata(facts) | sizes | {"inference": asdict(config.inference)}
        save_segmenter(path, model, config.model, self.classes, metadata)
