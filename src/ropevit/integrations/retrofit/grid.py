"""The patch grid of the images that a model is working on, told by its patch embedding to its attention layers."""

import torch
from jaxtyping import Float
from torch import Tensor

from ropevit.rope import grid_positions


class CurrentGrid:
    """Rows and columns of patches in the forward pass that is under way; each model has one.

    Under gradient checkpointing blocks run again in the backward pass, where the patch embedding does not. They are
    then given the grid with their number of patches among the forward passes since the last backward pass.

    Args:
        num_prefix: Class, distillation and register tokens in front of the patches.
    """

    def __init__(self, num_prefix: int):
        self.num_prefix = num_prefix
        self.size: tuple[int, int] | None = None
        self.sizes: set[tuple[int, int]] = set()
        self.recomputed = False

    def remember(self, h: int, w: int) -> None:
        """Begin a forward pass with images of h x w patches."""
        self.size = (h, w)
        if torch.compiler.is_compiling() or not torch.is_grad_enabled():
            return
        if self.recomputed:
            self.sizes, self.recomputed = set(), False
        self.sizes.add((h, w))

    def positions(self, num_tokens: int, device: torch.device) -> Float[Tensor, "N 2"]:
        """Say where the patches among `num_tokens` tokens stand.

        Raises:
            ValueError: If the tokens are not the prefix and the grid of patches, or a recomputation cannot know which
                of several grids they are.
        """
        num_patches = num_tokens - self.num_prefix
        size = self.recompute(num_patches) if _in_backward() else self.size
        if size is None or size[0] * size[1] != num_patches:
            raise ValueError(
                f"got {num_tokens} tokens in a retrofitted attention layer; expected {self.num_prefix} in front and "
                "one for each patch of the last images: feed whole images through the patch embedding, and drop none"
            )
        return grid_positions(*size, device=device)

    def recompute(self, num_patches: int) -> tuple[int, int] | None:
        """Find the grid of a block that runs again in the backward pass."""
        self.recomputed = True
        found = [size for size in self.sizes if size[0] * size[1] == num_patches]
        if len(found) > 1:
            raise ValueError(
                f"got grids of {' and '.join(f'{h} x {w}' for h, w in sorted(found))} patches before one backward pass "
                "with gradient checkpointing, which cannot tell them apart; call backward after each"
            )
        return found[0] if found else None


def _in_backward() -> bool:
    """Tell whether autograd runs this: a block that is computed again."""
    return not torch.compiler.is_compiling() and torch._C._current_graph_task_id() != -1
