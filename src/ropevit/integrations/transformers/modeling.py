"""Our models as models of transformers: around one of ours, what transformers expects of its own."""

import copy
from dataclasses import asdict
from itertools import islice
from typing import Any, NamedTuple

from jaxtyping import Float
from torch import Tensor, nn
from transformers import AutoBackbone, AutoModel, AutoModelForImageClassification, PreTrainedModel
from transformers.backbone_utils import BackboneMixin
from transformers.modeling_outputs import BackboneOutput, BaseModelOutputWithPooling, ImageClassifierOutput
from transformers.utils.generic import can_return_tuple

from ropevit.integrations.transformers.config import RopeConfig, RopeSwinConfig, RopeViTConfig
from ropevit.models import ARCHITECTURES, Model, build_model
from ropevit.text import join_names
from ropevit.weights.errors import WeightsError
from ropevit.weights.metadata import differences

#: Weights that may be missing from a folder: the head, where it is new.
HEAD = {"ropevit.head.weight", "ropevit.head.bias"}


class RopePreTrainedModel(PreTrainedModel):
    """What all of them share. The model of this package is the attribute `ropevit`.

    Attention is PyTorch's `scaled_dot_product_attention`; there are no attention weights to return. Gradient
    checkpointing keeps the input of every block, without reentrance. Learned frequencies stay float32 in every dtype.

    Args:
        config: What to build.

    Raises:
        ValueError: If the config describes no model, or asks for another attention.
    """

    config: RopeConfig
    config_class = RopeConfig
    base_model_prefix = "ropevit"
    main_input_name = "pixel_values"
    input_modalities = "image"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _no_split_modules = [row.model.__name__ for row in ARCHITECTURES.values()]  # noqa: RUF012 (transformers copies these lists into each model)
    _keep_in_fp32_modules_strict = ["rope.freqs", "rope.raw_speeds", "rope.heading"]  # noqa: RUF012

    def __init__(self, config: RopeConfig):
        super().__init__(config)
        if config._attn_implementation not in (None, "sdpa"):
            raise ValueError(
                f"got attn_implementation={config._attn_implementation!r}; these models attend with "
                "scaled_dot_product_attention alone: leave it out, or pass 'sdpa'"
            )
        self.ropevit = self.fit(build_model(config.to_ropevit()))
        self.post_init()

    def fit(self, model: Model) -> Model:
        """Take from a model what this class does not use."""
        return model

    def adopt(self, model: Model) -> None:
        """Take in a copy of a model of this package, with its weights, dtype and device.

        >>> segmenter.backbone.adopt(ropevit.create_model("swin_rope_mixed_tiny_patch4_window7_224", pretrained=True))

        Raises:
            ValueError: If it is another model than the config describes.
        """
        if type(model) is not type(self.ropevit):
            raise ValueError(f"got a {type(model).__name__}; the config describes a {type(self.ropevit).__name__}")
        taken = self.fit(copy.deepcopy(model))
        if taken.config != self.ropevit.config:
            listed = differences(asdict(taken.config), asdict(self.ropevit.config))
            raise ValueError(f"got another model than the config describes ({listed}); change either")
        self.ropevit = taken.train(self.training)

    def to_ropevit(self) -> Model:
        """Return a copy of the model of this package; `model.ropevit` is the model itself."""
        return copy.deepcopy(self.ropevit)

    @classmethod
    def from_pretrained(cls, *args: Any, output_loading_info: bool = False, **kwargs: Any) -> Any:
        """Load as transformers does, but refuse weights that are not all there; a head may be new, which it reports.

        Raises:
            WeightsError: If a weight is missing, unknown or, in spite of ignore_mismatched_sizes, misshapen; the head
                apart.
        """
        loaded: Any = super().from_pretrained(*args, output_loading_info=True, **kwargs)
        model, info = loaded
        _check_loaded(info, model.name_or_path)
        return (model, info) if output_loading_info else model

    def _init_weights(self, module: nn.Module) -> None:
        """Start one module as our models do, unless its weights were loaded.

        transformers protects what it loaded from `torch.nn.init` alone, and learned frequencies are drawn otherwise.
        """
        if not all(getattr(weight, "_is_hf_initialized", False) for weight in module.parameters(recurse=False)):
            self.ropevit.reset_module(module)

    def get_input_embeddings(self) -> nn.Module:
        """Return the layer that projects the patches."""
        return self.ropevit.patch_embed.proj

    @property
    def gradient_checkpointing(self) -> bool:
        """Whether blocks are recomputed in the backward pass; transformers sets this by name."""
        return self.ropevit.grad_checkpointing

    @gradient_checkpointing.setter
    def gradient_checkpointing(self, enable: bool) -> None:
        self.ropevit.set_grad_checkpointing(enable)

    def prepare(self, pixel_values: Tensor, output_attentions: bool | None) -> Tensor:
        """Cast images to the dtype of the first layer.

        Raises:
            ValueError: If they are no floats, or attention weights are asked for.
        """
        if self.config.output_attentions if output_attentions is None else output_attentions:
            raise ValueError("got output_attentions=True; fused attention keeps no weights to return: leave it out")
        if not pixel_values.is_floating_point():
            raise ValueError(f"got pixel_values of {pixel_values.dtype}; expected floats, as an image processor gives")
        return pixel_values.to(self.ropevit.patch_embed.proj.weight.dtype)

    def run(self, images: Float[Tensor, "B c H W"], output_hidden_states: bool | None) -> "Outputs":
        """Run the model of this package."""
        wanted = _wants_states(self.config, output_hidden_states)
        return self.ropevit(images, method=_outputs_of, hidden_states=wanted)


class RopeModel(RopePreTrainedModel):
    """Tokens and their pool, without a head."""

    _keys_to_ignore_on_load_unexpected = [r"(^|\.)ropevit\.head\."]  # noqa: RUF012

    def fit(self, model: Model) -> Model:
        """Leave the head out."""
        model.reset_classifier(0)
        return model

    @can_return_tuple
    def forward(
        self,
        pixel_values: Float[Tensor, "B c H W"],
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
    ) -> BaseModelOutputWithPooling:
        """Return tokens (B, n, C) after the final norm, and their pool (B, C).

        Args:
            pixel_values: Images of any size that the model takes.
            output_hidden_states: Also return the tokens before the norm: embedded, then after each block of a ViT
                (prefix tokens first) or each stage of a Swin (row-major).
            output_attentions: Refused if true.
        """
        images = self.prepare(pixel_values, output_attentions)
        found = self.run(images, output_hidden_states)
        return BaseModelOutputWithPooling(
            last_hidden_state=_as_tokens(found.features), pooler_output=found.head, hidden_states=found.hidden_states
        )


class RopeForImageClassification(RopePreTrainedModel):
    """A classifier of images.

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
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
    ) -> ImageClassifierOutput:
        """Return logits (B, K) and, with labels, the loss that `config.problem_type` names or the labels suggest.

        Args:
            pixel_values: Images of any size that the model takes.
            labels: Classes (B,); for several at once (multi_label_classification) numbers from 0 to 1 (B, K).
            output_hidden_states: As in `RopeModel`.
            output_attentions: Refused if true.
        """
        images = self.prepare(pixel_values, output_attentions)
        found = self.run(images, output_hidden_states)
        loss = None if labels is None else self.loss_function(labels, found.head, self.config)
        return ImageClassifierOutput(loss=loss, logits=found.head, hidden_states=found.hidden_states)


class RopeBackbone(BackboneMixin, RopePreTrainedModel):
    """Maps for dense tasks, those that `out_features` or `out_indices` of the config choose; the last one if neither.

    A ViT gives every map at the stride of its patches; a Swin strides 4, 8, 16 and 32. They are not normalised, and
    the final norm and the head are left out.
    """

    _keys_to_ignore_on_load_unexpected = [r"(^|\.)ropevit\.(head|norm)\."]  # noqa: RUF012

    def __init__(self, config: RopeConfig):
        super().__init__(config)
        self.num_features = list(config.channels_by_stage.values())

    def fit(self, model: Model) -> Model:
        """Leave the final norm and the head out, which would never see a gradient."""
        model.reset_classifier(0)
        model.norm = nn.Identity()  # pyright: ignore[reportAttributeAccessIssue]
        return model

    def to_ropevit(self) -> Model:
        """Refuse: a backbone is no whole model.

        Raises:
            ValueError: Always.
        """
        raise ValueError("a backbone has no final norm to give back; load its folder with AutoModel and convert that")

    @can_return_tuple
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        pixel_values: Float[Tensor, "B c H W"],
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
    ) -> BackboneOutput:
        """Return the chosen maps (B, C, h, w), in the order of the stages.

        Args:
            pixel_values: Images of any size that the model takes.
            output_hidden_states: As in `RopeModel`.
            output_attentions: Refused if true.
        """
        images = self.prepare(pixel_values, output_attentions)
        wanted = [self.stage_names.index(name) for name in self.out_features]
        everything = _wants_states(self.config, output_hidden_states)
        count = None if everything else max(wanted) + 1
        states = self.ropevit(images, method=lambda model, images: list(islice(model.hidden_states(images), count)))
        maps: Any = tuple(self.ropevit.as_map(states[index], images) for index in wanted)
        return BackboneOutput(
            feature_maps=maps,
            hidden_states=tuple(_as_tokens(state) for state in states) if everything else None,
        )


class RopeViTModel(RopeModel):
    """A ViT without a head."""

    config_class = RopeViTConfig


class RopeViTForImageClassification(RopeForImageClassification):
    """A ViT with a head."""

    config_class = RopeViTConfig


class RopeViTBackbone(RopeBackbone):
    """A ViT that gives maps."""

    config_class = RopeViTConfig


class RopeSwinModel(RopeModel):
    """A Swin without a head."""

    config_class = RopeSwinConfig


class RopeSwinForImageClassification(RopeForImageClassification):
    """A Swin with a head."""

    config_class = RopeSwinConfig


class RopeSwinBackbone(RopeBackbone):
    """A Swin that gives maps."""

    config_class = RopeSwinConfig


#: Auto class -> what it builds from the config of a ViT, and of a Swin.
CLASSES: dict[Any, tuple[type[RopePreTrainedModel], type[RopePreTrainedModel]]] = {
    AutoModel: (RopeViTModel, RopeSwinModel),
    AutoModelForImageClassification: (RopeViTForImageClassification, RopeSwinForImageClassification),
    AutoBackbone: (RopeViTBackbone, RopeSwinBackbone),
}


def _wants_states(config: RopeConfig, asked: bool | None) -> bool:
    """Tell whether hidden states are wanted, by the call or else by the config."""
    wanted = config.output_hidden_states if asked is None else asked
    if not isinstance(wanted, bool | None):
        raise ValueError(f"got output_hidden_states={wanted!r}; expected True (all of them) or False")
    return bool(wanted)


class Outputs(NamedTuple):
    """What a model of this package gives for a batch."""

    features: Tensor
    """What follows the final norm."""
    head: Tensor
    """What the head makes of it: logits, or the pool where there is no head."""
    hidden_states: tuple[Tensor, ...] | None
    """The tokens before the norm, if asked for: embedded, after each block or stage."""


def _outputs_of(model: Model, images: Float[Tensor, "B c H W"], *, hidden_states: bool) -> Outputs:
    """Run a model; called as a method of it, so that its own hooks (offloading, sharding) run around it."""
    if not hidden_states:
        features = model.forward_features(images)
        return Outputs(features, model.forward_head(features), None)
    states = tuple(model.hidden_states(images))
    features = model.norm(states[-1])
    return Outputs(features, model.forward_head(features), tuple(_as_tokens(state) for state in states))


def _as_tokens(state: Tensor) -> Float[Tensor, "B n C"]:
    """Write a state as tokens; a Swin's is a map, channels last."""
    return state.flatten(1, 2) if state.ndim == 4 else state


def _check_loaded(info: dict[str, Any], source: str) -> None:
    """Refuse what transformers would only report.

    Raises:
        WeightsError: Naming the weights.
    """
    misshapen = {key if isinstance(key, str) else key[0] for key in info["mismatched_keys"]}
    wrong = {
        "missing": sorted(set(info["missing_keys"]) - misshapen - HEAD),
        "unexpected": sorted(info["unexpected_keys"]),
        "misshapen": sorted(misshapen - HEAD),
    }
    if any(wrong.values()):
        listed = "; ".join(f"{len(names)} {kind}: {join_names(names)}" for kind, names in wrong.items() if names)
        raise WeightsError(
            f"the weights in {source} do not fit the model ({listed}); load them with the config.json that was saved "
            "with them: images of any size may be fed without changing it"
        )
