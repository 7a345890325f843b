"""Benchmark candidates of the level scale: whole models on larger and larger images, and on images of mixed sizes.

ViT-S/16 and Swin-T, ours, timm's and transformers' DINOv3, of equal width and depth. A batch has about the same number
of pixels at every size, so the time of an image shows how cost grows with its pixels. Models are compared with float64
at the first size alone, as float64 takes minutes at the largest.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ropevit.bench.candidate import Candidate, Group, PlannedCandidate
from ropevit.bench.networks import APE, Build, forward_candidate, model_candidate, ours, timm
from ropevit.bench.shapes import MixedSizes, ModelSize, ScaleSizes
from ropevit.extras import require
from ropevit.models import SwinConfig, build_model
from ropevit.models.vit import ViT

RPB = "ours, relative position bias"
ONE_BY_ONE = "ours, axial, one image at a time"

#: Label, library, embedding, and how to build a model.
Maker = tuple[str, str, str, Build]


@dataclass(frozen=True, kw_only=True)
class ScaleSettings:
    """Settings that all groups of the level share."""

    device: torch.device
    dtype: torch.dtype
    """float32, or bfloat16 for autocast."""
    images: int | None
    """Images of a batch at the first size; None takes the default. Larger images are fewer, at least one."""
    choose: Callable[[str], list[bool]]
    """Returns, for a library, whether to time it eagerly (False), compiled (True), both or not at all."""


def scale_groups(settings: ScaleSettings, sizes: ScaleSizes) -> list[Group]:
    """Return a group for each model and image size, and one of images of mixed sizes."""
    vit = [_group(size, sizes.vit[0], (APE, _vit_makers(size)), settings) for size in sizes.vit]
    swin = [_group(size, sizes.swin[0], (RPB, _swin_makers(size)), settings) for size in sizes.swin]
    return [*vit, *swin, _mixed_group(sizes.mixed, settings)]


def _group(size: ModelSize, first: ModelSize, makers: tuple[str, list[Maker]], settings: ScaleSettings) -> Group:
    """Return the group of models at an image size; `makers` holds the label of the baseline and the models."""
    count = max(1, round((settings.images or size.images) * first.pixels**2 / size.pixels**2))

    def make(build: Build, compiled: bool) -> Candidate:
        candidate = model_candidate(build().to(settings.device), size, count, settings.dtype, compiled)
        return candidate if size == first else replace(candidate, check=None)

    base, made = makers
    return Group(
        level="scale",
        shape=f"{size.name}, {size.pixels} px",
        about=f"{count} image{'s' if count > 1 else ''} of {size.pixels} px",
        images=count,
        pixels=size.pixels**2,
        base=base,
        entries=[
            PlannedCandidate(
                label=f"{label}{', compiled' if compiled else ''}",
                library=library,
                embedding=embedding,
                compiled=compiled,
                make=partial(make, build, compiled),
            )
            for label, library, embedding, build in made
            for compiled in settings.choose(library)
        ],
    )


def _vit_makers(size: ModelSize) -> list[Maker]:
    """Return the ViTs of a size, without LayerScale except DINOv3's."""
    return [
        (APE, "none", "ape", partial(ours, size, "ape", None)),
        *((f"ours, {name}", "ours", name, partial(ours, size, f"rope_{name}", None)) for name in ("axial", "mixed")),
        *((f"timm, {name}", "timm", name, partial(timm, size, name)) for name in ("ape", "axial", "mixed")),
        ("transformers DINOv3, axial", "transformers", "axial", partial(_dinov3, size)),
    ]


class Pooled(nn.Module):
    """Calls a model of transformers and returns its pooled output, in place of logits."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        """Return the pooled output."""
        return self.model(images).pooler_output


def _dinov3(size: ModelSize) -> nn.Module:
    """Build transformers' DINOv3 with the width and depth of `size`."""
    transformers = require("transformers", "dense")
    config = transformers.DINOv3ViTConfig(
        hidden_size=size.width,
        intermediate_size=4 * size.width,
        num_hidden_layers=size.depth,
        num_attention_heads=size.heads,
        image_size=size.pixels,
        pos_embed_rescale=None,  # no random positions in training, which no other model has
        attn_implementation="sdpa",
    )
    return Pooled(transformers.DINOv3ViTModel(config))


def _swin_makers(size: ModelSize) -> list[Maker]:
    """Return the Swin transformers of a size."""
    return [
        (RPB, "none", "rpb", partial(_our_swin, size, "rpb")),
        *((f"ours, {name}", "ours", name, partial(_our_swin, size, f"rope_{name}")) for name in ("axial", "mixed")),
        ("timm, relative position bias", "timm", "rpb", partial(_timm_swin, size)),
    ]


def _our_swin(size: ModelSize, position: str) -> nn.Module:
    """Build this package's Swin-T."""
    return build_model(SwinConfig(position=position, img_size=(size.pixels, size.pixels)))


def _timm_swin(size: ModelSize) -> nn.Module:
    """Build timm's Swin-T."""
    create_model = require("timm", "train").create_model
    return create_model("swin_tiny_patch4_window7_224", img_size=size.pixels, drop_path_rate=0.0)


def _mixed_group(sizes: MixedSizes, settings: ScaleSettings) -> Group:
    """Return the group of images of mixed sizes in one batch: packed, one at a time, and timm's padded rows."""
    images = [torch.randn(3, *image, device=settings.device) for image in sizes.images]
    makers = [
        (ONE_BY_ONE, "none", "axial", partial(_one_by_one, sizes.model, images, settings)),
        *(
            (f"ours, {name}, packed", "ours", name, partial(_packed, f"rope_{name}", sizes.model, images, settings))
            for name in ("axial", "mixed")
        ),
        ("timm NaFlexVit, axial, padded", "timm", "axial", partial(_padded, sizes.model, images, settings)),
    ]
    sides = sorted(side for image in sizes.images for side in image)
    return Group(
        level="scale",
        shape=f"{sizes.model.name}, mixed sizes",
        about=f"{len(images)} images with sides of {sides[0]} to {sides[-1]} px",
        images=len(images),
        pixels=sum(height * width for height, width in sizes.images) // len(images),
        base=ONE_BY_ONE,
        entries=[
            PlannedCandidate(label=label, library=library, embedding=embedding, compiled=False, make=make)
            for label, library, embedding, make in makers
            if False in settings.choose(library)
        ],
    )


def _mixed_candidate(
    model: nn.Module, call: Callable[[Any, Any], Tensor], inputs: tuple[Any, Any], settings: ScaleSettings, images: int
) -> Candidate:
    """Return the candidate of a model on images of mixed sizes; `inputs` are the batch and two images in float64."""
    return forward_candidate(
        model.to(settings.device),
        forward=lambda run: call(run, inputs[0]),
        exact=lambda double: call(double, inputs[1]),
        images=images,
        dtype=settings.dtype,
    )


def _one_by_one(size: ModelSize, images: list[Tensor], settings: ScaleSettings) -> Candidate:
    """Return the candidate that calls our ViT once for each image."""

    def call(model: nn.Module, batch: list[Tensor]) -> Tensor:
        return torch.cat([model(image.unsqueeze(0)) for image in batch])

    return _mixed_candidate(ours(size, "rope_axial", None), call, (images, _first_two(images)), settings, len(images))


def _packed(position: str, size: ModelSize, images: list[Tensor], settings: ScaleSettings) -> Candidate:
    """Return the candidate of our ViT on a packed batch."""
    model = ours(size, position, None)
    assert isinstance(model, ViT)
    inputs = model.pack(images), model.pack(_first_two(images))
    return _mixed_candidate(model, lambda run, batch: run.forward_packed(batch), inputs, settings, len(images))


def _padded(size: ModelSize, images: list[Tensor], settings: ScaleSettings) -> Candidate:
    """Return the candidate of timm's NaFlexVit, which pads sequences to the longest."""
    inputs = pad_patches(images), pad_patches(_first_two(images))
    return _mixed_candidate(_naflexvit(size), lambda run, batch: run(batch), inputs, settings, len(images))


def _first_two(images: list[Tensor]) -> list[Tensor]:
    """Return the first two images in float64."""
    return [image.double() for image in images[:2]]


def _naflexvit(size: ModelSize) -> nn.Module:
    """Build timm's NaFlexVit with RoPE-Axial, a class token and no absolute embedding."""
    cfg = require("timm.models.naflexvit", "train").NaFlexVitCfg(
        embed_dim=size.width,
        depth=size.depth,
        num_heads=size.heads,
        class_token=True,
        global_pool="token",
        pos_embed="none",
        rope_type="axial",
        rope_temperature=100.0,
    )
    return require("timm.models.naflexvit", "train").NaFlexVit(cfg)


def pad_patches(images: Sequence[Tensor], patch: int = 16) -> dict[str, Tensor]:
    """Return the patches of images of any sizes, padded to the longest sequence, as timm's NaFlexVit takes them.

    Returns:
        `patches` (B, N, pixels), `patch_coord` (B, N, 2) of row and column, and `patch_valid` (B, N).
    """
    cut = [image.unflatten(2, (-1, patch)).unflatten(1, (-1, patch)) for image in images]  # c h p w q
    sequences = [image.permute(1, 3, 2, 4, 0).flatten(2).flatten(0, 1) for image in cut]
    places = [
        torch.cartesian_prod(*(torch.arange(side // patch, device=image.device) for side in image.shape[1:]))
        for image in images
    ]
    pad = partial(nn.utils.rnn.pad_sequence, batch_first=True)
    valid = [torch.ones(len(tokens), dtype=torch.bool, device=tokens.device) for tokens in sequences]
    return {"patches": pad(sequences), "patch_coord": pad(places), "patch_valid": pad(valid)}
