"""Draws docs/figures/architecture.svg: the packages by layer, and the path of `ropevit eval` through them."""

from itertools import pairwise
from pathlib import Path
from xml.sax.saxutils import escape

WIDTH, TOP, GAP = 1000, 92, 12
LEFT, MIDDLE, RIGHT = 20, 500, 980  # packages from LEFT to MIDDLE - 20, steps from MIDDLE + 30 to RIGHT
LINE = 17
INK, GRAY, BLUE, ORANGE = "#1b1f24", "#57606a", "#0072b2", "#b35900"

#: Layers from the top: name, what it holds, what is registered there, and the steps of the call in it.
LAYERS = (
    (
        "cli",
        ["one module a verb: parse, call, print"],
        "",
        ["cli/eval.py reads the options into an EvalConfig"],
    ),
    (
        "study",
        ["trains one model with each position embedding", "and compares them"],
        "",
        [],
    ),
    (
        "tasks",
        [
            "classify, detect, segment: recipes, losses, metrics",
            "dense: what detect and segment share",
            "common: engine, files, distributed, evaluation",
        ],
        "TASKS",
        [
            "tasks/evaluate.py finds the task of the checkpoint",
            "the task's evaluate.py prepares model and data",
            "tasks/evaluation/loop.py evaluates each size",
            "and writes eval.csv, eval.json and curve.png",
        ],
    ),
    (
        "weights",
        ["checkpoints of any layout, in and out", "read, parse, infer, match, load"],
        "",
        ["read the file, parse its layout, infer the model,", "match names and shapes, load all or nothing"],
    ),
    (
        "models",
        ["vit, swin: config, model, dense backbone", "shared layers, position embeddings, model names"],
        "ARCHITECTURES",
        ["build_model(config), then forward(images):", "every attention layer asks for a rotation"],
    ),
    (
        "kernels",
        ["rotation and window attention, fused", "cpu (C), triton (GPU), reference (PyTorch)"],
        "BACKENDS",
        ["rotate_qkv checks shapes, chooses a backend,", "and rotates queries and keys in place"],
    ),
    (
        "rope",
        ["the maths on torch alone: positions, frequencies,", "rotation, scaling methods"],
        "ROPE_TYPES",
        ["frequencies x positions = angles; their cos and sin", "rotate each pair of channels"],
    ),
)

#: Packages beside the layers: name and what it holds.
BESIDE = (
    ("data", "folders, shards, COCO, ADE20K"),
    ("analysis", "figures; registry: FIGURES"),
    ("integrations", "timm, transformers, ONNX, ..."),
    ("bench", "speed against other libraries"),
)


def text(x: float, y: float, words: str, size: int = 13, color: str = INK, extra: str = "") -> str:
    """Place a line of text."""
    return f'<text x="{x:g}" y="{y:g}" font-size="{size}" fill="{color}" {extra}>{escape(words)}</text>'


def box(x: float, y: float, width: float, height: float, fill: str, stroke: str = "#d0d7de") -> str:
    """Place a rounded rectangle."""
    return f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="8" fill="{fill}" stroke="{stroke}"/>'


def draw() -> str:
    """Return the picture as SVG; its own white ground makes it readable on light and dark pages."""
    parts, y, arrow, number = [], TOP, [], 0
    bold = 'font-weight="bold"'
    for name, held, registry, steps in LAYERS:
        height = 20 + LINE * max(len(held) + bool(registry), len(steps), 1) + 6
        parts.append(box(LEFT, y, MIDDLE - 20 - LEFT, height, "#f6f8fa"))
        parts.append(text(LEFT + 16, y + 27, name, 16, extra=bold))
        for row, line in enumerate(held):
            parts.append(text(LEFT + 110, y + 26 + LINE * row, line))
        if registry:
            parts.append(text(LEFT + 110, y + 26 + LINE * len(held), f"registry: {registry}", color=BLUE, extra=bold))
        if steps:
            number += 1
            parts.append(box(MIDDLE + 30, y, RIGHT - MIDDLE - 30, height, "#fff8f0", "#f0c090"))
            parts.append(f'<circle cx="{MIDDLE + 52}" cy="{y + 22}" r="11" fill="{ORANGE}"/>')
            parts.append(text(MIDDLE + 52, y + 26.5, str(number), 13, "#ffffff", f'text-anchor="middle" {bold}'))
            for row, line in enumerate(steps):
                parts.append(text(MIDDLE + 72, y + 26 + LINE * row, line))
            arrow.append((y, y + height))
        y += height + GAP
    for (_, above), (below, _) in pairwise(arrow):
        parts.append(
            f'<line x1="{MIDDLE + 52}" x2="{MIDDLE + 52}" y1="{above}" y2="{below - 2}" stroke="{ORANGE}" '
            'stroke-width="2" marker-end="url(#head)"/>'
        )
    parts.append(text(LEFT + 16, y + 14, "beside the layers", 13, GRAY))
    width = (RIGHT - LEFT - 3 * GAP) / len(BESIDE)
    for index, (name, held) in enumerate(BESIDE):
        x = LEFT + index * (width + GAP)
        parts.append(box(x, y + 24, width, 54, "#f6f8fa"))
        parts += [text(x + 12, y + 46, name, 15, extra=bold), text(x + 12, y + 66, held, 12)]
    height = y + 96
    head = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
        'font-family="system-ui, Segoe UI, Helvetica, Arial, sans-serif" role="img">',
        "<title>Packages of ropevit by layer, and the path of ropevit eval through them</title>",
        f'<defs><marker id="head" viewBox="0 0 8 8" refX="6" refY="4" markerWidth="6" markerHeight="6" orient="auto">'
        f'<path d="M0 0 8 4 0 8z" fill="{ORANGE}"/></marker></defs>',
        f'<rect width="{WIDTH}" height="{height}" rx="12" fill="#ffffff"/>',
        text(LEFT, 40, "Packages import from lower layers only", 18, extra=bold),
        text(LEFT, 66, "blue: registries, which take entries from outside the package", 13, BLUE),
        text(MIDDLE + 30, 40, "One call, from command line to kernel", 18, extra=bold),
        text(MIDDLE + 30, 66, "ropevit eval --checkpoint runs/fashion --data fashion", 13, ORANGE),
    ]
    return "\n".join([*head, *parts, "</svg>\n"])


if __name__ == "__main__":
    Path(__file__).with_suffix(".svg").write_text(draw(), encoding="utf-8")
