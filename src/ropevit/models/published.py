"""ImageNet-1k results of the paper, and results that others report for its weights, each with its source.

Models are trained at 224 pixels (ViT-B and -L pre-trained at 192). The paper uses a crop
fraction of 1 for ViT and of 0.875 for Swin, whose windows are 1/32 of the size: 7 tokens at 224, 12 at 384.

Some results are printed, others are read off plots; separate tables hold them, and `curve` returns the source of each.
"""

from dataclasses import dataclass

from ropevit.models.architectures import MODELS

SOURCE = "naver-ai/rope-vit README, December 2024"
DRAWN = "read off the figures in the naver-ai/rope-vit README"

#: model -> {test resolution in pixels: top-1 in percent}, as printed in SOURCE.
TOP1: dict[str, dict[int, float]] = {
    "deit_small_patch16_LS": {224: 80.4, 384: 79.4},
    "deit_base_patch16_LS": {224: 83.4, 384: 82.8},
    "deit_large_patch16_LS": {224: 84.6, 384: 84.2},
    "rope_axial_deit_small_patch16_LS": {224: 80.9, 384: 80.0},
    "rope_axial_deit_base_patch16_LS": {224: 83.6, 384: 83.9},
    "rope_axial_deit_large_patch16_LS": {224: 84.7, 384: 85.1},
    "rope_mixed_deit_small_patch16_LS": {224: 80.9, 384: 81.8},
    "rope_mixed_deit_base_patch16_LS": {224: 83.8, 384: 84.4},
    "rope_mixed_deit_large_patch16_LS": {224: 84.8, 384: 85.6},
    "rope_axial_ape_deit_small_patch16_LS": {224: 80.7, 384: 81.2},
    "rope_axial_ape_deit_base_patch16_LS": {224: 83.7, 384: 83.8},
    "rope_axial_ape_deit_large_patch16_LS": {224: 84.7, 384: 85.1},
    "rope_mixed_ape_deit_small_patch16_LS": {224: 80.9, 384: 81.7},
    "rope_mixed_ape_deit_base_patch16_LS": {224: 83.8, 384: 84.3},
    "rope_mixed_ape_deit_large_patch16_LS": {224: 84.9, 384: 85.5},
    "swin_tiny_patch4_window7_224": {224: 81.2, 384: 78.9},
    "swin_small_patch4_window7_224": {224: 82.9, 384: 81.0},
    "swin_base_patch4_window7_224": {224: 83.3, 384: 81.2},
    "swin_rope_axial_tiny_patch4_window7_224": {224: 81.3, 384: 79.2},
    "swin_rope_axial_small_patch4_window7_224": {224: 83.1, 384: 80.9},
    "swin_rope_axial_base_patch4_window7_224": {224: 83.6, 384: 81.8},
    "swin_rope_mixed_tiny_patch4_window7_224": {224: 81.4, 384: 79.5},
    "swin_rope_mixed_small_patch4_window7_224": {224: 83.0, 384: 81.4},
    "swin_rope_mixed_base_patch4_window7_224": {224: 83.7, 384: 82.1},
}

#: model -> top-1 in percent at the other sizes of the paper's curves, `paper_sizes` of its config. The curves with an
#: absolute embedding beside the rotation are not drawn.
DRAWN_TOP1: dict[str, tuple[float, ...]] = {
    "deit_small_patch16_LS": (73.5, 79.1, 80.9, 80.6, 75.4),
    "deit_base_patch16_LS": (79.2, 82.7, 83.8, 83.5, 80.5),
    "deit_large_patch16_LS": (80.8, 83.8, 84.9, 84.7, 82.2),
    "rope_axial_deit_small_patch16_LS": (73.6, 79.2, 81.7, 81.5, 76.1),
    "rope_axial_deit_base_patch16_LS": (78.9, 82.8, 84.2, 84.3, 82.0),
    "rope_axial_deit_large_patch16_LS": (80.9, 83.85, 85.1, 85.3, 84.0),
    "rope_mixed_deit_small_patch16_LS": (74.2, 79.6, 81.8, 82.2, 79.1),
    "rope_mixed_deit_base_patch16_LS": (79.4, 82.8, 84.3, 84.7, 82.9),
    "rope_mixed_deit_large_patch16_LS": (81.1, 83.9, 85.4, 85.7, 84.7),
    "swin_tiny_patch4_window7_224": (77.8, 79.8, 80.9, 80.0),
    "swin_small_patch4_window7_224": (80.2, 81.8, 82.8, 82.2),
    "swin_base_patch4_window7_224": (80.9, 82.3, 83.1, 82.3),
    "swin_rope_axial_tiny_patch4_window7_224": (77.6, 80.0, 81.6, 81.0),
    "swin_rope_axial_small_patch4_window7_224": (79.9, 82.0, 83.3, 83.0),
    "swin_rope_axial_base_patch4_window7_224": (80.8, 82.6, 83.7, 83.2),
    "swin_rope_mixed_tiny_patch4_window7_224": (78.4, 80.2, 81.7, 80.8),
    "swin_rope_mixed_small_patch4_window7_224": (80.5, 82.3, 83.3, 82.9),
    "swin_rope_mixed_base_patch4_window7_224": (81.4, 82.9, 83.8, 83.3),
}

#: Test sizes whose markers in the figure are covered by others, so that scores are known to 0.1 only; for Swin-S and
#: -B axial it is unclear which marker is covered.
COVERED_MARKERS: dict[str, tuple[int, ...]] = {
    "deit_small_patch16_LS": (144, 192),
    "deit_base_patch16_LS": (144, 192),
    "deit_large_patch16_LS": (144,),
    "rope_axial_deit_base_patch16_LS": (192,),
    "rope_axial_deit_large_patch16_LS": (192,),
    "swin_small_patch4_window7_224": (160,),
    "swin_base_patch4_window7_224": (160,),
    "swin_rope_axial_small_patch4_window7_224": (160, 192, 256, 320),
    "swin_rope_axial_base_patch4_window7_224": (160, 192, 256, 320),
}

_REMEASURED_SOURCE = "a third party's evaluation of the published Swin weights, to three decimals"

#: model -> {test resolution: top-1}: not the paper's results, but the only ones at 512.
REMEASURED: dict[str, dict[int, float]] = {
    "swin_rope_axial_tiny_patch4_window7_224": {
        160: 77.580, 192: 79.994, 256: 81.574, 320: 80.998, 384: 79.190, 512: 74.136,
    },
    "swin_rope_axial_small_patch4_window7_224": {
        160: 79.950, 192: 82.028, 256: 83.286, 320: 83.030, 384: 80.890, 512: 75.722,
    },
    "swin_rope_axial_base_patch4_window7_224": {
        160: 80.752, 192: 82.644, 256: 83.676, 320: 83.200, 384: 81.756, 512: 77.550,
    },
}  # fmt: skip

_FAR_SOURCE = "nD-RoPE (arXiv:2606.12146), ViT-S trained at 224"

#: The same for far larger images: not the paper's results either.
FAR: dict[str, dict[int, float]] = {
    "rope_axial_deit_small_patch16_LS": {224: 80.89, 1024: 20.64},
    "rope_mixed_deit_small_patch16_LS": {224: 80.90, 1024: 16.63},
}

_TIMM_SOURCE = "timm's result tables: its copies of the published weights at 224 pixels, crop ratio 0.9, bicubic"

#: Test sets of TIMM's rows: top-1 in percent on ImageNet-1k, with ReaL labels, on ImageNet-V2, -R, -A and Sketch.
TIMM_SETS = ("val", "real", "v2", "r", "a", "sketch")

#: model -> top-1 on each of TIMM_SETS. The crop differs from the paper's, so results are not comparable with TOP1.
TIMM: dict[str, tuple[float, ...]] = {
    "rope_axial_deit_small_patch16_LS": (81.222, 86.822, 70.35, 44.490, 25.000, 33.831),
    "rope_mixed_deit_small_patch16_LS": (81.252, 86.831, 70.92, 44.347, 25.227, 34.088),
    "rope_axial_ape_deit_small_patch16_LS": (81.016, 86.694, 70.68, 44.163, 22.853, 33.520),
    "rope_mixed_ape_deit_small_patch16_LS": (80.974, 86.842, 70.57, 45.113, 24.573, 34.275),
    "rope_axial_deit_base_patch16_LS": (83.714, 88.366, 73.36, 53.377, 38.480, 40.433),
    "rope_mixed_deit_base_patch16_LS": (83.806, 88.475, 73.60, 54.380, 39.147, 41.414),
    "rope_axial_ape_deit_base_patch16_LS": (83.780, 88.300, 73.88, 53.390, 39.067, 40.097),
    "rope_mixed_ape_deit_base_patch16_LS": (83.898, 88.430, 73.75, 54.253, 39.467, 41.180),
    "rope_axial_deit_large_patch16_LS": (84.646, 88.972, 75.54, 58.213, 47.107, 44.546),
    "rope_mixed_deit_large_patch16_LS": (84.840, 89.013, 75.15, 58.283, 48.680, 44.953),
    "rope_axial_ape_deit_large_patch16_LS": (84.660, 88.968, 75.17, 57.820, 48.747, 44.638),
    "rope_mixed_ape_deit_large_patch16_LS": (84.846, 89.090, 75.29, 58.167, 48.107, 44.939),
}


@dataclass(frozen=True)
class PublishedResult:
    """A published score."""

    percent: float
    within: float
    """Uncertainty: half the last printed digit, or the reading accuracy of a plot."""
    source: str

    def __str__(self) -> str:
        """Format the score with its last known digit, and its uncertainty unless it was printed."""
        percent = f"{self.percent:.1f}" if round(self.percent, 1) == self.percent else f"{self.percent:g}"
        return percent if self.source == SOURCE else f"{percent}±{self.within:g}"


def curve(name: str) -> dict[int, PublishedResult]:
    """Return the paper's top-1 of a model by test resolution in pixels, ascending; empty if it reports none.

    Args:
        name: A name that `list_models` lists.
    """
    results = {size: PublishedResult(percent, 0.05, SOURCE) for size, percent in TOP1.get(name, {}).items()}
    drawn, hidden = DRAWN_TOP1.get(name, ()), COVERED_MARKERS.get(name, ())
    sizes = [size for size in MODELS[name].paper_sizes if size not in results] if drawn else []
    for size, percent in zip(sizes, drawn, strict=bool(drawn)):
        results[size] = PublishedResult(percent, 0.1 if size in hidden else 0.05, DRAWN)
    return dict(sorted(results.items()))
