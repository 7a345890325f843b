"""The patch grid of the current forward pass: set by the patch embedding, read by the attention layers."""

import torch
from jaxtyping import Float
from torch import Tensor

from ropevit.rope import grid_positions


class CurrentGrid:
    """Rows and columns of patches in the current forward pass; each model has one such object.

    With gradient checkpointing, blocks run again during the backward pass, but the patch embedding does not. The grid
    is then looked up by its number of patches, among the forward passes since the previous backward pass.

    Args:
        num_prefix_tokens: Class, distillation and register tokens in front of the patches.
    """

    def __init__(self, num_prefix_tokens: int):
        self.num_prefix_tokens = num_prefix_tokens
        self.size: tuple[int, int] | None = None
        self.recent_sizes: set[tuple[int, int]] = set()
        self.backward_ran = False

    def remember(self, h: int, w: int) -> None:
        """Record that a forward pass with h x w patches begins."""
        self.size = (h, w)
        if torch.compiler.is_compiling() or not torch.is_grad_enabled():
            return
        if self.backward_ran:
            self.recent_sizes, self.backward_ran = set(), False
        self.recent_sizes.add((h, w))

    def positions(self, num_tokens: int, device: torch.device) -> Float[Tensor, "N 2"]:
        """Return the positions (x, y) of the patches among `num_tokens` tokens.

        Raises:
            ValueError: If `size_of` does.
        """
        return grid_positions(*self.size_of(num_tokens), device=device)

    def size_of(self, num_tokens: int) -> tuple[int, int]:
        """Return rows and columns of the patches among `num_tokens` tokens.

        Raises:
            ValueError: If the tokens are not the prefix tokens and all patches of the grid, or if several grids fit a
                block that is recomputed in the backward pass.
        """
        num_patches = num_tokens - self.num_prefix_tokens
        size = self.recomputed_size(num_patches) if in_backward() else self.size
        if size is None or size[0] * size[1] != num_patches:
            raise ValueError(
                f"got {num_tokens} tokens in a retrofitted attention layer; expected {self.num_prefix_tokens} prefix "
                "tokens and one token per patch: run the whole model on images, and drop no patches"
            )
        return size

    def recomputed_size(self, num_patches: int) -> tuple[int, int] | None:
        """Return the grid of a block that is recomputed in the backward pass; None if no recent one fits."""
        self.backward_ran = True
        found = [size for size in self.recent_sizes if size[0] * size[1] == num_patches]
        if len(found) > 1:
            raise ValueError(
                f"got grids of {' and '.join(f'{h} x {w}' for h, w in sorted(found))} patches before one backward pass "
                "with gradient checkpointing, which knows them only by their number; call backward() after each"
            )
        return found[0] if found else None


def in_backward() -> bool:
    """Return whether autograd's backward pass is running, which recomputes checkpointed blocks."""
    return not torch.compiler.is_compiling() and torch._C._current_graph_task_id() != -1
