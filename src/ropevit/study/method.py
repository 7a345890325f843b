"""Section "How it was done" of a study's report, written from its settings."""

from collections.abc import Mapping
from typing import Any

from ropevit.data.emoji import STUDY_GROUPS
from ropevit.models.positions import position_label
from ropevit.study.config import StudyConfig
from ropevit.study.majority import MIN_SHARE, MIN_STANDARD_ERRORS
from ropevit.study.settings import EMBEDDED, PanelSettings
from ropevit.tasks.evaluation.tuned_scaling import AUTO

_PANEL_TEXT = {
    "far": (
        "far (longer distance): two items of a canvas as in field are marked by a bright disc behind them, and the "
        "mark of each has the label of the other item. On canvases larger than the training size they are further "
        "apart than a tile of it, where there is room; tiles see one of them. Scored on the pixels of the marks alone."
    ),
    "field": (
        "field (larger field of view): items are scattered over a shaded, noisy canvas, always at the same scale, and "
        "the model labels every pixel. A larger test canvas shows more of the scene, as in detection and segmentation."
    ),
    "zoom": (
        "zoom (higher resolution): classification of images with one item each. A larger test image is the same image "
        "resampled to more pixels. The paper evaluates on ImageNet likewise, from photographs: they gain detail with "
        "the resolution, up to that of their files. So do the embedded drawings, up to 160 px; the embedded "
        "photographs of clothing have 28 px."
    ),
}

_MAJORITY_TEXT = (
    "Baselines: the majority-class baseline is the score of a model that learned nothing: it labels every pixel "
    "background (field), or always predicts the most frequent class (zoom) or label (far). A score counts if it "
    f"exceeds it by more than {MIN_STANDARD_ERRORS} standard errors over the test images and by {MIN_SHARE:.0%} of the "
    "distance from it to 100 % or more; others are excluded from the conclusions. The dashed curves are the baselines "
    "for larger images, with the embedding that is best at the training size: images resized back to the training "
    "size, or split into tiles of that size (field, far)."
)

_FAIRNESS_TEXT = (
    "Fair comparison: for each seed, all embeddings start from the same values of the weights that they share, and see "
    "the same images, crops and canvases in the same order for the same number of steps. An absolute embedding is "
    "resized to the test grid as in the published models (bicubic, not antialiased); RoPE uses the positions of the "
    "larger grid unchanged."
)

SCALING_TEXT = (
    "RoPE scaling: every model with RoPE was also evaluated with {scaling}. No model was trained for it; at the "
    "training size it changes nothing, to the bit. Sources and formulas: docs/scaling.md."
)

_AUTO_TEXT = (
    "Scaling auto: a fifth of the training images was held out from all trainings. For each model with RoPE and each "
    "size above the training size, up to 27 scaling methods were tried on one half of them, and the best one is used "
    "where its gain on the other half is shown (a 95 % interval above 0); otherwise the model is evaluated as it was "
    "trained. No test image had a part in the choice. Choices and gains are in results.json, under tuned."
)

_TRAIN_SCALING_TEXT = (
    "RoPE scaling in training: every model with RoPE was also trained with {scaling}, from the same weights, on the "
    "same images and with the same random draws for all; jitter is active in training alone, the rest of the scaling "
    "in evaluation too. The example images are from the models trained without."
)

_TRAIN_SIZES_TEXT = (
    "Random training sizes: every model was also trained with the sizes {sizes} px, one drawn for each step, the same "
    "for all embeddings, for the same number of steps and images; larger ones cost more time. The example images are "
    "from the models trained at one size."
)

_TUNING_TEXT = (
    "Tuning: the settings were chosen on 1,000 of the embedded photographs for training, held out for this purpose, "
    "with other seeds and never on the test images. The same learning rates were tried for every embedding; for the "
    "absolute embedding also its initial standard deviation, which decides how strong a baseline it is. The search and "
    "its results: docs/study.md."
)

_EMOJI_TUNING_TEXT = (
    "Tuning: the settings are those chosen on the embedded photographs, shortened and with smaller batches after a few "
    "trainings on two of the artists, scored on the third; never on the artist of the test images. Learning rates were "
    "not searched."
)

_OWN_DATA_TEXT = (
    "These are your own images. The settings are those chosen on the embedded images, scaled to your training size; "
    "nothing was tuned on your images, for any embedding."
)


def describe_method(config: StudyConfig, study: Mapping[str, Any]) -> list[str]:
    """Write the paragraphs of the section.

    Args:
        config: The study.
        study: The content of its `results.json`.
    """
    data = study["data"]
    counts = f"{data['train_images']:,} training and {data['test_images']:,} test images"
    images = f"Data: {counts} of {len(data['classes'])} classes."
    if config.data == "emoji":
        groups = f"{len(STUDY_GROUPS)} groups ({', '.join(STUDY_GROUPS)})"
        images = f"Data: {counts}, drawings of {len(data['classes'])} things; the classes are {groups}."
    names = ", ".join(position_label(name) for name in config.all_embeddings)
    panels = [f"{_PANEL_TEXT[panel]} {_describe_settings(config.settings(panel))}" for panel in config.panels]
    own = [] if config.data in EMBEDDED else [_OWN_DATA_TEXT]
    named = [method for method in config.scaling or () if method != AUTO]
    scaling = [SCALING_TEXT.format(scaling=", ".join(named))] if named else []
    scaling += [_AUTO_TEXT] if AUTO in (config.scaling or ()) else []
    if config.train_scaling:
        scaling.append(_TRAIN_SCALING_TEXT.format(scaling=", ".join(config.train_scaling)))
    if config.train_sizes:
        scaling.append(_TRAIN_SIZES_TEXT.format(sizes=", ".join(map(str, config.train_sizes))))
    tuning = _EMOJI_TUNING_TEXT if config.data == "emoji" else _TUNING_TEXT
    return [images, f"Compared: {names}.", *scaling, *panels, _MAJORITY_TEXT, _FAIRNESS_TEXT, tuning, *own]


def _describe_settings(settings: PanelSettings) -> str:
    """Describe the model and the training of a panel in two sentences."""
    return (
        f"Model: ViT of width {settings.width}, {settings.depth} blocks, {settings.heads} heads, patches of "
        f"{settings.patch_size} px, average pooling. Training: {settings.steps} steps of {settings.batch_size} images "
        f"at {settings.train_size} px, AdamW, learning rate {settings.lr:g} with a cosine, weight decay "
        f"{settings.weight_decay:g}; an absolute embedding is initialized with standard deviation {settings.ape_std:g}."
    )
