"""Base class of the models: the interface that training code uses for a classifier of any architecture."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any, ClassVar, Generic, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ropevit.models.config import ModelConfig
from ropevit.models.layers import Attention, init_linear
from ropevit.models.packed import PackedBatch
from ropevit.rope import DistanceBias, LearnedRope
from ropevit.rope.scaling import Scaling

ConfigT = TypeVar("ConfigT", bound=ModelConfig)

#: Function of a model, images and options.
Method = Callable[..., Any]

#: Name endings of parameters without weight decay besides vectors and learned RoPE: embeddings, bias tables.
_NO_WEIGHT_DECAY = (
    "cls_token",
    "register_tokens",
    "pos_embed",
    "prefix_embed",
    "attn_pool.latent",
    "time_embed",
    "relative_position_bias_table",
    "relative.rows",
    "relative.columns",
)


class BaseModel(nn.Module, Generic[ConfigT]):
    """Base class of the models: a body that ends in `norm` (the identity if it has none), and a `head`."""

    block_class: ClassVar[type[nn.Module]]
    """Class of the blocks that FSDP shards as one unit."""

    config: ConfigT
    patch_embed: Any
    norm: nn.Module
    head: nn.Module
    grad_checkpointing: bool

    scaling: Scaling | None = None
    """RoPE scaling for grids larger than the trained one; `ropevit.models.set_scaling` changes it."""

    preprocessing: Mapping[str, Any] = MappingProxyType({})
    """Mean, std and crop ratio of its pretrained weights, if its config does not determine them; saved with it."""

    forward_features: Callable[[Tensor], Tensor]
    forward_head: Callable[[Tensor], Tensor]
    layer_index: Callable[[str], int]
    """Depth of a parameter, by name, for layer-wise learning rates: 0 for embeddings, then blocks, norm and head."""
    reset_module: Callable[[nn.Module], None]
    """Initializes the direct parameters of one module of the model, or of the model itself."""
    hidden_states: Callable[[Tensor], Iterator[Tensor]]
    """Yields all tokens after the embedding and after each block (or stage), before the final norm."""
    as_map: Callable[[Tensor, Tensor], Tensor]
    """Reshapes the patch tokens of such a state to a map (B, C, h, w), given the images."""

    def forward(
        self, images: Float[Tensor, "B c *pixels"] | PackedBatch, *, method: str | Method | None = None, **options: Any
    ) -> Any:
        """Return the logits of each class (B, K), or the result of another method.

        >>> logits = model(model.pack(images), method="forward_packed")

        Args:
            images: Input of the method.
            method: Name of another method of this model, or a function of the model, the images and options, to run
                instead. Call methods this way on models under FSDP, DDP or offloading, whose hooks run on this call.
            options: Passed on to the method.

        Raises:
            ValueError: If the model has no such method.
        """
        if method is None:
            return self.forward_head(self.forward_features(images), **options)  # pyright: ignore[reportArgumentType]
        run = getattr(type(self), method, None) if isinstance(method, str) else method
        if not callable(run):
            raise ValueError(f"got method={method!r}, which {type(self).__name__} does not have")
        return run(self, images, **options)

    def reset_parameters(self) -> None:
        """Initialize all weights by `reset_module`, those of the model itself last; nothing on the meta device."""
        if next(self.parameters()).is_meta:
            return
        _, *parts = self.modules()
        for module in (*parts, self):
            self.reset_module(module)

    def norm_tokens(self, x: Float[Tensor, "... C"]) -> Float[Tensor, "... C"]:
        """Apply the final norm to tokens."""
        return self.norm(x)

    def sample_jitter(self, device: torch.device) -> Float[Tensor, "2 2"] | None:
        """Draw the coordinate jitter of a training step, once for all blocks, if the RoPE scaling has any."""
        return self.scaling.sample_jitter(device) if self.training and self.scaling is not None else None

    def attention_strides(self) -> dict[str, int]:
        """Return the stride in pixels of each attention layer, by the path of the layer."""
        patch = self.config.patch_size
        return {name: patch for name, module in self.named_modules() if isinstance(module, Attention)}

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Enable activation checkpointing: keep only the input of each block and recompute the rest."""
        self.grad_checkpointing = enable

    def get_classifier(self) -> nn.Module:
        """Return the head."""
        return self.head

    def reset_classifier(self, num_classes: int) -> None:
        """Replace the head by a new one with `num_classes` outputs; 0 removes it."""
        self.config = replace(self.config, num_classes=num_classes)
        like = next(self.patch_embed.parameters())
        head = init_linear(nn.Linear(self.config.num_features, num_classes)) if num_classes else nn.Identity()
        self.head = head.to(device=like.device, dtype=like.dtype).train(self.training)

    def no_weight_decay(self) -> set[str]:
        """Return parameters without weight decay besides biases and norms: of position embeddings, and of tokens."""
        learned = {name for name, module in self.named_modules() if isinstance(module, LearnedRope | DistanceBias)}
        return {
            name
            for name, _ in self.named_parameters()
            if name.endswith(_NO_WEIGHT_DECAY) or any(name.startswith(f"{rope}.") for rope in learned)
        }
