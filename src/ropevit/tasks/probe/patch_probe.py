"""Measures frozen features of patches under one condition: a linear classifier, and its pixels of each class."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ropevit.data.ade import IGNORED
from ropevit.data.loading import EvalReader, batches, describe_skipped, eval_keys
from ropevit.data.rng import make_generator
from ropevit.device import to_device
from ropevit.tasks.classify.evaluate import normalizer
from ropevit.tasks.evaluation.inference_modes import patch_tokens
from ropevit.tasks.evaluation.passes import PassProgress, PassSkipped, Report
from ropevit.tasks.probe.features import MOST_NAMED, Extractor, Speed
from ropevit.tasks.probe.linear import HELD_OUT, LinearProbe, fit_probe
from ropevit.tasks.probe.patches import (
    LONG,
    PatchFeatures,
    TrainView,
    collate_one,
    feature_map,
    patch_stride,
    some_patches,
    tiles_of,
    training_patches,
)
from ropevit.tasks.probe.plan import Condition
from ropevit.tasks.segment.base import resize_logits
from ropevit.tasks.segment.confusion_matrix import ImageViews, eval_reader
from ropevit.tasks.segment.inference import InferenceConfig, in_tiles, segment
from ropevit.tasks.segment.mean_iou import confusion, mean_iou

#: Images are segmented whole, at one size.
_WHOLE = InferenceConfig()


class PatchClassifier(NamedTuple):
    """A linear classifier of patches."""

    probe: LinearProbe
    present: Int[Tensor, "k"]
    """The classes of the training patches, by its outputs; it predicts no other one."""


class PatchProbe:
    """The frozen model under one condition, and the linear classifier of its patches.

    Args:
        extractor: Builds the model.
        condition: Image size, scaling and inference mode.
        report: Called with events.
    """

    def __init__(self, extractor: Extractor, condition: Condition, report: Report):
        self.plan, self.condition, self.report = extractor.plan, condition, report
        plan, config = self.plan, self.plan.eval_model.config
        view = (condition if condition.mode == "whole" else plan.reference).view
        self.model = extractor.model(
            condition, config if view.window is None else replace(config, window_size=view.window)
        )
        self.normalize = normalizer(plan.eval_model, plan.context.device)
        self.stride, self.classes = patch_stride(self.model), len(plan.test.classes)
        trained_at, size = plan.eval_model.trained_at, condition.view.size
        self.side = trained_at if condition.mode == "tiles" else None
        self.size, self.first = (trained_at, size) if condition.mode == "resize" else (size, None)

    def features(self, pixels: Float[Tensor, "b c H W"]) -> Float[Tensor, "b C h w"]:
        """Return the features of the patches of normalized images."""
        with self.plan.context.autocast():
            return feature_map(self.model, pixels, self.stride)

    def collect(self, watch: Callable[[int], None]) -> tuple[list[PatchFeatures], Int[Tensor, "K"], list[str]]:
        """Return patches of each training image, the pixels of each class, and the images that could not be read."""
        plan, found, skipped = self.plan, [], []
        pixels = torch.zeros(self.classes, dtype=torch.int64)
        most = max(1, plan.config.max_patches // len(plan.train))
        reader = EvalReader(plan.train, TrainView(self.size, self.first), collate_one)
        keys = eval_keys(len(plan.train), 1)
        for number, (sample, unreadable) in enumerate(batches(reader, keys, plan.config.workers)):
            skipped += describe_skipped(plan.train, unreadable)
            if sample is not None:
                truth = sample[1][sample[1] != IGNORED]
                pixels += torch.bincount(truth.long(), minlength=self.classes)
                every = training_patches(self._embed, sample, self.stride, self.classes, self.side)
                found.append(some_patches(every, most, "probe", "patches", plan.config.seed, number))
            watch(number + 1)
        return found, pixels, skipped

    def _embed(self, images: Tensor) -> Tensor:
        """Return the features of the patches of images of bytes."""
        return self.features(self.normalize(images))

    def fit(self, found: list[PatchFeatures]) -> PatchClassifier:
        """Fit the classifier to the patches of each training image; it knows the classes of these patches alone.

        Raises:
            ValueError: If they are of fewer than two images or classes, or a feature is not finite.
        """
        found = [each for each in found if len(each.labels)]
        values, labels = (torch.cat(parts) for parts in zip(*found, strict=True)) if found else (None, torch.zeros(0))
        if values is None or len(found) < 2 or len(labels.unique()) < 2:
            raise ValueError(
                f"got labeled patches of {len(labels.unique())} classes in {len(found)} images of "
                f"{self.plan.train.name}; expected at least two of both: see `ropevit data check`"
            )
        if not values.isfinite().all():
            raise ValueError(f"got features that are not finite at {self.condition.text}; try --precision float32")
        held = hold_out_images([len(each.labels) for each in found], self.plan.config.seed).to(values.device)
        present, known = labels.to(values.device).unique(return_inverse=True)
        text = f"{self.condition.text}: fitting"
        fit = fit_probe(
            values,
            known,
            len(present),
            held,
            score=lambda predicted, true: patch_iou(predicted, true, len(present)),
            watch=lambda done, total: self.report(PassProgress(text=text, done=done, total=total)),
        )
        return PatchClassifier(fit, present)

    def count(
        self, classifier: PatchClassifier, speed: Speed, watch: Callable[[int], None]
    ) -> tuple[Int[Tensor, "n K 3"], int, list[str]]:
        """Return correct, predicted and true pixels of each test image, the tokens of all, and unreadable images."""
        plan, skipped, tokens = self.plan, [], 0
        counts = torch.zeros(len(plan.test), self.classes, 3, dtype=torch.int64)
        first = None if self.first is None else (self.first, LONG * self.first)
        reader = eval_reader(plan.test, self.size, LONG * self.size, (1.0,), first)
        for number, image in enumerate(batches(reader, eval_keys(len(plan.test), 1), plan.config.workers)):
            skipped += describe_skipped(plan.test, image.unreadable)
            if image.views:
                labels = speed.measure(lambda _, image=image: self.segment(classifier, image), image.views[0])
                pairs = confusion(labels, to_device(image.labels, labels.device), self.classes).cpu()
                counts[number] = torch.stack([pairs.diagonal(), pairs.sum(0), pairs.sum(1)], 1)
                tokens += self.tokens(image)
            watch(number + 1)
        return counts, tokens, skipped

    def segment(self, classifier: PatchClassifier, image: ImageViews) -> Int[Tensor, "H W"]:
        """Return the class of each pixel of an image."""
        inference = _WHOLE if self.side is None else in_tiles(_WHOLE, self.side)
        pixels = [self.normalize(view) for view in image.views]
        height, width = image.labels.shape
        found = segment(lambda part: self.logits(classifier.probe, part), pixels, (height, width), inference)[0]
        return classifier.present[found]

    def logits(self, probe: LinearProbe, pixels: Float[Tensor, "b c H W"]) -> Float[Tensor, "b k H W"]:
        """Return the logits of each pixel of normalized images: those of its patch, interpolated bilinearly."""
        features = self.features(pixels).movedim(1, 3)
        size = pixels.shape[2], pixels.shape[3]
        return resize_logits(probe.logits(features).movedim(3, 1), self.stride, size)

    def tokens(self, image: ImageViews) -> int:
        """Return the patch tokens of an image, of all its tiles together."""
        height, width = image.views[0].shape[2:]
        parts = [
            (rows.stop - rows.start, columns.stop - columns.start)
            for rows, columns in tiles_of(height, width, self.side)
        ]
        return sum(patch_tokens(*part, self.plan.eval_model.config.patch_size) for part in parts)


@torch.no_grad()
def measure_patches(extractor: Extractor, condition: Condition, report: Report) -> tuple[Tensor, dict[str, Any]]:
    """Return the counts (1, n, K, 3) of the test images, and the facts of a row."""
    plan, speed = extractor.plan, Speed(extractor.plan.context.device)
    probe = PatchProbe(extractor, condition, report)
    total = len(plan.train) + len(plan.test)

    def watch(before: int, text: str) -> Callable[[int], None]:
        return lambda done: report(PassProgress(text=f"{condition.text}{text}", done=before + done, total=total))

    found, pixels, train_skipped = probe.collect(watch(0, ""))
    classifier = probe.fit(found)
    fit, present = classifier
    counts, tokens, skipped = probe.count(classifier, speed, watch(len(plan.train), ""))
    if named := (*train_skipped[:MOST_NAMED], *skipped[:MOST_NAMED]):
        report(PassSkipped(names=named))
    return counts[None], {
        "tokens": round(tokens / max(len(plan.test) - len(skipped), 1)),
        "images_per_second": speed.images_per_second(),
        "channels": fit.weight.shape[1],
        **{"penalty": fit.penalty, "iterations": fit.iterations, "converged": fit.converged},
        "train_images": len(plan.train) - len(train_skipped),
        "train_skipped": len(train_skipped),
        "skipped": len(skipped),
        "patches": sum(len(each.labels) for each in found),
        "patch_classes": len(present),
        "majority": int(pixels.argmax()),
    }


def hold_out_images(patches: list[int], seed: int) -> Bool[Tensor, "n"]:
    """Return which patches are held out: all patches of a fifth of the images, at least of one.

    Args:
        patches: Number of patches of each image.
        seed: Seed of the held-out images.
    """
    order = torch.randperm(len(patches), generator=make_generator("probe", "held out", seed))
    held = torch.zeros(len(patches), dtype=torch.bool)
    held[order[: max(1, round(HELD_OUT * len(patches)))]] = True
    return held.repeat_interleave(torch.tensor(patches))


def patch_iou(predicted: Int[Tensor, "n"], labels: Int[Tensor, "n"], num_classes: int) -> float:
    """Return the mean IoU of patches in percent, over the classes that they have or are predicted to have."""
    pairs = confusion(predicted, labels, num_classes).double()
    return mean_iou(torch.stack([pairs.diagonal(), pairs.sum(0), pairs.sum(1)], 1)[None]).item()
