"""How a study was done, in words for its report, made from its settings."""

from collections.abc import Mapping
from typing import Any

from ropevit.models.positions import position_label
from ropevit.study.config import StudyConfig
from ropevit.study.floor import MIN_STANDARD_ERRORS, MIN_SHARE
from ropevit.study.settings import PanelSettings

PANEL_TEXT = {
    "field": (
        "field (larger field of view): items scattered over a shaded, noisy canvas, always at the same scale; the "
        "model labels every pixel. A larger test canvas shows more of the scene, as in detection and segmentation."
    ),
    "zoom": (
        "zoom (higher resolution): one item an image; the model names it. A larger test image is the same image with "
        "more pixels, which is how the paper measures ImageNet at other resolutions."
    ),
}

FLOOR_TEXT = (
    "What counts: the floor is what a model scores that learned nothing, by labelling everything background (field) "
    f"or always naming the most frequent class (zoom). A score counts when it is above the floor by more than {MIN_STANDARD_ERRORS} "
    f"standard errors of the test images and by at least {MIN_SHARE:.0%} of the way from the floor to 100 %; what does not "
    "is left out of the conclusions. The dashed curves are the trivial ways to larger images, with the embedding that "
    "is best at the training size: resized back to the training size (zoom), or cut into tiles of it (field)."
)

FAIRNESS_TEXT = (
    "Fair comparison: for a seed, all embeddings start from the same weights wherever they share them and see the same "
    "images, crops and canvases in the same order for the same number of steps. An absolute embedding is resized to "
    "the test grid as the published models do (bicubic, not antialiased); rotations take the positions of the larger "
    "grid as they are."
)

SCALING_TEXT = (
    "Rules for larger grids: every trained rotation was measured with {rules}, besides without. Nothing was trained "
    "for it, and at the training size rules change no bit. Sources and formulas: docs/scaling.md."
)

TRAIN_SCALING_TEXT = (
    "Rules in training: every rotation was also trained with {rules}, from the same weights, on the same images and "
    "with the same draws for all; a model so trained is measured with the part of its rules that is not jitter. "
    "Pictures below are of the trainings without."
)

TUNING_TEXT = (
    "Tuning: settings were chosen with the embedded images, on 1,000 training images held out for that and with other "
    "seeds, never on the test images; the same learning rates were tried for every embedding, and the absolute "
    "embedding's start, which decides how good a baseline it is, besides. The search and its numbers: docs/study.md."
)

OWN_DATA_TEXT = (
    "These are your own images; the settings are those chosen with the embedded ones, scaled to your training size. "
    "Nothing was tuned on your images, for any embedding."
)


def describe_method(config: StudyConfig, study: Mapping[str, Any]) -> list[str]:
    """Write the paragraphs of the report's "how it was done".

    Args:
        config: The study.
        study: What its `results.json` holds.
    """
    data = study["data"]
    counts = f"{data['train_images']:,} training and {data['test_images']:,} test images"
    images = f"Data: {counts} of {len(data['classes'])} classes."
    names = ", ".join(position_label(name) for name in config.all_embeddings)
    panels = [f"{PANEL_TEXT[panel]} {describe_settings(config.settings(panel))}" for panel in config.panels]
    own = [] if config.data == "fashion" else [OWN_DATA_TEXT]
    rules = [SCALING_TEXT.format(rules=", ".join(config.scaling))] if config.scaling else []
    if config.train_scaling:
        rules.append(TRAIN_SCALING_TEXT.format(rules=", ".join(config.train_scaling)))
    return [images, f"Compared: {names}.", *rules, *panels, FLOOR_TEXT, FAIRNESS_TEXT, TUNING_TEXT, *own]


def describe_settings(settings: PanelSettings) -> str:
    """Name what a training of a panel consists of."""
    return (
        f"Model: ViT of width {settings.width}, {settings.depth} blocks, {settings.heads} heads, patches of "
        f"{settings.patch_size} px, average pooling. Training: {settings.steps} steps of {settings.batch_size} images "
        f"at {settings.train_size} px, AdamW, learning rate {settings.lr:g} with a cosine, weight decay "
        f"{settings.weight_decay:g}; an absolute embedding starts with standard deviation {settings.ape_std:g}."
    )
