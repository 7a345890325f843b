"""Linear segmentation head on the patch tokens of a ViT."""

from typing import ClassVar

from jaxtyping import Float
from torch import Tensor, nn

from ropevit.models.dense import Backbone
from ropevit.tasks.segment.base import SegmentationModel, resize_logits
from ropevit.tasks.segment.config import LinearConfig


class LinearSegmenter(SegmentationModel):
    """Batch norm, dropout and a 1x1 convolution on a single feature map, such as the tokens of a frozen ViT.

    >>> body = get_config("vit_base_patch16_dinov3_qkvb")
    >>> pyramid = PyramidConfig(scales=(1,), channels=None)  # the tokens themselves
    >>> model = LinearSegmenter(DenseViT(DenseViTConfig(body=body, pyramid=pyramid)), LinearConfig())
    >>> model.backbone.freeze()

    Args:
        backbone: A backbone with one feature map, of any stride.
        config: Options of the head.

    Raises:
        ValueError: If the backbone has several maps.

    Source: Siméoni et al. 2025 (arXiv:2508.10104), linear evaluation of segmentation.
    """

    expected_strides: ClassVar = None

    def __init__(self, backbone: Backbone, config: LinearConfig):
        super().__init__(backbone)
        if len(backbone.strides) != 1:
            raise ValueError(f"got a backbone with maps of strides {backbone.strides}; the linear head expects one map")
        self.config = config
        self.norm = nn.BatchNorm2d(backbone.channels[0])
        self.dropout = nn.Dropout2d(config.dropout)
        self.classifier = nn.Conv2d(backbone.channels[0], config.classes, 1)
        nn.init.normal_(self.classifier.weight, std=0.01)
        assert self.classifier.bias is not None
        nn.init.zeros_(self.classifier.bias)

    def forward(self, images: Float[Tensor, "B c H W"]) -> Float[Tensor, "B K h w"]:
        """Compute class logits at the stride of the map.

        Args:
            images: Normalized images, all of one size.
        """
        return self.classifier(self.dropout(self.norm(self.backbone(images).features[0])))

    def logits(self, images: Float[Tensor, "B c H W"]) -> Float[Tensor, "B K H W"]:
        """Return class logits at the resolution of the images, in float32, for `segment`."""
        return resize_logits(self(images).float(), self.backbone.strides[0], (images.shape[2], images.shape[3]))
