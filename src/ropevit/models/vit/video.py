"""Inflates an image model to a video (or volume) model with the same logits for a single frame."""

import math
from dataclasses import replace
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from ropevit.models.vit import ViT, ViTConfig

_PATCH_KERNEL = "patch_embed.proj.weight"


def inflate(
    model: ViT,
    frames: int,
    tubelet: int = 1,
    *,
    pairs: tuple[int, int, int] | None = None,
    learned: bool = False,
    kernel: Literal["mean", "central"] = "mean",
    time_speed: float = 0.0,
) -> ViT:
    """Build a video model from an image model: a static clip of one tubelet has the image's logits.

    >>> video = inflate(create_model("rope_mixed_deit_small_patch16_LS", pretrained=True), frames=16, tubelet=2)

    At t = 0 no pair rotates along t. RoPE-Mixed keeps its frequencies along x and y and gets a row for t. RoPE-Axial
    needs a choice, as all its pairs rotate with x or y already: see `pairs` and `learned`. An absolute embedding is
    complemented by a temporal one, initialized to 0.

    Args:
        model: An image model; it is not modified.
        frames: Frames for which a temporal embedding is learned; inputs may have any number.
        tubelet: Frames per patch.
        pairs: Pairs of a head for x, y and t, of an axial model. Logits stay the same if x and y keep their
            frequencies: if they keep all their pairs (and t gets none), or if the image model was built with the same
            `pairs`, those of t unrotated. None keeps the image model's.
        learned: Convert an axial model to a mixed one, initialized with its frequencies: logits stay the same.
        kernel: Inflation of the patch projection: "mean" divides it among the frames, so that the model sees their
            mean; "central" initially uses frame tubelet // 2 only.
        time_speed: Standard deviation of the initial frequencies of RoPE-Mixed along t, in radians per tubelet. With 0
            the order of tubelets has no effect before training.

    Raises:
        ValueError: If the model is not an image model, an option does not apply to it, or neither `pairs` nor `learned`
            is given for an axial model.

    Source: Arnab et al. 2021 (arXiv:2103.15691), ViViT, section 3.4, for the two kernels.
    """
    _check_inflatable(model, kernel)
    turning = _rotation_fields(model.config, pairs, learned)
    video = ViT(replace(model.config, frames=frames, tubelet=tubelet, **turning))
    _check_speed(time_speed, video.config)
    state = {**video.state_dict(), **model.state_dict()}
    state[_PATCH_KERNEL] = _inflate_kernel(state[_PATCH_KERNEL], tubelet, kernel)
    if video.config.rope == "mixed":
        state |= _inflate_frequencies(model, time_speed)
    video.load_state_dict(state)
    video.set_grad_checkpointing(model.grad_checkpointing)
    like = model.patch_embed.proj.weight
    return video.to(device=like.device, dtype=like.dtype).train(model.training)


def _check_inflatable(model: object, kernel: str) -> None:
    """Raise ValueError unless the model is an image model and the kernel a known name."""
    if not isinstance(model, ViT) or model.config.is_video:
        kind = "a video model" if isinstance(model, ViT) else type(model).__name__
        raise ValueError(f"got {kind}; expected a ViT of images, such as create_model gives")
    if kernel not in ("mean", "central"):
        raise ValueError(f"got kernel={kernel!r}; expected mean or central")


def _check_speed(time_speed: float, config: ViTConfig) -> None:
    """Raise ValueError for a negative, non-finite or inapplicable `time_speed`."""
    if not 0 <= time_speed < math.inf or (time_speed and config.rope != "mixed"):
        raise ValueError(
            f"got time_speed={time_speed} for {config.position}; expected 0 or, for RoPE-Mixed alone, a finite number "
            "above it"
        )


def _rotation_fields(config: ViTConfig, pairs: tuple[int, int, int] | None, learned: bool) -> dict[str, Any]:
    """Return the config fields of the video model's rotation."""
    if config.rope != "axial":
        if pairs is not None or learned:
            given = "learned=True" if learned else f"pairs={pairs}"
            raise ValueError(f"got {given} for {config.position}; that is for RoPE-Axial: leave it out")
        return {}
    if learned and pairs is not None:
        raise ValueError(f"got pairs={pairs} and learned=True; learned frequencies need no budget: leave one out")
    if learned:
        mixed = config.position.replace("axial", "mixed")
        return {"position": mixed, "pairs": None, "rope_theta": None}
    if (pairs or config.pairs) is None:
        half = config.width // config.heads // 4
        raise ValueError(
            f"got {config.position}, whose {2 * half} pairs are all rotated by x or y; give pairs=(x, y, t), of which "
            f"({half}, {half}, 0) changes nothing, or let them learn (inflate with learned=True)"
        )
    return {"pairs": pairs or config.pairs}


def _inflate_kernel(
    kernel: Float[Tensor, "C c p q"], tubelet: int, how: Literal["mean", "central"]
) -> Float[Tensor, "C c tubelet p q"]:
    """Return the projection of a tubelet made from that of a patch."""
    if how == "mean":
        return (kernel / tubelet).unsqueeze(2).repeat(1, 1, tubelet, 1, 1)
    inflated = kernel.new_zeros(*kernel.shape[:2], tubelet, *kernel.shape[2:])
    inflated[:, :, tubelet // 2] = kernel
    return inflated


def _inflate_frequencies(model: ViT, time_speed: float) -> dict[str, Float[Tensor, "3 A P"]]:
    """Add a row for t to the frequencies of every layer of an image model, learned or fixed."""
    inflated, shared = {}, model.rope
    for index, block in enumerate(model.blocks):
        if shared is None:
            spatial = block.get_parameter("attn.rope.freqs").detach()
        else:
            fixed: Tensor = shared.frequencies(model.patch_embed.proj.weight.device)[:2]  # pyright: ignore[reportCallIssue]
            spatial = fixed.unsqueeze(1).expand(-1, model.config.heads, -1)
        row = time_speed * torch.randn_like(spatial[:1])
        inflated[f"blocks.{index}.attn.rope.freqs"] = torch.cat([spatial, row])
    return inflated
