"""Classify images of different sizes in one packed batch, as if each were alone; then drop half of the patches."""

import torch

import ropevit
from ropevit.models import random_patches

model = ropevit.create_model("rope_mixed_deit_tiny_patch16_LS", num_classes=10).eval()  # pretrained=PATH
images = [torch.randn(3, 16 * h, 16 * w) for h, w in [(10, 14), (14, 10), (6, 20), (4, 4)]]

with torch.no_grad():
    packed = model.pack(images)  # tokens of all images in rows, on the device of the images
    logits = model.forward_packed(packed)
    alone = torch.cat([model(image[None]) for image in images])
    print(f"{len(images)} images in {packed.sequence_ids.shape[0]} rows of {packed.sequence_ids.shape[1]} tokens")
    print(f"largest difference from each image alone: {(logits - alone).abs().max():.1e}")

    kept = random_patches(images, patch_size=16, share=0.5)
    dropped = model.forward_packed(model.pack(images, kept))
    print(f"with half of the patches dropped: logits {tuple(dropped.shape)}, patches kept {[len(own) for own in kept]}")
