"""Backbones for detection and segmentation: maps at several strides from images of any size.

A classifier's weights are loaded into a ViT with window attention and a feature pyramid (ViTDet), which is run on a
padded batch of synthetic images in the layout of COCO. `pixel_masks` is False for padding.
"""

from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch.nn import functional as F

import ropevit
from ropevit.data import make_tiny, open_coco, to_tensor
from ropevit.models.dense import DenseViT, DenseViTConfig, PyramidConfig
from ropevit.weights import load_dense_weights

classifier = ropevit.create_model("rope_mixed_deit_tiny_patch16_LS", depth=4)  # in place of a trained one
config = DenseViTConfig(body=classifier.config, pyramid=PyramidConfig(channels=64), mask_padding=True)
backbone = DenseViT(config).eval()
print(load_dense_weights(backbone, classifier.state_dict()))

with TemporaryDirectory() as folder:
    make_tiny("coco", Path(folder) / "coco")
    source = open_coco(Path(folder) / "coco", "train")
    images, truths = zip(*(source.read(index) for index in range(3)), strict=True)

images = [to_tensor(image, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25)) for image in images]
sizes = torch.tensor([image.shape[1:] for image in images])
height, width = sizes.amax(0).tolist()
batch = torch.stack([F.pad(image, (0, width - image.shape[2], 0, height - image.shape[1])) for image in images])
with torch.no_grad():
    maps, pixel_masks = backbone(batch, sizes)
for stride, x, mask in zip(backbone.strides, maps, pixel_masks, strict=True):
    print(f"stride {stride}: {tuple(x.shape)}, image cells of each image: {mask.sum((1, 2)).tolist()}")
print("boxes of each image:", [len(truth.boxes) for truth in truths])
