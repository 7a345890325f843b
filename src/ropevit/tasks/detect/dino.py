"""The DINO detector on the feature maps of a backbone."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from ropevit.tasks.dense.sampling import flatten_maps
from ropevit.tasks.detect.boxes import Predictions, Target
from ropevit.tasks.detect.config import DinoConfig
from ropevit.tasks.detect.decoder import Decoder, Queries
from ropevit.tasks.detect.denoising import DenoisingGroups, denoising_queries, make_denoising_groups
from ropevit.tasks.detect.layers import MLP, encoder_layers, position_maps, set_checkpointing
from ropevit.tasks.detect.levels import Levels, gather_rows, make_levels, propose_boxes
from ropevit.tasks.detect.neck import Neck

#: Predicted probability of every class at initialization.
_PRIOR = 0.01


@dataclass(frozen=True)
class Output:
    """Predictions of a detector for a batch."""

    layers: list[Predictions]
    """Predictions after each decoder layer; the last is the result."""
    encoder: Predictions
    """Predictions of the encoder tokens selected to initialize the queries."""
    denoising: list[Predictions]
    """Predictions of the denoising queries, after each layer; empty if there are none."""
    groups: DenoisingGroups | None
    """Layout of the denoising queries; None if there are none."""


class TopTokens(nn.Module):
    """Choose the tokens with the highest scores; a module, so that hooks see the choice.

    Args:
        count: Number of tokens, Q.
    """

    def __init__(self, count: int):
        super().__init__()
        self.count = count

    def forward(self, scores: Float[Tensor, "B N"]) -> Int[Tensor, "B Q"]:
        """Return their indices, by descending score.

        Raises:
            ValueError: If there are fewer tokens.
        """
        if scores.shape[1] < self.count:
            raise ValueError(
                f"got {scores.shape[1]} tokens for queries={self.count}; use larger images or fewer queries"
            )
        return scores.topk(self.count, dim=1).indices


class Dino(nn.Module):
    """DINO: a deformable DETR encoder and decoder on the feature maps of a backbone.

    Args:
        config: Options of the detector.
        channels: Channels of each of the backbone's maps, in order of decreasing resolution.

    Raises:
        MissingExtraError: If transformers is not installed.
        ValueError: If there is no map, or there are more maps than levels.

    Source: Zhang et al. 2022 (arXiv:2203.03605).
    """

    def __init__(self, config: DinoConfig, channels: Sequence[int]):
        super().__init__()
        self.config, width = config, config.width
        self.neck = Neck(config, channels)
        self.position = position_maps(config)
        self.level_embedding = nn.Parameter(torch.randn(config.levels, width))
        self.encoder_layers = encoder_layers(config)
        self.token_projection, self.token_norm = nn.Linear(width, width), nn.LayerNorm(width)
        self.query_embedding = nn.Embedding(config.queries, width)
        self.top_tokens = TopTokens(config.queries)
        self.label_embedding = nn.Embedding(config.classes, width)
        self.decoder = Decoder(config)
        heads = range(config.decoder_layers + 1)  # the last ones are for the encoder's tokens
        self.class_heads = nn.ModuleList(nn.Linear(width, config.classes) for _ in heads)
        self.box_heads = nn.ModuleList(MLP(width, width, width, 4) for _ in heads)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Initialize the weights as detrex does, except those of the layers and the decoder, which do so themselves."""
        for weight in (self.token_projection.weight, self.query_embedding.weight):
            nn.init.xavier_uniform_(weight)
        for conv in [module for module in self.neck.modules() if isinstance(module, nn.Conv2d)]:
            nn.init.xavier_uniform_(conv.weight)
            nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
        for class_head, box_head in zip(self.class_heads, self.box_heads, strict=True):
            nn.init.constant_(class_head.bias, math.log(_PRIOR / (1 - _PRIOR)))  # type: ignore[arg-type]
            nn.init.zeros_(box_head.layers[-1].weight)  # type: ignore[index]
            nn.init.zeros_(box_head.layers[-1].bias)  # type: ignore[index]

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute each layer in the backward pass: less memory, more time."""
        for layers in (self.encoder_layers, self.decoder.layers):
            set_checkpointing(layers, enable)

    def forward(
        self,
        maps: Sequence[Tensor],
        padding: Bool[Tensor, "B H W"] | None = None,
        targets: Sequence[Target] | None = None,
    ) -> Output:
        """Detect objects.

        Args:
            maps: Feature maps (B, c, h, w), each half as large as the one before.
            padding: True at padded pixels, from `padding_mask`; None without padding.
            targets: Objects of each image, for denoising queries in training.

        Raises:
            ValueError: If maps, padding or targets do not fit, or there are fewer tokens than queries.
        """
        if targets is not None and len(targets) != len(maps[0]):
            raise ValueError(f"got targets of {len(targets)} images with maps of {len(maps[0])}; expected one each")
        maps = self.neck(maps)
        levels = make_levels(maps, padding)
        memory = self.encode(maps, levels)
        encoder, queries = self.select(memory, levels)
        groups = None if targets is None else make_denoising_groups(targets, self.config)
        queries = self.add_denoising(queries, groups, targets or [])
        layers = self.decoder(queries, memory, levels, self.class_heads, self.box_heads)
        if groups is None:
            return Output(layers, encoder, [], None)
        parts = [layer.split(groups.queries) for layer in layers]
        return Output([part[1] for part in parts], encoder, [part[0] for part in parts], groups)

    def encode(self, maps: Sequence[Tensor], levels: Levels) -> Float[Tensor, "B N C"]:
        """Run the deformable encoder over the tokens of all levels."""
        x, attention_mask, ratios = flatten_maps(maps), levels.attention_mask, levels.ratios
        pos_embeds = [
            self.position(m.shape, m.device, torch.float32, mask=k) for m, k in zip(maps, levels.masks, strict=True)
        ]
        pos_embeds = flatten_maps(
            [
                pos_embed + level[:, None, None]
                for pos_embed, level in zip(pos_embeds, self.level_embedding, strict=True)
            ]
        )
        points = levels.centers[:, :, None] * ratios[:, None]
        kwargs = levels.layer_arguments() | {"spatial_position_embeddings": pos_embeds, "reference_points": points}
        for layer in self.encoder_layers:
            x = layer(x, attention_mask, **kwargs)
        return x

    def select(self, memory: Float[Tensor, "B N C"], levels: Levels) -> tuple[Predictions, Queries]:
        """Select the boxes of the highest-scoring tokens as initial reference boxes of queries with learned contents.

        Raises:
            ValueError: If there are fewer tokens than queries.

        Source: Zhang et al. 2022 (arXiv:2203.03605), 3.4.
        """
        proposals, usable = propose_boxes(levels)
        tokens = self.token_norm(self.token_projection(memory.masked_fill(~usable[..., None], 0)))
        scores = self.class_heads[-1](tokens.detach()).amax(
            -1
        )  # no no_grad: autocast would cache casts without gradients
        chosen = self.top_tokens(scores)
        tokens = gather_rows(tokens, chosen)
        boxes = (self.box_heads[-1](tokens) + gather_rows(proposals, chosen)).sigmoid()
        numbers = torch.arange(self.config.queries, device=memory.device)
        content = self.query_embedding(numbers).expand(memory.shape[0], -1, -1)  # a call of the module, for its hooks
        return Predictions(self.class_heads[-1](tokens), boxes), Queries(content, boxes.detach())

    def add_denoising(self, queries: Queries, groups: DenoisingGroups | None, targets: Sequence[Target]) -> Queries:
        """Put the denoising queries first.

        Without them, the label embedding is added to the graph with weight 0: under DDP every weight needs a gradient
        in every process, also in one whose images have no objects.
        """
        if groups is None:
            unused = self.label_embedding(torch.zeros(1, dtype=torch.int64, device=queries.boxes.device))[0, 0]
            return Queries(queries.content + 0 * unused, queries.boxes)
        noisy = denoising_queries(targets, groups, self.label_embedding, self.config)
        content = torch.cat([noisy.content, queries.content], dim=1)
        boxes = torch.cat([noisy.boxes, queries.boxes], dim=1)
        return Queries(content, boxes, groups.mask(self.config.queries, boxes.device))
