"""Options of the backbone of a detector or segmenter: its architecture and initial weights."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Annotated, Any, ClassVar

import tyro

from ropevit.models.architectures import ARCHITECTURES, Config, architecture, dense_config
from ropevit.models.registry import PUBLISHED, model_name, variant_config
from ropevit.tasks.training.config import PositionName
from ropevit.weights.fields import from_json

#: Value of `init` that stands for the published weights of the backbone's classifier.
PRETRAINED = "published"

#: Type of the option for the side of attention windows, with its name in timm and on the command line.
AttentionWindow = Annotated[int | None, tyro.conf.arg(name="window-size")]


@dataclass(frozen=True, kw_only=True)
class BackboneOptions:
    """Base class of the options of detectors and segmenters, which add those of the head."""

    stored_names: ClassVar[Mapping[str, str]] = {}
    """Field -> its name in checkpoints and in config.json, if that differs."""
    model: str = "deit_base"
    """deit_tiny, deit_small, deit_base, deit_large, swin_tiny, swin_small or swin_base; or, with its own position
    embedding, another name of `ropevit models`, such as dinov3_vitb16."""
    position: PositionName = "rope_mixed"
    drop_path: float = 0.0
    """Rate of stochastic depth in the last block of the backbone, growing linearly from 0 in the first."""
    width: int | None = None
    """Embedding dimension; this and the next three replace those of the named model."""
    depth: int | None = None
    """Number of blocks."""
    heads: int | None = None
    """Number of attention heads."""
    patch_size: int | None = None
    """Side of a patch in pixels."""
    window: AttentionWindow = None
    """Side of an attention window in tokens."""
    init: Annotated[str | None, tyro.conf.arg(name="init-from")] = PRETRAINED
    """Weights to start from: of a classifier for the backbone, or of a whole model of the same task, as a file or a hub
    id; `published` takes those of the named classifier, None initializes at random."""

    def to_dict(self) -> dict[str, Any]:
        """Return the options by their names in files."""
        return {self.stored_names.get(name, name): value for name, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, stored: object) -> Any:
        """Build the options from JSON that `to_dict` wrote.

        Raises:
            ValueError: If a field is unknown or missing, a value has a wrong type, or the options do not fit together.
        """
        known = {stored_name: name for name, stored_name in cls.stored_names.items()}
        if isinstance(stored, dict):
            if unknown := sorted(stored.keys() & cls.stored_names.keys()):
                raise ValueError(f"it has unknown fields {unknown}")
            stored = {known.get(name, name): value for name, value in stored.items()}
        return from_json(cls, stored)

    def has_field(self, name: str) -> bool:
        """Return whether the config of the backbone, or of its body, has a field."""
        body = self.body_config()
        kind = ARCHITECTURES[architecture(body)].dense_config or type(dense_config(body))
        return name in {field.name for field in (*fields(kind), *fields(body))}

    @property
    def has_pyramid(self) -> bool:
        """Whether feature maps come from tokens of one stride by a feature pyramid (ViTDet), not from stages (Swin)."""
        return self.has_field("pyramid")

    def body_config(self) -> Config:
        """Return the config of the classifier whose body the backbone takes.

        Raises:
            ValueError: If there is no such model or option.
        """
        names = ("width", "depth", "heads", "patch_size")
        changes = {name: value for name in names if (value := getattr(self, name)) is not None}
        config = variant_config(self.model, self.position)
        if config.is_other_family and self.window is not None:
            raise ValueError(
                f"got window={self.window} (--window-size) for {self.model}, which attends to class token and "
                "registers, in no windows: leave it out"
            )
        if config.windowed and self.window is not None:
            changes["window_size"] = self.window
        changes = {"drop_path": self.drop_path, **config.dense_fields, **changes}
        return variant_config(self.model, self.position, **changes)

    def init_source(self) -> str | None:
        """Return the file or published name of the initial weights; None for random initialization.

        Raises:
            ValueError: If published weights are requested, but there are none.
        """
        if self.init != PRETRAINED:
            return self.init
        name = model_name(self.model, self.position)
        if name not in PUBLISHED:
            raise ValueError(
                f"{name} has no published weights; give a checkpoint as init (--init-from FILE), or None for random "
                "initialization"
            )
        return name
