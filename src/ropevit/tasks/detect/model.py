"""A detector: a backbone and DINO, built from a few options, and its files."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from numbers import Integral
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ropevit.models.dense import DenseSwin, DenseSwinConfig, DenseViT, DenseViTConfig, PyramidConfig
from ropevit.models.swin import SwinConfig
from ropevit.models.vit.dense import pad_to
from ropevit.tasks.common.config import PositionName
from ropevit.tasks.dense.init_weights import PRETRAINED, body_config, init_weights
from ropevit.tasks.dense.model_file import PIXELS, FileFormat
from ropevit.tasks.detect.boxes import Target
from ropevit.tasks.detect.config import DinoConfig
from ropevit.tasks.detect.detrex import check_fit, from_detrex, to_detrex
from ropevit.tasks.detect.dino import Dino, Output
from ropevit.tasks.detect.levels import padding_mask
from ropevit.weights.described import build_without_memory, check_size_of_model

#: Value of "format" in the header of a detector's file.
FORMAT = "ropevit-detector"

#: What a training says of a detector.
FACTS = {
    "category_ids": tuple[Integral, ...],
    "mean": PIXELS,
    "std": PIXELS,
    "test_side": int,
    "longest": int,
    "top": int,
}

FILE = FileFormat(FORMAT, "detector", FACTS)

#: Images are padded to multiples of this many pixels: the stride of the backbones' coarsest convolved map.
MULTIPLE = 32

#: Side of a ViT's windows in tokens: the grid of pre-training at 224 pixels.
VIT_WINDOW = 14

#: Sizes of a ViT's maps over that of its patches, of strides 8, 16 and 32; one of stride 64 follows.
VIT_SCALES = (2.0, 1.0, 0.5)

#: Stages of a Swin that give a map, of strides 8, 16 and 32.
SWIN_STAGES = (1, 2, 3)


@dataclass(frozen=True, kw_only=True)
class DetectModel:
    """Which detector is trained.

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
    """Side of a window in tokens; None takes 14 for a ViT, and a Swin's own."""
    stages: tuple[int, ...] | None = None
    """Stages of a Swin that give a map, the last one among them; None takes 1, 2 and 3 (strides 8, 16, 32)."""
    layer_scale: bool = True
    """Scale the branches of a ViT's blocks, as DeiT III does; detectron2's ViT does not."""
    relative_bias: bool = False
    """Add ViTDet's relative position bias to a ViT; a global block then holds all its scores: see docs/dense.md."""
    init: str | None = PRETRAINED
    """Weights to start from: of a classifier for the backbone, or of a detector of ours (a file or a hub id);
    `published` takes those of the named classifier, None draws them."""
    dino: DinoConfig = field(default_factory=DinoConfig)
    """What looks for objects in the backbone's maps."""

    def __post_init__(self):
        self.weights()
        if self.stages is not None:
            object.__setattr__(self, "stages", tuple(self.stages))  # a list, where the config was read from JSON
            if not self.swin:
                raise ValueError(f"got stages={self.stages} for {self.model}; only a Swin has stages: leave it out")
        if not self.layer_scale and (self.swin or self.init == PRETRAINED):
            raise ValueError(
                "got layer_scale=False; it is for a ViT that does not start from published weights: set init"
            )
        if self.relative_bias and self.swin:
            raise ValueError(f"got relative_bias=True for {self.model}; a Swin's own bias is a position, such as rpb")
        backbone = self.backbone()
        maps = len(backbone.shown) if isinstance(backbone, DenseSwinConfig) else len(VIT_SCALES) + 1
        if maps > self.dino.levels:
            raise ValueError(
                f"got dino.levels={self.dino.levels} with {maps} maps of the backbone; expected {maps} or more"
            )

    @property
    def swin(self) -> bool:
        """Tell whether the backbone is a Swin."""
        return self.model.startswith("swin")

    def backbone(self) -> DenseViTConfig | DenseSwinConfig:
        """Give the config of the backbone: of a ViT four maps of strides 8 to 64, of a Swin those of its stages."""
        body = body_config(self)
        if isinstance(body, SwinConfig):
            return DenseSwinConfig(body=body, stages=SWIN_STAGES if self.stages is None else self.stages)
        body = body if self.layer_scale else replace(body, layer_scale=None)
        pyramid = PyramidConfig(scales=VIT_SCALES, channels=self.dino.width, top=True)
        return DenseViTConfig(
            body=body,
            window=VIT_WINDOW if self.window is None else self.window,
            pyramid=pyramid,
            relative_bias=self.relative_bias,
        )

    def weights(self) -> str | None:
        """Say where the backbone's first weights come from; None for nowhere."""
        return init_weights(self)


class Detector(nn.Module):
    """Detect objects in images.

    Args:
        config: What to build; all weights are drawn anew.
        classes: Classes of objects, K.

    Raises:
        MissingExtraError: If transformers is not installed.
    """

    def __init__(self, config: DetectModel, classes: int):
        super().__init__()
        backbone = config.backbone()
        self.backbone = DenseViT(backbone) if isinstance(backbone, DenseViTConfig) else DenseSwin(backbone)
        self.dino = Dino(replace(config.dino, classes=classes), self.backbone.channels)

    def forward(
        self,
        images: Float[Tensor, "B c H W"],
        sizes: Sequence[tuple[int, int]],
        targets: Sequence[Target] | None = None,
    ) -> Output:
        """Find objects.

        Args:
            images: Normalised images at the top left, zeros around them.
            sizes: Height and width of each image in pixels, padding not counted.
            targets: Objects of each image, in training.
        """
        images = pad_to(images, MULTIPLE)  # or maps would reach beyond the canvas that boxes are measured in
        places: Int[Tensor, "B 2"] = torch.tensor(list(sizes), device=images.device)
        padding = padding_mask(sizes, images.shape[2], images.shape[3]).to(images.device, non_blocking=True)
        return self.dino(self.backbone(images, places).features, padding, targets)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Keep only the input of each block and compute it again in the backward pass: less memory, more time."""
        self.backbone.set_grad_checkpointing(enable)
        self.dino.set_grad_checkpointing(enable)

    def no_weight_decay(self) -> set[str]:
        """Name the parameters that are never decayed besides biases and norms: the backbone's, and embeddings."""
        embeddings = ("level_embedding", "query_embedding.weight", "label_embedding.weight")
        return {f"backbone.{name}" for name in self.backbone.no_weight_decay()} | {f"dino.{n}" for n in embeddings}

    def layer_index(self, name: str) -> int:
        """Tell the depth of a parameter for layer-wise learning rates: DINO's are as deep as a classifier's head."""
        return self.backbone.layer_index(name.removeprefix("backbone."))


@dataclass(frozen=True)
class DetectorInfo:
    """What a detector's file says besides the weights."""

    config: DetectModel
    """The detector."""
    classes: list[str]
    """Names of its classes, in the order of the logits."""
    metadata: dict[str, Any]
    """Whatever else was saved with it."""


def save_detector(
    path: Path, model: Detector, config: DetectModel, classes: Sequence[str], metadata: Mapping[str, Any]
) -> None:
    """Save a detector so that `load_detector` can build it again, DINO's weights by detrex's names.

    Args:
        path: Where to; a file that is there is replaced in one step.
        model: The detector.
        config: What it was built from.
        classes: Names of its classes, in the order of the logits.
        metadata: Anything else that JSON can hold.

    Raises:
        WeightsError: If the disk refuses.
    """
    backbone = {f"backbone.{name}": value for name, value in model.backbone.state_dict().items()}
    FILE.write(path, config, classes, metadata, backbone | to_detrex(model.dino.state_dict()))


def load_detector(path: Path | str) -> tuple[Detector, DetectorInfo]:
    """Build the detector that `save_detector` saved, with its weights.

    Raises:
        WeightsError: If it cannot be read, or is no detector of ours.
    """
    entries, info = read_detector(path)
    like = build_without_memory(lambda: Detector(info.config, len(info.classes)), len(entries), str(path))
    fitting(like, entries, str(path))
    model = Detector(info.config, len(info.classes))
    load_weights_into(model, entries, str(path))
    return model, info


def read_detector(path: Path | str) -> tuple[Mapping[str, Tensor], DetectorInfo]:
    """Read the weights that `save_detector` saved, as they are spelled there, and what it said of them.

    Raises:
        WeightsError: If they cannot be read, or are no detector of ours.
    """
    found = FILE.read(path)
    return found.entries, DetectorInfo(FILE.config(found, DetectModel, path), found.classes, found.metadata)


def load_weights_into(model: Detector, entries: Mapping[str, Tensor], source: str) -> None:
    """Put the weights of a file into a detector."""
    backbone, dino = fitting(model, entries, source)
    model.dino.load_state_dict(dino)
    model.backbone.load_state_dict(backbone)


def fitting(model: Detector, entries: Mapping[str, Tensor], source: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Spell the weights of a file as the backbone and the DINO of a detector do, and compare names and shapes.

    Raises:
        WeightsError: If any is missing, misshapen or unknown.
    """
    own = {name.removeprefix("backbone."): value for name, value in entries.items() if name.startswith("backbone.")}
    dino = from_detrex({name: value for name, value in entries.items() if not name.startswith("backbone.")})
    check_fit(model.dino, dino)
    check_size_of_model(model.backbone.state_dict(), own, source)
    return own, dino
