"""From a model of images to one of videos or volumes that gives a single frame the same logits."""

import math
from dataclasses import replace
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from ropevit.models.vit import ViT, ViTConfig

PATCH_KERNEL = "patch_embed.proj.weight"


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
    """Build a video model from an image model: a clip of one tubelet that stands still gets the image's logits.

    >>> video = inflate(create_model("rope_mixed_deit_small_patch16_LS", pretrained=True), frames=16, tubelet=2)

    There t = 0, where no pair turns along t. RoPE-Mixed keeps its frequencies along x and y and gets a row for t.
    RoPE-Axial has a choice to make, as its pairs all turn already: see `pairs` and `learned`. An absolute embedding
    gets a temporal one beside it, which starts at 0.

    Args:
        model: A model of images; it is left as it is.
        frames: Frames for which a temporal embedding is learned; any number may be fed.
        tubelet: Frames in a patch.
        pairs: Pairs of a head for x, y and t, of an axial model. The logits stay if x and y keep their frequencies:
            if they keep all their pairs (and t gets none), or the image model was made with the same `pairs`, those of
            t unturned. None keeps the image model's.
        learned: Let an axial model become a mixed one, which starts with its frequencies: the logits stay.
        kernel: How the projection of a patch becomes that of a tubelet: "mean" shares it out among the frames, so that
            the model sees their mean; "central" looks at frame tubelet // 2 alone at the start.
        time_speed: Standard deviation of the frequencies along t with which RoPE-Mixed starts, in radians per tubelet.
            With 0 the order of tubelets is not seen before it is learned.

    Raises:
        ValueError: If the model is none of images, an option does not fit it, or it is not said what becomes of the
            pairs of an axial model.

    Source: Arnab et al. 2021 (arXiv:2103.15691), ViViT, section 3.4, for the two kernels.
    """
    check_inflatable(model, kernel)
    turning = rotation_fields(model.config, pairs, learned)
    video = ViT(replace(model.config, frames=frames, tubelet=tubelet, **turning))
    check_speed(time_speed, video.config)
    state = {**video.state_dict(), **model.state_dict()}
    state[PATCH_KERNEL] = inflate_kernel(state[PATCH_KERNEL], tubelet, kernel)
    if video.config.rope == "mixed":
        state |= inflate_frequencies(model, time_speed)
    video.load_state_dict(state)
    video.set_grad_checkpointing(model.grad_checkpointing)
    like = model.norm.weight
    return video.to(device=like.device, dtype=like.dtype).train(model.training)


def check_inflatable(model: object, kernel: str) -> None:
    """Refuse what is no model of images, and a kernel that there is not."""
    if not isinstance(model, ViT) or model.config.is_video:
        kind = "a video model" if isinstance(model, ViT) else type(model).__name__
        raise ValueError(f"got {kind}; expected a ViT of images, such as create_model gives")
    if kernel not in ("mean", "central"):
        raise ValueError(f"got kernel={kernel!r}; expected mean or central")


def check_speed(time_speed: float, config: ViTConfig) -> None:
    """Refuse frequencies along t that are no numbers, or that nothing learns."""
    if not 0 <= time_speed < math.inf or (time_speed and config.rope != "mixed"):
        raise ValueError(
            f"got time_speed={time_speed} for {config.position}; expected 0 or, for RoPE-Mixed alone, a finite number "
            "above it"
        )


def rotation_fields(config: ViTConfig, pairs: tuple[int, int, int] | None, learned: bool) -> dict[str, Any]:
    """Choose the fields of the video model that say what turns."""
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
            f"got {config.position}, whose {2 * half} pairs all turn with x or y; give pairs=(x, y, t), of which "
            f"({half}, {half}, 0) changes nothing, or let them learn (inflate with learned=True)"
        )
    return {"pairs": pairs or config.pairs}


def inflate_kernel(
    kernel: Float[Tensor, "C c p q"], tubelet: int, how: Literal["mean", "central"]
) -> Float[Tensor, "C c tubelet p q"]:
    """Make the projection of a tubelet of that of a patch."""
    if how == "mean":
        return (kernel / tubelet).unsqueeze(2).repeat(1, 1, tubelet, 1, 1)
    inflated = kernel.new_zeros(*kernel.shape[:2], tubelet, *kernel.shape[2:])
    inflated[:, :, tubelet // 2] = kernel
    return inflated


def inflate_frequencies(model: ViT, time_speed: float) -> dict[str, Float[Tensor, "3 A P"]]:
    """Add a row for t to the frequencies of every layer of an image model, learned or fixed."""
    inflated, shared = {}, model.rope
    for index, block in enumerate(model.blocks):
        if shared is None:
            spatial = block.get_parameter("attn.rope.freqs").detach()
        else:
            fixed: Tensor = shared.frequencies(model.norm.weight.device)[:2]  # pyright: ignore[reportCallIssue]
            spatial = fixed.unsqueeze(1).expand(-1, model.config.heads, -1)
        row = time_speed * torch.randn_like(spatial[:1])
        inflated[f"blocks.{index}.attn.rope.freqs"] = torch.cat([spatial, row])
    return inflated
