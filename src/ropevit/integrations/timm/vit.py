"""Our ViT with the methods and signatures of timm's."""

from collections.abc import Mapping
from dataclasses import replace
from itertools import islice
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ropevit.integrations.timm.models import (
    Indices,
    Intermediates,
    TimmModel,
    check_format,
    wanted_layers,
)
from ropevit.models.packed import SequenceIds
from ropevit.models.vit import ViT, ViTConfig


class TimmViT(TimmModel[ViTConfig], ViT):
    """A ViT with timm's methods."""

    poolings = ("token", "avg", "")

    @classmethod
    def default_features(cls, config: ViTConfig, options: Mapping[str, Any]) -> tuple[int, ...]:
        """Return the last three blocks, timm's default."""
        return tuple(range(-min(3, options.get("depth", config.depth)), 0))

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
        """Return the class token, or the mean of the patch tokens, after the final norm if that follows the pooling."""
        pooled = features[:, 0] if self.global_pool == "token" else features[:, self.num_prefix_tokens :].mean(1)
        return self.norm(pooled) if self.config.pooled_norm else pooled

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]: timm's signature, not ours
        self,
        images: Float[Tensor, "B c H W"],
        attn_mask: Tensor | None = None,
        is_causal: bool = False,
        **options: Any,
    ) -> Any:
        """Return the logits of each class (B, K), or the result of another method; see `BaseModel.forward`.

        Args:
            images: Images.
            attn_mask: True where a query (row) may attend to a key; (n, n), (B, n, n) or (B, 1, n, n), prefix tokens
                first.
            is_causal: Let tokens attend to themselves and those before them only.
            options: `method` and its options, or `pre_logits` of `forward_head`.

        Raises:
            ValueError: If the mask is not boolean, or has another shape.
        """
        if options.get("method") is not None:
            return super().forward(images, **options)
        return self.forward_head(self.forward_features(images, attn_mask, is_causal), **options)

    def forward_features(  # pyright: ignore[reportIncompatibleMethodOverride]: timm's signature, not ours
        self,
        images: Float[Tensor, "B c H W"],
        attn_mask: Tensor | None = None,
        is_causal: bool = False,
    ) -> Float[Tensor, "B n C"]:
        """Return all tokens after the final norm, prefix first; arguments as in `forward`."""
        tokens, positions = self.embed(images)
        return self.encode(tokens, positions, mask_sequences(tokens, attn_mask, is_causal))

    def forward_intermediates(  # pyright: ignore[reportIncompatibleMethodOverride]: timm's signature, not ours
        self,
        images: Float[Tensor, "B c H W"],
        indices: Indices = None,
        return_prefix_tokens: bool = False,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        *,
        intermediates_only: bool = False,
        output_dict: bool = False,
        attn_mask: Tensor | None = None,
        is_causal: bool = False,
    ) -> Intermediates | dict[str, Any]:
        """Return the final features and the patch tokens after chosen blocks.

        Args:
            images: Images whose sides are multiples of the patch size.
            indices: Block indices, counted from 0, or from the end if negative; an int n means the last n blocks, None
                all. The features are returned in this order.
            return_prefix_tokens: Return pairs of patch tokens and prefix tokens (B, prefix, C).
            norm: Apply the final norm to each.
            stop_early: Stop after the last chosen block; the final features are then its normalized output.
            output_fmt: "NCHW" for maps (B, C, h, w), "NLC" for tokens (B, h * w, C).
            intermediates_only: Return only the intermediate features.
            output_dict: Return a dictionary: `image_intermediates`, with `return_prefix_tokens` also
                `image_intermediates_prefix`, and `image_features`.
            attn_mask: As in `forward`.
            is_causal: As in `forward`.

        Raises:
            ValueError: If there is no such block or format, or the image size or the mask is not allowed.
        """
        check_format(output_fmt, ("NCHW", "NLC"))
        wanted = wanted_layers(indices, len(self.blocks))
        tokens, positions = self.embed(images)
        x, kept = tokens, {}
        last = max(wanted) + 1 if stop_early or intermediates_only else len(self.blocks)
        blocks = self.run_blocks(tokens, positions, mask_sequences(tokens, attn_mask, is_causal))
        for index, x in enumerate(islice(blocks, last)):
            if index in wanted:
                kept[index] = self.norm_tokens(x) if norm else x
        grid = tuple(side // self.config.patch_size for side in images.shape[2:])
        patches = [kept[index][:, self.num_prefix_tokens :] for index in wanted]
        if output_fmt == "NCHW":
            patches = [tokens.transpose(1, 2).unflatten(2, grid) for tokens in patches]
        prefix = [kept[index][:, : self.num_prefix_tokens] for index in wanted]
        if output_dict:
            found: dict[str, Any] = {"image_intermediates": patches}
            found |= {"image_intermediates_prefix": prefix} if return_prefix_tokens else {}
            return found if intermediates_only else found | {"image_features": self.norm_tokens(x)}
        features = list(zip(patches, prefix, strict=True)) if return_prefix_tokens else patches
        return features if intermediates_only else (self.norm_tokens(x), features)

    def prune_intermediate_layers(
        self, indices: Indices = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Remove the blocks after the last chosen one, and the head; return the chosen blocks, counted from 0."""
        wanted = wanted_layers(indices, len(self.blocks))
        if prune_head:
            self.reset_classifier(0, "")
        if prune_norm:
            self.norm = nn.Identity()  # pyright: ignore[reportAttributeAccessIssue]: none is left
        self.blocks = self.blocks[: max(wanted) + 1]
        self.config = replace(self.config, depth=len(self.blocks))
        return wanted

    def set_input_size(
        self, img_size: int | tuple[int, int] | None = None, patch_size: int | tuple[int, int] | None = None
    ) -> None:
        """Resize what depends on the size: an absolute embedding, and the patch embedding if patches change.

        Args:
            img_size: Height and width in pixels, or the side of a square; None keeps it.
            patch_size: Side of the patches in pixels; None keeps it.
        """
        before, self.config = self.config.grid, self.resized_config(img_size, patch_size)
        self.resize_patch_embed()
        self.resize_absolute(before)
        self.update_model_args()


def mask_sequences(tokens: Float[Tensor, "B n C"], attn_mask: Tensor | None, is_causal: bool) -> SequenceIds | None:
    """Return an attention mask in the form that the blocks take: rows of one image each; None without any.

    Raises:
        ValueError: If the mask is not boolean, or has another shape.
    """
    if attn_mask is None and not is_causal:
        return None
    images, n = tokens.shape[:2]
    mask = torch.ones(n, n, dtype=torch.bool, device=tokens.device)
    mask = mask.tril() if is_causal else mask
    if attn_mask is not None:
        shapes = (n, n), (images, n, n), (images, 1, n, n)
        if attn_mask.dtype != torch.bool or attn_mask.shape not in shapes:
            raise ValueError(
                f"got attn_mask of shape {tuple(attn_mask.shape)} and {attn_mask.dtype}; expected torch.bool, True "
                f"where a query may attend to a key, and one of {', '.join(map(str, shapes))}"
            )
        mask = mask & attn_mask.reshape(-1, n, n)
    ids = torch.arange(images, device=tokens.device).unsqueeze(1).expand(images, n)
    return SequenceIds(ids, mask.expand(images, n, n).unsqueeze(1), images, shared=False)
