"""Our models with the methods, and their signatures, that timm's tools and scripts call."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any, ClassVar

from torch import Tensor, nn

from ropevit.models.base import BaseModel, ConfigT
from ropevit.models.config import as_pair
from ropevit.models.layers import resize_embedding
from ropevit.models.swin import Swin, SwinConfig
from ropevit.models.swin.config import paper_window
from ropevit.models.swin.model import Stage, SwinBlock
from ropevit.models.vit import ViT, ViTConfig
from ropevit.models.windows import resize_bias
from ropevit.weights.layouts import to_ours
from ropevit.weights.match import check_rotation, check_shapes, drop_fixed
from ropevit.weights.parse import parse_checkpoint
from ropevit.weights.reading import Checkpoint

Indices = int | Sequence[int] | None
#: Features at the end, and intermediate ones; or the latter alone.
Intermediates = tuple[Tensor, list[Any]] | list[Any]


class TimmModel(BaseModel[ConfigT]):
    """What both architectures answer alike.

    Mixed into a model rather than wrapped around it: a wrapper would rename every weight. One method differs from that
    of our own models: `forward_intermediates` returns the final features as well, as timm's does.

    Args:
        config: What to build.
        global_pool: How tokens become one vector, one of `poolings`; "" leaves them as they are.
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
        """Choose the layers whose features an extractor gives, as timm does."""
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
        """How tokens become one vector; "" if they do not."""
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
        """Channels that the head takes."""
        return self.num_features

    def set_pooling(self, global_pool: str) -> None:
        """Change how tokens become one vector.

        Raises:
            ValueError: If the architecture has no such pooling.
        """
        if global_pool not in self.poolings:
            raise ValueError(f"got global_pool={global_pool!r}; expected one of {', '.join(map(repr, self.poolings))}")
        self.unpooled = global_pool == ""

    def pool(self, features: Tensor) -> Tensor:
        """Turn tokens into one vector for each image."""
        raise NotImplementedError

    def forward_head(self, features: Tensor, pre_logits: bool = False) -> Tensor:
        """Pool and classify; `pre_logits` stops before the head."""
        pooled = features if self.unpooled else self.pool(features)
        return pooled if pre_logits else self.head(pooled)

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the head by a new one, and the pooling where one is given; 0 classes leave the head out."""
        if global_pool is not None:
            self.set_pooling(global_pool)
        super().reset_classifier(num_classes)

    def stage_index(self, name: str) -> int:
        """Tell the stage of a parameter; without stages, its layer."""
        return self.layer_index(name)

    def group_matcher(self, coarse: bool = False) -> Callable[[str], int]:
        """Give timm's tools a function that tells the layer of a parameter, or of a module, by its name.

        Args:
            coarse: Tell the stage, where there are stages.
        """
        layer = self.stage_index if coarse else self.layer_index
        return lambda name: layer(f"{name}.")  # with the dot, a module's name starts as those of its parameters

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Load weights in our, the published or timm's layout, so that timm's own `load_checkpoint` takes them all.

        Derived tables are left out. Nothing is resized: `ropevit.load_weights` does that.

        Raises:
            WeightsError: If `strict` and the weights do not fit, with what they look like.
        """
        config, found = self.config, parse_checkpoint(Checkpoint("the given state dict", state_dict))
        state, _ = to_ours(found.state, found.layout, config)
        drop_fixed(state, config, found.source)
        if strict:
            check_shapes(state, self.state_dict(), found, config)
            check_rotation(config, found)
        return super().load_state_dict(state, strict, assign)

    def note_input(self, size: tuple[int, int], **options: object) -> None:
        """Correct what timm noted when it built this model, and writes into files that rebuild it."""
        for notes, known in (("_traits", {"img_size": size}), ("_model_args", {"img_size": size, **options})):
            if (before := self.__dict__.get(notes)) is not None:
                setattr(self, notes, before | known)


class TimmViT(TimmModel[ViTConfig], ViT):
    """A ViT for timm's tools."""

    poolings = ("token", "avg", "")

    @classmethod
    def default_features(cls, config: ViTConfig, options: Mapping[str, Any]) -> tuple[int, ...]:
        """Choose the last three blocks, as timm does."""
        return tuple(range(-min(3, options.get("depth", config.depth)), 0))

    @property
    def embed_dim(self) -> int:
        """Channels of a token."""
        return self.config.width

    @property
    def num_prefix_tokens(self) -> int:
        """Class and register tokens in front of the patches."""
        return self.num_prefix

    @property
    def feature_info(self) -> list[dict[str, Any]]:
        """Channels (num_chs), stride (reduction) and module of the map after each block."""
        width, patch = self.config.width, self.config.patch_size
        return [
            {"num_chs": width, "reduction": patch, "module": f"blocks.{block}"} for block in range(self.config.depth)
        ]

    def set_pooling(self, global_pool: str) -> None:
        """Change how tokens become one vector: the class token, the mean of the patches, or "" for none."""
        super().set_pooling(global_pool)
        if not self.unpooled:
            self.config = replace(self.config, pooling=global_pool)

    def pool(self, features: Tensor) -> Tensor:
        """Take the class token, or the mean of the patches."""
        return features[:, 0] if self.global_pool == "token" else features[:, self.num_prefix :].mean(1)

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
            images: Images (B, c, H, W) of any size that the patches tile.
            indices: Blocks, from 0, negative ones from the last; a number takes the last ones, None all. The features
                come in this order.
            return_prefix_tokens: Return pairs: patch tokens, and class and register tokens (B, prefix, C).
            norm: Pass each through the final norm.
            stop_early: Do not run the blocks after the last chosen one; the final features are then the norm of its.
            output_fmt: "NCHW" for maps (B, C, h, w), "NLC" for tokens (B, h * w, C).
            intermediates_only: Return the list alone.

        Raises:
            ValueError: If there is no such block or format, or the images do not fit.
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
        parts = [(kept[index][:, self.num_prefix :], kept[index][:, : self.num_prefix]) for index in wanted]
        if output_fmt == "NCHW":
            parts = [(patches.transpose(1, 2).unflatten(2, grid), prefix) for patches, prefix in parts]
        features = parts if return_prefix_tokens else [patches for patches, _ in parts]
        return features if intermediates_only else (self.norm(x), features)

    def prune_intermediate_layers(
        self, indices: Indices = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Take out what the features after chosen blocks do not need; returns those blocks, counted from 0."""
        wanted = _wanted_layers(indices, len(self.blocks))
        if prune_head:
            self.reset_classifier(0, "")
        if prune_norm:
            self.norm = nn.Identity()  # pyright: ignore[reportAttributeAccessIssue]: none is left
        self.blocks = self.blocks[: max(wanted) + 1]
        self.config = replace(self.config, depth=len(self.blocks))
        return wanted

    def set_input_size(self, img_size: int | tuple[int, int]) -> None:
        """Resize an absolute embedding to another image size; without one, any size may be fed anyway."""
        before, size = self.config.grid, as_pair(img_size)
        self.config = replace(self.config, img_size=size)
        if self.pos_embed is not None:
            self.pos_embed = like(self.pos_embed, resize_embedding(self.pos_embed.detach(), before, *self.config.grid))
        self.note_input(size)


class TimmSwin(TimmModel[SwinConfig], Swin):
    """A Swin for timm's tools."""

    poolings = ("avg", "")

    @classmethod
    def default_features(cls, config: SwinConfig, options: Mapping[str, Any]) -> tuple[int, ...]:
        """Choose all stages, as timm does."""
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
        """Average the tokens."""
        return features.mean((1, 2))

    def stage_index(self, name: str) -> int:
        """Tell the stage of a parameter: 0 embeddings, 1.. stages with the merging that follows, then norm and head."""
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
            indices: Stages, from 0, negative ones from the last; a number takes the last ones, None all. The maps
                come in this order.
            norm: Pass the map of the last stage through the final norm; it fits no other.
            stop_early: Do not run the stages after the last chosen one; its map is then the final one.
            output_fmt: "NCHW".
            intermediates_only: Return the list alone.

        Raises:
            ValueError: If there is no such stage or format, or the images do not fit.
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
        """Take out what the maps of chosen stages do not need; returns those stages, counted from 0."""
        wanted = _wanted_layers(indices, len(self.layers))
        count = max(wanted) + 1
        shorter = count < len(self.layers)  # head and norm fit the last stage alone
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
        """Set the windows with which the paper evaluates this image size, or those given, and resize what hangs on it.

        Args:
            img_size: Height and width in pixels, or the side of a square; any size may be fed.
            window_size: Side of a window in tokens; None takes 1/32 of the (smaller) side.
        """
        before, size = self.config.grid, as_pair(img_size)
        window = paper_window(*size) if window_size is None else window_size
        self.config = replace(self.config, img_size=size, window_size=window)
        if self.pos_embed is not None:
            self.pos_embed = like(self.pos_embed, resize_embedding(self.pos_embed.detach(), before, *self.config.grid))
        for stage in self.layers:
            assert isinstance(stage, Stage)
            stage.window = window
            for attention in (block.attn for block in stage.blocks if isinstance(block, SwinBlock)):
                attention.window = window
                if (table := attention.relative_position_bias_table) is not None:
                    attention.relative_position_bias_table = like(table, resize_bias(table.detach(), window))
        self.note_input(size, window_size=window)


#: Architecture -> its class here; timm knows the models of these alone.
CLASSES: dict[str, type[TimmModel[Any]]] = {"vit": TimmViT, "swin": TimmSwin}


def _wanted_layers(indices: Indices, count: int) -> list[int]:
    """Count chosen layers from 0: all for None, the last ones for a number, negative indices from the last.

    Raises:
        ValueError: If there are none, or there is no such layer.
    """
    if isinstance(indices, int):
        wanted = list(range(count - indices, count))
    else:
        wanted = [index + count if index < 0 else index for index in (range(count) if indices is None else indices)]
    if not wanted or not all(0 <= index < count for index in wanted):
        raise ValueError(
            f"got indices={indices}; expected layers, {-count} to {count - 1}, or a number of last ones, 1 to {count}"
        )
    return wanted


def _check_format(given: str, allowed: tuple[str, ...]) -> None:
    """Refuse a format of features that the architecture does not give."""
    if given not in allowed:
        raise ValueError(f"got output_fmt={str(given)!r}; expected {' or '.join(allowed)}")


def like(parameter: nn.Parameter, data: Tensor) -> nn.Parameter:
    """Make a parameter of other values that is trained, or not, as this one is."""
    return nn.Parameter(data.contiguous(), requires_grad=parameter.requires_grad)
