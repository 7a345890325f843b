"""Backbones for detection and segmentation: maps at several strides from images of any size.

A classifier's weights go into a ViT with windows and a pyramid (ViTDet), and a few generated pictures in the layout of
COCO go through it, padded to one batch. `valid` tells the pictures from their padding.
"""

from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch.nn import functional as F

import ropevit
from ropevit.data import make_tiny, open_coco, to_tensor
from ropevit.models.dense import DenseViT, DenseViTConfig, PyramidConfig
from ropevit.weights import load_dense_weights

classifier = ropevit.create_model("rope_mixed_deit_tiny_patch16_LS", depth=4)  # stands for a trained one
config = DenseViTConfig(body=classifier.config, pyramid=PyramidConfig(channels=64), mask_padding=True)
backbone = DenseViT(config).eval()
print(load_dense_weights(backbone, classifier.state_dict()))

with TemporaryDirectory() as folder:
    make_tiny("coco", Path(folder) / "coco")
    source = open_coco(Path(folder) / "coco", "train")
    pictures, truths = zip(*(source.read(index) for index in range(3)), strict=True)

images = [to_tensor(picture, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25)) for picture in pictures]
sizes = torch.tensor([image.shape[1:] for image in images])
height, width = sizes.amax(0).tolist()
batch = torch.stack([F.pad(image, (0, width - image.shape[2], 0, height - image.shape[1])) for image in images])
with torch.no_grad():
    maps, valid = backbone(batch, sizes)
for stride, x, real in zip(backbone.strides, maps, valid, strict=True):
    print(f"stride {stride}: {tuple(x.shape)}, cells of each picture: {real.sum((1, 2)).tolist()}")
print("boxes of each picture:", [len(truth.boxes) for truth in truths])
