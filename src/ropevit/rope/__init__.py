"""Rotary position embedding: the maths, on torch alone.

>>> q, k = rotate(q, k, grid_positions(h, w), axial_frequencies(64), num_prefix_tokens=1)
"""

from ropevit.rope.biases import DistanceBias
from ropevit.rope.convention import ROPE_FAMILIES, RopeConvention, RopeFamily
from ropevit.rope.directions import (
    golden_frequencies,
    polar_frequencies,
    simplex_frequencies,
    spiral_frequencies,
    star_frequencies,
)
from ropevit.rope.frequencies import axial_frequencies, mixed_frequencies, pairs_per_axis, random_directions
from ropevit.rope.grid import crop_positions, grid_positions, kept_positions, packed_positions, window_positions
from ropevit.rope.layers import AxialRope, FixedRope, GatedAxialRope, LearnedRope, MixedRope, PolarRope, Rope
from ropevit.rope.rotation import CosSin, apply_rotary, rotary_cos_sin, rotate, rotation_angles
from ropevit.rope.types import (
    DISTANCE_BIAS_TYPES,
    ROPE_TYPES,
    DistanceBiasType,
    DistanceSpec,
    RopeSpec,
    RopeType,
    register_distance_bias_type,
    register_rope_type,
)

#: Conventions that published weights depend on; written into every checkpoint of this package and compared on loading.
CONVENTION = {
    "tokens": "row-major",
    "positions": "integers from the top-left patch, x (column) then y (row)",
    "pairs": "channels 2p and 2p+1, turned by +angle",
    "axial": "first half of the pairs turns with x, second half with y",
    "prefix": "class and register tokens are not turned",
}

__all__ = [
    "CONVENTION",
    "DISTANCE_BIAS_TYPES",
    "ROPE_FAMILIES",
    "ROPE_TYPES",
    "AxialRope",
    "CosSin",
    "DistanceBias",
    "DistanceBiasType",
    "DistanceSpec",
    "FixedRope",
    "GatedAxialRope",
    "LearnedRope",
    "MixedRope",
    "PolarRope",
    "Rope",
    "RopeConvention",
    "RopeFamily",
    "RopeSpec",
    "RopeType",
    "apply_rotary",
    "axial_frequencies",
    "crop_positions",
    "golden_frequencies",
    "grid_positions",
    "kept_positions",
    "mixed_frequencies",
    "packed_positions",
    "pairs_per_axis",
    "polar_frequencies",
    "random_directions",
    "register_distance_bias_type",
    "register_rope_type",
    "rotary_cos_sin",
    "rotate",
    "rotation_angles",
    "simplex_frequencies",
    "spiral_frequencies",
    "star_frequencies",
    "window_positions",
]
