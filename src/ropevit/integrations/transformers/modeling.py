"""Wraps our models as transformers models: without a head, as image classifiers, and as backbones."""

import copy
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn
from transformers import AutoBackbone, AutoModel, AutoModelForImageClassification, PreTrainedModel
from transformers.backbone_utils import BackboneMixin
from transformers.modeling_outputs import BackboneOutput, BaseModelOutputWithPooling, ImageClassifierOutput
from transformers.utils.generic import can_return_tuple

from ropevit.integrations.transformers.attentions import collect_attentions
from ropevit.integrations.transformers.checkpointing import (
    add_checkpointing,
    is_checkpointing,
    remove_checkpointing,
)
from ropevit.integrations.transformers.config import RopeConfig, RopeSwinConfig, RopeViTConfig
from ropevit.integrations.transformers.outputs import Outputs, as_tokens, outputs_of, states_of
from ropevit.models import ARCHITECTURES, Model, build_model
from ropevit.rope import LearnedRope
from ropevit.text import join_names
from ropevit.weights.errors import WeightsError
from ropevit.weights.metadata import differences

#: Weights that may be missing from a folder, namely those of a new head.
HEAD = {"ropevit.head.weight", "ropevit.head.bias"}


class RopePreTrainedModel(PreTrainedModel):
    """Base class of the wrappers; the attribute `ropevit` is the model of this package.

    Attention is PyTorch's `scaled_dot_product_attention`; where attention weights are requested, the same by
    matrix products. Gradient checkpointing is that of transformers: by block, with its options. Learned frequencies
    stay float32 in every dtype.

    Args:
        config: Config of the model.

    Raises:
        ValueError: If the config is invalid, or its attn_implementation is neither "sdpa" nor "eager".
    """

    config: RopeConfig
    config_class = RopeConfig
    base_model_prefix = "ropevit"
    main_input_name = "pixel_values"
    input_modalities = "image"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _no_split_modules = [row.model.__name__ for row in ARCHITECTURES.values()]  # noqa: RUF012 (transformers copies these lists into each model)

    def __init__(self, config: RopeConfig):
        super().__init__(config)
        if config._attn_implementation not in (None, "sdpa", "eager"):
            raise ValueError(
                f"got attn_implementation={config._attn_implementation!r}; these models use "
                "scaled_dot_product_attention: leave it out, or pass 'sdpa' or 'eager', which are the same here"
            )
        self.ropevit = add_checkpointing(self.remove_unused(build_model(config.to_ropevit())))
        self._keep_in_fp32_modules_strict = _learned_frequencies(self.ropevit)
        self.post_init()

    def remove_unused(self, model: Model) -> Model:
        """Remove the modules that this class does not use, and return the model."""
        return model

    def adopt(self, model: Model) -> None:
        """Replace the wrapped model by a copy of another, with its weights, dtype and device.

        >>> segmenter.backbone.adopt(ropevit.create_model("swin_rope_mixed_tiny_patch4_window7_224", pretrained=True))

        Raises:
            ValueError: If its config differs from that of the wrapped model.
        """
        if type(model) is not type(self.ropevit):
            raise ValueError(
                f"got a {type(model).__name__}, but the config is that of a {type(self.ropevit).__name__}; "
                "convert it with from_ropevit"
            )
        copied = self.remove_unused(copy.deepcopy(model))
        if copied.config != self.ropevit.config:
            listed = differences(asdict(copied.config), asdict(self.ropevit.config))
            raise ValueError(f"got a model that differs from the config ({listed}); convert it with from_ropevit")
        self.ropevit = add_checkpointing(copied).train(self.training)

    def to_ropevit(self) -> Model:
        """Return a copy of the model of this package; `model.ropevit` is the model itself."""
        return remove_checkpointing(copy.deepcopy(self.ropevit))

    @classmethod
    def from_pretrained(cls, *args: Any, output_loading_info: bool = False, **kwargs: Any) -> Any:
        """Load as transformers does, but raise unless all weights match; only a head may be new.

        With `output_loading_info` it returns the model and the weights that do not match, for the caller to check.

        Raises:
            WeightsError: If a weight other than the head's is missing, unexpected or, even with
                ignore_mismatched_sizes, has the wrong shape; not with `output_loading_info`.
        """
        loaded: Any = super().from_pretrained(*args, output_loading_info=True, **kwargs)
        model, info = loaded
        if output_loading_info:
            return model, info
        _check_loaded(info, model.name_or_path)
        return model

    def _init_weights(self, module: nn.Module) -> None:
        """Initialize a module as our models do, unless its weights were loaded.

        transformers protects loaded weights from `torch.nn.init` only; learned frequencies are initialized without it.
        """
        if not all(getattr(weight, "_is_hf_initialized", False) for weight in module.parameters(recurse=False)):
            self.ropevit.reset_module(module)

    def get_input_embeddings(self) -> nn.Module:
        """Return the layer that projects the patches."""
        return self.ropevit.patch_embed.proj

    def attentions(self, requested: bool | None) -> AbstractContextManager[Callable[[], tuple[Tensor, ...] | None]]:
        """Collect attention weights in a context, if the call requests them, or else the config does.

        Raises:
            ValueError: If they are wanted in a training with gradient checkpointing, which computes them twice.
        """
        wanted = _wants(self.config.output_attentions, requested)
        if wanted and self.training and is_checkpointing(self.ropevit):
            raise ValueError("got output_attentions=True with gradient checkpointing; disable one of them")
        return collect_attentions(self.ropevit.config, wanted)

    def prepare(self, pixel_values: Tensor) -> Tensor:
        """Cast images to the dtype of the first layer.

        Raises:
            ValueError: If they are not floating-point.
        """
        if not pixel_values.is_floating_point():
            raise ValueError(
                f"got pixel_values of {pixel_values.dtype}; expected floats, as an image processor returns them"
            )
        return pixel_values.to(self.ropevit.patch_embed.proj.weight.dtype)

    def run(
        self,
        pixel_values: Float[Tensor, "B c H W"],
        output_hidden_states: bool | int | None,
        output_attentions: bool | None,
    ) -> Outputs:
        """Run the model of this package on prepared images."""
        wanted, images = _wants(self.config.output_hidden_states, output_hidden_states), self.prepare(pixel_values)
        with self.attentions(output_attentions) as weights:
            outputs = self.ropevit(images, method=outputs_of, hidden_states=wanted)
        return outputs._replace(attentions=weights())


class RopeModel(RopePreTrainedModel):
    """A model without a head: tokens and their pooled vector."""

    _keys_to_ignore_on_load_unexpected = [r"(^|\.)ropevit\.head\."]  # noqa: RUF012

    def remove_unused(self, model: Model) -> Model:
        """Remove the head."""
        model.reset_classifier(0)
        return model

    @can_return_tuple
    def forward(
        self,
        pixel_values: Float[Tensor, "B c H W"],
        output_hidden_states: bool | int | None = None,
        output_attentions: bool | None = None,
    ) -> BaseModelOutputWithPooling:
        """Return tokens (B, n, C) after the final norm, and their pooled vector (B, C).

        Args:
            pixel_values: Images of any size that the model accepts.
            output_hidden_states: Also return the tokens before the norm: embedded, then after each block of a ViT
                (prefix tokens first) or each stage of a Swin (row-major).
            output_attentions: Also return the attention weights of each block of a ViT (B, A, n, n), or of the last
                block of each stage of a Swin (B * windows, A, n, n).
        """
        outputs = self.run(pixel_values, output_hidden_states, output_attentions)
        return BaseModelOutputWithPooling(
            last_hidden_state=as_tokens(outputs.features),
            pooler_output=outputs.head,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )


class RopeForImageClassification(RopePreTrainedModel):
    """An image classifier.

    Raises:
        ValueError: If the config has no labels.
    """

    def __init__(self, config: RopeConfig):
        if config.num_labels == 0:
            raise ValueError("got a config without labels; give num_labels, or build a model without a head: AutoModel")
        super().__init__(config)

    @can_return_tuple
    def forward(
        self,
        pixel_values: Float[Tensor, "B c H W"],
        labels: Tensor | None = None,
        output_hidden_states: bool | int | None = None,
        output_attentions: bool | None = None,
    ) -> ImageClassifierOutput:
        """Return logits (B, K) and, with labels, the loss of `config.problem_type`, or the one that the labels imply.

        Args:
            pixel_values: Images of any size that the model accepts.
            labels: Classes (B,), or targets from 0 to 1 (B, K) for multi_label_classification.
            output_hidden_states: Also return the tokens before the norm; see `RopeModel`.
            output_attentions: Also return attention weights; see `RopeModel`.
        """
        outputs = self.run(pixel_values, output_hidden_states, output_attentions)
        loss = None if labels is None else self.loss_function(labels, outputs.head, self.config)
        return ImageClassifierOutput(
            loss=loss, logits=outputs.head, hidden_states=outputs.hidden_states, attentions=outputs.attentions
        )


class RopeBackbone(BackboneMixin, RopePreTrainedModel):
    """Feature maps for dense tasks: those in the config's `out_features` or `out_indices`, by default the last one.

    The maps of a ViT have the stride of its patches, those of a Swin strides 4, 8, 16 and 32. They are not normalized;
    the final norm and the head are removed. With `reshape_hidden_states=False` in the config they are tokens, prefix
    first, as DPT and Depth Anything take them.
    """

    _keys_to_ignore_on_load_unexpected = [r"(^|\.)ropevit\.(head|norm)\."]  # noqa: RUF012

    def __init__(self, config: RopeConfig):
        super().__init__(config)
        self.num_features = list(config.channels_by_stage.values())

    def remove_unused(self, model: Model) -> Model:
        """Remove the final norm and the head, which would get no gradients."""
        model.reset_classifier(0)
        model.norm = nn.Identity()  # pyright: ignore[reportAttributeAccessIssue]
        return model

    def to_ropevit(self) -> Model:
        """Raise ValueError: a backbone lacks the final norm.

        Raises:
            ValueError: Always.
        """
        raise ValueError("got a backbone, which has no final norm; load its folder with AutoModel and convert that")

    @can_return_tuple
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        pixel_values: Float[Tensor, "B c H W"],
        output_hidden_states: bool | int | None = None,
        output_attentions: bool | None = None,
    ) -> BackboneOutput:
        """Return the chosen feature maps (B, C, h, w), in the order of the stages.

        Args:
            pixel_values: Images of any size that the model accepts.
            output_hidden_states: Also return the tokens before the norm; see `RopeModel`.
            output_attentions: Also return attention weights; see `RopeModel`.
        """
        images = self.prepare(pixel_values)
        wanted = [self.stage_names.index(name) for name in self.out_features]
        all_states = _wants(self.config.output_hidden_states, output_hidden_states)
        count = None if all_states or _wants(self.config.output_attentions, output_attentions) else max(wanted) + 1
        with self.attentions(output_attentions) as weights:
            states, tokens = self.ropevit(images, method=states_of, count=count)
        maps: Any = tuple(self.reshape(states[index], images) for index in wanted)
        return BackboneOutput(
            feature_maps=maps,
            hidden_states=tuple(tokens) if all_states else None,
            attentions=weights(),
        )

    def reshape(self, state: Tensor, images: Float[Tensor, "B c H W"]) -> Tensor:
        """Return a hidden state as a map (B, C, h, w); as tokens (B, n, C) with `reshape_hidden_states=False`."""
        return self.ropevit.as_map(state, images) if self.config.reshape_hidden_states else as_tokens(state)


class RopeViTModel(RopeModel):
    """A ViT without a head."""

    config_class = RopeViTConfig


class RopeViTForImageClassification(RopeForImageClassification):
    """A ViT with a head."""

    config_class = RopeViTConfig


class RopeViTBackbone(RopeBackbone):
    """A ViT backbone, which returns feature maps."""

    config_class = RopeViTConfig


class RopeSwinModel(RopeModel):
    """A Swin without a head."""

    config_class = RopeSwinConfig


class RopeSwinForImageClassification(RopeForImageClassification):
    """A Swin with a head."""

    config_class = RopeSwinConfig


class RopeSwinBackbone(RopeBackbone):
    """A Swin backbone, which returns feature maps."""

    config_class = RopeSwinConfig


#: Auto class -> classes of its ViT and its Swin.
CLASSES: dict[Any, tuple[type[RopePreTrainedModel], type[RopePreTrainedModel]]] = {
    AutoModel: (RopeViTModel, RopeSwinModel),
    AutoModelForImageClassification: (RopeViTForImageClassification, RopeSwinForImageClassification),
    AutoBackbone: (RopeViTBackbone, RopeSwinBackbone),
}


def _wants(configured: bool | None, requested: bool | int | None) -> bool:
    """Return whether to return hidden states or attention weights: as the call requests, or else as the config does.

    LLaVA requests hidden states by the index of the layer that it reads; all are returned then, too.
    """
    return bool(configured if requested is None else requested)


def _learned_frequencies(model: Model) -> list[str]:
    """Return name endings of the learned parameters of rotations, which stay float32."""
    rotations = [(path, module) for path, module in model.named_modules() if isinstance(module, LearnedRope)]
    named = {f"{path.rpartition('.')[2]}.{name}" for path, module in rotations for name, _ in module.named_parameters()}
    return sorted(named)


def _check_loaded(info: dict[str, Any], source: str) -> None:
    """Raise WeightsError for weights that do not match, which transformers would only log.

    Raises:
        WeightsError: Listing the weights.
    """
    mismatched = {key if isinstance(key, str) else key[0] for key in info["mismatched_keys"]}
    wrong = {
        "missing": sorted(set(info["missing_keys"]) - mismatched - HEAD),
        "unexpected": sorted(info["unexpected_keys"]),
        "of the wrong shape": sorted(mismatched - HEAD),
    }
    if any(wrong.values()):
        listed = "; ".join(f"{len(names)} {kind}: {join_names(names)}" for kind, names in wrong.items() if names)
        raise WeightsError(
            f"the weights in {source} do not fit the model ({listed}); load them with the config.json that was saved "
            "with them, which accepts images of any size"
        )
