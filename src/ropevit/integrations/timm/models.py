"""Our models with the methods and signatures that timm's tools and scripts use."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any, ClassVar

from torch import Tensor, nn

from ropevit.models.base import BaseModel, ConfigT
from ropevit.models.config import as_pair
from ropevit.models.layers import resize_embedding
from ropevit.models.swin import Swin, SwinConfig
from ropevit.models.swin.attention import resize_bias
from ropevit.models.swin.config import paper_window
from ropevit.models.swin.model import Stage, SwinBlock
from ropevit.models.vit import ViT, ViTConfig
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
    """

    poolings: ClassVar[tuple[str, ...]]
    layer_index: Callable[[str], int]

    def __init__(self, config: ConfigT, global_pool: str | None = None):
        super().__init__(config)
        self.unpooled = False
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
        return self.feature_info[-1]["num_chs"]

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
        return pooled if pre_logits else self.head(pooled)

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

    def update_model_args(self, size: tuple[int, int], **options: object) -> None:
        """Update the arguments that timm recorded when it built this model, and saves to rebuild it."""
        for attribute, new in (("_traits", {"img_size": size}), ("_model_args", {"img_size": size, **options})):
            if (before := self.__dict__.get(attribute)) is not None:
                setattr(self, attribute, before | new)


class TimmViT(TimmModel[ViTConfig], ViT):
    """A ViT with timm's methods."""

    poolings = ("token", "avg", "")

    @classmethod
    def default_features(cls, config: ViTConfig, options: Mapping[str, Any]) -> tuple[int, ...]:
        """Return the last three blocks, timm's default."""
        return tuple(range(-min(3, options.get("depth", config.depth)), 0))

    @property
    def embed_dim(self) -> int:
        """Channels of a token."""
        return self.config.width

    @property
    def feature_info(self) -> list[dict[str, Any]]:
        """Channels (num_chs), stride (reduction) and module of the map after each block."""
        width, patch = self.config.width, self.config.patch_size
        return [
            {"num_chs": width, "reduction": patch, "module": f"blocks.{block}"} for block in range(self.config.depth)
        ]

    def set_pooling(self, global_pool: str) -> None:
        """Change the pooling: "token" (class token), "avg" (mean of the patch tokens) or "" (none)."""
        super().set_pooling(global_pool)
        if not self.unpooled:
            self.config = replace(self.config, pooling=global_pool)

    def pool(self, features: Tensor) -> Tensor:
        """Return the class token, or the mean of the patch tokens."""
        return features[:, 0] if self.global_pool == "token" else features[:, self.num_prefix_tokens :].mean(1)

    def forward_intermediates(  # pyright: ignore[reportIncompatibleMethodOverride]: timm's signature, not ours
        self,
        images: Tensor,
        indices: Indices = None,
        *,
        return_prefix_tokens: bool = False,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> Intermediates:
        """Return the final features and the patch tokens after chosen blocks.

        Args:
            images: Images (B, c, H, W) whose sides are multiples of the patch size.
            indices: Block indices, counted from 0, or from the end if negative; an int n means the last n blocks, None
                all. The features are returned in this order.
            return_prefix_tokens: Return pairs of patch tokens and prefix tokens (B, prefix, C).
            norm: Apply the final norm to each.
            stop_early: Stop after the last chosen block; the final features are then its normalized output.
            output_fmt: "NCHW" for maps (B, C, h, w), "NLC" for tokens (B, h * w, C).
            intermediates_only: Return only the intermediate features.

        Raises:
            ValueError: If there is no such block or format, or the image size is not allowed.
        """
        _check_format(output_fmt, ("NCHW", "NLC"))
        wanted = _wanted_layers(indices, len(self.blocks))
        tokens, positions = self.embed(images)
        x, kept = tokens, {}
        last = max(wanted) + 1 if stop_early or intermediates_only else len(self.blocks)
        for index, x in enumerate(islice(self.run_blocks(tokens, positions), last)):
            if index in wanted:
                kept[index] = self.norm(x) if norm else x
        grid = tuple(side // self.config.patch_size for side in images.shape[2:])
        parts = [
            (kept[index][:, self.num_prefix_tokens :], kept[index][:, : self.num_prefix_tokens]) for index in wanted
        ]
        if output_fmt == "NCHW":
            parts = [(patches.transpose(1, 2).unflatten(2, grid), prefix) for patches, prefix in parts]
        features = parts if return_prefix_tokens else [patches for patches, _ in parts]
        return features if intermediates_only else (self.norm(x), features)

    def prune_intermediate_layers(
        self, indices: Indices = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Remove the blocks after the last chosen one, and the head; return the chosen blocks, counted from 0."""
        wanted = _wanted_layers(indices, len(self.blocks))
        if prune_head:
            self.reset_classifier(0, "")
        if prune_norm:
            self.norm = nn.Identity()  # pyright: ignore[reportAttributeAccessIssue]: none is left
        self.blocks = self.blocks[: max(wanted) + 1]
        self.config = replace(self.config, depth=len(self.blocks))
        return wanted

    def set_input_size(self, img_size: int | tuple[int, int]) -> None:
        """Resize the absolute embedding to another image size; models without one accept any size anyway."""
        before, size = self.config.grid, as_pair(img_size)
        self.config = replace(self.config, img_size=size)
        if self.pos_embed is not None:
            resized = resize_embedding(self.pos_embed.detach(), before, *self.config.grid)
            self.pos_embed = _replace_data(self.pos_embed, resized)
        self.update_model_args(size)


class TimmSwin(TimmModel[SwinConfig], Swin):
    """A Swin with timm's methods."""

    poolings = ("avg", "")

    @classmethod
    def default_features(cls, config: SwinConfig, options: Mapping[str, Any]) -> tuple[int, ...]:
        """Return all stages, timm's default."""
        return tuple(range(len(options.get("depths", config.depths))))

    @property
    def embed_dim(self) -> int:
        """Channels of the first stage."""
        return self.config.width

    @property
    def feature_info(self) -> list[dict[str, Any]]:
        """Channels (num_chs), stride (reduction) and module of the map at the end of each stage."""
        width, patch = self.config.width, self.config.patch_size
        return [
            {"num_chs": width * 2**stage, "reduction": patch * 2**stage, "module": f"layers.{stage}"}
            for stage in range(len(self.config.depths))
        ]

    def pool(self, features: Tensor) -> Tensor:
        """Return the mean of the tokens."""
        return features.mean((1, 2))

    def stage_index(self, name: str) -> int:
        """Return the stage of a parameter: 0 for embeddings, 1.. for stages and their merging, then norm and head."""
        if name.startswith("layers."):
            return int(name.split(".")[1]) + 1
        return len(self.layers) + 1 if self.layer_index(name) else 0

    def forward_intermediates(  # pyright: ignore[reportIncompatibleMethodOverride]: timm's signature, not ours
        self,
        images: Tensor,
        indices: Indices = None,
        *,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> Intermediates:
        """Return the final features and the maps (B, C, h, w) at the end of chosen stages.

        Args:
            images: Images (B, c, H, W) of any size.
            indices: Stage indices, counted from 0, or from the end if negative; an int n means the last n stages, None
                all. The maps are returned in this order.
            norm: Apply the final norm to the map of the last stage; others have fewer channels.
            stop_early: Stop after the last chosen stage, whose map is then the final one.
            output_fmt: "NCHW".
            intermediates_only: Return only the intermediate maps.

        Raises:
            ValueError: If there is no such stage or format, or the image size is not allowed.
        """
        _check_format(output_fmt, ("NCHW",))
        count = len(self.layers)
        wanted = _wanted_layers(indices, count)
        last = max(wanted) + 1 if stop_early or intermediates_only else count
        stages = list(islice(self.stages(images), last))
        final = self.norm(stages[-1]) if last == count else stages[-1]
        stages[-1] = final if norm else stages[-1]
        maps = [stages[index].permute(0, 3, 1, 2).contiguous() for index in wanted]
        return maps if intermediates_only else (final, maps)

    def prune_intermediate_layers(
        self, indices: Indices = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Remove the stages after the last chosen one, and the head; return the chosen stages, counted from 0."""
        wanted = _wanted_layers(indices, len(self.layers))
        count = max(wanted) + 1
        shorter = count < len(self.layers)  # head and norm have the channels of the last stage
        if prune_head or shorter:
            self.reset_classifier(0, "")
        if prune_norm or shorter:
            self.norm = nn.Identity()  # pyright: ignore[reportAttributeAccessIssue]: none is left
        self.layers = self.layers[:count]
        last = self.layers[-1]
        assert isinstance(last, Stage)
        last.downsample = None
        self.config = replace(self.config, depths=self.config.depths[:count], heads=self.config.heads[:count])
        return wanted

    def set_input_size(self, img_size: int | tuple[int, int], window_size: int | None = None) -> None:
        """Set the window size for another image size, and resize the absolute embedding and the bias tables.

        Args:
            img_size: Height and width in pixels, or the side of a square.
            window_size: Side of a window in tokens; None takes 1/32 of the smaller side, as the paper does.
        """
        before, size = self.config.grid, as_pair(img_size)
        window = paper_window(*size) if window_size is None else window_size
        self.config = replace(self.config, img_size=size, window_size=window)
        if self.pos_embed is not None:
            resized = resize_embedding(self.pos_embed.detach(), before, *self.config.grid)
            self.pos_embed = _replace_data(self.pos_embed, resized)
        for stage in self.layers:
            assert isinstance(stage, Stage)
            stage.window = window
            for attention in (block.attn for block in stage.blocks if isinstance(block, SwinBlock)):
                attention.window = window
                if (table := attention.relative_position_bias_table) is not None:
                    attention.relative_position_bias_table = _replace_data(table, resize_bias(table.detach(), window))
        self.update_model_args(size, window_size=window)


#: Architecture -> its timm class; only these architectures are registered with timm.
CLASSES: dict[str, type[TimmModel[Any]]] = {"vit": TimmViT, "swin": TimmSwin}


def _wanted_layers(indices: Indices, count: int) -> list[int]:
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


def _check_format(given: str, allowed: tuple[str, ...]) -> None:
    """Raise ValueError for a feature format that the architecture does not support."""
    if given not in allowed:
        raise ValueError(f"got output_fmt={str(given)!r}; expected {' or '.join(allowed)}")


def _replace_data(parameter: nn.Parameter, data: Tensor) -> nn.Parameter:
    """Return a parameter with new data and the same `requires_grad`."""
    return nn.Parameter(data.contiguous(), requires_grad=parameter.requires_grad)
