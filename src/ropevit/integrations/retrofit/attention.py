"""Forward hooks that rotate the queries and keys of another library's attention layer."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from ropevit.integrations.retrofit.grid import CurrentGrid
from ropevit.integrations.retrofit.replicas import RefuseReplica
from ropevit.rope import CosSin, GatedAxialRope, MixedRope, apply_rotary

RetrofitRope = MixedRope | GatedAxialRope


@dataclass(eq=False)
class RotateOutput:
    """A forward hook that rotates the queries or keys that a module returns.

    Args:
        rope: The layer's rotary embedding.
        grid: The patch grid of the current images.
        heads: Number of heads, A.
    """

    rope: RetrofitRope
    grid: CurrentGrid
    heads: int

    def __call__(self, module: nn.Module, args: Any, output: Tensor) -> Tensor:
        """Rotate an output of shape (B, A, N, D), or (B, N, C) as a linear layer returns it."""
        del module, args
        return self.rotate_heads(output) if output.ndim == 4 else self.rotate_channels(output)

    def rotate_heads(self, x: Float[Tensor, "B A N D"]) -> Float[Tensor, "B A N D"]:
        """Rotate queries or keys that are split into heads."""
        return apply_rotary(x, self.cos_sin(x))

    def rotate_channels(self, x: Float[Tensor, "B N C"]) -> Float[Tensor, "B N C"]:
        """Rotate queries or keys that are not yet split into heads."""
        cos, sin = (table.transpose(-3, -2) for table in self.cos_sin(x))
        return apply_rotary(x.unflatten(-1, (self.heads, -1)), CosSin(cos, sin)).flatten(-2)

    def cos_sin(self, x: Tensor) -> CosSin:
        """Compute cosines and sines for all tokens, which are the second last axis."""
        return self.rope.cos_sin(self.grid.positions(x.shape[-2], x.device), self.grid.num_prefix_tokens)


@dataclass(eq=False)
class CheckHooked:
    """A forward pre-hook that raises if a projection of the attention layer was replaced after its hook was registered.

    A wrapper around a projection, such as a LoRA adapter, would add its own output past the hook.

    Args:
        hook: The forward hook that must still be registered on each module.
        names: Names of the modules that return queries and keys.
        caller: Function that registered the hook.
        effect: What the hook does to the output.
    """

    hook: Any
    names: Sequence[str]
    caller: str = "add_rope"
    effect: str = "rotated"

    def __call__(self, attention: nn.Module, args: Any) -> None:
        """Raise ValueError unless the hook is registered on each module that the layer is about to call."""
        del args
        for name in self.names:
            if self.hook not in getattr(attention, name)._forward_hooks.values():
                raise ValueError(
                    f"{name} of a retrofitted {type(attention).__name__} was replaced after {self.caller}, so its "
                    f"output is not fully {self.effect}; insert adapters first, then call {self.caller}"
                )


def hook_attention(
    attention: nn.Module, names: Sequence[str], heads: int, rope: RetrofitRope, grid: CurrentGrid
) -> None:
    """Register the hooks that rotate the queries and keys of an attention layer.

    Args:
        attention: Layer of another library; `rope` becomes a submodule of it, and trains, moves and saves with it.
        names: Names of its modules that return queries and keys, of shape (B, A, N, D) or (B, N, C).
        heads: Number of heads, A.
        rope: The layer's rotary embedding.
        grid: The patch grid of the current images.
    """
    attention.rope = rope
    hook = RotateOutput(rope, grid, heads)
    for name in names:
        getattr(attention, name).register_forward_hook(hook)
    attention.register_forward_pre_hook(CheckHooked(hook, names))
    attention.register_forward_pre_hook(RefuseReplica("add_rope"))
