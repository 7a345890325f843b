"""What training code asks of a classifier of any architecture."""

from dataclasses import replace
from typing import Generic, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ropevit.models.config import ModelConfig
from ropevit.models.layers import init_linear
from ropevit.rope import LearnedRope
from ropevit.rope.scaling import Scaling

ConfigT = TypeVar("ConfigT", bound=ModelConfig)

#: How names end of what is never decayed besides vectors and learned rotations: embeddings, bias tables.
UNDECAYED = (
    "cls_token",
    "register_tokens",
    "pos_embed",
    "time_embed",
    "relative_position_bias_table",
    "relative.rows",
    "relative.columns",
)


class Classifier(nn.Module, Generic[ConfigT]):
    """Base of the models: a body that ends in `norm`, and a `head` that classifies what it gives."""

    config: ConfigT
    norm: nn.LayerNorm
    head: nn.Module
    grad_checkpointing: bool

    scaling: Scaling | None = None
    """Rules for grids larger than the trained one; `ropevit.models.set_scaling` changes them."""

    def draw(self, device: torch.device) -> Float[Tensor, "2 2"] | None:
        """Draw the coordinates of a training step, where a rule is random: once for all blocks."""
        return self.scaling.draw(device) if self.training and self.scaling is not None else None

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Trade time for memory in training: keep only the input of each block."""
        self.grad_checkpointing = enable

    def get_classifier(self) -> nn.Module:
        """Return the head."""
        return self.head

    def reset_classifier(self, num_classes: int) -> None:
        """Replace the head by a new one with `num_classes` outputs; 0 leaves it out."""
        self.config = replace(self.config, num_classes=num_classes)
        like = self.norm.weight
        head = init_linear(nn.Linear(like.shape[0], num_classes)) if num_classes else nn.Identity()
        self.head = head.to(device=like.device, dtype=like.dtype)

    def no_weight_decay(self) -> set[str]:
        """Name the parameters that are never decayed besides biases and norms: embeddings, bias tables, frequencies."""
        learned = {name for name, module in self.named_modules() if isinstance(module, LearnedRope)}
        return {
            name
            for name, _ in self.named_parameters()
            if name.endswith(UNDECAYED) or any(name.startswith(f"{rope}.") for rope in learned)
        }
