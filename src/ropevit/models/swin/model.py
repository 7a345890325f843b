"""Swin transformer with the position embeddings of the paper, for images of any size."""

from collections.abc import Callable, Iterator, Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from ropevit.arithmetic import ceil_div
from ropevit.kernels.windows import pad_or_crop, window_shift
from ropevit.models.base import BaseModel
from ropevit.models.layers import DropPath, init_linear, resize_embedding
from ropevit.models.mlp import Mlp
from ropevit.models.packed import embed_images
from ropevit.models.rotary import apply_scaling, make_block_rope, make_distance_bias, make_shared_rope
from ropevit.models.sizes import check_floats
from ropevit.models.swin.attention import WindowAttention
from ropevit.models.swin.config import SwinConfig
from ropevit.rope import DistanceBias, LearnedRope


class SwinBlock(nn.Module):
    """Pre-norm block that attends inside windows, shifted or not.

    Args:
        width: Channels.
        attention: Attention inside windows.
        shifted: Whether windows are shifted by half a window.
        mlp_ratio: Hidden channels of the MLP over the width.
        drop_path: Rate of stochastic depth.
    """

    def __init__(self, width: int, attention: WindowAttention, shifted: bool, mlp_ratio: float, drop_path: float):
        super().__init__()
        self.shifted = shifted
        self.norm1 = nn.LayerNorm(width)
        self.attn = attention
        self.norm2 = nn.LayerNorm(width)
        self.mlp = Mlp(width, int(width * mlp_ratio))
        self.drop_path = DropPath(drop_path)

    def forward(
        self,
        x: Float[Tensor, "B h w C"],
        frequencies: Float[Tensor, "2 *a P"] | None,
        pixel_mask: Bool[Tensor, "B h w"] | None = None,
        jitter: Float[Tensor, "2 2"] | None = None,
    ) -> Float[Tensor, "B h w C"]:
        """Apply window attention (to the image tokens, if a mask is given), then the MLP."""
        shift = self.shift(x.shape[1], x.shape[2]) if self.shifted else (0, 0)
        x = x + self.drop_path(self.attn(self.norm1(x), frequencies, shift, pixel_mask, jitter))
        return x + self.drop_path(self.mlp(self.norm2(x)))

    def shift(self, h: int, w: int) -> tuple[int, int]:
        """Return the rows and columns by which a shifted block shifts the windows of a map."""
        half = self.attn.window // 2
        return (half, half) if self.attn.always_shift else window_shift(h, w, self.attn.window)


class PatchMerging(nn.Module):
    """Patch merging: join 2 x 2 neighbors into one token of twice the channels.

    Args:
        width: Input channels.
    """

    def __init__(self, width: int):
        super().__init__()
        self.norm = nn.LayerNorm(4 * width)
        self.reduction = nn.Linear(4 * width, 2 * width, bias=False)

    def forward(self, x: Float[Tensor, "B h w C"]) -> Float[Tensor, "B h2 w2 C2"]:
        """Concatenate tokens in the order top-left, bottom-left, top-right, bottom-right; odd sides are padded."""
        rows, columns = ceil_div(x.shape[1], 2), ceil_div(x.shape[2], 2)
        x = pad_or_crop(x, 2 * rows, 2 * columns).unflatten(2, (columns, 2)).unflatten(1, (rows, 2))
        return self.reduction(self.norm(x.permute(0, 1, 3, 4, 2, 5).flatten(3)))


class SwinPatchEmbed(nn.Module):
    """Patch embedding: split an image into patches, project and normalize them; other sizes are padded.

    Args:
        config: The model.
    """

    def __init__(self, config: SwinConfig):
        super().__init__()
        self.proj = nn.Conv2d(config.in_channels, config.width, config.patch_size, config.patch_size)
        self.norm = nn.LayerNorm(config.width)

    def forward(self, images: Float[Tensor, "B c H W"]) -> Float[Tensor, "B h w C"]:
        """Return the map of patch tokens, channels last."""
        patch = self.proj.stride[0]
        height, width = images.shape[2:]
        rows, columns = ceil_div(height, patch), ceil_div(width, patch)
        images = F.pad(images, (0, columns * patch - width, 0, rows * patch - height))
        return self.norm(self.proj(images).permute(0, 2, 3, 1))


class Stage(nn.Module):
    """Blocks at one resolution, and the patch merging that follows.

    Args:
        config: The model.
        index: Index of the stage, from 0.
    """

    def __init__(self, config: SwinConfig, index: int):
        super().__init__()
        width, heads = config.width * 2**index, config.heads[index]
        self.window = config.window_size
        self.rope = make_shared_rope(config, width // heads, heads)
        first, last = sum(config.depths[:index]), len(config.depths) - 1
        depth = sum(config.depths)
        self.blocks = nn.ModuleList(
            SwinBlock(
                width,
                _make_attention(config, width, heads, make_distance_bias(config, heads, first + block, depth)),
                shifted=block % 2 == 1,
                mlp_ratio=config.mlp_ratio,
                drop_path=config.drop_path * (first + block) / max(depth - 1, 1),
            )
            for block in range(config.depths[index])
        )
        self.downsample = PatchMerging(width) if index < last else None

    def forward(
        self,
        x: Float[Tensor, "B h w C"],
        recompute: bool = False,
        pixel_mask: Bool[Tensor, "B h w"] | None = None,
        jitter: Float[Tensor, "2 2"] | None = None,
    ) -> Float[Tensor, "B h w C"]:
        """Run the blocks, without patch merging."""
        frequencies = None if self.rope is None else self.rope.frequencies(x.device)
        for block in self.blocks:
            inputs = x, frequencies, pixel_mask, jitter
            x = checkpoint(block, *inputs, use_reentrant=False) if recompute else block(*inputs)
        return x


def _make_attention(config: SwinConfig, width: int, heads: int, distance: DistanceBias | None) -> WindowAttention:
    """Build the attention of one block, with its own frequencies if they are learned, and its distance bias."""
    attention = WindowAttention(
        width, heads, config.window_size, make_block_rope(config, width // heads, heads), config.bias
    )
    attention.distance = distance
    return attention


class Swin(BaseModel[SwinConfig]):
    """Swin transformer for images of any height and width.

    Args:
        config: Config of the model; `ropevit.models.get_config` returns the published ones.

    Source: Liu et al. 2021 (arXiv:2103.14030); Heo et al. 2024 (arXiv:2403.13298).
    """

    block_class = SwinBlock

    def __init__(self, config: SwinConfig):
        super().__init__()
        self.config = config
        rows, columns = config.grid
        size = (1, rows * columns, config.width)
        self.patch_embed = SwinPatchEmbed(config)
        self.pos_embed = nn.Parameter(torch.zeros(size)) if config.absolute else None
        self.layers = nn.ModuleList(Stage(config, index) for index in range(len(config.depths)))
        self.norm = nn.LayerNorm(config.num_features)
        self.head = nn.Linear(config.num_features, config.num_classes) if config.num_classes else nn.Identity()
        self.grad_checkpointing = False
        self.reset_parameters()
        apply_scaling(self)

    def reset_module(self, module: nn.Module) -> None:
        """Initialize the direct parameters of one module, as Swin does: truncated normal of std 0.02, zero biases."""
        if module is self:
            if self.pos_embed is not None:
                nn.init.normal_(self.pos_embed, std=self.config.ape_std)
        elif isinstance(module, nn.Linear):
            init_linear(module)
        elif isinstance(module, WindowAttention) and module.relative_position_bias_table is not None:
            nn.init.trunc_normal_(module.relative_position_bias_table, std=0.02)
        elif isinstance(module, nn.Conv2d | nn.LayerNorm | LearnedRope | DistanceBias):
            module.reset_parameters()

    def embed(
        self, images: Float[Tensor, "B c H W"], pixel_mask: Bool[Tensor, "B h w"] | None = None
    ) -> Float[Tensor, "B h w C"]:
        """Embed images as a map of tokens.

        Args:
            images: Images of any size.
            pixel_mask: Mask of image tokens, with smaller images at the top left: an absolute embedding is then resized
                to each image instead of the batch.

        Raises:
            ValueError: If the images are not floats, are empty, or have a wrong rank or channels.
        """
        check_floats(images)
        channels = self.config.in_channels
        if images.ndim != 4 or images.shape[1] != channels or 0 in images.shape[2:]:
            raise ValueError(f"got images of shape {tuple(images.shape)}; expected (B, {channels}, H, W)")
        x = self.patch_embed(images)
        if self.pos_embed is None:
            return x
        h, w = x.shape[1:3]
        if pixel_mask is None:
            embedding = resize_embedding(self.pos_embed, self.config.grid, h, w)
        else:
            embedding = embed_images(self.pos_embed, self.config.grid, pixel_mask)
        return x + embedding.unflatten(1, (h, w)).to(x.dtype)

    def stages(self, images: Float[Tensor, "B c H W"]) -> Iterator[Float[Tensor, "B h w C"]]:
        """Run the stages one by one and yield the map at the end of each, channels last."""
        return self.run_stages(self.embed(images))

    def run_stages(
        self,
        x: Float[Tensor, "B h w C"],
        pixel_mask: Bool[Tensor, "B h w"] | None = None,
        pass_on: Callable[[Tensor], Tensor] | None = None,
    ) -> Iterator[Float[Tensor, "B h2 w2 C2"]]:
        """Run the stages on embedded tokens and yield the map at the end of each, channels last.

        Args:
            x: Tokens.
            pixel_mask: Mask of image tokens, with smaller images at the top left: the others are masked, so that each
                image has the same output as alone. None if all are image.
            pass_on: Called with the map at the end of each stage; what it returns is yielded, and goes on in its place.
        """
        jitter = self.sample_jitter(x.device)
        for stage in self.layers:
            assert isinstance(stage, Stage)
            recompute = self.grad_checkpointing and self.training
            x = stage(x, recompute=recompute, pixel_mask=pixel_mask, jitter=jitter)
            x = x if pass_on is None else pass_on(x)
            yield x
            if stage.downsample is not None:
                if pixel_mask is not None:
                    x, pixel_mask = x.masked_fill(~pixel_mask.unsqueeze(-1), 0), pixel_mask[:, ::2, ::2]
                x = stage.downsample(x)

    def hidden_states(
        self, images: Float[Tensor, "B c H W"], pass_on: Callable[[Tensor], Tensor] | None = None
    ) -> Iterator[Float[Tensor, "B h w C"]]:
        """Yield all tokens after the embedding and after each stage, channels last, before the final norm.

        Args:
            images: Images of any size.
            pass_on: Called with each of these maps; what it returns is yielded, and goes on in its place.
        """
        x = self.embed(images)
        x = x if pass_on is None else pass_on(x)
        yield x
        yield from self.run_stages(x, pass_on=pass_on)

    def as_map(
        self,
        state: Float[Tensor, "B h w C"],
        images: Tensor,  # noqa: ARG002 (a ViT needs their size)
    ) -> Float[Tensor, "B C h w"]:
        """Return the map of tokens, channels first."""
        return state.permute(0, 3, 1, 2).contiguous()

    def attention_strides(self) -> dict[str, int]:
        """Return the stride in pixels of each attention layer, by the path of the layer."""
        return {
            f"layers.{stage}.blocks.{block}.attn": self.config.patch_size * 2**stage
            for stage, depth in enumerate(self.config.depths)
            for block in range(depth)
        }

    def forward_features(self, images: Float[Tensor, "B c H W"]) -> Float[Tensor, "B h w C"]:
        """Return the map of the last stage after the final norm, channels last."""
        *_, x = self.stages(images)
        return self.norm(x)

    def forward_head(self, features: Float[Tensor, "B h w C"]) -> Float[Tensor, "B K"]:
        """Average the tokens and classify."""
        return self.head(features.mean((1, 2)))

    def forward_intermediates(
        self, images: Float[Tensor, "B c H W"], indices: Sequence[int] | None = None
    ) -> list[Float[Tensor, "B C h w"]]:
        """Return the maps at the end of stages, strides 4, 8, 16 and 32, for dense tasks.

        Args:
            images: Images of any size.
            indices: Stages, from 0; negative ones count from the last; None takes all.

        Raises:
            ValueError: If a stage does not exist.
        """
        count = len(self.layers)
        wanted = [index + count if index < 0 else index for index in (range(count) if indices is None else indices)]
        if not all(0 <= index < count for index in wanted):
            raise ValueError(f"got indices={list(indices or ())}; expected stages from {-count} to {count - 1}")
        maps = [self.as_map(x, images) for x in self.stages(images)]
        return [maps[index] for index in wanted]

    def layer_index(self, name: str) -> int:
        """Return a parameter's layer for layer-wise learning rates: 0 embeddings, 1.. blocks, then norm and head.

        Learned frequencies belong to their block, patch merging to the last block before it.
        """
        depths = self.config.depths
        if not name.startswith("layers."):
            return sum(depths) + 1 if name.startswith(("norm.", "head.")) else 0
        stage, kind, block = name.split(".")[1:4]
        return sum(depths[: int(stage)]) + (int(block) + 1 if kind == "blocks" else depths[int(stage)])
