"""Conversion of DINO detectors between detrex checkpoints and ropevit files."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ropevit.data.coco_classes import COCO_CATEGORIES
from ropevit.data.imagenet import MEAN, STD
from ropevit.files import write_atomically
from ropevit.models.swin.variants import SIZES as SWIN_SIZES
from ropevit.models.vit.variants import SIZES as VIT_SIZES
from ropevit.tasks.detect.config import DinoConfig
from ropevit.tasks.detect.detectron2 import from_detectron2, to_detectron2, unsupported_features
from ropevit.tasks.detect.detrex import check_compatible, from_detrex, to_detrex
from ropevit.tasks.detect.model import DETECTOR, Detector, DetectorConfig
from ropevit.text import join_names
from ropevit.weights.errors import WeightsError
from ropevit.weights.loading import check_finite
from ropevit.weights.match import grouped
from ropevit.weights.parse import unwrap
from ropevit.weights.reading import Source, read_checkpoint
from ropevit.weights.saving import separate, write_safetensors

#: Entry by which a checkpoint of detrex's DINO is recognized.
_MARKER = "transformer.tgt_embed.weight"

#: Attention heads of DINO, which cannot be inferred from shapes.
HEADS = 8

SUFFIXES = {"ropevit": (".safetensors",), "detrex": (".pth", ".safetensors")}


@dataclass(frozen=True)
class ConvertedDetector:
    """Result of a conversion; `print(report)` describes it."""

    source: str
    destination: Path
    layout: tuple[str, str]
    """Source and target layout."""
    written: int
    """Number of entries in the new file."""
    config: DetectorConfig
    """Inferred config of the detector."""
    notes: list[str] = field(default_factory=list)
    """Assumptions."""
    dropped: Mapping[str, str] = field(default_factory=dict)
    """Dropped entries: name -> reason."""

    def __str__(self) -> str:
        """Describe the conversion, with assumptions and dropped entries."""
        first = f"wrote {self.written} entries to {self.destination} ({self.layout[0]} to {self.layout[1]} layout)"
        dino = self.config.dino
        model = f"  inferred: {self.config.model}, position {self.config.position}, {dino.levels} levels"
        notes = [f"  {note}" for note in self.notes]
        return "\n".join([first, f"{model}, {dino.queries} queries", *notes, *grouped(self.dropped, "dropped")])


def holds_detector(source: Source) -> bool:
    """Return whether a file holds a detector, in ropevit or detrex layout."""
    found = read_checkpoint(source)
    state = found.entries.get("model", found.entries)
    return found.metadata.get("format") == DETECTOR.format or (isinstance(state, Mapping) and _MARKER in state)


def convert_detector(
    source: str | Path, destination: Path, to: str, *, overwrite: bool = False, ema: bool = False
) -> ConvertedDetector:
    """Convert a detector between detrex and ropevit layouts, bit for bit.

    Args:
        source: Checkpoint of detrex (weights at the top or under `model`), or a ropevit file.
        destination: New file; .safetensors, or for detrex .pth, with the weights under `model`.
        to: "ropevit" or "detrex".
        overwrite: Replace an existing file.
        ema: Convert the EMA weights of the detrex checkpoint.

    Raises:
        WeightsError: If the source is unreadable or no detector, or an entry is missing, unknown or of another shape.
    """
    if to not in SUFFIXES:
        raise WeightsError(f"{source} is a detector, which the {to} layout cannot hold; choose {' or '.join(SUFFIXES)}")
    if destination.suffix not in SUFFIXES[to]:
        raise WeightsError(f"got {str(destination)!r}; a detector in {to} layout ends in {' or '.join(SUFFIXES[to])}")
    if destination.is_dir() or (destination.exists() and not overwrite):
        raise WeightsError(f"{destination} exists; choose another name, or overwrite it")
    ours = read_checkpoint(source).metadata.get("format") == DETECTOR.format
    if ours == (to == "ropevit"):
        raise WeightsError(f"{source} is in {to} layout already; choose another with --to")
    return _convert_to_detrex(source, destination) if ours else _convert_from_detrex(source, destination, ema)


def _convert_from_detrex(source: str | Path, destination: Path, ema: bool) -> ConvertedDetector:
    """Convert a detrex checkpoint to a ropevit file."""
    state, dropped = unwrap(read_checkpoint(source), ema)
    if _MARKER not in state:
        raise WeightsError(f"{source} has no {_MARKER}; expected a checkpoint of detrex's DINO")
    check_finite(state, str(source))
    prefix = "backbone."
    own = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    dino = {name: value for name, value in state.items() if not name.startswith(prefix)}
    config, classes = _infer_config(own, dino, str(source)), len(dino["label_enc.weight"])
    with torch.device("meta"):
        like = Detector(config, classes)
    ours = from_detrex(dino)
    check_compatible(like.dino, ours)
    dino = to_detrex(ours)  # writes both names of tied weights, even if the file has only one
    weights, left = from_detectron2(like.backbone, own)
    names, ids, note = class_names(classes)
    metadata = {"category_ids": ids, "mean": MEAN, "std": STD, "test_side": 800, "longest": 1333, "top": 300}
    DETECTOR.write(destination, config, names, metadata, {f"{prefix}{n}": v for n, v in weights.items()} | dino)
    notes = [f"assumed: {HEADS} heads in DINO's attention, image sizes and normalization of detrex's training", note]
    dropped |= {f"{prefix}{name}": why for name, why in left.items()}
    return ConvertedDetector(
        str(source), destination, ("detrex", "ropevit"), len(weights) + len(dino), config, notes, dropped
    )


def _convert_to_detrex(source: str | Path, destination: Path) -> ConvertedDetector:
    """Convert a ropevit file to a detrex checkpoint, with the backbone if detectron2 has an equivalent one."""
    entries, info = DETECTOR.read(source)
    with torch.device("meta"):
        backbone = Detector(info.config, len(info.classes)).backbone
    own = {n.removeprefix("backbone."): value for n, value in entries.items() if n.startswith("backbone.")}
    state = {name: value for name, value in entries.items() if not name.startswith("backbone.")}
    odd, dropped = unsupported_features(backbone.config), {}
    if odd:
        dropped = dict.fromkeys((f"backbone.{n}" for n in own), f"detectron2's backbone has no {' and no '.join(odd)}")
    else:
        state |= {f"backbone.{name}": value for name, value in to_detectron2(backbone, own).items()}
    if destination.suffix == ".safetensors":
        write_safetensors(destination, state, {"format": "pt"})
    else:
        tensors = separate(state)
        write_atomically(destination, lambda file: torch.save({"model": tensors}, file))
    notes = ["dropped: names of the classes"]
    return ConvertedDetector(str(source), destination, ("ropevit", "detrex"), len(state), info.config, notes, dropped)


def class_names(classes: int) -> tuple[Sequence[str], Sequence[int], str]:
    """Return class names, category ids and a note for a checkpoint without names: COCO's if there are 80 classes."""
    if classes == len(COCO_CATEGORIES):
        return list(COCO_CATEGORIES.values()), list(COCO_CATEGORIES), "classes: assumed to be COCO's 80"
    names = [str(number) for number in range(classes)]
    note = f"classes: named 0 to {classes - 1}, with category ids from 1, as the file has no names"
    return names, list(range(1, classes + 1)), note


def _infer_config(own: Mapping[str, Tensor], dino: Mapping[str, Tensor], source: str) -> DetectorConfig:
    """Infer the detector's config from shapes.

    Raises:
        WeightsError: If the backbone is not supported.
    """
    fields = _infer_vit_fields(own) if "net.patch_embed.proj.weight" in own else _infer_swin_fields(own)
    if fields is None:
        raise WeightsError(
            f"the backbone in {source} is not supported (it begins with {join_names(sorted(own))}); expected "
            f"detectron2's ViT of a width and depth of {list(VIT_SIZES)}, or its Swin of {list(SWIN_SIZES)}"
        )
    return DetectorConfig(**fields, init=None, dino=_infer_dino_config(dino))


def _infer_dino_config(state: Mapping[str, Tensor]) -> DinoConfig:
    """Infer DINO's config from shapes; missing entries are reported by later checks."""
    queries, width = state[_MARKER].shape
    levels = len(state["transformer.level_embeds"]) if "transformer.level_embeds" in state else 4
    layer, per_point = "transformer.encoder.layers.0", HEADS * levels * 2
    offsets = state.get(f"{layer}.attentions.0.sampling_offsets.bias", torch.empty(4 * per_point))
    mlp = state.get(f"{layer}.ffns.0.layers.0.0.bias", torch.empty(2048))
    return DinoConfig(
        queries=queries,
        width=width,
        heads=HEADS,
        levels=levels,
        points=max(1, len(offsets) // per_point),
        mlp_width=len(mlp),
        encoder_layers=count_layers(state, r"transformer\.encoder\.layers\.(\d+)\..*"),
        decoder_layers=count_layers(state, r"transformer\.decoder\.layers\.(\d+)\..*"),
    )


def _infer_vit_fields(own: Mapping[str, Tensor]) -> dict[str, Any] | None:
    """Infer the fields of a ViT; None if no ViT has this width and depth."""
    width, _, patch = own["net.patch_embed.proj.weight"].shape[:3]
    depth = count_layers(own, r"net\.blocks\.(\d+)\..*")
    size = next((name for name, (w, d, _) in VIT_SIZES.items() if (w, d) == (width, depth)), None)
    if size is None:
        return None
    fields = {"model": f"deit_{size}", "position": "ape" if "net.pos_embed" in own else "none", "layer_scale": False}
    table = own.get("net.blocks.0.attn.rel_pos_h")
    if table is not None:
        fields |= {"relative_bias": True, "window": (len(table) + 1) // 2}
    return fields | ({} if patch == 16 else {"patch_size": patch})


def _infer_swin_fields(own: Mapping[str, Tensor]) -> dict[str, Any] | None:
    """Infer the fields of a Swin; None if no Swin has this width and these depths."""
    if "patch_embed.proj.weight" not in own:
        return None
    width = len(own["patch_embed.proj.weight"])
    depths = tuple(count_layers(own, rf"layers\.{stage}\.blocks\.(\d+)\..*") for stage in range(4))
    size = next((name for name, (w, d, _) in SWIN_SIZES.items() if (w, d) == (width, depths)), None)
    table = own.get("layers.0.blocks.0.attn.relative_position_bias_table")
    if size is None or table is None:
        return None
    stages = tuple(stage for stage in range(4) if f"norm{stage}.weight" in own)
    window = (round(len(table) ** 0.5) + 1) // 2
    return {"model": f"swin_{size}", "position": "rpb", "window": window, "out_indices": stages}


def count_layers(state: Mapping[str, Tensor], pattern: str) -> int:
    """Count the distinct indices in entry names."""
    return len({match[1] for name in state if (match := re.fullmatch(pattern, name))})
