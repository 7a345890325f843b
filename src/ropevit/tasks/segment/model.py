"""What segmenters share: a backbone, and the loss and labels of pixels."""

from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn
from torch.nn import functional as F

from ropevit.data.ade import IGNORED
from ropevit.models.dense import Backbone
from ropevit.tasks.segment.inference import resize

#: Strides of the maps that the heads are made for.
STRIDES = (4, 8, 16, 32)


class SegmentationModel(nn.Module):
    """Base of the segmenters: a backbone with four maps, and how its weights are trained.

    Args:
        backbone: A `DenseViT` or `DenseSwin`.

    Raises:
        ValueError: If its maps have other strides than 4, 8, 16 and 32.
    """

    def __init__(self, backbone: Backbone):
        super().__init__()
        if tuple(backbone.strides) != STRIDES:
            raise ValueError(f"got a backbone with maps of strides {backbone.strides}; the head expects {STRIDES}")
        self.backbone = backbone

    def scores(self, images: Float[Tensor, "B c H W"]) -> Float[Tensor, "B K h w"]:
        """Score the classes of pixels in eval mode, as `segment` takes it; heads say how."""
        raise NotImplementedError

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Trade time for memory in training: keep only the input of each block of the backbone."""
        self.backbone.set_grad_checkpointing(enable)

    def no_weight_decay(self) -> set[str]:
        """Name the backbone's parameters that are never decayed besides biases and norms."""
        return {f"backbone.{name}" for name in self.backbone.no_weight_decay()}

    def layer_index(self, name: str) -> int:
        """Tell the depth of a parameter for layer-wise learning rates; the heads lie above all blocks."""
        return self.backbone.layer_index(name.removeprefix("backbone."))


def pixel_loss(logits: Float[Tensor, "B K h w"], labels: Shaped[Tensor, "B H W"]) -> Float[Tensor, ""]:
    """Give the cross-entropy of the logits, resized to the labels.

    Its sum is divided by all pixels, ignored ones too, as mmseg does; without any labelled pixel it is 0, not NaN.
    """
    size = labels.shape[1], labels.shape[2]
    total = F.cross_entropy(resize(logits.float(), size), labels.long(), ignore_index=IGNORED, reduction="sum")
    return total / labels.numel()


def masks_of(labels: Int[Tensor, "H W"]) -> tuple[Float[Tensor, "n H W"], Int[Tensor, "n"]]:
    """Split labels into one mask for each class that there is, and the classes; ignored pixels are in none."""
    classes = labels.unique()
    classes = classes[classes != IGNORED]
    return (labels == classes[:, None, None]).float(), classes
