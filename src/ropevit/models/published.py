"""Top-1 accuracies that the paper reports on ImageNet-1k, by model and test resolution in pixels.

Source: README of naver-ai/rope-vit (December 2024) for 224 and 384. Trained at 224 (ViT-B and -L pre-trained at 192).
Swin is tested with windows of 1/32 of the side: 7 tokens at 224, 12 at 384.
"""

SOURCE = "naver-ai/rope-vit README, December 2024"

#: model -> {test resolution in pixels: top-1 in percent}
TOP1: dict[str, dict[int, float]] = {
    "deit_small_patch16_LS": {224: 80.4, 384: 79.4},
    "deit_base_patch16_LS": {224: 83.4, 384: 82.8},
    "deit_large_patch16_LS": {224: 84.6, 384: 84.2},
    "rope_axial_deit_small_patch16_LS": {224: 80.9, 384: 80.0},
    "rope_axial_deit_base_patch16_LS": {224: 83.6, 384: 83.9},
    "rope_axial_deit_large_patch16_LS": {224: 84.7, 384: 85.1},
    "rope_mixed_deit_small_patch16_LS": {224: 80.9, 384: 81.8},
    "rope_mixed_deit_base_patch16_LS": {224: 83.8, 384: 84.4},
    "rope_mixed_deit_large_patch16_LS": {224: 84.8, 384: 85.6},
    "rope_axial_ape_deit_small_patch16_LS": {224: 80.7, 384: 81.2},
    "rope_axial_ape_deit_base_patch16_LS": {224: 83.7, 384: 83.8},
    "rope_axial_ape_deit_large_patch16_LS": {224: 84.7, 384: 85.1},
    "rope_mixed_ape_deit_small_patch16_LS": {224: 80.9, 384: 81.7},
    "rope_mixed_ape_deit_base_patch16_LS": {224: 83.8, 384: 84.3},
    "rope_mixed_ape_deit_large_patch16_LS": {224: 84.9, 384: 85.5},
    "swin_tiny_patch4_window7_224": {224: 81.2, 384: 78.9},
    "swin_small_patch4_window7_224": {224: 82.9, 384: 81.0},
    "swin_base_patch4_window7_224": {224: 83.3, 384: 81.2},
    "swin_rope_axial_tiny_patch4_window7_224": {224: 81.3, 384: 79.2},
    "swin_rope_axial_small_patch4_window7_224": {224: 83.1, 384: 80.9},
    "swin_rope_axial_base_patch4_window7_224": {224: 83.6, 384: 81.8},
    "swin_rope_mixed_tiny_patch4_window7_224": {224: 81.4, 384: 79.5},
    "swin_rope_mixed_small_patch4_window7_224": {224: 83.0, 384: 81.4},
    "swin_rope_mixed_base_patch4_window7_224": {224: 83.7, 384: 82.1},
}
