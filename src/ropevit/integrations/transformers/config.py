"""transformers configs of our models: the fields of our own configs, plus labels, stages and aliases."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import MISSING, fields
from difflib import get_close_matches
from typing import Any, ClassVar

from transformers import PreTrainedConfig
from transformers.backbone_utils import BackboneConfigMixin

from ropevit.models import MODELS, Config, SwinConfig, ViTConfig
from ropevit.models.config import as_pair
from ropevit.rope import CONVENTION, RopeConvention
from ropevit.text import join_names
from ropevit.weights.errors import first_line
from ropevit.weights.fields import from_json, lists_to_tuples
from ropevit.weights.metadata import differences

#: transformers' name -> ours. The number of classes is the number of labels, `num_labels`.
_ALIASES = {"image_size": "img_size", "num_channels": "in_channels", "num_classes": "num_labels"}


class RopeConfig(BackboneConfigMixin, PreTrainedConfig):
    """Base class of the configs, one per architecture.

    The fields are those of our own config; `num_classes` is `num_labels` here, the number of labels in `id2label`.
    Without any field, the config is that of a small published model; if some are given, none is taken from that model.

    Raises:
        ValueError: If a field is misspelt, missing or out of range, two fields contradict each other, or the rotation
            convention is that of another version.
    """

    __no_type_check__ = True  # transformers generates the __init__, which takes more names than it declares

    ours: ClassVar[type[Config]]
    """Our config class, which defines and checks the fields."""
    standard: ClassVar[str]
    """Name of the model whose config is the default."""

    reshape_hidden_states: bool = True
    """Whether a backbone returns maps (B, C, h, w) instead of tokens (B, n, C)."""

    def __post_init__(self, **kwargs: Any):
        given = rename(kwargs, self.attribute_map)
        check_convention(given.pop("convention", CONVENTION))
        out = {name: given.pop(name, None) for name in ("out_features", "out_indices")}
        mine = {name: given.pop(name) for name in self.field_names() if name in given}
        left_out = () if self.transformers_version is None else self.ours.later_fields  # by a file, at their default
        _check_spelling(given, [*self.field_names(), *self.attribute_map, *out], {*mine, *left_out})
        self.set_labels(given)
        for name, value in self.describe(mine).to_dict().items():
            if name != "num_classes":
                setattr(self, name, value)
        self.set_output_features_output_indices(**out)
        super().__post_init__(**given)

    @classmethod
    def field_names(cls) -> list[str]:
        """Return the names of our config's fields except `num_classes`, which is stored as labels."""
        return [field.name for field in fields(cls.ours) if field.name != "num_classes"]

    def describe(self, given: Mapping[str, Any]) -> Config:
        """Build our config from fields and the labels, which checks them."""
        if not given:
            given = {name: getattr(MODELS[self.standard], name) for name in self.field_names()}
        needed = {field.name for field in fields(self.ours) if field.default is MISSING}
        if missing := sorted(needed - set(given)):
            raise ValueError(
                f"{', '.join(missing)} missing; a {type(self).__name__} with any of its fields needs at least "
                f"{', '.join(sorted(needed))}"
            )
        plain = lists_to_tuples(given)
        if isinstance(size := plain.get("img_size"), int):
            plain["img_size"] = as_pair(size)
        if plain.get("frames") is not None:
            raise ValueError(
                f"got frames={plain['frames']}; expected an image model (frames=None): build a video model with "
                "ropevit.create_model"
            )
        if isinstance(convention := plain.get("rope_convention"), dict):
            plain["rope_convention"] = from_json(RopeConvention, convention)
        try:
            return self.ours(**plain, num_classes=len(self.id2label or {}))
        except TypeError as error:
            raise ValueError(f"got a field of a wrong type ({first_line(error)}); see {self.ours.__name__}") from error

    def set_labels(self, given: dict[str, Any]) -> None:
        """Set `id2label` from whichever of num_labels, id2label and label2id are given.

        A given number replaces the labels that a file contains, as in `from_pretrained(folder, num_labels=3)`.
        """
        number = given.pop("num_labels", None)
        names: dict[Any, Any] | None = self.id2label
        numbers: dict[Any, Any] = self.label2id or {}
        if names is None and numbers:
            names = {key: name for name, key in numbers.items()}
        if names is not None and number not in (None, len(names)):
            if self.transformers_version is None:
                raise ValueError(
                    f"got num_labels={number} and {len(names)} labels; give as many labels, or leave num_labels out"
                )
            names, numbers = None, {}
        if names is None:
            count = self.default_classes() if number is None else number
            names = {index: f"LABEL_{index}" for index in range(count)}
        names = {int(key): names[key] for key in sorted(names, key=int)}
        if list(names) != list(range(len(names))):
            raise ValueError(
                f"got id2label for {join_names(map(str, names))}; expected a label for each of 0, 1, 2, ..."
            )
        if any(names.get(int(key)) != name for name, key in numbers.items()):
            raise ValueError("got id2label and label2id that contradict each other; leave label2id out")
        self.id2label = names

    @classmethod
    def default_classes(cls) -> Any:
        """Return our config's default number of classes."""
        return next(field.default for field in fields(cls.ours) if field.name == "num_classes")

    def __setattr__(self, name: str, value: Any) -> None:
        """Update `label2id` when `id2label` is set."""
        if name == "id2label" and value is not None:
            value = {int(key): label for key, label in value.items()}
            super().__setattr__("label2id", {label: key for key, label in value.items()})
        super().__setattr__(name, value)

    def to_ropevit(self) -> Config:
        """Return our own config of the same model.

        Raises:
            ValueError: If a field has been set to an invalid value.
        """
        return self.describe({name: getattr(self, name) for name in self.field_names() if hasattr(self, name)})

    @property
    def channels_by_stage(self) -> dict[str, int]:
        """Channels of each feature map of a backbone: "stem" for the embedded patches, then "stage1", ..."""
        raise NotImplementedError

    @property
    def stage_names(self) -> list[str]:
        """Names of a backbone's feature maps."""
        return list(self.channels_by_stage)

    def to_dict(self) -> dict[str, Any]:
        """Return all fields, with the rotation convention on which the weights depend."""
        return super().to_dict() | {"num_labels": self.num_labels, "convention": CONVENTION}


class RopeViTConfig(RopeConfig):
    """Config of a ViT: the fields of `ropevit.models.ViTConfig`; stage k is the feature map after k blocks."""

    model_type = "ropevit_vit"
    attribute_map: ClassVar[dict[str, str]] = _ALIASES | {
        "hidden_size": "width",
        "num_attention_heads": "heads",
        "num_hidden_layers": "depth",
    }
    ours = ViTConfig
    standard = "rope_mixed_deit_small_patch16_LS"

    @property
    def channels_by_stage(self) -> dict[str, int]:
        """Channels of each feature map, the same for all."""
        return dict.fromkeys(("stem", *(f"stage{index + 1}" for index in range(self.depth))), int(self.width))


class RopeSwinConfig(RopeConfig):
    """Config of a Swin: the fields of `ropevit.models.SwinConfig`; stage k has 2^(k-1) times the stride of a patch."""

    model_type = "ropevit_swin"
    attribute_map: ClassVar[dict[str, str]] = _ALIASES | {"embed_dim": "width", "num_heads": "heads"}
    ours = SwinConfig
    standard = "swin_rope_mixed_tiny_patch4_window7_224"

    @property
    def channels_by_stage(self) -> dict[str, int]:
        """Channels of each feature map, doubled from stage to stage."""
        return {"stem": self.width} | {f"stage{index + 1}": self.width * 2**index for index in range(len(self.depths))}

    @property
    def hidden_size(self) -> int:
        """Channels of the last stage."""
        return self.width * 2 ** (len(self.depths) - 1)


#: Architecture -> its transformers config; only these architectures are registered with transformers.
CONFIGS: dict[str, type[RopeConfig]] = {"vit": RopeViTConfig, "swin": RopeSwinConfig}


def rename(given: Mapping[str, Any], aliases: Mapping[str, str]) -> dict[str, Any]:
    """Replace transformers' names of fields by ours.

    Raises:
        ValueError: If a field is given under both names with different values.
    """
    renamed: dict[str, Any] = {}
    for name, value in given.items():
        own = aliases.get(name, name)
        if own in renamed and renamed[own] != value:
            raise ValueError(
                f"got {own}={renamed[own]} and {name}={value}, which name the same field; give one of them"
            )
        renamed[own] = value
    return renamed


def _check_spelling(given: Iterable[str], known: Sequence[str], present: Collection[str]) -> None:
    """Raise ValueError for names that are almost ours; transformers keeps all others, such as `use_cache`.

    Names that are almost those `present` are kept, too: attributes that somebody set on a config before saving it.
    """
    for name in given:
        near = get_close_matches(name, known, n=1, cutoff=0.75)
        if near and near[0] not in present and not hasattr(PreTrainedConfig, name):
            raise ValueError(f"no field named {name!r}; did you mean {near[0]}? The fields are {', '.join(known)}")


def check_convention(stored: Any) -> None:
    """Raise ValueError for weights with another rotation convention than this version's."""
    if stored != CONVENTION:
        raise ValueError(
            f"the config follows another convention ({differences(stored, CONVENTION)}); "
            "load it with the version of ropevit that wrote it"
        )
