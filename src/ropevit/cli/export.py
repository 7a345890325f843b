"""`ropevit export`: a classifier, a detector or a segmenter as ONNX file or torch.export program."""

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from rich import box
from rich.table import Table

from ropevit.cli.console import Console, print_line
from ropevit.cli.errors import show_error
from ropevit.integrations.export import Difference, ExportReport, MismatchError, export_onnx, export_torch
from ropevit.integrations.export.check import TOLERANCE
from ropevit.integrations.export.files import check_target, require_onnx
from ropevit.models import Model, set_scaling
from ropevit.models.exportable import ExportModel
from ropevit.tasks.classify.eval_model import config_at, known_names, read_eval_model, scaling_for
from ropevit.tasks.registry import CLASSIFY, TASKS
from ropevit.tasks.runs.run_dir import WeightsChoice, task_of_checkpoint, weights_file


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """Model, format and checks of an export."""

    out: Annotated[Path, tyro.conf.Positional]
    """Output file: .onnx or .pt2."""
    model: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
    """Classifier by name (see `ropevit models`), or a variant such as deit_small (with its original position
    embedding). Loads the published weights unless --checkpoint is given."""
    checkpoint: Annotated[str | None, tyro.conf.arg(metavar="FILE|DIR|HUB-ID")] = None
    """Weights: a file or hub id in any known layout, or the directory of a training run or of a study's run. ropevit's
    own files define the model and its classes: omit --model then."""
    weights: WeightsChoice | None = None
    """Which weights in the directory of a training run: best (default), last, or ema (their moving average)."""
    format: Literal["onnx", "torch"] = "onnx"
    """onnx, or torch (a torch.export program, .pt2)."""
    size: Annotated[tuple[int, ...], tyro.conf.arg(metavar="PIXELS [PIXELS]")] = ()
    """Fixed image size (side, or height and width) of a Swin: seconds to export, instead of a minute for any size."""
    static_size: Annotated[str | None, tyro.conf.arg(metavar="HxW")] = None
    """Fix height and width, and fold everything that depends on them into constants, for TensorRT."""
    scaling: str | None = None
    """RoPE scaling methods for images larger than in training, such as ntk or parts+log; stored in the file. `auto`
    is what `ropevit tune-scaling` chose."""
    int8: bool = False
    """Quantize linear layers to int8, for CPUs (ONNX)."""
    tolerance: float = TOLERANCE
    """Largest accepted difference from the model, relative to the largest output."""
    overwrite: bool = False
    """Replace an existing file."""

    def __post_init__(self):
        if self.model is None and self.checkpoint is None:
            raise ValueError("got neither --model nor --checkpoint; give a model (see `ropevit models`) or a file")
        if self.size and self.static_size:
            raise ValueError("got --size and --static-size; --static-size already sets the size: omit --size")
        if len(self.size) > 2 or any(side < 1 for side in self.size):
            raise ValueError(
                f"got size {self.size}; expected one or two numbers of pixels above 0: the side, or height and width"
            )
        if self.int8 and self.format == "torch":
            raise ValueError("got --int8 with --format torch; int8 is for --format onnx")
        if not self.tolerance > 0:
            raise ValueError(f"got tolerance {self.tolerance}; expected a number above 0, such as 1e-4")

    def fixed_size(self) -> tuple[int, int] | None:
        """Return height and width if they are fixed."""
        if self.static_size is None:
            return (self.size[0], self.size[-1]) if self.size else None
        sides = re.fullmatch(r"(\d+)x(\d+)", self.static_size)
        if sides is None:
            raise ValueError(
                f"got --static-size {self.static_size}; expected height x width in pixels, such as 224x320"
            )
        return int(sides[1]), int(sides[2])


def export(config: Annotated[ExportConfig, tyro.conf.arg(name="")]) -> None:
    """Export a model as ONNX or torch.export program, and compare its outputs with the model's.

    Segmenters return label maps and logits, detectors boxes, scores and labels. Their files pad images of any size.

    For example:
      ropevit export model.onnx --checkpoint runs/mine
      ropevit export segmenter.onnx --checkpoint runs/segmenter
      ropevit export detector.onnx --checkpoint runs/detector
      ropevit export model.onnx --checkpoint runs/study/runs/zoom-rope_mixed-seed0
      ropevit export model.onnx --model rope_mixed_deit_small_patch16_LS --static-size 224x320
      ropevit export small.onnx --model rope_axial_deit_small_patch16_LS --int8
      ropevit export model.pt2 --model rope_axial_deit_small_patch16_LS --format torch
    """
    console, size = Console(), config.fixed_size()
    check_target(config.out, config.format, config.overwrite)
    if config.format == "onnx":
        require_onnx()
    with console.status("loading the model"):
        task = task_of_checkpoint(config.checkpoint, config.weights)
        load = _load_classifier if task is TASKS[CLASSIFY] else _load_dense
        model, facts = load(config, size, console)
    if size and not config.static_size and not isinstance(model, ExportModel) and not model.config.windowed:
        raise ValueError(f"the size of a ViT is dynamic; to fix it use --static-size {size[0]}x{size[1]}")
    options: dict[str, Any] = {
        "size": size,
        "fold_constants": config.static_size is not None,
        "overwrite": config.overwrite,
        **facts,
    }
    if config.format == "onnx":
        options["int8"] = config.int8
    write = export_onnx if config.format == "onnx" else export_torch
    try:
        with console.status("exporting, then comparing with the model"):
            report = write(model, config.out, tolerance=config.tolerance, **options)
    except MismatchError as error:
        console.print(difference_table(error.differences, "difference from the model"))
        show_error(error)
        sys.exit(1)
    print_report(console, report)


def _load_dense(
    config: ExportConfig,
    size: tuple[int, int] | None,
    console: Console,
) -> tuple[ExportModel, dict[str, Any]]:
    """Load a model of another task than classification, which knows its own metadata.

    Raises:
        ValueError: If an option does not apply to it.
    """
    task = task_of_checkpoint(config.checkpoint, config.weights)
    if task.export is None:
        raise ValueError(f"{config.checkpoint} is a {task.noun}, whose task defines no export (TaskSpec.export)")
    if config.model is not None:
        raise ValueError(f"got --model with a {task.noun}, whose file holds the config of its model: leave it out")
    if size or config.int8:
        name = "--int8" if config.int8 else "--static-size" if config.static_size else "--size"
        raise ValueError(f"got {name} with a {task.noun}; it is for classifiers: leave it out")
    if config.scaling is not None and "scaling" not in task.predict_options:
        reason = task.eval_refused.get("scaling", "it has no RoPE scaling")
        raise ValueError(f"got --scaling with a {task.noun}: {reason}; leave it out")
    options = {} if config.scaling is None else {"scaling": config.scaling}
    model = task.get("export")(str(weights_file(config.checkpoint, config.weights)), **options)
    for note in model.notes:
        print_line(console, note)
    return model, {}


def _load_classifier(
    config: ExportConfig, size: tuple[int, int] | None, console: Console
) -> tuple[Model, dict[str, Any]]:
    """Load a classifier, with its class names and preprocessing.

    Raises:
        ValueError: If it cannot be exported.
    """
    eval_model = read_eval_model(config.model, config.checkpoint, config.weights)
    if eval_model.labels_pixels:
        raise ValueError(
            f"{config.checkpoint} is a segmentation model of a study, whose outputs are decoded outside "
            "the model; export a classifier"
        )
    model = eval_model.build(config_at(eval_model, size or ()))
    height, width = size or model.config.img_size
    crop = {"crop": eval_model.family_crop or 1.0, "squash": eval_model.squash}
    facts = {
        "classes": known_names(eval_model),
        "mean": eval_model.mean,
        "std": eval_model.std,
        "resize": {"height": height, "width": width, **crop, "interpolation": "bicubic"},
    }
    if config.scaling is not None:
        scaling, choice = scaling_for(eval_model, config.scaling, config.model, config.checkpoint)
        set_scaling(model, scaling)
        if choice is not None:
            print_line(console, choice.describe())
    return model, facts


def print_report(console: Console, report: ExportReport) -> None:
    """Print what was written, and its difference from the model."""
    lines = [f"wrote {report.path}: {report.size / 1e6:.1f} MB" + (f", opset {report.opset}" if report.opset else "")]
    for kind, values in (("input", report.inputs), ("output", report.outputs)):
        lines += [f"{kind} {name}: {' x '.join(str(side) for side in shape)}" for name, shape in values.items()]
    lines.append(_describe_shapes(report))
    print_line(console, "\n".join(lines))
    console.print(difference_table(report.differences, "difference from the model"))
    if report.int8_differences:
        console.print(difference_table(report.int8_differences, "difference in int8"))
        console.print("int8: evaluate the accuracy on your own images", style="dim", highlight=False)


def _describe_shapes(report: ExportReport) -> str:
    """Describe which dimensions are dynamic."""
    height, width = report.inputs["images"][2:]
    if isinstance(height, int):
        return f"dynamic: batch; height and width are fixed at {height} x {width} pixels"
    if report.multiple == 1:
        return "dynamic: batch, height and width"
    return f"dynamic: batch; height and width, in multiples of {report.multiple} pixels, at least {2 * report.multiple}"


def difference_table(differences: Sequence[Difference], title: str) -> Table:
    """Return a table of differences, one row per batch."""
    rows = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    rows.add_column("images")
    rows.add_column("largest", justify="right")
    rows.add_column("relative to the largest output", justify="right")
    for found in differences:
        shape = " x ".join(str(side) for side in found.shape)
        rows.add_row(shape, f"{found.absolute:.1e}", f"{found.relative:.1e}")
    return rows
