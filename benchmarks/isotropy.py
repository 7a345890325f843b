"""Isotropy of the frequencies of each rope type: second moments of their vectors, computed from the formulas.

    python benchmarks/isotropy.py    # print the table of docs/scaling.md

A pair has the vector f = (f_x, f_y) in radians per patch. Where the mean of f f^T over the pairs is a multiple of the
identity, its two eigenvalues are equal, and no direction is resolved better than another. Evenly spread
directions do not suffice: fast pairs count more than slow ones. Printed for the least isotropic head, and for all heads
together.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from jaxtyping import Float
from pooled import table
from torch import Tensor

from ropevit.rope import ROPE_TYPES, FixedRope, PolarRope, axial_frequencies, mixed_frequencies

HEADS = 2
CHANNELS = (32, 64)


class Moment(NamedTuple):
    """Distribution of the frequency vectors of some pairs."""

    x: float
    """Largest |f_x| in radians per patch."""
    y: float
    """Largest |f_y|."""
    slowest: float
    """Smallest speed above 0."""
    large: float
    """Larger eigenvalue of the mean of f f^T."""
    small: float
    """Smaller eigenvalue."""

    @property
    def ratio(self) -> float:
        """Larger over smaller eigenvalue; 1 where no direction is preferred."""
        return self.large / self.small


def moment(frequencies: Float[Tensor, "2 P"]) -> Moment:
    """Compute the moment of the frequencies of a head."""
    vectors = frequencies.double()
    small, large = torch.linalg.eigvalsh(vectors @ vectors.T / vectors.shape[1]).tolist()
    speed = vectors.norm(dim=0)
    x, y = vectors.abs().amax(1).tolist()
    return Moment(x, y, speed[speed > 0].min().item(), large, small)


def initial_frequencies(channels: int) -> Iterator[tuple[str, float, Float[Tensor, "2 A P"]]]:
    """Yield the name of every rope type, its base theta, and its initial frequencies in a ViT, in radians per patch."""
    for name, theta in ((name, rope_type.theta) for name, rope_type in ROPE_TYPES.items()):
        if name == "axial":
            yield name, theta, axial_frequencies(channels, theta).unsqueeze(1)
        elif name == "mixed":
            yield name, theta, mixed_frequencies(channels, HEADS, theta, generator=torch.Generator().manual_seed(0))
        elif name == "polar":
            yield name, theta, PolarRope(channels, HEADS, theta).freqs.detach()
        else:
            found = FixedRope(name, channels, HEADS, theta).frequencies()
            yield name, theta, found if found.ndim == 3 else found.unsqueeze(1)


def moment_table() -> list[str]:
    """Return the table of moments, for the head sizes of the study and of the published models."""
    rows = []
    for channels in CHANNELS:
        for name, theta, frequencies in initial_frequencies(channels):
            worst = max((moment(head) for head in frequencies.unbind(1)), key=lambda each: each.ratio)
            whole = moment(frequencies.flatten(1))
            cells = [f"{theta:g}", f"{worst.slowest:.3f}", f"{worst.x:.2f}", f"{worst.y:.2f}"]
            cells += [f"{worst.large:.3f}", f"{worst.small:.3f}", f"{worst.ratio:.2f}", f"{whole.ratio:.2f}"]
            rows.append([str(channels), f"`rope_{name}`", *cells])
    head = ["channels per head", "position", "theta", "slowest", "largest x", "largest y"]
    return table([*head, "eigenvalue", "the other", "ratio, a head", "ratio, all heads"], rows)


def tables() -> Iterator[tuple[str, list[str]]]:
    """Yield the page of the table, and its lines."""
    yield "docs/scaling.md", moment_table()


def main() -> None:
    """Print the table."""
    for page, lines in tables():
        print(f"{page}:\n", *lines, "", sep="\n")


if __name__ == "__main__":
    main()
