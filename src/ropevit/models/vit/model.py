"""Vision transformer (DeiT III) with the position embeddings of the paper, for images and videos of any size."""

from collections.abc import Iterator, Sequence
from itertools import islice

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ropevit.models.base import BaseModel
from ropevit.models.layers import Block, PatchEmbed, init_linear, resize_embedding, resize_time
from ropevit.models.packed import (
    PackedBatch,
    SequenceIds,
    belongs_to,
    embed_images,
    encode_isolated,
    image_grids,
    mean_patch,
    pack,
    sample_embedding,
)
from ropevit.models.rotary import apply_scaling, make_block_rope, make_distance_bias, make_shared_rope
from ropevit.models.sizes import check_input
from ropevit.models.vit.config import ViTConfig
from ropevit.models.vit.pooling import AttentionPool
from ropevit.models.window_partition import WindowPartition
from ropevit.rope import DistanceBias, LearnedRope, grid_positions


class ViT(BaseModel[ViTConfig]):
    """Vision transformer for images of any height and width that the patch size divides.

    With `frames` in its config it takes clips (B, c, T, H, W) instead: videos, or volumes slice by slice. "Images" in
    all methods then means clips, and tokens are ordered by tubelet, row-major within each.

    Args:
        config: Config of the model; `ropevit.models.get_config` returns the published ones.

    Source: Heo et al. 2024 (arXiv:2403.13298), after DeiT III (arXiv:2204.07118).
    """

    block_class = Block

    def __init__(self, config: ViTConfig):
        super().__init__()
        self.config = config
        rows, columns = config.grid
        self.patch_embed = PatchEmbed(config.patch, config.in_channels, config.width, not config.pre_norm)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.width)) if config.class_token else None
        registers = config.num_registers
        self.register_tokens = nn.Parameter(torch.zeros(1, registers, config.width)) if registers else None
        self.pos_embed = nn.Parameter(torch.zeros(1, rows * columns, config.width)) if config.absolute else None
        embedded = (1, self.num_prefix_tokens, config.width)
        self.prefix_embed = nn.Parameter(torch.zeros(embedded)) if config.embed_prefix else None
        steps = config.steps if config.absolute else None
        self.time_embed = None if steps is None else nn.Parameter(torch.zeros(1, steps, config.width))
        self.rope = make_shared_rope(config, config.width // config.heads, config.heads)
        self.blocks = nn.ModuleList(_make_block(config, *layer) for layer in enumerate(_drop_path_rates(config)))
        self.pre_norm = nn.LayerNorm(config.width, eps=config.norm_eps) if config.pre_norm else None
        pooled = config.pooling == "map"
        self.attn_pool = AttentionPool(config.width, config.pool_heads, config.norm_eps) if pooled else None
        if config.mask_token:
            self.register_buffer("mask_token", torch.zeros(1, config.width))  # no parameter, as it gets no gradient
        self.norm = nn.LayerNorm(config.width, eps=config.norm_eps) if config.final_norm else nn.Identity()
        self.head = nn.Linear(config.width, config.num_classes) if config.num_classes else nn.Identity()
        self.grad_checkpointing = False
        self.reset_parameters()
        apply_scaling(self)

    def reset_module(self, module: nn.Module) -> None:
        """Initialize the direct parameters of one module, as DeiT does: truncated normal of std 0.02, zero biases."""
        if module is self:
            for token in (self.cls_token, self.register_tokens):
                if token is not None:
                    nn.init.trunc_normal_(token, std=0.02)
            for embedding in (self.pos_embed, self.prefix_embed):
                if embedding is not None:
                    nn.init.normal_(embedding, std=self.config.ape_std)
            if self.time_embed is not None:
                nn.init.zeros_(self.time_embed)
        elif isinstance(module, nn.Linear):
            init_linear(module)
        elif isinstance(
            module, nn.Conv2d | nn.Conv3d | nn.LayerNorm | LearnedRope | DistanceBias | Block | AttentionPool
        ):
            module.reset_parameters()

    @property
    def num_prefix_tokens(self) -> int:
        """Number of class and register tokens, which precede the patches."""
        return self.config.num_prefix_tokens

    def embed(
        self, images: Float[Tensor, "B c *pixels"], pixel_mask: Bool[Tensor, "b h w"] | None = None
    ) -> tuple[Float[Tensor, "B n C"], Float[Tensor, "*b N ndim"]]:
        """Embed images as tokens, prefix first, and return the positions of the patches.

        Args:
            images: Images that the patches tile.
            pixel_mask: Mask of image patches, with smaller images at the top left: an absolute embedding, and
                coordinates that depend on the grid, are then those of each image instead of the batch; one mask is for
                all.

        Raises:
            ValueError: If the images have a wrong rank or channels, or the patches do not tile them.
        """
        check_input(images, self.config.in_channels, self.config.patch)
        maps = self.patch_embed(images)
        x = maps.flatten(2).transpose(1, 2)
        if self.pos_embed is not None:
            if pixel_mask is None:
                x = x + self.absolute_embedding(maps.shape[2:])
            else:
                x = x + embed_images(self.pos_embed, self.config.grid, pixel_mask).to(x.dtype)
        if self.num_prefix_tokens:
            x = torch.cat([self.prefix_tokens().expand(x.shape[0], -1, -1), x], dim=1)
        x = x if self.pre_norm is None else self.pre_norm(x)
        positions = grid_positions(*maps.shape[2:], device=images.device)
        if pixel_mask is None:
            return x, self.rotary_positions(positions)
        return x, self.padded_positions(positions, pixel_mask)

    def prefix_tokens(self) -> Float[Tensor, "1 _ C"]:
        """Return the class and register tokens with their embedding, if any."""
        tokens = torch.cat([token for token in (self.cls_token, self.register_tokens) if token is not None], dim=1)
        return tokens if self.prefix_embed is None else tokens + self.prefix_embed

    def rotary_positions(
        self, positions: Float[Tensor, "*b N ndim"], grids: Float[Tensor, "*b N 2"] | None = None
    ) -> Float[Tensor, "*b N ndim"]:
        """Return the positions to rotate by, after the rotation convention of the config.

        Args:
            positions: Column and row of each patch.
            grids: Columns and rows of its image; None takes those of the last patch, of a whole grid.
        """
        convention = self.config.rope_convention
        if not convention.transforms_positions:
            return positions
        grids = positions.amax(0) + 1 if grids is None else grids
        if self.scaling is not None:  # instead of the convention's own interpolation
            return convention.patch_positions(positions, grids)
        return convention.rotary_positions(positions, grids)

    def padded_positions(
        self, positions: Float[Tensor, "N 2"], pixel_mask: Bool[Tensor, "b h w"]
    ) -> Float[Tensor, "*b N 2"]:
        """Return the positions to rotate by of a padded batch, by the grid of each image: (N, 2) where all agree.

        Args:
            positions: Column and row of each patch of the batch.
            pixel_mask: Mask of image patches, as in `embed`.
        """
        if not self.config.rope_convention.transforms_positions:
            return positions
        images = pixel_mask.shape[0]  # in a traced program with a free batch no int, and `len` would fix it
        positions = positions.expand(images, -1, -1)
        found = self.rotary_positions(positions, image_grids(pixel_mask).unsqueeze(1).expand_as(positions))
        return found[0] if isinstance(images, int) and images == 1 else found

    def rotary_frequencies(self, device: torch.device, ndim: int) -> Float[Tensor, "ndim *A P"] | None:
        """Return the fixed frequencies for the positions of `rotary_positions`; None if blocks have their own."""
        if self.rope is None:
            return None
        frequencies, config = self.rope.frequencies(device)[:ndim], self.config
        if self.scaling is None or not config.rope_convention.transforms_positions:
            return frequencies
        step = config.rope_convention.step(config.trained_grid or config.attention_grid).to(frequencies)
        return frequencies * step.reshape(-1, *[1] * (frequencies.ndim - 1))

    def absolute_embedding(self, grid: Sequence[int]) -> Float[Tensor, "1 N C"]:
        """Resize the absolute embedding to a grid (h, w) or (t, h, w), the sum of spatial and temporal embedding."""
        assert self.pos_embed is not None
        pos_embed = resize_embedding(self.pos_embed, self.config.grid, grid[-2], grid[-1])
        if self.time_embed is None:
            return pos_embed
        return (resize_time(self.time_embed, grid[0]).unsqueeze(2) + pos_embed.unsqueeze(1)).flatten(1, 2)

    def run_blocks(
        self,
        x: Float[Tensor, "B n C"],
        positions: Float[Tensor, "*b N ndim"],
        sequences: SequenceIds | None = None,
        partitions: Sequence[WindowPartition | None] | None = None,
        grid: tuple[int, int] | None = None,
    ) -> Iterator[Float[Tensor, "B n C"]]:
        """Run the blocks one by one and yield the tokens after each, with activation checkpointing if enabled.

        Args:
            x: Tokens, prefix first.
            positions: Positions of the patches.
            sequences: Image index of each token and attention mask; None for one whole image per row.
            partitions: Window partition of each block, or None for global attention.
            grid: Rows and columns of the tokens; used by a relative bias only.
        """
        ndim, jitter = positions.shape[-1], self.sample_jitter(x.device)  # in an image, pairs of t are not rotated
        frequencies = self.rotary_frequencies(x.device, ndim)
        for block, partition in zip(self.blocks, partitions or [None] * len(self.blocks), strict=True):
            if self.grad_checkpointing and self.training:
                x = checkpoint(
                    block, x, positions, frequencies, sequences, partition, grid, jitter=jitter, use_reentrant=False
                )  # pyright: ignore[reportAssignmentType]
            else:
                x = block(x, positions, frequencies, sequences, partition, grid, jitter=jitter)
            yield x

    def encode(
        self,
        tokens: Float[Tensor, "B n C"],
        positions: Float[Tensor, "*b N ndim"],
        sequences: SequenceIds | None = None,
    ) -> Float[Tensor, "B n C"]:
        """Run all blocks and the final norm, if there is one that does not follow the pooling."""
        x = tokens
        for x in self.run_blocks(tokens, positions, sequences):  # noqa: B007
            pass
        return self.norm_tokens(x)

    def norm_tokens(self, x: Float[Tensor, "B n C"]) -> Float[Tensor, "B n C"]:
        """Apply the final norm to tokens, unless it follows the pooling."""
        return x if self.config.pooled_norm else self.norm(x)

    def classify(self, pooled: Float[Tensor, "B C"]) -> Float[Tensor, "B K"]:
        """Apply the head to pooled tokens, after the final norm if that follows the pooling."""
        return self.head(self.norm(pooled) if self.config.pooled_norm else pooled)

    def hidden_states(self, images: Float[Tensor, "B c *pixels"]) -> Iterator[Float[Tensor, "B n C"]]:
        """Yield all tokens after the embedding and after each block, prefix first, before the final norm."""
        x, positions = self.embed(images)
        yield x
        yield from self.run_blocks(x, positions)

    def as_map(self, state: Float[Tensor, "B n C"], images: Float[Tensor, "B c *pixels"]) -> Float[Tensor, "B C *grid"]:
        """Return the patch tokens of images as a map, (B, C, h, w) or (B, C, t, h, w)."""
        grid = [pixels // side for pixels, side in zip(images.shape[2:], self.config.patch, strict=True)]
        return state[:, self.num_prefix_tokens :].transpose(1, 2).unflatten(2, grid)

    def forward_features(self, images: Float[Tensor, "B c *pixels"]) -> Float[Tensor, "B n C"]:
        """Return all tokens after the final norm: class token, registers, then patches, row-major in each tubelet."""
        return self.encode(*self.embed(images))

    def forward_head(self, features: Float[Tensor, "B n C"]) -> Float[Tensor, "B K"]:
        """Pool the tokens and classify."""
        if self.attn_pool is not None:
            return self.classify(self.attn_pool(features))
        pooled = features[:, 0] if self.config.pooling == "token" else features[:, self.num_prefix_tokens :].mean(1)
        return self.classify(pooled)

    def forward_intermediates(
        self, images: Float[Tensor, "B c *pixels"], indices: Sequence[int], norm: bool = False
    ) -> list[Float[Tensor, "B C *grid"]]:
        """Return the patch tokens after chosen blocks as maps, (B, C, h, w) or (B, C, t, h, w), for dense tasks.

        Args:
            images: Images of any size that the patches tile.
            indices: Blocks, from 0; negative ones count from the last. The maps come in this order.
            norm: Apply the final norm to each.

        Raises:
            ValueError: If a block does not exist.
        """
        depth = len(self.blocks)
        wanted = [index + depth if index < 0 else index for index in indices]
        if not all(0 <= index < depth for index in wanted):
            raise ValueError(f"got indices={list(indices)}; expected blocks from {-depth} to {depth - 1}")
        tokens, positions = self.embed(images)
        maps = {}
        for index, x in enumerate(islice(self.run_blocks(tokens, positions), max(wanted, default=-1) + 1)):
            if index in wanted:
                maps[index] = self.as_map(self.norm_tokens(x) if norm else x, images)
        return [maps[index] for index in wanted]

    def pack(
        self,
        images: Sequence[Float[Tensor, "c _ _"]],
        keep: Sequence[Int[Tensor, "_"]] | None = None,
        row_tokens: int | None = None,
    ) -> PackedBatch:
        """Pack images of different sizes into one batch for `forward_packed`; see `ropevit.models.packed.pack`."""
        return pack(images, self.config.patch_size, self.num_prefix_tokens, keep, row_tokens)

    def check_packable(self) -> None:
        """Raise ValueError for video models and models with RoPE scaling, which do not support packing."""
        if self.config.is_video:
            raise ValueError("got a video model, which cannot be packed; feed clips of one size at a time")
        if self.scaling is not None:
            raise ValueError(
                f"got a packed batch with scaling={self.config.scaling!r}; RoPE scaling uses one grid, and every image "
                "has its own: feed sizes one by one, or set_scaling(model, None)"
            )

    def embed_packed(self, packed: PackedBatch) -> Float[Tensor, "R L C"]:
        """Embed a packed batch as tokens."""
        side = self.config.patch_size
        strips = packed.patches.unflatten(2, (-1, side, side)).permute(0, 2, 3, 1, 4).flatten(3)  # a row of patches
        x = self.patch_embed(strips).flatten(2).transpose(1, 2)
        if self.pos_embed is not None:
            x = x + sample_embedding(self.pos_embed, self.config.grid, packed.positions, packed.grids).to(x.dtype)
        if self.num_prefix_tokens:
            tokens = self.prefix_tokens()[0].to(x.dtype)
            x = torch.where(packed.prefix.unsqueeze(-1) < 0, x, tokens[packed.prefix.clamp(min=0)])
        return x if self.pre_norm is None else self.pre_norm(x)

    def packed_rotary_positions(self, packed: PackedBatch) -> Float[Tensor, "R L 2"]:
        """Return the positions to rotate by of a packed batch; those of prefix tokens stay at the origin."""
        if not self.config.rope_convention.transforms_positions:
            return packed.positions
        positions = self.rotary_positions(packed.positions, packed.grids)
        return positions.masked_fill((packed.prefix >= 0).unsqueeze(-1), 0)

    def encode_packed(self, packed: PackedBatch) -> tuple[Float[Tensor, "R L C"], Bool[Tensor, "B"]]:
        """Return all tokens of a packed batch after the final norm (0 for non-finite images), and non-finite images."""
        self.check_packable()
        rest = self.packed_rotary_positions(packed), packed.sequences()
        return encode_isolated(packed, self.embed_packed, lambda tokens: self.encode(tokens, *rest))

    def forward_packed_features(self, packed: PackedBatch) -> Float[Tensor, "R L C"]:
        """Return all tokens of a packed batch after the final norm; `packed.split` splits them by image.

        Raises:
            ValueError: If the model has RoPE scaling, or is a video model.
        """
        features, damaged = self.encode_packed(packed)
        return features.masked_fill(belongs_to(damaged, packed), float("nan"))

    def forward_packed(self, packed: PackedBatch) -> Float[Tensor, "B K"]:
        """Return the logits of each image of a packed batch, equal to those of the image alone; NaN if non-finite.

        >>> logits = model.forward_packed(model.pack([image_of_160x320, image_of_224x224]))
        """
        features, damaged = self.encode_packed(packed)
        return self.classify(self.pool_packed(features, packed)).masked_fill(damaged.unsqueeze(1), float("nan"))

    def pool_packed(self, features: Float[Tensor, "R L C"], packed: PackedBatch) -> Float[Tensor, "B C"]:
        """Pool the tokens of each image of a packed batch."""
        if self.attn_pool is not None:
            rows, images = packed.starts // features.shape[1], torch.arange(len(packed.starts), device=features.device)
            return self.attn_pool(features[rows], packed.sequence_ids[rows] == images.unsqueeze(1))
        if self.config.pooling == "token":
            return features.flatten(0, 1)[packed.starts]
        return mean_patch(features, packed)

    def layer_index(self, name: str) -> int:
        """Return a parameter's layer for layer-wise learning rates: 0 embeddings, 1.. blocks, then norm and head."""
        if name.startswith("blocks."):
            return int(name.split(".")[1]) + 1
        return len(self.blocks) + 1 if name.startswith(("norm.", "head.", "attn_pool.")) else 0


def _drop_path_rates(config: ViTConfig) -> list[float]:
    """Return the stochastic depth rate of each block."""
    if config.drop_path_rule == "constant":
        return [config.drop_path] * config.depth
    return [config.drop_path * index / max(config.depth - 1, 1) for index in range(config.depth)]


def _make_block(config: ViTConfig, index: int, drop_path: float) -> Block:
    """Build a block, with its own learned frequencies and its distance bias, if any."""
    rope = make_block_rope(config, config.width // config.heads, config.heads)
    block = Block(
        *(config.width, config.heads, config.mlp_ratio, config.layer_scale, drop_path, rope),
        **{name: getattr(config, name) for name in ("mlp", "norm_eps", "attn_norm", "qkv_bias", "key_bias")},
    )
    block.attn.distance = make_distance_bias(config, config.heads, index, config.depth)
    return block
