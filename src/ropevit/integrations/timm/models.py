"""The methods that timm's tools and scripts use on a model, for both architectures."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.nn import functional as F

from ropevit.extras import require
from ropevit.models.base import BaseModel, ConfigT
from ropevit.models.config import as_pair
from ropevit.models.layers import resize_embedding
from ropevit.weights.layouts import to_ours
from ropevit.weights.match import check_rotation, check_shapes, drop_fixed
from ropevit.weights.parse import parse_checkpoint
from ropevit.weights.reading import Checkpoint

Indices = int | Sequence[int] | None
#: Final features and a list of intermediate ones, or the list alone.
Intermediates = tuple[Tensor, list[Any]] | list[Any]


class TimmModel(BaseModel[ConfigT]):
    """Mixin with the timm methods that both architectures share.

    It is mixed in because a wrapper would rename every weight. One method differs from that of our own models:
    `forward_intermediates` also returns the final features, as timm's does.

    Args:
        config: Config of the model.
        global_pool: Pooling of the tokens, one of `poolings`; "" turns it off.
        drop_rate: Rate of dropout before the head.
    """

    poolings: ClassVar[tuple[str, ...]]
    pos_embed: nn.Parameter | None
    layer_index: Callable[[str], int]

    def __init__(self, config: ConfigT, global_pool: str | None = None, drop_rate: float = 0.0):
        if not 0 <= drop_rate < 1:
            raise ValueError(f"got drop_rate={drop_rate}; expected 0 to below 1")
        super().__init__(config)
        self.unpooled = False
        self.drop_rate = drop_rate
        self.update_patch_embed()
        if global_pool is not None:
            self.set_pooling(global_pool)

    @classmethod
    def default_features(cls, config: Any, options: Mapping[str, Any]) -> tuple[int, ...]:
        """Return the indices of the layers that a feature extractor returns by default, as in timm."""
        raise NotImplementedError

    @property
    def num_classes(self) -> int:
        """Classes of the head; 0 without one."""
        return self.config.num_classes

    @property
    def in_chans(self) -> int:
        """Channels of the images."""
        return self.config.in_channels

    @property
    def embed_dim(self) -> int:
        """Channels of a token; of a Swin, in the first stage."""
        return self.config.width

    @property
    def global_pool(self) -> str:
        """Pooling of the tokens; "" if it is off."""
        return "" if self.unpooled else getattr(self.config, "pooling", "avg")

    @property
    def feature_info(self) -> list[dict[str, Any]]:
        """Channels (num_chs), stride (reduction) and module of each feature map, in the order of the layers."""
        raise NotImplementedError

    @property
    def num_features(self) -> int:
        """Channels of the last features."""
        return self.config.num_features

    @property
    def head_hidden_size(self) -> int:
        """Input channels of the head."""
        return self.num_features

    def set_pooling(self, global_pool: str) -> None:
        """Change the pooling of the tokens.

        Raises:
            ValueError: If the architecture has no such pooling.
        """
        if global_pool not in self.poolings:
            raise ValueError(f"got global_pool={global_pool!r}; expected one of {', '.join(map(repr, self.poolings))}")
        self.unpooled = global_pool == ""

    def pool(self, features: Tensor) -> Tensor:
        """Pool tokens to one vector per image."""
        raise NotImplementedError

    def forward_head(self, features: Tensor, pre_logits: bool = False) -> Tensor:
        """Pool tokens and apply the head, unless `pre_logits` is true."""
        pooled = features if self.unpooled else self.pool(features)
        return pooled if pre_logits else self.head(F.dropout(pooled, self.drop_rate, self.training))

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the head by a new one, and the pooling if one is given; 0 classes remove the head."""
        if global_pool is not None:
            self.set_pooling(global_pool)
        super().reset_classifier(num_classes)

    def stage_index(self, name: str) -> int:
        """Return the stage of a parameter by its name; its layer in models without stages."""
        return self.layer_index(name)

    def group_matcher(self, coarse: bool = False) -> Callable[[str], int]:
        """Return a function from the name of a parameter or module to its layer, for timm's layer decay.

        Args:
            coarse: Group by stage instead of by layer.
        """
        layer = self.stage_index if coarse else self.layer_index
        return lambda name: layer(f"{name}.")  # the dot makes a module's name a prefix of its parameters' names

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Load weights in our, the published or timm's layout; timm's own `load_checkpoint` calls this.

        Derived tables are dropped. Nothing is resized; use `ropevit.load_weights` for that.

        Raises:
            WeightsError: If `strict` and the weights do not match the model.
        """
        config, parsed = self.config, parse_checkpoint(Checkpoint("the given state dict", state_dict))
        state, _ = to_ours(parsed.state, parsed.layout, config)
        drop_fixed(state, config, parsed.source)
        if strict:
            check_shapes(state, self.state_dict(), parsed, config)
            check_rotation(config, parsed)
        return super().load_state_dict(state, strict, assign)

    def resized_config(
        self, img_size: int | tuple[int, int] | None, patch_size: int | tuple[int, int] | None, **fields: Any
    ) -> ConfigT:
        """Return the config for another image size and other patches; None keeps what there is.

        With RoPE scaling the grid to which it refers stays the one before.

        Raises:
            ValueError: If patches are not squares, or do not tile the image.
        """
        config = self.config
        if config.scaling is not None and config.trained_grid is None:
            fields["trained_grid"] = config.attention_grid
        size = config.img_size if img_size is None else as_pair(img_size)
        side = config.patch_size if patch_size is None else square_side("patch_size", patch_size)
        return replace(config, img_size=size, patch_size=side, **fields)

    def resize_patch_embed(self) -> None:
        """Resample the patch embedding to the side of the patches in the config, as timm does (FlexiViT).

        Source: Beyer et al. 2023 (arXiv:2212.08013), the pseudo-inverse resize.
        """
        convolution, side = self.patch_embed.proj, self.config.patch_size
        if convolution.kernel_size != (side, side):
            resample = require("timm.layers", "train").resample_patch_embed
            convolution.weight = replace_data(convolution.weight, resample(convolution.weight.detach(), [side, side]))
            convolution.kernel_size = convolution.stride = (side, side)

    def resize_absolute(self, before: tuple[int, int]) -> None:
        """Resize an absolute embedding from the grid before to that of the config."""
        if self.pos_embed is not None:
            resized = resize_embedding(self.pos_embed.detach(), before, *self.config.grid)
            self.pos_embed = replace_data(self.pos_embed, resized)

    def update_patch_embed(self) -> None:
        """Set what timm's tools read of a patch embedding: its sizes as (rows, columns)."""
        rows, columns = self.config.grid
        self.patch_embed.patch_size = (self.config.patch_size,) * 2
        self.patch_embed.img_size, self.patch_embed.grid_size = self.config.img_size, (rows, columns)
        self.patch_embed.num_patches = rows * columns

    def update_model_args(self, **options: object) -> None:
        """Update what timm reads of the sizes, and the arguments that it recorded to rebuild this model."""
        self.update_patch_embed()
        size = self.config.img_size
        options = {"patch_size": self.config.patch_size, **options}
        for attribute, new in (("_traits", {"img_size": size}), ("_model_args", {"img_size": size, **options})):
            if (before := self.__dict__.get(attribute)) is not None:
                setattr(self, attribute, before | new)


def wanted_layers(indices: Indices, count: int) -> list[int]:
    """Return layer indices counted from 0: all layers for None, the last n for an int n.

    Raises:
        ValueError: If the list is empty, or an index is out of range.
    """
    if isinstance(indices, int):
        wanted = list(range(count - indices, count))
    else:
        wanted = [index + count if index < 0 else index for index in (range(count) if indices is None else indices)]
    if not wanted or not all(0 <= index < count for index in wanted):
        raise ValueError(
            f"got indices={indices}; expected layer indices from {-count} to {count - 1}, or a number of last layers "
            f"from 1 to {count}"
        )
    return wanted


def square_side(name: str, given: int | tuple[int, int]) -> int:
    """Return the side of a square given as a number or as a pair of equal ones.

    Raises:
        ValueError: If the two differ.
    """
    rows, columns = as_pair(given)
    if rows != columns:
        raise ValueError(f"got {name}={given}; expected a square, such as {rows}")
    return rows


def check_format(given: str, allowed: tuple[str, ...]) -> None:
    """Raise ValueError for a feature format that the architecture does not support."""
    if given not in allowed:
        raise ValueError(f"got output_fmt={str(given)!r}; expected {' or '.join(allowed)}")


def replace_data(parameter: nn.Parameter, data: Tensor) -> nn.Parameter:
    """Return a parameter with new data and the same `requires_grad`."""
    return nn.Parameter(data.contiguous(), requires_grad=parameter.requires_grad)
