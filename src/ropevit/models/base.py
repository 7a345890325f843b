"""What training code asks of a classifier of any architecture."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, ClassVar, Generic, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ropevit.models.config import ModelConfig
from ropevit.models.layers import Attention, init_linear
from ropevit.models.packed import PackedBatch
from ropevit.rope import LearnedRope
from ropevit.rope.scaling import Scaling

ConfigT = TypeVar("ConfigT", bound=ModelConfig)

#: Runs something with a model, images and options.
Method = Callable[..., Any]

#: How names end of what is never decayed besides vectors and learned rotations: embeddings, bias tables.
NO_WEIGHT_DECAY = (
    "cls_token",
    "register_tokens",
    "pos_embed",
    "time_embed",
    "relative_position_bias_table",
    "relative.rows",
    "relative.columns",
)


class BaseModel(nn.Module, Generic[ConfigT]):
    """Base of the models: a body that ends in `norm`, and a `head` that classifies what it gives."""

    block_class: ClassVar[type[nn.Module]]
    """Class of the layers whose weights are gathered together where they are sharded (FSDP)."""

    config: ConfigT
    patch_embed: Any
    norm: nn.LayerNorm
    head: nn.Module
    grad_checkpointing: bool

    scaling: Scaling | None = None
    """Rules for grids larger than the trained one; `ropevit.models.set_scaling` changes them."""

    forward_features: Callable[[Tensor], Tensor]
    forward_head: Callable[[Tensor], Tensor]
    layer_index: Callable[[str], int]
    """Depth of a parameter, by name, for layer-wise learning rates: 0 for embeddings, then blocks, norm and head."""
    reset_module: Callable[[nn.Module], None]
    """Initialises what one module of the model, or the model itself, holds beside its own modules."""
    hidden_states: Callable[[Tensor], Iterator[Tensor]]
    """All tokens of images after the embedding and after each block (or stage), one by one, before the final norm."""
    as_map: Callable[[Tensor, Tensor], Tensor]
    """Lays the patches of such a state out as a map (B, C, h, w), given the images, too."""

    def forward(
        self, images: Float[Tensor, "B c *pixels"] | PackedBatch, *, method: str | Method | None = None, **options: Any
    ) -> Any:
        """Return the logits of each class (B, K), or what another method gives.

        >>> logits = model(model.pack(images), method="forward_packed")

        Args:
            images: What the method takes.
            method: Name of another method of this model, or a function of the model, the images and options, to run
                instead. Where the model is sharded (FSDP), offloaded or reduces gradients (DDP), call it so: the hooks
                that bring its parameters in hang on this call.
            options: Passed on to the method.

        Raises:
            ValueError: If there is no such method.
        """
        if method is None:
            return self.forward_head(self.forward_features(images), **options)  # pyright: ignore[reportArgumentType]
        run = getattr(type(self), method, None) if isinstance(method, str) else method
        if not callable(run):
            raise ValueError(f"got method={method!r}, which {type(self).__name__} does not have")
        return run(self, images, **options)

    def sample_jitter(self, device: torch.device) -> Float[Tensor, "2 2"] | None:
        """Draw the coordinates of a training step, where a rule is random: once for all blocks."""
        return self.scaling.sample_jitter(device) if self.training and self.scaling is not None else None

    def attention_strides(self) -> dict[str, int]:
        """Return the pixels from one token to the next in each attention layer, by the path of the layer."""
        patch = self.config.patch_size
        return {name: patch for name, module in self.named_modules() if isinstance(module, Attention)}

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
            if name.endswith(NO_WEIGHT_DECAY) or any(name.startswith(f"{rope}.") for rope in learned)
        }
