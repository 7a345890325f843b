"""Tiny models for the tests of exports, with weights so large that every module changes the logits."""

import torch

from ropevit.models import Model, SwinConfig, ViTConfig, build_model


def tiny(position: str, swin: bool = False, **fields: object) -> Model:
    torch.manual_seed(0)
    shared = {"position": position, "img_size": (32, 48), "num_classes": 3}
    if swin:
        config = SwinConfig(**shared, width=16, depths=(2,), heads=(2,), window_size=4, patch_size=4)
    else:
        config = ViTConfig(
            **shared | {"width": 32, "depth": 1, "heads": 2, "patch_size": 8, "layer_scale": None} | fields
        )
    model = build_model(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.3)
    return model
