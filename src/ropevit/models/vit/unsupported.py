"""Models of timm with another rotation, or none, beside the supported families: why they cannot be created by name."""

_VLM = "an encoder of a vision-language model with"

#: Pattern of timm's names -> why no model is built under them.
UNSUPPORTED: dict[str, str] = {
    "vit_giant_patch16_lingbot*": "DINOv3's architecture in a size of its own, for images resized bilinearly, which no "
    "preprocessing here does; create vit_7b_patch16_dinov3 with width=1536, depth=40, heads=24, mlp_ratio=8/3 and load "
    "the file into it",
    "vit_*_lingbot*": "DINOv3's architecture, for images resized bilinearly, which no preprocessing here does; create "
    "its DINOv3 (such as vit_small_patch16_dinov3_qkvb) and load the file into it",
    "vit_*_sapiens2*": "grouped queries, norms of queries and keys, and RMS norms, which blocks here do not have",
    "deepseek_vit_*": f"{_VLM} RMS norms, which blocks here do not have",
    "gemma4_vit_*": f"{_VLM} RMS norms around both branches and of queries, keys and values, which blocks here lack",
    "qwen3_vit_*": f"{_VLM} a tanh GELU and an embedding resized with aligned corners, which models here do not have",
    "eva02_enormous_*": "no rotation, and norms after the branches; timm has it",
    "eva_large_*": "no rotation; timm has it",
    "eva_giant_*": "no rotation; timm has it",
    "naflexvit_*": "no rotation; timm has it",
    "samvit_*": "relative position biases and no rotation; timm has it",
}
