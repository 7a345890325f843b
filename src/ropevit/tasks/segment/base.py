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

    def logits(self, images: Float[Tensor, "B c H W"]) -> Float[Tensor, "B K H W"]:
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


def resize_logits(scores: Float[Tensor, "B K h w"], stride: int, size: tuple[int, int]) -> Float[Tensor, "B K H W"]:
    """Bring scores of cells to the pixels of the image.

    A backbone pads an image to whole cells, so the cells may reach beyond it: they are resized to all that they cover,
    and what is no image is cut off.

    Args:
        scores: Of cells.
        stride: Side of a cell in pixels.
        size: Height and width of the image.
    """
    covered = scores.shape[2] * stride, scores.shape[3] * stride
    return resize(scores, covered)[:, :, : size[0], : size[1]]


def pixel_loss(logits: Float[Tensor, "B K h w"], labels: Shaped[Tensor, "B H W"], stride: int) -> Float[Tensor, ""]:
    """Give the cross-entropy of the logits of cells, brought to the pixels.

    Its sum is divided by all pixels, ignored ones too, as mmseg does; without any labelled pixel it is 0, not NaN.

    Args:
        logits: Of cells.
        labels: Class of each pixel of the images, from 0, or IGNORED.
        stride: Side of a cell in pixels.
    """
    logits = resize_logits(logits.float(), stride, (labels.shape[1], labels.shape[2]))
    return F.cross_entropy(logits, labels.long(), ignore_index=IGNORED, reduction="sum") / labels.numel()


def semantic_to_masks(labels: Int[Tensor, "H W"]) -> tuple[Float[Tensor, "n H W"], Int[Tensor, "n"]]:
    """Split labels into one mask for each class that there is, and the classes; ignored pixels are in none."""
    classes = labels.unique()
    classes = classes[classes != IGNORED]
    return (labels == classes[:, None, None]).float(), classes
