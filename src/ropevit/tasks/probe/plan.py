"""Plan of a probe: the model, the images, and the conditions under which features are computed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ropevit.data.identity import identify
from ropevit.data.subset import ImageSubset
from ropevit.tasks.classify.eval_model import (
    EvalModel,
    check_channels,
    read_eval_model,
    scaling_for,
    with_scaling,
)
from ropevit.tasks.classify.evaluate import views_of
from ropevit.tasks.classify.inference_modes import tokens_per_image
from ropevit.tasks.classify.protocol import View
from ropevit.tasks.evaluation.inference_modes import BASELINE_LABELS, InferenceMode
from ropevit.tasks.evaluation.loop import EvalContext
from ropevit.tasks.evaluation.results import hash_weights
from ropevit.tasks.evaluation.scaling_search import NONE
from ropevit.tasks.evaluation.tuned_scaling import AUTO
from ropevit.tasks.probe.config import ProbeConfig
from ropevit.tasks.probe.kinds import IMAGE, ProbeKind, patch_kind
from ropevit.tasks.probe.splits import holds_masks, open_splits


@dataclass(frozen=True, kw_only=True)
class Condition:
    """A condition under which features are computed: an image size, a RoPE scaling method and an inference mode."""

    view: View
    scaling: str
    """Scaling methods, or `none`; the model's own where the grid is that of the training: none changes anything."""
    mode: InferenceMode = "whole"

    @property
    def key(self) -> dict[str, Any]:
        """Key of the condition in the file of results."""
        return {"size": self.view.size, "scaling": self.scaling, "mode": self.mode}

    @property
    def text(self) -> str:
        """Name for messages."""
        return f"{self.view.size} px, {self.mode if self.mode != 'whole' else f'scaling {self.scaling}'}"


@dataclass(frozen=True, kw_only=True)
class ProbePlan:
    """Model, images and conditions of a probe."""

    config: ProbeConfig
    context: EvalContext
    eval_model: EvalModel
    kind: ProbeKind
    """What the probes measure: features of images, or of patches."""
    train: ImageSubset
    test: ImageSubset
    conditions: tuple[Condition, ...]
    """The first is the reference: the model as it is, at its training size."""
    notes: tuple[str, ...] = ()

    @property
    def reference(self) -> Condition:
        """The model as it is, at its training size."""
        return self.conditions[0]

    def tokens(self, condition: Condition) -> int:
        """Return the patch tokens of an image."""
        return tokens_per_image(self.eval_model.config, condition.view.size, condition.mode, self.eval_model.trained_at)

    def has_pass(self, found: Mapping[str, Any], images: int) -> bool:
        """Return whether a stored pass has all probes, a known inference mode, and the number of test images."""
        return (
            found["probes"] == list(self.kind.probes)
            and found["mode"] in ("whole", *BASELINE_LABELS)
            and images == len(self.test)
        )

    def settings(self) -> dict[str, Any]:
        """Return what all results in a directory have in common; sizes and methods can be added."""
        view, images = self.reference.view, self.kind is IMAGE
        names = ("max_images", "seed", "precision")
        names += ("pooling", "neighbors", "temperature") if images else ("max_patches",)
        crop = {"protocol": self.config.protocol or "paper", "crop": view.crop, "squash": view.squash}
        return {
            "fingerprint": hash_weights(self.eval_model.parsed.state),
            "own_scaling": self.reference.scaling,
            **_identify_split("train", self.train),
            **_identify_split("test", self.test),
            "classes": list(self.test.classes),
            **{name: getattr(self.config, name) for name in names},
            **{"trained_at": view.size, "window": view.window},
            **(crop if images else {}),  # patches are those of whole images
            **{"mean": list(self.eval_model.mean), "std": list(self.eval_model.std)},
            "device": self.context.device.type,
        }


def _identify_split(split: str, images: ImageSubset) -> dict[str, Any]:
    """Return the name of a split, the number of images to use, and digests of all its names, labels and files."""
    facts = {f"{split}_{name}": value for name, value in identify(images.source).items()}
    return {split: f"{images.name}, {len(images)} images"} | facts


def make_plan(config: ProbeConfig, context: EvalContext) -> ProbePlan:
    """Read the weights, open the images, and list the conditions.

    Raises:
        ValueError: If the model takes no images of this kind, a size or method does not fit it, or the images are not
            enough.
    """
    eval_model = _open_model(config)
    train, test = open_splits(config)
    kind = patch_kind(len(test.classes)) if holds_masks(config.data) else IMAGE
    config.check_options(masks=kind is not IMAGE)
    scalings, notes = _resolve_scalings(eval_model, config, test.name)
    if eval_model.config.rope is not None:
        eval_model = with_scaling(eval_model, eval_model.config.scaling)  # for the grid of its training
    sizes = {*(config.sizes or eval_model.config.default_sizes(eval_model.trained_at)), eval_model.trained_at}
    views = views_of(eval_model, tuple(sizes), config.protocol, config.crop_pct)
    conditions = _list_conditions(eval_model, views, scalings, config)
    if kind is not IMAGE and eval_model.config.rope is not None:  # images of other shapes than that of the training
        conditions += [Condition(view=conditions[0].view, scaling=each) for each in scalings]
    return ProbePlan(
        **{"config": config, "context": context, "eval_model": eval_model, "notes": tuple(notes)},
        **{"kind": kind, "train": train, "test": test, "conditions": tuple(dict.fromkeys(conditions))},
    )


def _open_model(config: ProbeConfig) -> EvalModel:
    """Read the weights of a model of images, with or without a head.

    Raises:
        ValueError: If it takes clips, or images of other channels than gray or RGB.
    """
    eval_model = read_eval_model(config.model, config.checkpoint, config.weights)
    if eval_model.config.is_video:
        raise ValueError(f"{eval_model.parsed.source} is a video model; probe takes models of images")
    check_channels(eval_model)
    if config.pooling == "both" and getattr(eval_model.config, "pooling", "avg") == "avg":
        raise ValueError(
            f"got --pooling both for {eval_model.name}, whose head reads the mean patch; both would be the same "
            "features twice: leave it out"
        )
    return eval_model


def _resolve_scalings(eval_model: EvalModel, config: ProbeConfig, data: str) -> tuple[list[str], list[str]]:
    """Return the scaling methods, and notes on `auto` for a probe of the images `data`.

    Raises:
        ValueError: If a method does not exist or the model cannot have it, or nothing was chosen for `auto`.
    """
    found, notes = [], []
    for word in config.scaling or (eval_model.config.scaling or NONE,):
        methods, tuned = scaling_for(eval_model, word, config.model, config.checkpoint)
        if tuned is not None:
            notes.append(tuned.describe_for(data))
        if methods is not None:
            with_scaling(eval_model, methods)  # raises for a method that does not exist, or that the model cannot have
        found.append(methods or NONE)
    twice = [name for name in dict.fromkeys(found) if found.count(name) > 1]
    if twice and AUTO not in config.scaling:
        raise ValueError(f"got --scaling {' '.join(config.scaling)}, which has {twice[0]} twice; name each once")
    return list(dict.fromkeys(found)), notes


def _list_conditions(
    eval_model: EvalModel, views: Sequence[View], scalings: Sequence[str], config: ProbeConfig
) -> list[Condition]:
    """Return the conditions, the reference first; baselines have the model's own scaling, as in `ropevit eval`."""
    trained, own = eval_model.trained_at, eval_model.config.scaling or NONE
    reference = Condition(view=next(view for view in views if view.size == trained), scaling=own)
    conditions = [reference]
    for view in views:
        for scaling in scalings if _scaling_changes(eval_model, view) else (own,):
            conditions.append(Condition(view=view, scaling=scaling))
        for mode in config.baselines:
            if view.size > trained or (mode == "resize" and view.size != trained):
                conditions.append(Condition(view=view, scaling=own, mode=mode))
    return list(dict.fromkeys(conditions))


def _scaling_changes(eval_model: EvalModel, view: View) -> bool:
    """Return whether scaling can change anything at a size: not on the grid of the training."""
    config = eval_model.config
    grid = (
        replace(config, img_size=(view.size, view.size)).attention_grid if view.window is None else (view.window,) * 2
    )
    return config.rope is not None and grid != (config.trained_grid or config.attention_grid)
