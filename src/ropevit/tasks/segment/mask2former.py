"""Mask2Former on a dense backbone, from the parts in transformers."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ropevit.extras import require
from ropevit.models.dense import Backbone
from ropevit.tasks.dense.config import GROUPS
from ropevit.tasks.dense.set_prediction import sample_in_float32
from ropevit.tasks.segment.base import STRIDES, SegmentationModel, resize_logits
from ropevit.tasks.segment.config import Mask2FormerConfig

#: Module of transformers with the parts of Mask2Former.
MODULE = "transformers.models.mask2former.modeling_mask2former"


class Masks(NamedTuple):
    """Predictions of one decoder layer for a batch."""

    classes: Float[Tensor, "B Q K1"]
    """Class logits of each query; the last class is "no object"."""
    masks: Float[Tensor, "B Q h w"]
    """Mask logits of each query, at stride 4."""


class Mask2Former(SegmentationModel):
    """Mask2Former with transformers' pixel decoder and transformer decoder.

    All weights and biases are initialized as in the official code. Biases, vectors and all embeddings have no weight
    decay; the official code decays biases and the pixel decoder's `level_embed`.

    >>> backbone = DenseSwin(DenseSwinConfig(body=get_config("swin_rope_mixed_tiny_patch4_window7_224", drop_path=0.3)))
    >>> model = Mask2Former(backbone, Mask2FormerConfig())
    >>> losses = mask_losses(model(images), labels, model.config)
    >>> labels = segment(model.eval().logits, [images], (683, 512), InferenceConfig(probabilities=False))

    Args:
        backbone: A backbone with feature maps of strides 4, 8, 16 and 32.
        config: Options of Mask2Former.

    Raises:
        MissingExtraError: If transformers is not installed.
        ValueError: If the feature maps have other strides.

    Source: Cheng et al. 2021 (arXiv:2112.01527).
    """

    def __init__(self, backbone: Backbone, config: Mask2FormerConfig):
        super().__init__(backbone)
        parts: Any = require(MODULE, "dense")
        self.config = config
        theirs = parts.Mask2FormerConfig(
            num_labels=config.classes,
            num_queries=config.queries,
            feature_size=config.width,
            mask_feature_size=config.width,
            hidden_dim=config.width,
            num_attention_heads=config.heads,
            encoder_layers=config.encoder_layers,
            encoder_feedforward_dim=config.encoder_mlp_width,
            decoder_layers=config.decoder_layers + 1,  # theirs counts the predictions of the initial queries
            dim_feedforward=config.decoder_mlp_width,
            dropout=config.dropout,
        )
        ours: Any = require("ropevit.tasks.segment.pixel_decoder", "dense")
        self.pixel_decoder: Any = ours.PixelDecoder(theirs, backbone.channels)
        self.decoder: Any = parts.Mask2FormerTransformerModule(config.width, theirs)
        self.classifier = nn.Linear(config.width, config.classes + 1)
        starter = parts.Mask2FormerPreTrainedModel(theirs)
        for part in (self.pixel_decoder, self.decoder):
            part.apply(starter._init_weights)
        _init_as_published(self.pixel_decoder, self.decoder)
        for layer in self.pixel_decoder.encoder.layers:
            layer.__class__ = ours.EncoderLayer
            sample_in_float32(layer.self_attn)
        for layer in self.decoder.decoder.layers:
            layer.cross_attn.register_forward_pre_hook(_skip_attention_weights, with_kwargs=True)

    def forward(self, images: Float[Tensor, "B c H W"]) -> list[Masks]:
        """Predict masks and classes from the initial queries and after each layer; the last ones are the result.

        Args:
            images: Normalized images, all of one size.

        Raises:
            ValueError: If the images are too small for the group norms of the feature maps.
        """
        features = self.backbone(images).features
        self.check_maps(features)
        decoded = self.decoder(*self.pixel_decoder(features))
        states = decoded.intermediate_hidden_states  # each (Q, B, C), normalized
        classes = [self.classifier(state.transpose(0, 1)) for state in states]
        return [Masks(*pair) for pair in zip(classes, decoded.masks_queries_logits, strict=True)]

    def check_maps(self, maps: Sequence[Tensor]) -> None:
        """Raise ValueError for maps on which each group of a group norm would have a single value."""
        if self.config.width == GROUPS and min(x.shape[2] * x.shape[3] for x in maps) == 1:
            raise ValueError(
                f"got a feature map of 1 x 1 for width={GROUPS}, so group norms would be over single values; use "
                f"larger images, or a width of {2 * GROUPS} or more"
            )

    def no_weight_decay(self) -> set[str]:
        """Return the names of parameters without weight decay, besides biases and norms: embeddings among them."""
        embeddings = ("queries_embedder.weight", "queries_features.weight", "level_embed.weight")
        own = {"pixel_decoder.level_embed", *(f"decoder.{name}" for name in embeddings)}
        return super().no_weight_decay() | own

    def logits(self, images: Float[Tensor, "B c H W"]) -> Float[Tensor, "B K H W"]:
        """Return class scores at the resolution of the images, for `segment`."""
        return semantic_scores(self(images)[-1], (images.shape[2], images.shape[3]))


def _skip_attention_weights(module: nn.Module, inputs: tuple, options: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:  # noqa: ARG001
    """Call `nn.MultiheadAttention` with need_weights=False, so that it uses PyTorch's fused attention."""
    return inputs, options | {"need_weights": False}


def semantic_scores(predicted: Masks, size: tuple[int, int]) -> Float[Tensor, "B K H W"]:
    """Compute class scores per pixel: the sum over queries of mask times class probability, in float32.

    Args:
        predicted: Predictions of the last layer.
        size: Height and width of the model's input; mask logits are resized to it before the sum.

    Source: Cheng et al. 2021 (arXiv:2107.06278), 3.4.
    """
    probabilities = predicted.classes.float().softmax(-1)[..., :-1]
    masks = resize_logits(predicted.masks.float(), STRIDES[0], size)
    with torch.autocast(masks.device.type, enabled=False):  # autocast would round the sums
        return (probabilities.transpose(1, 2) @ masks.sigmoid().flatten(2)).unflatten(2, size)


def _init_as_published(pixel_decoder: Any, decoder: Any) -> None:
    """Initialize weights as the official code does, where transformers differs.

    The official code has one matrix for queries, keys and values of self-attention, whose size sets the range of the
    initial values, and keeps PyTorch's default biases of MLPs.

    Source: Cheng et al. 2021 (arXiv:2112.01527), the official code.
    """
    for name, weight in pixel_decoder.encoder.named_parameters():
        if weight.ndim > 1 and "self_attn" not in name:
            nn.init.xavier_uniform_(weight)
    for module in pixel_decoder.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_uniform_(module.weight, a=1)
    for projection in pixel_decoder.input_projections:
        nn.init.xavier_uniform_(projection[0].weight)
    for layer in decoder.decoder.layers:
        for projection in (layer.self_attn.q_proj, layer.self_attn.k_proj, layer.self_attn.v_proj):
            nn.init.xavier_uniform_(projection.weight, gain=0.5**0.5)  # of 3 C x C, not C x C
    for layer in (*pixel_decoder.encoder.layers, *decoder.decoder.layers):
        for linear in (layer.fc1, layer.fc2):
            bound = linear.in_features**-0.5
            nn.init.uniform_(linear.bias, -bound, bound)
