"""ViTDet's decomposed relative position bias, from the rows and columns between query and key."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F


class DecomposedRelPosBias(nn.Module):
    """Attention bias in a grid: the query times a learned vector for the row offset and one for the column offset.

    Initialized to zero. It materializes all scores in the queries' dtype: 4 bytes x heads x tokens^2 per image.

    Args:
        side: Rows and columns of the grid for which the vectors are learned; they are resized to others.
        channels: Channels of a head, D.

    Source: Li et al. 2021 (arXiv:2112.01526), Eq. 4; as in ViTDet (arXiv:2203.16527).
    """

    def __init__(self, side: int, channels: int):
        super().__init__()
        self.rows = nn.Parameter(torch.zeros(2 * side - 1, channels))
        self.columns = nn.Parameter(torch.zeros(2 * side - 1, channels))

    def forward(self, q: Float[Tensor, "B A n D"], h: int, w: int) -> Float[Tensor, "B A n n"]:
        """Return the bias of the scores of each query (first n) with each key (last n).

        Args:
            q: Queries of an h x w grid, row-major, before the rotation, which would make them depend on position.
            h: Rows.
            w: Columns.
        """
        grid = q.unflatten(2, (h, w))
        rows = torch.einsum("...ywd,ykd->...ywk", grid, _get_rel_pos(self.rows, h).to(q.dtype))
        columns = torch.einsum("...yxd,xkd->...yxk", grid, _get_rel_pos(self.columns, w).to(q.dtype))
        return (rows.unsqueeze(-1) + columns.unsqueeze(-2)).flatten(-2).flatten(2, 3)


def _get_rel_pos(table: Float[Tensor, "M D"], side: int) -> Float[Tensor, "side side D"]:
    """Return the vector of each query (first) and key (second) along one axis.

    Args:
        table: One vector for each offset (query minus key), ascending; resized linearly to the length of the axis,
            which changes nothing at its own size.
        side: Rows or columns of the grid.
    """
    resized = F.interpolate(table.float().t().unsqueeze(0), size=2 * side - 1, mode="linear")[0].t()
    index = torch.arange(side, device=table.device)
    return resized[index[:, None] - index + side - 1]
