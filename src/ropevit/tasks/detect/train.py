"""Train detectors: data, losses and validation for the training engine."""

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from torch import Tensor, nn

from ropevit.data.coco import CocoSource, open_coco
from ropevit.data.rng import derive_seed
from ropevit.extras import require
from ropevit.painting import Annotation, Tile, paint_annotations
from ropevit.tasks.dense.init_weights import freeze_backbone, init_model
from ropevit.tasks.dense.set_prediction import step_divisor
from ropevit.tasks.dense.training import DenseTask, count_objects, make_notify
from ropevit.tasks.detect.augment import train_transform
from ropevit.tasks.detect.average_precision import average_precision
from ropevit.tasks.detect.batches import Batch, normalize, train_batches
from ropevit.tasks.detect.boxes import box_cxcywh_to_xyxy
from ropevit.tasks.detect.criterion import dino_losses
from ropevit.tasks.detect.inference import DetectorSettings, run_detector
from ropevit.tasks.detect.model import DETECTOR, Detector, save_detector
from ropevit.tasks.detect.train_config import DetectTrainConfig
from ropevit.tasks.distributed import Communicator
from ropevit.tasks.registry import TASKS
from ropevit.tasks.training.events import Report, silent
from ropevit.tasks.training.first_batches import SIDES, DrawnBatch
from ropevit.tasks.training.run_training import run_training

if TYPE_CHECKING:
    from accelerate import Accelerator


def train(config: DetectTrainConfig, report: Report = silent) -> dict[str, float]:
    """Train a detector, or resume its training.

    Args:
        config: A recipe, perhaps with some fields replaced.
        report: Called with events, in the main process only.

    Returns:
        Scores of the last evaluation in percent, such as AP and AP50.

    Raises:
        ValueError: If options, data or the output directory do not fit together.
        Interrupted: After a signal; the state has been saved.
    """
    for module, extra in (("timm", "train"), ("transformers", "dense"), ("faster_coco_eval", "dense")):
        require(module, extra)
    return run_training(config, partial(prepare, config, report), report)


def prepare(
    config: DetectTrainConfig, report: Report, accelerator: "Accelerator", communicator: Communicator
) -> "tuple[Detection, Detector]":
    """Open the data, and initialize or load the weights."""
    sources = (
        open_coco(config.data, "train", keep_empty=config.keep_empty),
        open_coco(config.data, "val", keep_empty=True),
    )
    _check_sources(*sources)
    torch.manual_seed(derive_seed("weights", config.run.seed))
    notify = make_notify(report, accelerator)
    for source in sources:
        if source.dropped:
            notify(f"skipped {len(source.dropped)} boxes without an area, such as {source.dropped[0]}")
    model = init_model(DETECTOR, config.model, sources[0].classes, notify)
    if config.freeze_backbone:
        freeze_backbone(model, config.model, notify)
    return Detection(config, *sources, accelerator, communicator), model


def _check_sources(train: CocoSource, val: CocoSource) -> None:
    """Check that both splits have the same classes, and that the validation set has objects.

    Raises:
        ValueError: If not.
    """
    pairs = [list(zip(each.category_ids, each.classes, strict=True)) for each in (train, val)]
    if pairs[0] != pairs[1]:
        different = sorted(set(pairs[0]) ^ set(pairs[1]))[:5]
        raise ValueError(
            f"{train.annotations} and {val.annotations} list different categories: {different}; expected the same in "
            "both"
        )
    if not len(val.labels):
        raise ValueError(f"{val.annotations} has no objects; there is nothing to evaluate")


class Detection(DenseTask):
    """Detection task for the training engine."""

    metric = TASKS["detect"].metric

    def batches(self, first: int, last: int) -> Iterator[Batch]:
        """Return this process's micro-batches of the steps from `first` to before `last`."""
        run, transform = self.config.run, train_transform(self.config.scale)
        parts = train_batches(self.train, transform, self.order, first, last, run.workers)
        return count_objects(
            parts, run.grad_accum_steps, lambda part: sum(len(target.labels) for target in part.targets)
        )

    def loss(self, model: nn.Module, batch: Batch, step: int) -> Tensor:  # noqa: ARG002
        """Return the sum of DINO's weighted losses of a micro-batch, whose mean over micro-batches is the step's."""
        self.note_skipped(self.train, batch.unreadable)
        targets = [target.to(self.accelerator.device) for target in batch.targets]
        output = model(normalize(batch, self.mean, self.std), batch.sizes, targets)
        divisor = step_divisor(batch.objects, self.config.run.grad_accum_steps, self.accelerator.device)
        return torch.stack(list(dino_losses(output, targets, self.config.model.dino, divisor).values())).sum()

    def draw_batch(self, batch: Batch, step: int, most: int) -> DrawnBatch:  # noqa: ARG002
        """Draw the first images of a micro-batch with their boxes."""
        tiles = []
        for pixels, (height, width), target in zip(batch.images[:most], batch.sizes, batch.targets, strict=False):
            image = Image.fromarray(pixels[:, :height, :width].permute(1, 2, 0).numpy())
            corners = box_cxcywh_to_xyxy(target.boxes) * torch.tensor([width, height, width, height])
            pairs = zip(corners.tolist(), target.labels.tolist(), strict=True)
            marks = [Annotation(tuple(box), label, self.classes[label]) for box, label in pairs]
            tiles.append(Tile(paint_annotations(image, marks, SIDES[1])))
        return DrawnBatch(tiles)

    def evaluate(self, model: nn.Module, report: Report) -> dict[str, float]:
        """Return COCO's average precision in percent, each image once over all processes."""
        config = self.config
        settings = DetectorSettings(
            **self.inference_fields(config.scale.test_size, config.scale.max_size),
            max_detections=config.max_detections,
            batch_size=max(1, config.batch_size // self.accelerator.num_processes // config.run.grad_accum_steps),
        )
        rows, unreadable = run_detector(model, self.test, settings, self.communicator, self.progress(report))
        self.note_skipped(self.test, unreadable)
        return self.communicator.run_on_main(lambda: average_precision(self.test.annotations, rows).scores)

    def save_weights(self, path: Path, weights: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        """Save weights with the detector's config, its classes and how it was trained."""
        config = self.config
        model = Detector(config.model, len(self.classes))
        model.load_state_dict(dict(weights))
        sizes = {"test_side": config.scale.test_size, "longest": config.scale.max_size, "top": config.max_detections}
        metadata = self.metadata(facts) | {"category_ids": list(self.train.category_ids)} | sizes
        save_detector(path, model, config.model, self.classes, metadata)
