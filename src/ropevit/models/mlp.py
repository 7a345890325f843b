"""MLPs of a transformer block."""

from collections.abc import Callable

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F


class SwiGlu(nn.Module):
    """MLP with a gate: the SiLU of one half of the hidden channels times the other.

    Args:
        width: Channels in and out, C.
        hidden: Hidden channels, each of which has a gate.
        norm_eps: Epsilon of a norm of the hidden channels; None for no norm.

    Source: Shazeer 2020 (arXiv:2002.05202), SwiGLU.
    """

    def __init__(self, width: int, hidden: int, norm_eps: float | None = None):
        super().__init__()
        self.fc1 = nn.Linear(width, 2 * hidden)  # gates first
        self.norm = nn.Identity() if norm_eps is None else nn.LayerNorm(hidden, eps=norm_eps)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Float[Tensor, "... C"]) -> Float[Tensor, "... C"]:
        """Apply the MLP to each token."""
        gate, value = self.fc1(x).chunk(2, dim=-1)
        return self.fc2(self.norm(F.silu(gate) * value))


class Mlp(nn.Module):
    """MLP: two linear layers with a GELU between them.

    Args:
        width: Channels in and out, C.
        hidden: Hidden channels.
    """

    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Float[Tensor, "... C"]) -> Float[Tensor, "... C"]:
        """Apply the MLP to each token."""
        return self.fc2(F.gelu(self.fc1(x)))


#: Kinds of MLP: name in a config -> module, of width, hidden channels and the epsilon of the norms.
MLPS: dict[str, Callable[[int, int, float], nn.Module]] = {
    "gelu": lambda width, hidden, _: Mlp(width, hidden),
    "swiglu": lambda width, hidden, _: SwiGlu(width, hidden),
    "swiglu_norm": SwiGlu,
}
