"""The detector (a backbone and DINO), its config, and its file format."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from numbers import Integral
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ropevit.device import to_device
from ropevit.models.architectures import build_backbone, dense_config
from ropevit.models.dense import PyramidConfig
from ropevit.models.vit.dense import pad_to
from ropevit.tasks.dense.backbone import PRETRAINED, AttentionWindow, BackboneOptions
from ropevit.tasks.dense.init_weights import backbone_signature
from ropevit.tasks.dense.model_file import ChannelValues, ModelFormat
from ropevit.tasks.detect.boxes import Target
from ropevit.tasks.detect.config import DinoConfig
from ropevit.tasks.detect.detrex import from_detrex, to_detrex
from ropevit.tasks.detect.dino import Dino, Output
from ropevit.tasks.detect.levels import padding_mask

#: Images are padded to multiples of this many pixels: the stride of the backbone's coarsest map before downsampling. Of
#: a ViT with patches of another size, such as 14, that stride is used itself.
MULTIPLE = 32

#: Default side of a ViT's attention windows in tokens: its grid in pre-training at 224 pixels.
_VIT_WINDOW = 14

#: Scales of a ViT's feature maps relative to its patch grid, for strides 8, 16 and 32; p6 of stride 64 is added.
_VIT_SCALES = (2.0, 1.0, 0.5)

#: Default stages of a Swin whose outputs are feature maps, of strides 8, 16 and 32.
_SWIN_STAGES = (1, 2, 3)


@dataclass(frozen=True, kw_only=True)
class DetectorConfig(BackboneOptions):
    """Options of a detector: its backbone and DINO.

    Raises:
        ValueError: If there is no such backbone, or the options are inconsistent.
    """

    stored_names: ClassVar = {"out_indices": "stages"}

    window: AttentionWindow = None
    """Side of an attention window in tokens; None takes 14 for a ViT, and a Swin's own."""
    out_indices: tuple[int, ...] | None = None
    """Stages of a Swin whose outputs are feature maps; they include the last one. None takes 1, 2 and 3 (strides 8, 16,
    32)."""
    layer_scale: bool = True
    """LayerScale in a ViT's blocks, as in DeiT III; detectron2's ViT has none."""
    relative_bias: bool = False
    """ViTDet's decomposed relative position bias in a ViT; global blocks then hold all attention scores in memory: see
    docs/dense.md."""
    dino: DinoConfig = field(default_factory=DinoConfig)
    """Options of DINO."""

    def __post_init__(self):
        self.init_source()
        if self.out_indices is not None:
            object.__setattr__(self, "out_indices", tuple(self.out_indices))
            if self.has_pyramid or not self.has_field("out_indices"):
                raise ValueError(
                    f"got out_indices={self.out_indices} (--out-indices) for {self.model}; only a Swin has "
                    "stages: leave it out"
                )
        if not self.layer_scale and (not self.has_field("layer_scale") or self.init == PRETRAINED):
            raise ValueError(
                "got layer_scale=False; it is for a ViT that does not start from published weights: set --init-from"
            )
        if self.relative_bias and not self.has_field("relative_bias"):
            raise ValueError(
                f"got relative_bias=True for {self.model}; it is for a ViT: a Swin's own bias is a position, rpb"
            )
        maps = len(self.backbone_config().strides)
        if maps > self.dino.levels:
            raise ValueError(
                f"got dino.levels={self.dino.levels} with {maps} maps of the backbone; expected {maps} or more"
            )

    def backbone_config(self) -> Any:
        """Return the config of the backbone: of a ViT four maps of strides 8 to 64, of a Swin those of its stages."""
        body = self.body_config()
        if not self.has_pyramid:
            stages = {"out_indices": _SWIN_STAGES if self.out_indices is None else self.out_indices}
            return dense_config(body, **(stages if self.has_field("out_indices") else {}))
        body = body if self.layer_scale else replace(body, layer_scale=None)
        pyramid = PyramidConfig(scales=_VIT_SCALES, channels=self.dino.width, add_p6=True)
        return dense_config(
            body,
            window=_VIT_WINDOW if self.window is None else self.window,
            pyramid=pyramid,
            relative_bias=self.relative_bias,
            **({"mask_padding": True} if body.is_other_family else {}),
        )


class Detector(nn.Module):
    """A detector with random weights: backbone and DINO.

    Args:
        config: Options of the detector.
        classes: Number of classes, K.

    Raises:
        MissingExtraError: If transformers is not installed.
    """

    def __init__(self, config: DetectorConfig, classes: int):
        super().__init__()
        backbone = config.backbone_config()
        self.backbone = build_backbone(backbone)
        self.multiple = MULTIPLE
        if config.has_pyramid and MULTIPLE % (coarsest := self.backbone.strides[len(backbone.pyramid.scales) - 1]):
            self.multiple = coarsest
        self.dino = Dino(replace(config.dino, classes=classes), self.backbone.channels)

    def forward(
        self,
        images: Float[Tensor, "B c H W"],
        sizes: Sequence[tuple[int, int]],
        targets: Sequence[Target] | None = None,
    ) -> Output:
        """Detect objects.

        Args:
            images: Normalized images at the top left, with zero padding.
            sizes: Height and width of each image in pixels, without padding.
            targets: Objects of each image, in training.
        """
        images = pad_to(images, self.multiple)  # so that all maps cover the same area, to which boxes are relative
        extents: Int[Tensor, "B 2"] = to_device(torch.tensor(list(sizes)), images.device)
        padding = to_device(padding_mask(sizes, images.shape[2], images.shape[3]), images.device)
        return self.dino(self.backbone(images, extents).features, padding, targets)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute each block in the backward pass: less memory, more time."""
        self.backbone.set_grad_checkpointing(enable)
        self.dino.set_grad_checkpointing(enable)

    def no_weight_decay(self) -> set[str]:
        """Return the names of parameters without weight decay, besides biases and norms."""
        embeddings = ("level_embedding", "query_embedding.weight", "label_embedding.weight")
        return {f"backbone.{name}" for name in self.backbone.no_weight_decay()} | {f"dino.{n}" for n in embeddings}

    def layer_index(self, name: str) -> int:
        """Return the depth of a parameter for layer-wise learning rate decay; DINO has that of a classifier's head."""
        return self.backbone.layer_index(name.removeprefix("backbone."))


def signature(config: DetectorConfig) -> dict[str, Any]:
    """Return the options that must be equal for weights to fit another detector; the classes may differ."""
    names = "queries", "width", "heads", "levels", "points", "mlp_width", "encoder_layers", "decoder_layers"
    return backbone_signature(config.backbone_config()) | {f"dino.{name}": getattr(config.dino, name) for name in names}


def to_file(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the entries of a detector's state dict to those of its file, in which DINO has detrex's names."""
    backbone = {name: value for name, value in state.items() if name.startswith("backbone.")}
    return backbone | to_detrex({name.removeprefix("dino."): state[name] for name in state if name not in backbone})


def from_file(entries: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the entries of a detector's file to those of its state dict.

    Raises:
        WeightsError: If an entry is unknown.
    """
    backbone = {name: value for name, value in entries.items() if name.startswith("backbone.")}
    dino = from_detrex({name: value for name, value in entries.items() if name not in backbone})
    return backbone | {f"dino.{name}": value for name, value in dino.items()}


#: File format of detectors.
DETECTOR = ModelFormat(
    format="ropevit-detector",
    task="detector",
    config=DetectorConfig,
    build=Detector,
    signature=signature,
    class_prefixes=("dino.class_heads.", "dino.label_embedding."),
    parts=("the backbone and DINO", "the class heads and the label embedding"),
    metadata={
        "category_ids": tuple[Integral, ...],
        "mean": ChannelValues,
        "std": ChannelValues,
        "test_side": int,
        "longest": int,
        "top": int,
    },
    to_file=to_file,
    from_file=from_file,
)

#: Saves a detector with its config, classes and metadata, and builds it again.
save_detector, load_detector = DETECTOR.save, DETECTOR.load
