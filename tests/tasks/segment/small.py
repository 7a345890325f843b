"""Small segmenters, and three generated images with labels."""

import numpy as np
import torch

from ropevit.data.ade import open_ade
from ropevit.data.tiny import make_tiny
from ropevit.models import get_config
from ropevit.models.dense import DenseSwin, DenseSwinConfig
from ropevit.tasks.segment.config import PROFILES, Mask2FormerConfig, UperNetConfig, UperNetProfile
from ropevit.tasks.segment.mask2former import Mask2Former
from ropevit.tasks.segment.model import SegmenterConfig
from ropevit.tasks.segment.neck import make_vit_backbone
from ropevit.tasks.segment.upernet import UperNet


def small_profile(**changes):
    head = UperNetConfig(**({"channels": 16, "auxiliary_channels": 16} | changes))
    rest = {"out_indices": (0, 1, 2, 3), "drop_path": 0.0, "lr": 1e-3, "weight_decay": 0.0}
    return UperNetProfile(head=head, inference=PROFILES["mmseg"].inference, **rest)


def small_body(width=32):
    return get_config("rope_mixed_deit_tiny_patch16_LS", width=width, depth=4, heads=2)


def small_upernet(width=32, **changes):
    profile = small_profile(**changes)
    return UperNet(make_vit_backbone(small_body(width), profile), profile.head)


def small_swin():
    body = get_config("swin_rope_mixed_tiny_patch4_window7_224", width=16, depths=(1, 1, 1, 1), heads=(1, 1, 2, 2))
    return DenseSwin(DenseSwinConfig(body=body))


def labeled_images(directory, count=3, side=64):
    """Return generated images with their labels, cropped to squares."""
    make_tiny("ade", directory)
    found = [open_ade(directory, "train").read(index) for index in range(count)]
    images = torch.stack([torch.from_numpy(np.array(image)[:side, :side]) for image, _ in found])
    labels = torch.stack([torch.from_numpy(labels[:side, :side]) for _, labels in found])
    return images.permute(0, 3, 1, 2).float() / 127.5 - 1, labels


def small_mask2former(**changes):
    sizes = {"width": 32, "heads": 2, "encoder_layers": 1, "encoder_mlp_width": 32, "decoder_layers": 3}
    rest = {"decoder_mlp_width": 32, "queries": 12, "points": 64}
    return Mask2Former(small_swin(), Mask2FormerConfig(**(sizes | rest | changes)))


def small_segmenter(head="upernet", **changes):
    """Return the options of a small segmenter, which starts anew."""
    heads = {
        "upernet": UperNetConfig(channels=16, auxiliary_channels=16),
        "mask2former": Mask2FormerConfig(
            width=32, heads=2, encoder_layers=1, encoder_mlp_width=32, decoder_layers=2, decoder_mlp_width=32, points=64
        ),
    }
    size = {"model": "deit_tiny", "width": 32, "depth": 4, "heads": 2, "init": None}
    chosen = {head: heads[head]} if head in heads else {}  # a linear head has no options
    return SegmenterConfig(**({"head": head} | chosen | size | changes))
