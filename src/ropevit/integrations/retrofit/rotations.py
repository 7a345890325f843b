"""How the rotary embeddings of timm and transformers rotate, read from their attributes; neither is imported."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from ropevit.rope import RopeConvention, axial_frequencies
from ropevit.rope.convention import Axes, Coordinates
from ropevit.rope.scaling import CoordinateJitter


class Rotation(NamedTuple):
    """Rotation of a rotary embedding of another library."""

    convention: RopeConvention
    """How it makes positions and pairs."""
    channels: int
    """Channels per head, D."""
    theta: float | None
    """Base of the frequencies; None if they are learned, in `freqs`."""
    augmentation: CoordinateJitter | None
    """Its own augmentation of coordinates in training, if any."""

    def frequencies(self, rope: Any, device: torch.device | str) -> Float[Tensor, "2 *A P"]:
        """Return the frequencies in our order, x first: (2, P), or those of all heads of all layers if learned."""
        if self.theta is not None:
            return axial_frequencies(self.channels, self.theta, device=device)
        learned = rope.freqs.float().flatten(1, 2)
        return learned if rope.grid_indexing == "xy" else learned.flip(0)


def read_rotation(rope: Any, full_name: str) -> Rotation:
    """Read how a rotary embedding rotates.

    Args:
        rope: Module of another library.
        full_name: Full name of its class.

    Raises:
        ValueError: If the class or an option of it is not supported.
    """
    if full_name not in _READERS:
        known = ", ".join(name.split(".")[-1] for name in _READERS)
        raise ValueError(f"got a rotation by {type(rope).__name__}; set_scaling knows those by {known}")
    return _READERS[full_name](rope)


#: timm's order of the axes of coordinates -> ours.
_AXES: dict[str, Axes] = {"ij": "yx", "xy": "xy"}

#: timm's side by which coordinates are divided -> ours.
_SIDES: dict[str, Coordinates] = {"separate": "each_side", "max": "longer_side", "min": "shorter_side"}


def _read_cat(rope: Any) -> Rotation:
    """Read timm's axial rotation: patch indices, perhaps rescaled to a reference grid."""
    if rope.grid_type != "index" or rope.in_pixels:
        raise ValueError(
            f"got a rotation with grid_type={rope.grid_type!r}, in_pixels={rope.in_pixels}; set_scaling needs "
            "frequencies over patch indices (grid_type='index', in_pixels=False)"
        )
    reference = None if rope.ref_feat_shape is None else tuple(rope.ref_feat_shape)
    convention = RopeConvention(
        axes=_AXES[rope.grid_indexing],
        pairs="halves" if rope.rotate_half else "interleaved",
        coordinates="index" if reference is None else "reference",
        offset=float(rope.grid_offset),
        reference_grid=reference,
    )
    augmentation = _augmentation(rope.shift_coords, rope.jitter_coords, rope.rescale_coords, centered=False)
    return Rotation(convention, rope.dim, float(rope.temperature), augmentation)


def _read_mixed(rope: Any) -> Rotation:
    """Read timm's learned rotation: one set of frequencies for each layer and head, over patch indices."""
    augmentation = _augmentation(rope.shift_coords, rope.jitter_coords, rope.rescale_coords, centered=False)
    return Rotation(RopeConvention(), rope.dim // rope.num_heads, None, augmentation)


def _read_dinov3(rope: Any) -> Rotation:
    """Read timm's rotation of DINOv3: patch centers from -1 to 1."""
    if rope.temperature is None:
        raise ValueError("got a rotation with min_period and max_period; set_scaling needs one with a temperature")
    convention = RopeConvention(
        axes=_AXES[rope.grid_indexing],
        pairs="halves" if rope.rotate_half else "interleaved",
        coordinates=_SIDES[rope.normalize_coords],
        offset=float(rope.grid_offset),
    )
    centered = rope.normalize_coords == "separate"
    augmentation = _augmentation(rope.shift_coords, rope.jitter_coords, rope.rescale_coords, centered=centered)
    return Rotation(convention, rope.dim, rope.temperature, augmentation)


def _read_transformers(rope: Any) -> Rotation:
    """Read the rotation of transformers' DINOv3."""
    config = rope.config
    convention = RopeConvention(axes="yx", pairs="halves", coordinates="each_side")
    given = config.pos_embed_shift, config.pos_embed_jitter, config.pos_embed_rescale
    return Rotation(convention, rope.head_dim, rope.base, _augmentation(*given, centered=True))


def _augmentation(
    shift: float | None, jitter: float | None, rescale: float | None, *, centered: bool
) -> CoordinateJitter | None:
    """Return an augmentation of coordinates as ours; it is the same one in patches.

    Args:
        shift: Largest shift, in units of the coordinates.
        jitter: Largest stretch of an axis.
        rescale: Largest scale of both axes.
        centered: Whether the coordinates are from -1 to 1 along each side.

    Raises:
        ValueError: If there is a shift in units that ours does not have.
    """
    if shift and not centered:
        raise ValueError(
            f"got a rotation with rope_shift_coords={shift}, in units of its coordinates; set_scaling needs one "
            "without: build the model with rope_shift_coords=None, and add jitter(shift=...) to the scaling"
        )
    found = CoordinateJitter(shift or 0.0, jitter or 1.0, rescale or 1.0)
    return None if found.is_identity else found


#: Full name of a class of rotary embeddings -> function that reads it.
_READERS: dict[str, Callable[[Any], Rotation]] = {
    "timm.layers.pos_embed_sincos.RotaryEmbeddingCat": _read_cat,
    "timm.layers.pos_embed_sincos.RotaryEmbeddingMixed": _read_mixed,
    "timm.layers.pos_embed_sincos.RotaryEmbeddingDinoV3": _read_dinov3,
    "transformers.models.dinov3_vit.modeling_dinov3_vit.DINOv3ViTRopePositionEmbedding": _read_transformers,
}
