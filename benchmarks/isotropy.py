"""Do the frequencies of a rotation tell x from y? The second moment of their vectors, from the formulas alone.

    python benchmarks/isotropy.py    # print the table of docs/scaling.md

A pair has the vector f = (f_x, f_y) in radians a patch. Where the mean of f f^T over the pairs is a multiple of the
identity, its two eigenvalues are equal, and no direction is resolved better than another. Unit directions that are
spread evenly do not suffice: fast pairs count more than slow ones. Printed for one head, the least even one, and for
all heads together.
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
    """How the frequencies of some pairs lie in the plane."""

    x: float
    """Largest |f_x|, radians a patch."""
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
    """Measure the frequencies of a head."""
    vectors = frequencies.double()
    small, large = torch.linalg.eigvalsh(vectors @ vectors.T / vectors.shape[1]).tolist()
    speed = vectors.norm(dim=0)
    x, y = vectors.abs().amax(1).tolist()
    return Moment(x, y, speed[speed > 0].min().item(), large, small)


def families(channels: int) -> Iterator[tuple[str, float, Float[Tensor, "2 A P"]]]:
    """Name every rotation as a ViT starts it, its base theta, and its frequencies in radians a patch."""
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
    """Print every rotation's moment, at the size of head of the study and of the published models."""
    rows = []
    for channels in CHANNELS:
        for name, theta, frequencies in families(channels):
            worst = max((moment(head) for head in frequencies.unbind(1)), key=lambda each: each.ratio)
            whole = moment(frequencies.flatten(1))
            cells = [f"{theta:g}", f"{worst.slowest:.3f}", f"{worst.x:.2f}", f"{worst.y:.2f}"]
            cells += [f"{worst.large:.3f}", f"{worst.small:.3f}", f"{worst.ratio:.2f}", f"{whole.ratio:.2f}"]
            rows.append([str(channels), f"`rope_{name}`", *cells])
    head = ["channels a head", "position", "theta", "slowest", "largest x", "largest y"]
    return table([*head, "eigenvalue", "the other", "ratio, a head", "ratio, all heads"], rows)


def tables() -> Iterator[tuple[str, list[str]]]:
    """Name the page of the table, and lay it out."""
    yield "docs/scaling.md", moment_table()


def main() -> None:
    """Print the table."""
    for page, lines in tables():
        print(f"{page}:\n", *lines, "", sep="\n")


if __name__ == "__main__":
    main()
