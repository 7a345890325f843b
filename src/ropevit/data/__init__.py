"""Data sets, transforms and batches for classification, detection, segmentation and the study."""

from typing import TYPE_CHECKING

from ropevit.lazy import lazy_attributes

if TYPE_CHECKING:
    from ropevit.data.ade import open_ade
    from ropevit.data.augment import AugmentConfig, eval_transform, train_transform
    from ropevit.data.coco import open_coco
    from ropevit.data.fashion import load_fashion
    from ropevit.data.images import to_tensor
    from ropevit.data.loading import train_batches
    from ropevit.data.order import TrainOrder
    from ropevit.data.sources import ImageSource, open_source
    from ropevit.data.tiny import make_tiny

__all__ = [
    "AugmentConfig",
    "ImageSource",
    "TrainOrder",
    "eval_transform",
    "load_fashion",
    "make_tiny",
    "open_ade",
    "open_coco",
    "open_source",
    "to_tensor",
    "train_batches",
    "train_transform",
]

#: Public name -> its module, loaded on first access.
MODULES = {
    "AugmentConfig": "augment",
    "ImageSource": "sources",
    "TrainOrder": "order",
    "eval_transform": "augment",
    "load_fashion": "fashion",
    "make_tiny": "tiny",
    "open_ade": "ade",
    "open_coco": "coco",
    "open_source": "sources",
    "to_tensor": "images",
    "train_batches": "loading",
    "train_transform": "augment",
}

__getattr__, __dir__ = lazy_attributes(__name__, MODULES)
