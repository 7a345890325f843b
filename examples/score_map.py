"""Plot the effect of RoPE on attention scores: the score of a query with every patch, by position only.

All queries and keys have the same values, so scores differ by rotation only. Each panel shows one query (the cross);
for another query the pattern is shifted. Writes score_map.png, which docs/start.md shows.
"""

import torch
from matplotlib.figure import Figure

from ropevit.rope import axial_frequencies, grid_positions, mixed_frequencies, rotate

H, W, CHANNELS = 14, 20, 64
QUERIES = [(3, 3), (14, 9)]  # columns and rows of two patches
FREQUENCIES = {
    "RoPE-Axial, theta 100": axial_frequencies(CHANNELS),
    "RoPE-Mixed at initialization, theta 10": mixed_frequencies(
        CHANNELS, 1, generator=torch.Generator().manual_seed(2)
    ),
}

figure = Figure(figsize=(8, 6.3), layout="constrained")
axes = figure.subplots(len(FREQUENCIES), len(QUERIES))
content = (
    torch.ones(1, 1, H * W, CHANNELS) / CHANNELS**0.5
)  # the same for every patch: without rotation, every score is 1
for row, (name, frequencies) in zip(axes, FREQUENCIES.items(), strict=True):
    q, k = rotate(content, content, grid_positions(H, W), frequencies)
    scores = (q @ k.mT)[0, 0].unflatten(-1, (H, W))
    for panel, (x, y) in zip(row, QUERIES, strict=True):
        image = panel.imshow(scores[y * W + x], cmap="RdBu_r", vmin=-1, vmax=1)
        panel.plot(x, y, "kx", markersize=9, markeredgewidth=2)
        panel.set(title=f"{name}\nquery at column {x}, row {y}", yticks=range(0, H, 4))
        panel.set(xlabel="column of the key", ylabel="row of the key")
    first, second = scores[3 * W + 3, 5, 4], scores[9 * W + 14, 11, 15]
    # a key 1 column right and 2 rows below its query, in both panels
    print(f"{name}: the key 1 right and 2 below scores {first:.4f} for one query, {second:.4f} for the other")
figure.colorbar(image, ax=axes, label="score of equal contents (1: as without rotation)")
figure.savefig("score_map.png", dpi=120)
print("wrote score_map.png")
