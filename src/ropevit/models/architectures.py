"""Registry of architectures: one row each, which defines model names, weights, evaluation and dense backbones."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ropevit.models.backbone import Backbone
from ropevit.models.base import BaseModel
from ropevit.models.config import ModelConfig, Variant
from ropevit.models.dense import DenseSwin, DenseSwinConfig, DenseViT, DenseViTConfig
from ropevit.models.state_dict import StateDictAdapter
from ropevit.models.swin import Swin, SwinConfig
from ropevit.models.swin import variants as swin_variants
from ropevit.models.swin import weights as swin_weights
from ropevit.models.vit import ViT, ViTConfig
from ropevit.models.vit import variants as vit_variants
from ropevit.models.vit import weights as vit_weights
from ropevit.models.vit.families import FAMILY_VARIANTS
from ropevit.models.vit.unsupported import UNSUPPORTED

Config = ModelConfig
Model = BaseModel


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """Registry entry of an architecture."""

    label: str
    """Name of a model in messages, such as "a ViT"."""
    config: type[ModelConfig]
    model: type[BaseModel[Any]]
    """Built from a config alone."""
    weights: StateDictAdapter
    """Reads and writes its state dicts."""
    unsupported: Mapping[str, str] = field(default_factory=dict)
    """Pattern of names of models in other libraries -> why they are not built under these."""
    variants: Mapping[str, Variant] = field(default_factory=dict)
    """Sizes by name, such as deit_small; their models can be created by name."""
    dense_config: type[Any] | None = None
    """Config of its backbone for dense tasks: its `body` is a `config`; it has the `strides` of its maps, and
    whether all blocks attend globally (`attends_everywhere`). One with a field `pyramid` is plain, as a ViT: segmenters
    choose its `out_indices`."""
    dense_backbone: type[Backbone[Any]] | None = None
    """Built from a `dense_config` alone."""


#: name -> its row; the name is written into checkpoints.
ARCHITECTURES: dict[str, Architecture] = {}

#: Every model by name: those of all variants.
MODELS: dict[str, ModelConfig] = {}

#: Name of a size of an architecture, such as deit_small -> the name of the architecture, and the variant.
VARIANTS: dict[str, tuple[str, Variant]] = {}

#: Name of a model whose weights are on the hub -> its hub id.
PUBLISHED: dict[str, str] = {}


def register_architecture(name: str, row: Architecture) -> None:
    """Add an architecture, also from outside the package; its models can then be listed, created, saved and loaded.

    Args:
        name: Its name, which files of its models keep.
        row: The architecture.

    Raises:
        ValueError: If the name, or one of a variant or model, is taken, or published weights have no hub account.
    """
    models = {
        model: row.config(position=position, **variant.fields)
        for variant in row.variants.values()
        for position, model in variant.names.items()
    }
    taken = ({name} & {*ARCHITECTURES}) | (models.keys() & MODELS.keys()) | (row.variants.keys() & VARIANTS.keys())
    if taken:
        raise ValueError(f"got {', '.join(sorted(taken))} for the architecture {name}, already registered; rename it")
    unplaced = [size for size, variant in row.variants.items() if variant.published and variant.hub is None]
    if unplaced:
        raise ValueError(f"got published weights of {unplaced[0]} without their account on the hub; add hub= to it")
    ARCHITECTURES[name] = row
    MODELS.update(models)
    VARIANTS.update({size: (name, variant) for size, variant in row.variants.items()})
    for variant in row.variants.values():
        published = [variant.names[position] for position in variant.published]
        tag = "" if variant.tag is None else f".{variant.tag}"
        PUBLISHED.update({model: f"{variant.hub}/{model}{tag}" for model in published})


def architecture(config: ModelConfig) -> str:
    """Return the name of the architecture of a config.

    Raises:
        ValueError: If it is not registered.
    """
    name = next((name for name, row in ARCHITECTURES.items() if type(config) is row.config), None)
    if name is None:
        raise ValueError(
            f"got a {type(config).__name__}, the config of no registered architecture ({', '.join(ARCHITECTURES)}); "
            "call ropevit.models.register_architecture first"
        )
    return name


def build_model(config: ModelConfig) -> Model:
    """Build the model that a config describes."""
    return ARCHITECTURES[architecture(config)].model(config)


def dense_config(body: ModelConfig, **fields: Any) -> Any:
    """Return the config of the dense backbone with a body.

    Args:
        body: Config of the classifier.
        fields: Other fields of the backbone's config.

    Raises:
        ValueError: If its architecture has no dense backbone, or the fields do not fit.
    """
    row = ARCHITECTURES[architecture(body)]
    if row.dense_config is None:
        raise ValueError(f"got {row.label} as the body of a dense backbone, which its architecture does not have")
    return row.dense_config(body=body, **fields)


def build_backbone(config: Any) -> Backbone[Any]:
    """Build the dense backbone that a config describes.

    Raises:
        ValueError: If no registered architecture has such a backbone.
    """
    for row in ARCHITECTURES.values():
        if row.dense_config is type(config) and row.dense_backbone is not None:
            return row.dense_backbone(config)
    raise ValueError(f"got a {type(config).__name__}, the config of no registered dense backbone")


register_architecture(
    "vit",
    Architecture(
        label="a ViT",
        config=ViTConfig,
        model=ViT,
        weights=vit_weights.ADAPTER,
        unsupported=UNSUPPORTED,
        variants=vit_variants.VARIANTS | FAMILY_VARIANTS,
        dense_config=DenseViTConfig,
        dense_backbone=DenseViT,
    ),
)
register_architecture(
    "swin",
    Architecture(
        label="a Swin",
        config=SwinConfig,
        model=Swin,
        weights=swin_weights.ADAPTER,
        variants=swin_variants.VARIANTS,
        dense_config=DenseSwinConfig,
        dense_backbone=DenseSwin,
    ),
)
