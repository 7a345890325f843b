"""DINO's decoder: queries attend to the encoder's tokens and refine their boxes in every layer."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from ropevit.tasks.detect.boxes import Predictions, logit
from ropevit.tasks.detect.config import DinoConfig
from ropevit.tasks.detect.layers import MLP, decoder_layers
from ropevit.tasks.detect.levels import Levels

#: Temperature of the sine embedding of boxes: the base of its frequencies, as in DETR.
_TEMPERATURE = 10000


@dataclass(frozen=True)
class Queries:
    """Input of the decoder: content embeddings and initial boxes."""

    content: Float[Tensor, "B Q C"]
    """Content embedding of each query."""
    boxes: Float[Tensor, "B Q 4"]
    """Initial boxes: (center x, center y, width, height) as fractions of the image."""
    mask: Bool[Tensor, "Q Q"] | None = None
    """Attention mask: True where the query of the row attends to that of the column; None for full attention."""


def _embed_boxes(boxes: Float[Tensor, "B Q 4"], width: int) -> Float[Tensor, "B Q c"]:
    """Embed boxes in sines and cosines, in the order y, x, width, height.

    Args:
        boxes: (center x, center y, width, height).
        width: Channels of a query, C; the embedding has 2 C.

    Source: Liu et al. 2022 (arXiv:2201.12329), Eq. 1, with temperature 10000.
    """
    count = width // 4
    periods = _TEMPERATURE ** (torch.arange(count, device=boxes.device) / count)
    x, y, *sides = boxes.unbind(-1)  # an index [1, 0, 2, 3] would be copied to the device each time
    angles = torch.stack([y, x, *sides], dim=-1)[..., None] * (2 * math.pi) / periods
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(-3)


class Decoder(nn.Module):
    """Refine boxes layer by layer; each box head also gets gradients from the next layer (look forward twice).

    Args:
        config: Options of the detector.

    Source: Zhang et al. 2022 (arXiv:2203.03605), 3.5.
    """

    def __init__(self, config: DinoConfig):
        super().__init__()
        self.width = config.width
        self.layers = decoder_layers(config)
        self.reference_head = MLP(2 * config.width, config.width, config.width)
        self.norm = nn.LayerNorm(config.width)
        for layer in self.reference_head.layers:
            nn.init.xavier_uniform_(layer.weight)  # type: ignore[arg-type]

    def forward(
        self,
        queries: Queries,
        memory: Float[Tensor, "B N C"],
        levels: Levels,
        class_heads: nn.ModuleList,
        box_heads: nn.ModuleList,
    ) -> list[Predictions]:
        """Return the predictions of each layer.

        Args:
            queries: Content embeddings and initial boxes.
            memory: Tokens of the encoder.
            levels: Geometry of the tokens.
            class_heads: One for each layer; the last one, for the encoder's tokens, is not used here.
            box_heads: As class_heads.
        """
        ratios = levels.ratios.repeat(1, 1, 2)[:, None]
        kwargs = levels.layer_arguments()
        kwargs |= {"encoder_hidden_states": memory, "encoder_attention_mask": levels.attention_mask}
        if queries.mask is not None:
            kwargs["attention_mask"] = queries.mask[None, None]
        content, reference, predictions = queries.content, queries.boxes, []
        for layer, class_head, box_head in zip(self.layers, class_heads, box_heads, strict=False):
            fixed = reference.detach()
            scaled = fixed[:, :, None] * ratios
            query_pos = self.reference_head(_embed_boxes(scaled[:, :, 0], self.width))
            content = layer(content, query_pos, reference_points=scaled, **kwargs)
            found = self.norm(content)
            boxes = (box_head(found) + logit(reference)).sigmoid()
            predictions.append(Predictions(class_head(found), boxes))
            reference = (box_head(content) + logit(fixed)).sigmoid()
        return predictions
