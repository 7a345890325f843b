"""Turning what modules of an attention layer return as queries and keys, on their way to the attention."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from ropevit.integrations.retrofit.grid import CurrentGrid
from ropevit.rope import CosSin, GatedAxialRope, MixedRope, apply_rotary

Rope = MixedRope | GatedAxialRope


@dataclass(eq=False)
class RotateOutput:
    """A forward hook that turns queries or keys.

    Args:
        rope: The rotation of the layer.
        grid: Where the patches stand.
        heads: Number of heads, A.
    """

    rope: Rope
    grid: CurrentGrid
    heads: int

    def __call__(self, module: nn.Module, args: Any, output: Tensor) -> Tensor:
        """Turn an output (B, A, N, D), or (B, N, C) as a linear layer returns it."""
        del module, args
        return self.turn_heads(output) if output.ndim == 4 else self.turn_joined(output)

    def turn_heads(self, x: Float[Tensor, "B A N D"]) -> Float[Tensor, "B A N D"]:
        """Turn queries or keys whose heads stand apart."""
        return apply_rotary(x, self.turn(x))

    def turn_joined(self, x: Float[Tensor, "B N C"]) -> Float[Tensor, "B N C"]:
        """Turn queries or keys whose heads are still joined."""
        cos, sin = (table.transpose(-3, -2) for table in self.turn(x))
        return apply_rotary(x.unflatten(-1, (self.heads, -1)), CosSin(cos, sin)).flatten(-2)

    def turn(self, x: Tensor) -> CosSin:
        """Compute the cosines and sines of all tokens."""
        return self.rope.cos_sin(self.grid.positions(x.shape[-2], x.device), self.grid.num_prefix)


@dataclass(eq=False)
class CheckRotated:
    """A forward pre-hook that refuses an attention layer whose projections were replaced after `add_rope`.

    A wrapper around a projection, such as an adapter's, would add its own part after the rotation.

    Args:
        hook: What must still hang on each.
        names: Of the modules that return queries and keys.
    """

    hook: RotateOutput
    names: Sequence[str]

    def __call__(self, attention: nn.Module, args: Any) -> None:
        """Look whether the hook still hangs on what the layer is about to call."""
        del args
        for name in self.names:
            if self.hook not in getattr(attention, name)._forward_hooks.values():
                raise ValueError(
                    f"{name} of a retrofitted {type(attention).__name__} was replaced after add_rope, and would not be "
                    "rotated as a whole; call add_rope after adapters and other replacements"
                )


def hook_attention(attention: nn.Module, names: Sequence[str], heads: int, rope: Rope, grid: CurrentGrid) -> None:
    """Turn what the named modules of an attention layer return.

    Args:
        attention: Layer of another library; gets `rope` as a part, so that it trains, moves and saves with the model.
        names: Its modules that return queries and keys, (B, A, N, D) or (B, N, C).
        heads: Number of heads, A.
        rope: The rotation.
        grid: Where the patches stand.
    """
    attention.rope = rope
    hook = RotateOutput(rope, grid, heads)
    for name in names:
        getattr(attention, name).register_forward_hook(hook)
    attention.register_forward_pre_hook(CheckRotated(hook, names))
