"""Segmenter: a backbone and a head, built from options, and its file format."""

from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

from ropevit.models.architectures import ARCHITECTURES, Config, architecture, dense_config
from ropevit.tasks.dense.backbone import AttentionWindow, BackboneOptions
from ropevit.tasks.dense.init_weights import backbone_signature
from ropevit.tasks.dense.model_file import ChannelValues, ModelFormat
from ropevit.tasks.segment.base import STRIDES, SegmentationModel
from ropevit.tasks.segment.config import LinearConfig, Mask2FormerConfig, Neck, UperNetConfig
from ropevit.tasks.segment.inference import InferenceConfig
from ropevit.tasks.segment.linear import LinearSegmenter
from ropevit.tasks.segment.mask2former import Mask2Former
from ropevit.tasks.segment.neck import TOKENS, plain_config, with_neck
from ropevit.tasks.segment.upernet import UperNet

#: Options of each head that must agree for weights to be compatible.
_SHAPE_FIELDS = {
    "upernet": ("channels", "pool_sizes", "auxiliary_map", "auxiliary_channels"),
    "mask2former": (
        "queries",
        "width",
        "heads",
        "encoder_layers",
        "encoder_mlp_width",
        "decoder_layers",
        "decoder_mlp_width",
    ),
    "linear": (),
}

#: Each head's options where another head is chosen.
_DEFAULTS = {"upernet": UperNetConfig(), "mask2former": Mask2FormerConfig(), "linear": LinearConfig()}


@dataclass(frozen=True, kw_only=True)
class SegmenterConfig(BackboneOptions):
    """Options of a segmenter: its backbone and head.

    Raises:
        ValueError: If there is no such backbone, or the options are inconsistent.
    """

    stored_names: ClassVar = {"out_indices": "taps"}

    window: AttentionWindow = None
    """Side of an attention window in tokens; None lets all blocks of a ViT attend globally, and takes a Swin's own."""
    head: Literal["upernet", "mask2former", "linear"] = "upernet"
    """Segmentation head; linear is batch norm and a 1x1 convolution on the tokens of a ViT. The options of other heads
    must keep their defaults."""
    neck: Neck = "transposed"
    """Neck of a ViT: transposed convolutions (BEiT, XCiT), or bilinear resizing between convolutions (mmseg)."""
    out_indices: tuple[int, ...] | None = None
    """Blocks of a ViT whose outputs become the four feature maps, from 0; None takes the last of each quarter. Head
    linear takes the last block alone."""
    upernet: UperNetConfig = field(default_factory=UperNetConfig)
    """Options of head upernet."""
    mask2former: Mask2FormerConfig = field(default_factory=Mask2FormerConfig)
    """Options of head mask2former."""
    linear: LinearConfig = field(default_factory=LinearConfig)
    """Options of head linear."""

    def __post_init__(self):
        if self.out_indices is not None:
            object.__setattr__(self, "out_indices", tuple(self.out_indices))
        if self.head not in _DEFAULTS:
            raise ValueError(f"got head={self.head!r}; choose one of {', '.join(_DEFAULTS)}")
        for other, default in _DEFAULTS.items():
            if other != self.head and getattr(self, other) != default:
                raise ValueError(
                    f"got options of {other} with head={self.head!r}; leave them out, or set head={other!r}"
                )
        self.init_source()
        self.backbone_config()

    def to_dict(self) -> dict[str, Any]:
        """Return the options by their names in files; those of the linear head, which older files lack, only for it."""
        stored = super().to_dict()
        return stored if self.head == "linear" else {name: value for name, value in stored.items() if name != "linear"}

    def backbone_config(self) -> Any:
        """Return the config of the backbone: with maps of strides 4, 8, 16 and 32, or for head linear with one map.

        Raises:
            ValueError: If options of a ViT are given for a Swin, it has too few blocks, or its maps have other strides.
        """
        body: Any = self.body_config()
        if self.head == "linear":
            return self.token_config(body)
        if not self.has_pyramid:
            return self.staged_config(body)
        if body.patch_size != 16:
            raise ValueError(
                f"got patch_size={body.patch_size}; the head needs maps of strides {STRIDES}: take 16, or head='linear'"
            )
        if body.depth < len(STRIDES):
            raise ValueError(f"got depth={body.depth}; expected at least {len(STRIDES)} blocks, one for each map")
        blocks = _last_of_quarters(body.depth) if self.out_indices is None else self.out_indices
        return plain_config(body, blocks, self.window)

    def token_config(self, body: Any) -> Any:
        """Return the config of a ViT whose tokens are the one map."""
        if not self.has_pyramid or self.neck != "transposed":
            label = ARCHITECTURES[architecture(body)].label
            raise ValueError(
                f"got head='linear' for {label} with neck={self.neck!r}; it takes the tokens of a ViT, without a neck"
            )
        blocks = (body.depth - 1,) if self.out_indices is None else self.out_indices
        return plain_config(body, blocks, self.window, TOKENS)

    def staged_config(self, body: Config) -> Any:
        """Return the config of a hierarchical backbone, whose stages give the four maps, such as a Swin."""
        config, label = dense_config(body), ARCHITECTURES[architecture(body)].label
        if tuple(config.strides) != STRIDES:
            raise ValueError(
                f"got patch_size={body.patch_size} for {label}, whose maps have strides {tuple(config.strides)}; the "
                f"head needs maps of strides {STRIDES}: of a Swin take patch_size=4"
            )
        if self.out_indices is not None or self.neck != "transposed":
            raise ValueError(
                f"got out_indices={self.out_indices} (--out-indices), neck={self.neck!r} for {label}; they are options "
                "of a ViT: leave them out"
            )
        return config


def _last_of_quarters(depth: int) -> tuple[int, ...]:
    """Return the last block of each quarter of the depth, from 0.

    Raises:
        ValueError: If there are fewer than four blocks.
    """
    if depth < len(STRIDES):
        raise ValueError(f"got depth={depth}; expected at least {len(STRIDES)} blocks, one for each feature map")
    return tuple(depth * quarter // 4 - 1 for quarter in range(1, 5))


def build_segmenter(config: SegmenterConfig, classes: int) -> SegmentationModel:
    """Build a segmenter with random weights.

    Args:
        config: Options of the segmenter.
        classes: Number of classes, K.

    Raises:
        MissingExtraError: If transformers is not installed.
    """
    backbone = with_neck(config.backbone_config(), config.neck)
    if config.head == "upernet":
        return UperNet(backbone, replace(config.upernet, classes=classes))
    if config.head == "linear":
        return LinearSegmenter(backbone, replace(config.linear, classes=classes))
    return Mask2Former(backbone, replace(config.mask2former, classes=classes))


def signature(config: SegmenterConfig) -> dict[str, Any]:
    """Return the options that must agree for weights to be compatible, without the classes."""
    head = {f"{config.head}.{name}": getattr(getattr(config, config.head), name) for name in _SHAPE_FIELDS[config.head]}
    return {"head": config.head, "neck": config.neck} | backbone_signature(config.backbone_config()) | head


#: File format of segmenters. `test_short` and `test_long` are the maxima of both sides in pixels, see `view_size`.
SEGMENTER = ModelFormat(
    format="ropevit-segmenter",
    task="segmenter",
    config=SegmenterConfig,
    build=build_segmenter,
    signature=signature,
    class_prefixes=("head.classifier.", "auxiliary_head.classifier.", "classifier."),
    parts=("the backbone and the head", "the classification layers"),
    metadata={
        "mean": ChannelValues,
        "std": ChannelValues,
        "test_short": int,
        "test_long": int,
        "inference": InferenceConfig,
        "crop": int,
    },
)

#: Saves a segmenter with its config, classes and metadata, and builds it again.
save_segmenter, load_segmenter = SEGMENTER.save, SEGMENTER.load
