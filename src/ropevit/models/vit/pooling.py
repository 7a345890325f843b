"""Attention pooling: a learned query attends to all tokens."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from ropevit.models.mlp import Mlp


class AttentionPool(nn.Module):
    """Pool tokens by the attention of one learned query, and an MLP with a residual connection.

    Args:
        width: Channels, C.
        heads: Number of heads.
        norm_eps: Epsilon of the norm before the MLP.

    Source: Zhai et al. 2022 (arXiv:2106.04560), multihead attention pooling (MAP).
    """

    def __init__(self, width: int, heads: int, norm_eps: float):
        super().__init__()
        self.heads = heads
        self.latent = nn.Parameter(torch.empty(1, 1, width))
        self.q = nn.Linear(width, width)
        self.kv = nn.Linear(width, 2 * width)
        self.proj = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width, eps=norm_eps)
        self.mlp = Mlp(width, 4 * width)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialize the query."""
        nn.init.trunc_normal_(self.latent, std=self.latent.shape[-1] ** -0.5)

    def forward(self, tokens: Float[Tensor, "B n C"], mask: Bool[Tensor, "B n"] | None = None) -> Float[Tensor, "B C"]:
        """Return one vector for each image.

        Args:
            tokens: Tokens of each image.
            mask: True for its own tokens; None for all.
        """
        keys = None if mask is None else mask[:, None, None]
        q = self.q(self.latent).unflatten(-1, (self.heads, -1)).transpose(1, 2).expand(tokens.shape[0], -1, -1, -1)
        k, v = self.kv(tokens).unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        pooled = self.proj(F.scaled_dot_product_attention(q, k, v, attn_mask=keys).transpose(1, 2).flatten(2))
        return (pooled + self.mlp(self.norm(pooled)))[:, 0]
