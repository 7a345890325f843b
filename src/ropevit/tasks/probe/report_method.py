"""Paragraphs of a report that describe how it was measured."""

from ropevit.tasks.probe.bootstrap import RESAMPLES
from ropevit.tasks.probe.config import ProbeConfig
from ropevit.tasks.probe.linear import HELD_OUT, PENALTIES
from ropevit.tasks.probe.patches import LONG
from ropevit.tasks.probe.rows import ProbeRow

_POOLING = {
    "model": "what its head would read (class token, mean patch or attention pooling)",
    "mean": "the mean of its patches",
    "both": "what its head would read, and the mean of its patches behind it",
}


def _dino(config: ProbeConfig) -> str:
    """Name the source of the default number of neighbors and temperature."""
    usual = config.neighbors == ProbeConfig.neighbors and config.temperature == ProbeConfig.temperature
    return "; the values of DINO, arXiv:2104.14294" if usual else ""


def _unread(count: int) -> str:
    """State how many more images could not be read."""
    return f" ({count:,} more could not be read)" if count else ""


def describe_images(config: ProbeConfig, row: ProbeRow, classes: int) -> list[str]:
    """Return paragraphs that describe how image features were measured.

    Args:
        config: Options of the probe.
        row: The reference.
        classes: Number of classes.
    """
    return [
        f"The weights stay as they are. The features of an image are {_POOLING[config.pooling]}, after the final norm. "
        f"Both probes learn from {row.train_images:,} training images of {classes} classes"
        f"{_unread(row.train_skipped)}, and are measured on {row.images:,} other images{_unread(row.skipped)}; "
        "the features of both are computed at the same size and in the same way.",
        f"k-NN: the {config.neighbors} training images with the highest cosine similarity vote with weight "
        f"exp(similarity / {config.temperature:g}) (Wu et al. 2018, arXiv:1805.01978{_dino(config)}).",
        "Linear: logistic regression of the standardized features by L-BFGS; the L2 penalty is chosen among "
        f"{', '.join(f'{penalty:g}' for penalty in PENALTIES)} on {HELD_OUT:.0%} of each class of the training images, "
        "after which it is fitted to all of them (protocol of Radford et al. 2021, arXiv:2103.00020). It never sees a "
        "test image.",
        "Intervals of an accuracy are Wilson's, over test images. Differences are to the model as it is at its "
        "training size, on the same test images, with Bonett and Price's interval of paired proportions. Neither "
        "covers the choice of training images. The best of many rows is too high by chance: a method chosen here "
        "should be measured on other images.",
        "Images/s are of copying images to the device, normalization, tiles or resizing, and the model, without "
        "reading files and without the first batch. Tokens are the patches of an image, of all its tiles together. "
        "On the grid of the training, scaling methods change nothing, so that size has one row. "
        "Tiles and resized images have the model's own scaling.",
    ]


def describe_patches(config: ProbeConfig, row: ProbeRow, classes: int) -> list[str]:
    """Return paragraphs that describe how patch features were measured.

    Args:
        config: Options of the probe.
        row: The reference.
        classes: Number of classes.
    """
    each = max(1, config.max_patches // (row.train_images + row.train_skipped))
    return [
        "The weights stay as they are. Images are seen whole, with their aspect ratio: the shorter side has the size "
        f"of the row, the longer one at most {LONG} times that. The features are those of the last patch tokens, after "
        f"the final norm unless that follows the pooling. A linear classifier learns from {row.facts['patches']:,} "
        f"patches of {row.train_images:,} training images{_unread(row.train_skipped)}: at most {each:,} of each image, "
        f"at random with its proportions of classes, so that --max-patches {config.max_patches} bounds memory. A patch "
        f"has the class of most of its labeled pixels; {row.facts['patch_classes']} of {classes} classes have patches "
        "in training, and no other is predicted.",
        "The classifier is logistic regression of the standardized features by L-BFGS; the L2 penalty is chosen among "
        f"{', '.join(f'{penalty:g}' for penalty in PENALTIES)} by the mean IoU of the patches of {HELD_OUT:.0%} of the "
        "training images, after which it is fitted to all of them. It never sees a test image.",
        f"Measured are {row.images:,} other images{_unread(row.skipped)}, in the pixels of their files: logits of the "
        "patches are interpolated bilinearly to them. Mean IoU is that of all images together, over the classes that "
        "are labeled or predicted; pixels without a class are not counted.",
        f"Intervals are of {RESAMPLES:,} bootstrap resamples of the test images (percentiles). Differences are to the "
        "model as it is at its training size, with the same resamples for both. Neither covers the choice of training "
        "images. The best of many rows is too high by chance: a method chosen here should be measured on other images.",
        "Images/s are of test images from bytes to classes of all pixels: copying to the device, normalization, the "
        "model, the classifier and the interpolation, without reading files and without the first image. Tokens are "
        "the patches of an image on average, of all its tiles together. Tiles and resized images have the model's own "
        "scaling. Images that are not square have another grid than that of the training also at its size, so scaling "
        "methods may change something there, too.",
    ]
