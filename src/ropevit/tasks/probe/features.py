"""Frozen features of images, under one condition of a plan."""

import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ropevit.data.augment import eval_transform
from ropevit.data.loading import Batch, describe_skipped, eval_batches
from ropevit.data.subset import ImageSubset
from ropevit.models.architectures import Config, Model
from ropevit.models.rotary import set_scaling
from ropevit.rope.scaling import parse_override
from ropevit.tasks.classify.evaluate import BATCH, normalizer
from ropevit.tasks.classify.inference_modes import predict_by
from ropevit.tasks.probe.config import Pooling
from ropevit.tasks.probe.plan import Condition, ProbePlan

#: Maximum number of unreadable images of a split that are named.
MOST_NAMED = 3


class Features(NamedTuple):
    """Features of the readable images of a split."""

    values: Float[Tensor, "n C"]
    labels: Int[Tensor, "n"]
    places: Int[Tensor, "n"]
    """Indices of the images in the split."""
    skipped: tuple[str, ...]
    """Unreadable images, with the reason."""


class Speed:
    """Images per second from bytes to features, without reading; the first batch of several does not count."""

    def __init__(self, device: torch.device):
        self.device, self.rows = device, []

    def measure(self, run: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
        """Return the output for a batch, and remember how long it took."""
        self._wait()
        start = time.perf_counter()
        found = run(images)
        self._wait()
        self.rows.append((len(images), time.perf_counter() - start))
        return found

    def images_per_second(self) -> float:
        """Return the speed; 0 if nothing was measured."""
        counts, seconds = zip(*(self.rows[1:] or self.rows or [(0, 1.0)]), strict=True)
        return round(sum(counts) / max(sum(seconds), 1e-9), 2)

    def _wait(self) -> None:
        """Wait for the device."""
        if self.device.type != "cpu":
            torch.accelerator.synchronize(self.device)


class Extractor:
    """Computes features; the model of one config is kept at a time.

    Args:
        plan: Model and images.
    """

    def __init__(self, plan: ProbePlan):
        self.plan, self.built = plan, {}

    def embedder(self, condition: Condition) -> Callable[[Tensor], Tensor]:
        """Return a function from uint8 images (b, 3, S, S) to features (b, C)."""
        plan = self.plan
        model = self.model(
            condition,
            (condition if condition.mode == "whole" else plan.reference).view.config_at(plan.eval_model.config),
        )
        normalize = normalizer(plan.eval_model, plan.context.device)

        def embed(images: Tensor) -> Tensor:
            pixels = normalize(images)
            with plan.context.autocast():
                return pool_features(model, pixels, plan.config.pooling).float()

        return predict_by(condition.mode, embed, plan.eval_model.trained_at, average=lambda tiles: tiles.mean(0))

    def model(self, condition: Condition, config: Config) -> Model:
        """Return the model with a config and the scaling of a condition, without its head."""
        if config not in self.built:
            self.built.clear()
            model = self.plan.eval_model.build(config)
            model.reset_classifier(0)
            self.built[config] = model.to(self.plan.context.device)
        if config.rope is not None:
            set_scaling(self.built[config], parse_override(condition.scaling))
        return self.built[config]

    @torch.no_grad()
    def extract(
        self, condition: Condition, images: ImageSubset, speed: Speed, watch: Callable[[int], None]
    ) -> Features:
        """Return the features of the readable images of a split.

        Args:
            condition: Image size, scaling and inference mode.
            images: The split.
            speed: Measures the model.
            watch: Called with the number of images that are done.

        Raises:
            ValueError: If no image can be read, or a feature is not finite.
        """
        embed, done, parts, skipped = self.embedder(condition), 0, [], []
        for batch in self._batches(condition, images):
            if len(batch.labels):
                values = speed.measure(embed, batch.images)
                parts.append((values, batch.labels, torch.tensor(list(batch.indices), dtype=torch.long)))
            skipped += describe_skipped(images, batch.unreadable)
            done += len(batch.labels) + len(batch.unreadable)
            watch(done)
        if not parts:
            raise ValueError(f"no image of {images.name} could be read; see `ropevit data check`")
        values, labels, places = (torch.cat(part) for part in zip(*parts, strict=True))
        if not values.isfinite().all():
            raise ValueError(f"got features that are not finite at {condition.text}; try --precision float32")
        return Features(values, labels.to(values.device), places, tuple(skipped))

    def _batches(self, condition: Condition, images: ImageSubset) -> Iterator[Batch]:
        """Yield the batches of a split."""
        config, transform = (
            self.plan.config,
            eval_transform(condition.view.size, condition.view.crop, condition.view.squash),
        )
        return eval_batches(images, transform, config.batch_size or BATCH, config.workers)


def pool_features(model: Model, images: Float[Tensor, "b c H W"], pooling: Pooling) -> Float[Tensor, "b C"]:
    """Return one vector for each image, after the final norm.

    Args:
        model: A model without a head.
        images: Normalized images.
        pooling: model: what a head would read; mean: the mean of the patches; both: one behind the other.
    """
    tokens = model.forward_features(images)
    if pooling == "model":
        return model.forward_head(tokens)
    mean = model.as_map(tokens, images).flatten(2).mean(2)
    if getattr(model.config, "pooled_norm", False):
        mean = model.norm(mean)
    return mean if pooling == "mean" else torch.cat([model.forward_head(tokens), mean], 1)
