"""A video model from an image model: equal logits on a still clip, then other clips and a CT volume."""

import torch

import ropevit
from ropevit.models import inflate

small = {"depth": 2, "num_classes": 10, "layer_scale": 1.0}  # pretrained=True: published weights, from the hub
image_model = ropevit.create_model("rope_mixed_deit_tiny_patch16_LS", **small).eval()
video_model = inflate(image_model, frames=16, tubelet=2, time_speed=0.1)  # or create_model(NAME, frames=16, tubelet=2)

images = torch.randn(2, 3, 64, 96)
still = images.unsqueeze(2).expand(-1, -1, 2, -1, -1)  # (B, 3, T, H, W)
with torch.no_grad():
    print(f"a still clip: {(video_model(still) - image_model(images)).abs().max():.1e} difference from the image model")
    clip = torch.randn(
        1, 3, 8, 64, 96
    )  # any number of frames that the tubelet divides, any size that the patch divides
    backwards = video_model(clip) - video_model(clip.flip(2))
    print(f"a reversed clip: {backwards.abs().max():.1e} difference")
    maps = video_model.forward_intermediates(clip, indices=[-1])
    print(f"feature maps {tuple(maps[0].shape)}: (B, C, t, h, w)")

    # RoPE-Axial divides its 32 pairs among x, y and t. A CT has one channel, and here its slices are 4 patch widths
    # apart: positions are in patches, so those along t are scaled.
    volumes = ropevit.create_model(
        "rope_axial_deit_tiny_patch16_LS", frames=24, tubelet=1, pairs=(10, 10, 12), in_channels=1, **small
    )
    tokens, positions = volumes.embed(torch.randn(1, 1, 5, 64, 96))
    features = volumes.encode(tokens, positions * torch.tensor([1.0, 1.0, 4.0]))  # x, y, t
    print(f"logits of a volume {tuple(volumes.forward_head(features).shape)}")
