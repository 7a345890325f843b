"""A segmenter: a backbone and a head, built from a few options, and its files."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from ropevit.models.dense import DenseSwin, DenseSwinConfig, DenseViTConfig
from ropevit.models.swin import SwinConfig
from ropevit.tasks.common.config import PositionName
from ropevit.tasks.dense.init_weights import PRETRAINED, body_config, init_weights
from ropevit.tasks.dense.model_file import PIXELS, FileFormat
from ropevit.tasks.segment.base import STRIDES, SegmentationModel
from ropevit.tasks.segment.config import Mask2FormerConfig, Neck, UperNetConfig
from ropevit.tasks.segment.inference import InferenceConfig
from ropevit.tasks.segment.mask2former import Mask2Former
from ropevit.tasks.segment.neck import vit_config, with_neck
from ropevit.tasks.segment.upernet import UperNet
from ropevit.weights.described import build_without_memory, check_size_of_model
from ropevit.weights.errors import WeightsError, first_line

#: Value of "format" in the header of a segmenter's file.
FORMAT = "ropevit-segmenter"

#: What a training says of a segmenter.
FACTS = {
    "mean": PIXELS,
    "std": PIXELS,
    "test_short": int,
    "test_long": int,
    "inference": InferenceConfig,
    "crop": int,
}

FILE = FileFormat(FORMAT, "segmenter", FACTS)


@dataclass(frozen=True, kw_only=True)
class SegmentModel:
    """Which segmenter is trained.

    Raises:
        ValueError: If there is no such backbone, or the fields do not fit together.
    """

    model: str = "deit_base"
    """deit_tiny, deit_small, deit_base, deit_large, swin_tiny, swin_small or swin_base."""
    position: PositionName = "rope_mixed"
    drop_path: float = 0.0
    """Rate of stochastic depth in the backbone."""
    width: int | None = None
    """Channels of a token; this and the next three replace those of the named model."""
    depth: int | None = None
    """Number of blocks."""
    heads: int | None = None
    """Number of heads."""
    patch_size: int | None = None
    """Side of a patch in pixels."""
    window: int | None = None
    """Side of a window in tokens; None lets all blocks of a ViT attend everywhere, and takes a Swin's own."""
    init: str | None = PRETRAINED
    """Weights to start from: of a classifier for the backbone, or of a segmenter of ours (a file or a hub id);
    `published` takes those of the named classifier, None draws them."""
    head: Literal["upernet", "mask2former"] = "upernet"
    """What turns the backbone's maps into classes of pixels; the options of the other one must be left alone."""
    neck: Neck = "transposed"
    """How maps are made of a ViT's tokens: by transposed convolutions (BEiT, XCiT), or resized between two (mmseg)."""
    taps: tuple[int, ...] | None = None
    """Blocks of a ViT whose tokens become the four maps, from 0; None takes the last of each quarter."""
    upernet: UperNetConfig = field(default_factory=UperNetConfig)
    """The head where it is upernet."""
    mask2former: Mask2FormerConfig = field(default_factory=Mask2FormerConfig)
    """The head where it is mask2former."""

    def __post_init__(self):
        if self.taps is not None:
            object.__setattr__(self, "taps", tuple(self.taps))
        other, default = {
            "upernet": ("mask2former", Mask2FormerConfig()),
            "mask2former": ("upernet", UperNetConfig()),
        }.get(self.head, ("", None))
        if default is None:
            raise ValueError(f"got head={self.head!r}; choose one of upernet, mask2former")
        if getattr(self, other) != default:
            raise ValueError(f"got options of {other} with head={self.head!r}; leave them out, or change the head")
        self.weights()
        self.backbone()

    def backbone(self) -> DenseViTConfig | DenseSwinConfig:
        """Give the config of the backbone: four maps of strides 4, 8, 16 and 32.

        Raises:
            ValueError: If options of a ViT are given for a Swin, or its blocks or the strides of its maps do not fit.
        """
        body = body_config(self)
        if body.patch_size != (4 if isinstance(body, SwinConfig) else 16):
            raise ValueError(
                f"got patch_size={body.patch_size}; the head needs maps of strides {STRIDES}: 16, of a Swin 4"
            )
        if isinstance(body, SwinConfig):
            if self.taps is not None or self.neck != "transposed":
                raise ValueError(f"got taps={self.taps}, neck={self.neck!r} for a Swin; they are options of a ViT")
            return DenseSwinConfig(body=body)
        if body.depth < len(STRIDES):
            raise ValueError(f"got depth={body.depth}; expected at least {len(STRIDES)} blocks, one for each map")
        return vit_config(body, quarters(body.depth) if self.taps is None else self.taps, self.window)

    def weights(self) -> str | None:
        """Say where the backbone's first weights come from; None for nowhere."""
        return init_weights(self)


def quarters(depth: int) -> tuple[int, ...]:
    """Give the last block of each quarter, from 0.

    Raises:
        ValueError: If there are fewer than four blocks.
    """
    if depth < len(STRIDES):
        raise ValueError(f"got depth={depth}; the head needs {len(STRIDES)} maps, each of another block: take more")
    return tuple(depth * quarter // 4 - 1 for quarter in range(1, 5))


def build_segmenter(config: SegmentModel, classes: int) -> SegmentationModel:
    """Build a segmenter, all weights drawn anew.

    Args:
        config: What to build.
        classes: Classes of pixels, K.

    Raises:
        MissingExtraError: If transformers is not installed.
    """
    body = config.backbone()
    backbone = DenseSwin(body) if isinstance(body, DenseSwinConfig) else with_neck(body, config.neck)
    if config.head == "upernet":
        return UperNet(backbone, replace(config.upernet, classes=classes))
    return Mask2Former(backbone, replace(config.mask2former, classes=classes))


@dataclass(frozen=True)
class SegmenterInfo:
    """What a segmenter's file says besides the weights."""

    config: SegmentModel
    """The segmenter."""
    classes: list[str]
    """Names of its classes, in the order of the scores."""
    metadata: dict[str, Any]
    """Whatever else was saved with it; a training writes recipe, mean, std, test_short, test_long (limits of both
    sides in pixels, see `view_size`), inference (the fields of InferenceConfig) and crop (in pixels)."""


def save_segmenter(
    path: Path,
    model: SegmentationModel,
    config: SegmentModel,
    classes: Sequence[str],
    metadata: Mapping[str, Any],
) -> None:
    """Save a segmenter so that `load_segmenter` can build it again.

    Args:
        path: Where to; a file that is there is replaced in one step.
        model: The segmenter.
        config: What it was built from.
        classes: Names of its classes, in the order of the scores.
        metadata: Anything else that JSON can hold.

    Raises:
        WeightsError: If the disk refuses.
    """
    FILE.write(path, config, classes, metadata, model.state_dict())


def load_segmenter(path: Path | str) -> tuple[SegmentationModel, SegmenterInfo]:
    """Build the segmenter that `save_segmenter` saved, with its weights.

    Raises:
        WeightsError: If it cannot be read, or is no segmenter of ours.
    """
    entries, info = read_segmenter(path)
    build = partial(build_segmenter, info.config, len(info.classes))
    check_size_of_model(build_without_memory(build, len(entries), str(path)).state_dict(), entries, str(path))
    model = build()
    load_weights_into(model, entries, str(path))
    return model, info


def read_segmenter(path: Path | str) -> tuple[Mapping[str, Tensor], SegmenterInfo]:
    """Read the weights that `save_segmenter` saved, and what it said of them.

    Raises:
        WeightsError: If they cannot be read, or are no segmenter of ours.
    """
    found = FILE.read(path)
    return found.entries, SegmenterInfo(FILE.config(found, SegmentModel, path), found.classes, found.metadata)


def load_weights_into(model: SegmentationModel, entries: Mapping[str, Tensor], source: str) -> None:
    """Put the weights of a file into a segmenter."""
    try:
        model.load_state_dict(dict(entries))
    except RuntimeError as error:
        raise WeightsError(f"the weights in {source} do not fit their config: {first_line(error)}") from error
