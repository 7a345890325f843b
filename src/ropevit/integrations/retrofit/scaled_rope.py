"""RoPE scaling inside the rotary embedding and the attention layers of another library."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from ropevit.integrations.retrofit.attention import CheckHooked
from ropevit.integrations.retrofit.grid import CurrentGrid, in_backward
from ropevit.integrations.retrofit.replicas import RefuseReplica
from ropevit.integrations.retrofit.rotations import Rotation
from ropevit.rope import CosSin, grid_positions, rotation_angles
from ropevit.rope.scaling import Scaling


@dataclass(eq=False)
class ScaledRope:
    """Computes the cosines and sines of a rotary embedding of another library, with RoPE scaling.

    Args:
        rope: The library's module, which keeps its parameters and buffers.
        rotation: How it rotates.
        scaling: The scaling methods.
        grid: The patch grid of the current images.
    """

    rope: Any
    rotation: Rotation
    scaling: Scaling
    grid: CurrentGrid
    factor: Float[Tensor, ""] | None = None
    """Attention factor of the current forward pass."""
    image_grids: list[tuple[int, int]] | None = None
    """Rows and columns of each image of the current forward pass, where they may differ."""

    def cos_sin(self, h: int, w: int, device: torch.device) -> CosSin:
        """Compute cosines and sines (heads, h * w, D), each channel's own, in the library's order of channels."""
        self.grid.remember(h, w)
        convention, channels = self.rotation.convention, self.rotation.channels
        frequencies = self.rotation.frequencies(self.rope, device)
        step = convention.step(self.scaling.trained_grid).to(frequencies)
        indices = grid_positions(h, w, device=device)
        inputs = self.scaling(
            convention.patch_positions(indices, indices.amax(0) + 1),
            frequencies * step.reshape(-1, *[1] * (frequencies.ndim - 1)),
            self.scaling.sample_jitter(device) if self.rope.training else None,
        )
        self.factor = inputs.attention_factor
        angles = rotation_angles(inputs.positions, inputs.frequencies).repeat_interleave(2, dim=-1)
        angles = angles[..., convention.channel_order(channels).argsort().to(device)]
        return CosSin(angles.cos(), angles.sin())

    def get_embed(self, shape: Sequence[int] | None = None, dtype: torch.dtype | None = None) -> Tensor:
        """Compute sines and cosines side by side, as the method of timm that this replaces: (..., h * w, 2 D).

        Args:
            shape: Rows and columns of patches; None for those that the model was built for.
            dtype: Dtype of the result; None for float32, to which the attention layers promote.
        """
        h, w = self.rope.feat_shape if shape is None else shape
        device = next(iter([*self.rope.parameters(), *self.rope.buffers()])).device
        table = torch.cat(self.cos_sin(h, w, device)[::-1], dim=-1)
        table = table.squeeze(0) if self.rotation.theta is not None else table.unflatten(0, self.rope.freqs.shape[1:3])
        return table if dtype is None else table.to(dtype)

    def get_batch_embeds(
        self, shapes: Sequence[Sequence[int]], seq_len: int | None = None, dtype: torch.dtype | None = None
    ) -> list[Tensor] | Tensor:
        """Compute sines and cosines for several grids, as the method of timm that this replaces.

        Args:
            shapes: Rows and columns of patches of each grid.
            seq_len: Pad all to this number of patches, and stack them.
            dtype: Dtype of the result.
        """
        embeds = [self.get_embed(shape, dtype) for shape in shapes]
        if seq_len is None or not embeds:
            return embeds
        return torch.stack([F.pad(embed, (0, 0, 0, seq_len - embed.shape[-2])) for embed in embeds])

    def replace_output(self, module: Any, args: tuple[Tensor], output: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Compute cosines and sines (h * w, D), as a forward hook of transformers' module, in the dtype of its own."""
        images, patch = args[0], module.config.patch_size
        rows, columns = (patch, patch) if isinstance(patch, int) else patch
        cos, sin = self.cos_sin(images.shape[-2] // rows, images.shape[-1] // columns, images.device)
        return cos.squeeze(0).to(output[0].dtype), sin.squeeze(0).to(output[1].dtype)

    def attention_factor(self, num_tokens: int) -> Float[Tensor, "*B"] | None:
        """Return the attention factor for layers that attend to `num_tokens` tokens: one, or one an image (B, 1, 1, 1).

        Raises:
            ValueError: If these are not the prefix tokens and all patches of the current grid.
        """
        if self.image_grids is not None:
            factors = {size: self.factor_of(*size) for size in self.image_grids}
            return torch.stack([factors[size] for size in self.image_grids]).reshape(-1, 1, 1, 1)
        h, w = self.grid.size_of(num_tokens)
        return self.factor_of(h, w) if in_backward() else self.factor

    def factor_of(self, h: int, w: int) -> Any:
        """Return the attention factor of a grid, on the CPU; None for scaling methods without one."""
        return self.scaling(grid_positions(h, w), torch.ones(2, 1)).attention_factor


@dataclass(eq=False)
class ScaleQueries:
    """A forward hook that multiplies the queries that a module returns by the attention factor.

    Args:
        scaled: The model's rotary embedding.
    """

    scaled: ScaledRope

    def __call__(self, module: nn.Module, args: Any, output: Tensor) -> Tensor:
        """Scale an output of shape (B, A, N, D) or (B, N, C)."""
        del module, args
        factor = self.scaled.attention_factor(output.shape[-2])
        if factor is None:
            return output
        return (output * (factor.to(output.device) if factor.ndim else factor)).to(output.dtype)


@dataclass(eq=False)
class RecordGrids:
    """A forward pre-hook that records the grid of each image of a batch whose patches come with their coordinates.

    Args:
        scaled: The model's rotary embedding.
        model: The model.
    """

    scaled: ScaledRope
    model: Any

    def __call__(self, module: nn.Module, args: Any, options: dict[str, Any]) -> None:
        """Record the grids from `patch_coord`, rows and columns (B, N, 2); none for a batch of images.

        Raises:
            ValueError: If blocks would be recomputed in the backward pass, which knows no grids by image.
        """
        del module, args
        coordinates = options.get("patch_coord")
        if coordinates is None:
            self.scaled.image_grids = None
            return
        if self.model.grad_checkpointing and torch.is_grad_enabled():
            raise ValueError(
                "got patch_coord with gradient checkpointing and a scaling with an attention factor (log, entropy, "
                "yarn); disable checkpointing, or choose another scaling method"
            )
        self.scaled.image_grids = [(h, w) for h, w in (coordinates.amax(1) + 1).tolist()]


def hook_queries(attention: nn.Module, name: str, scaled: ScaledRope) -> None:
    """Register the hooks that scale the queries of an attention layer.

    Args:
        attention: Layer of another library.
        name: Name of its module that returns queries.
        scaled: The model's rotary embedding.
    """
    hook = ScaleQueries(scaled)
    getattr(attention, name).register_forward_hook(hook)
    attention.register_forward_pre_hook(CheckHooked(hook, [name], "set_scaling", "scaled"))


def hook_patches(model: Any, name: str, scaled: ScaledRope) -> None:
    """Register the hook that records the grid of each image.

    Args:
        model: Model of another library.
        name: Name of its module that takes `patch_coord`.
        scaled: The model's rotary embedding.
    """
    getattr(model, name).register_forward_pre_hook(RecordGrids(scaled, model), with_kwargs=True)


def remove_hooks(model: nn.Module) -> None:
    """Remove the hooks that `set_scaling` registered anywhere in a model, other than those of its rotary embedding."""
    for part in model.modules():
        for hooks in (part._forward_hooks, part._forward_pre_hooks):
            for key, hook in list(hooks.items()):
                ours = isinstance(hook, ScaleQueries | RecordGrids)
                checks = isinstance(getattr(hook, "hook", None), ScaleQueries)
                if ours or checks or (isinstance(hook, RefuseReplica) and hook.caller == "set_scaling"):
                    del hooks[key]
                    if hooks is part._forward_pre_hooks:
                        part._forward_pre_hooks_with_kwargs.pop(key, None)
