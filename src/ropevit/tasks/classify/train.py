"""Training of classifiers: their task for the training engine."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor, nn

from ropevit.data.augment import eval_transform, train_transform
from ropevit.data.crops import resample
from ropevit.data.loading import Batch, describe_skipped, eval_batches, train_batches
from ropevit.data.rng import derive_seed
from ropevit.data.sources import ImageSource, open_source
from ropevit.device import to_device
from ropevit.extras import require
from ropevit.models.architectures import Config, Model, build_model
from ropevit.painting import Tile, resize_to_side
from ropevit.tasks.classify.config import TrainConfig
from ropevit.tasks.classify.freezing import freeze_all_but_head
from ropevit.tasks.classify.mean_std import training_mean_std
from ropevit.tasks.classify.score import tally
from ropevit.tasks.distributed import Communicator
from ropevit.tasks.registry import TASKS
from ropevit.tasks.training.events import EvalProgress, Report, silent
from ropevit.tasks.training.first_batches import DrawnBatch, tile_side
from ropevit.tasks.training.run_training import mean_and_std, run_training, train_order
from ropevit.tasks.training.steps import draw_size
from ropevit.weights.create import create_model
from ropevit.weights.saving import save_model

if TYPE_CHECKING:
    from accelerate import Accelerator

Criterion = Callable[[Tensor, Tensor], Tensor]


def train(config: TrainConfig, report: Report = silent) -> dict[str, float]:
    """Train a classifier, or resume its training.

    Args:
        config: A recipe, possibly with some fields replaced.
        report: Called with the events of the training, in the main process only.

    Returns:
        Scores of the last evaluation in percent, such as top1.

    Raises:
        ValueError: If options, data or the output directory do not fit together.
        Interrupted: If a signal stopped the training; a checkpoint is saved.
    """
    require("timm", "train")
    return run_training(config, partial(prepare, config), report)


def prepare(
    config: TrainConfig, accelerator: "Accelerator", communicator: Communicator
) -> "tuple[Classification, Model]":
    """Open the data, and initialize or load the weights."""
    sources = open_source(config.data, "train"), open_source(config.data, "val")
    check_classes(*sources)
    task = Classification(config, *sources, accelerator, communicator)
    model = init_model(config, len(task.classes))
    if config.freeze_backbone:
        freeze_all_but_head(model)
    task.built = model.config
    return task, model


def check_classes(train: ImageSource, test: ImageSource) -> None:
    """Raise ValueError unless training and test images have the same classes.

    Raises:
        ValueError: With the classes that only one of them has.
    """
    odd = sorted(set(train.classes) ^ set(test.classes))
    if odd:
        raise ValueError(
            f"found {', '.join(odd[:5])} in only one of {train.name} and {test.name}; expected the same classes in both"
        )


def init_model(config: TrainConfig, num_classes: int) -> Model:
    """Build the model, with weights from the seed or those that the config names."""
    torch.manual_seed(derive_seed("weights", config.run.seed))
    chosen = config.initial_model
    if chosen.init is None:
        return build_model(chosen.build(num_classes))
    model = create_model(chosen.like, chosen.init, num_classes=num_classes, **chosen.fields)
    if model.config.scaling is None:
        own: Any = replace(
            model.config, trained_grid=None
        )  # the reference grid of later scaling is that of this training
        model.config = own
    return model


class Classification:
    """The task of training a classifier, for the engine.

    Args:
        config: Options of the training.
        train: Training images.
        test: Evaluation images.
        accelerator: accelerate's `Accelerator`.
        communicator: Collective communication of the processes.
    """

    metric = TASKS["classify"].metric

    def __init__(
        self,
        config: TrainConfig,
        train: ImageSource,
        test: ImageSource,
        accelerator: "Accelerator",
        communicator: Communicator,
    ):
        self.config, self.train, self.test = config, train, test
        self.accelerator, self.communicator = accelerator, communicator
        self.order = train_order(
            config, len(train), accelerator, repeats=config.augment.aug_repeats, blocks=train.blocks
        )
        self.steps_per_epoch = self.order.steps_per_epoch
        self.classes = tuple(train.classes)
        self.built: Config = config.model.build(len(self.classes))  # initial weights may set its reference grid
        self.batch_size = config.batch_size
        self.skipped: list[str] = []
        self.statistics = training_mean_std(config.model)
        self.mean, self.std = mean_and_std(accelerator.device, **self.statistics)
        self.erase = _make_erasing(config, accelerator.device)
        self.mix = make_mixing(config, len(train.classes))
        self.criterion = make_criterion(config)

    def batches(self, first: int, last: int) -> Iterator[Batch]:
        """Return this process's micro-batches of the steps `first` to `last` (exclusive)."""
        transform = train_transform(self.config.augment, self.config.largest_size)
        return train_batches(self.train, transform, self.order, first, last, self.config.run.workers)

    def loss(self, model: nn.Module, batch: Batch, step: int) -> Tensor:
        """Return the mean loss of a micro-batch, after mixup or cutmix."""
        self.note(self.train, batch)
        images, targets = self.inputs(batch, step)
        return self.criterion(model(images), targets)

    def inputs(self, batch: Batch, step: int) -> tuple[Float[Tensor, "b 3 S S"], Float[Tensor, "b K"]]:
        """Return the model's input and targets, after random erasing and mixup or cutmix, on the device.

        The mixing depends only on the seed and the step, so all micro-batches of a step are mixed alike.
        """
        images = self.erase(self.normalize(self.resize(batch.images, step)))
        np.random.seed(derive_seed("mixing", self.config.run.seed, step) % 2**32)  # noqa: NPY002  (timm draws from it)
        return self.mix(images, to_device(batch.labels, images.device))

    def draw_batch(self, batch: Batch, step: int, most: int) -> DrawnBatch:
        """Draw the first images of a micro-batch as the model sees them, with their classes and the parts in a mix."""
        images, targets = self.inputs(batch, step)
        pixels = ((images[:most] * self.std + self.mean) * 255).round().clamp(0, 255).to(torch.uint8).cpu()
        tiles, smoothing = [], self.config.augment.label_smoothing
        for image, target in zip(pixels.permute(0, 2, 3, 1).numpy(), targets[:most].tolist(), strict=False):
            side = tile_side(image.shape[0])
            lines = describe_target(target, self.classes, smoothing)
            tiles.append(Tile(resize_to_side(Image.fromarray(image), side), "\n".join(lines)))
        return DrawnBatch(tiles)

    def resize(self, images: Tensor, step: int) -> Tensor:
        """Reduce images to the size of a step (bicubic, antialiased), on the device; it depends on seed and step alone.

        Without `train_sizes` they are returned as they are.
        """
        sizes = self.config.train_sizes
        if sizes is None:
            return images
        images = to_device(images, self.accelerator.device)
        return resample(images, draw_size(sizes, "train sizes", self.config.run.seed, step))

    def normalize(self, images: Tensor) -> Tensor:
        """Move images of pixels from 0 to 255 to the device and normalize them with the model's mean and std."""
        images = to_device(images, self.accelerator.device)
        return (images.float() / 255 - self.mean) / self.std

    def note(self, source: ImageSource, batch: Batch) -> None:
        """Record the images of a batch that could not be read."""
        self.skipped += describe_skipped(source, batch.unreadable)

    def evaluate(self, model: nn.Module, report: Report) -> dict[str, float]:
        """Return top-1 and top-5 in percent at the training size; each image is evaluated by one process."""
        config, processes = self.config, self.accelerator.num_processes
        transform = eval_transform(config.model.size, config.crop_pct)
        size = max(1, config.batch_size // processes // config.run.grad_accum_steps)
        ranks = {"world": processes, "rank": self.accelerator.process_index}

        def batches() -> Iterator[Batch]:
            for batch in eval_batches(self.test, transform, size, config.run.workers, **ranks):
                self.note(self.test, batch)
                yield batch

        def watch(done: int) -> None:
            report(EvalProgress(done=min(done * processes, len(self.test)), total=len(self.test)))

        def logits_of(images: Tensor) -> Tensor:
            return model(self.normalize(images))

        size = config.model.size
        blank = torch.zeros(1, 3, size, size, dtype=torch.uint8) if config.run.fsdp else None
        return tally(logits_of, batches(), len(self.test.classes), self.communicator, watch, blank=blank).scores()

    def save_weights(self, path: Path, weights: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        """Save weights with the model's config, classes, and settings of training and evaluation."""
        model = build_model(self.built)
        model.load_state_dict(dict(weights))
        metadata = {**facts, "recipe": self.config.recipe, "train_size": self.config.model.size}
        metadata |= self.statistics | {"crop": self.config.crop_pct}
        save_model(path, model, classes=self.train.classes, metadata=metadata)


def describe_target(target: Sequence[float], classes: Sequence[str], smoothing: float) -> list[str]:
    """Return the classes of a target, the largest part first; what label smoothing adds to all classes is left out.

    Args:
        target: Part of each class.
        classes: Names of the classes.
        smoothing: Label smoothing, which all classes share.
    """
    rest, order = smoothing / len(target), sorted(range(len(target)), key=lambda label: -target[label])
    mixed = [label for label in order[:2] if target[label] - rest > 0.005 or label == order[0]]
    return [classes[label] if len(mixed) == 1 else f"{classes[label]} {target[label]:.2f}" for label in mixed]


def make_mixing(config: TrainConfig, num_classes: int) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Return a function that applies mixup or cutmix, if enabled, and converts labels to targets (b, K).

    Source: Zhang et al. 2018 (arXiv:1710.09412); Yun et al. 2019 (arXiv:1905.04899).
    """
    mixing, augment = require("timm.data.mixup", "train"), config.augment
    if augment.mixup > 0 or augment.cutmix > 0:
        return mixing.Mixup(
            mixup_alpha=augment.mixup,
            cutmix_alpha=augment.cutmix,
            prob=augment.mixup_prob,
            switch_prob=augment.mixup_switch_prob,
            label_smoothing=augment.label_smoothing,
            num_classes=num_classes,
        )
    return lambda images, labels: (
        images,
        mixing.mixup_target(labels, num_classes, 1.0, augment.label_smoothing),
    )


def _make_erasing(config: TrainConfig, device: torch.device) -> Callable[[Tensor], Tensor]:
    """Return a function that erases random rectangles, if enabled.

    Source: Zhong et al. 2020 (arXiv:1708.04896).
    """
    if config.augment.random_erasing == 0:
        return lambda images: images
    erasing = require("timm.data.random_erasing", "train")
    return erasing.RandomErasing(config.augment.random_erasing, mode="pixel", device=device.type)


def make_criterion(config: TrainConfig) -> Criterion:
    """Return the loss function of logits and targets (b, K)."""
    losses = require("timm.loss", "train")
    if config.loss == "binary":
        return losses.BinaryCrossEntropy(smoothing=0.0, target_threshold=0.0)
    return losses.SoftTargetCrossEntropy()
