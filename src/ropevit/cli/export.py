"""`ropevit export`."""

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from rich import box
from rich.table import Table

from ropevit.cli.console import Console
from ropevit.cli.errors import show_error
from ropevit.integrations.export import Difference, ExportReport, MismatchError, export_onnx, export_torch
from ropevit.integrations.export.check import TOLERANCE
from ropevit.integrations.export.files import check_target, require_onnx
from ropevit.models import Model, ViTConfig, set_scaling
from ropevit.rope.scaling import parse_override
from ropevit.tasks.classify.eval_model import config_at, known_names, read_eval_model
from ropevit.tasks.common.run_dir import Which, detect_task


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """What to export, and how."""

    out: Annotated[Path, tyro.conf.Positional]
    """File to write: .onnx or .pt2."""
    model: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
    """Name of a model; its published weights are loaded unless a checkpoint is given."""
    checkpoint: Annotated[str | None, tyro.conf.arg(metavar="FILE|DIR|HUB-ID")] = None
    """Weights, or the directory of a training or of a study's run. A file of ours knows its model and its classes: no
    --model then."""
    which: Which | None = None
    """Which weights of a directory: the best (if left out), the last, or their moving average."""
    format: Literal["onnx", "torch"] = "onnx"
    """onnx, or torch for a program of torch.export (.pt2)."""
    size: Annotated[tuple[int, ...], tyro.conf.arg(metavar="PIXELS [PIXELS]")] = ()
    """Side of the images, or height and width, to fix for a Swin: written in seconds, where any size takes a minute."""
    bake: Annotated[str | None, tyro.conf.arg(metavar="HxW")] = None
    """Fix height and width, and keep all that depends on them as constants, as TensorRT likes it."""
    scaling: str | None = None
    """Rules for images larger than the model was trained on, such as ntk or parts+log; they become part of the file."""
    int8: bool = False
    """Round linear layers to 8 bits, for CPUs (ONNX)."""
    tolerance: float = TOLERANCE
    """Largest difference from the model that is let through, over the largest output."""
    force: bool = False
    """Replace a file that is there."""

    def __post_init__(self):
        if self.model is None and self.checkpoint is None:
            raise ValueError("got neither --model nor --checkpoint; name a model (see `ropevit models`) or a file")
        if self.size and self.bake:
            raise ValueError("got --size and --bake; --bake alone gives the size")
        if len(self.size) > 2 or any(side < 1 for side in self.size):
            raise ValueError(f"got size {self.size}; expected pixels, above 0: one side, or height and width")
        if self.int8 and self.format == "torch":
            raise ValueError("got --int8 with --format torch; 8 bits are for --format onnx")
        if not self.tolerance > 0:
            raise ValueError(f"got tolerance {self.tolerance}; expected a number above 0, such as 1e-4")

    def fixed(self) -> tuple[int, int] | None:
        """Give the size that all images will have, if one is asked for."""
        if self.bake is None:
            return (self.size[0], self.size[-1]) if self.size else None
        sides = re.fullmatch(r"(\d+)x(\d+)", self.bake)
        if sides is None:
            raise ValueError(f"got --bake {self.bake}; expected height x width in pixels, such as 224x320")
        return int(sides[1]), int(sides[2])


def export(config: Annotated[ExportConfig, tyro.conf.arg(name="")]) -> None:
    """Write a model as ONNX or torch.export, for deployment, and check the file against the model.

    For example:
      ropevit export model.onnx --checkpoint runs/mine
      ropevit export model.onnx --checkpoint runs/study/runs/zoom-rope_mixed-seed0
      ropevit export model.onnx --model rope_mixed_deit_small_patch16_LS --bake 224x320
      ropevit export small.onnx --model rope_axial_deit_small_patch16_LS --int8
      ropevit export model.pt2 --model rope_axial_deit_small_patch16_LS --format torch
    """
    console, size = Console(), config.fixed()
    check_target(config.out, config.format, config.force)
    if config.format == "onnx":
        require_onnx()
    with console.status("loading the model"):
        model, facts = find(config, size)
    if size and not config.bake and isinstance(model.config, ViTConfig):
        raise ValueError(f"height and width stay free for this model; to fix them take --bake {size[0]}x{size[1]}")
    if config.scaling is not None:
        set_scaling(model, parse_override(config.scaling))
    options: dict[str, Any] = {"size": size, "bake": config.bake is not None, "overwrite": config.force, **facts}
    if config.format == "onnx":
        options["int8"] = config.int8
    write = export_onnx if config.format == "onnx" else export_torch
    try:
        with console.status("exporting, then comparing with the model"):
            report = write(model, config.out, tolerance=config.tolerance, **options)
    except MismatchError as error:
        console.print(table(error.differences, "difference from the model"))
        show_error(error)
        sys.exit(1)
    show(console, report)


def find(config: ExportConfig, size: tuple[int, int] | None) -> tuple[Model, dict[str, Any]]:
    """Load the model, and tell the names of its classes and how its pixels are normalised.

    Raises:
        ValueError: If it is none that can be exported.
    """
    kind = detect_task(config.checkpoint, config.which)
    if kind != "classifier":
        raise ValueError(
            f"{config.checkpoint} is a {kind}, and export writes classifiers; its backbone can be exported in "
            "Python: see 'Detectors and segmenters' in docs/export.md"
        )
    subject = read_eval_model(config.model, config.checkpoint, config.which)
    if subject.labels_pixels:
        raise ValueError(
            f"{config.checkpoint} labels pixels, which its study does outside the model; export a classifier"
        )
    facts = {"classes": known_names(subject), "mean": subject.mean, "std": subject.std}
    return subject.build(config_at(subject, size or ())), facts


def show(console: Console, report: ExportReport) -> None:
    """Print what was written, and how far it is from the model."""
    lines = [f"wrote {report.path}: {report.size / 1e6:.1f} MB" + (f", opset {report.opset}" if report.opset else "")]
    for kind, values in (("input", report.inputs), ("output", report.outputs)):
        lines += [f"{kind} {name}: {' x '.join(str(side) for side in shape)}" for name, shape in values.items()]
    lines.append(sizes(report))
    console.print("\n".join(lines), highlight=False, soft_wrap=True)
    console.print(table(report.differences, "difference from the model"))
    if report.int8_differences:
        console.print(table(report.int8_differences, "difference in 8 bits"))
        console.print("8 bits: measure the accuracy on your own images", style="dim", highlight=False)


def sizes(report: ExportReport) -> str:
    """Say which sizes are free, in words."""
    height, width = report.inputs["images"][2:]
    if isinstance(height, int):
        return f"free: batch; height and width are fixed to {height} x {width} pixels"
    if report.multiple == 1:
        return "free: batch, height and width"
    return f"free: batch; height and width, in multiples of {report.multiple} pixels from {2 * report.multiple} on"


def table(differences: Sequence[Difference], title: str) -> Table:
    """Lay out differences, one batch a row."""
    rows = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    rows.add_column("images")
    rows.add_column("largest", justify="right")
    rows.add_column("over the largest output", justify="right")
    for found in differences:
        shape = " x ".join(str(side) for side in found.shape)
        rows.add_row(shape, f"{found.absolute:.1e}", f"{found.relative:.1e}")
    return rows
