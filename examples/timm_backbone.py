"""Use a model through timm: feature maps of an image of any shape, its transform, and layer-wise learning rates.

Needs timm: pip install ".[train]" in a clone of ropevit. With pretrained=True the published weights come from the hub.
"""

import timm
import torch
from PIL import Image
from timm.data import create_transform, resolve_data_config
from timm.optim import create_optimizer_v2

import ropevit.integrations.timm  # noqa: F401  (registers the models)

print(
    f"{len(timm.list_models('ropevit_*'))} models, {len(timm.list_models('ropevit_*', pretrained=True))} with weights"
)

# A backbone for dense tasks: feature maps with strides 4, 8, 16 and 32, for an image of 160 x 288 pixels.
backbone = timm.create_model("ropevit_swin_rope_mixed_tiny_patch4_window7_224", features_only=True)
for module, stride, maps in zip(
    backbone.feature_info.module_name(),
    backbone.feature_info.reduction(),
    backbone(torch.randn(1, 3, 160, 288)),
    strict=True,
):
    print(f"{module}, stride {stride}: {tuple(maps.shape)}")

# A classifier to fine-tune, with the transform of its evaluation.
model = timm.create_model("ropevit_rope_mixed_deit_tiny_patch16_LS", num_classes=5, drop_path_rate=0.05)
transform = create_transform(**resolve_data_config({}, model=model))
print(f"logits: {tuple(model(transform(Image.new('RGB', (640, 480)))[None]).shape)}")

# Learned frequencies have the learning rate of their block, and no weight decay.
optimizer = create_optimizer_v2(model, opt="adamw", lr=1e-3, weight_decay=0.05, layer_decay=0.75)
for block in (0, 11):
    frequencies = model.blocks[block].attn.rope.freqs
    group = next(g for g in optimizer.param_groups if any(p is frequencies for p in g["params"]))
    print(f"frequencies of block {block}: lr scale {group['lr_scale']:.3f}, weight decay {group['weight_decay']}")
