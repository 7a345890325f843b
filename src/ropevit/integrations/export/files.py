"""Export to a file: trace, translate, write, compare with the model, and only then put it in its place."""

import json
import math
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict, Unpack

import torch
from torch import nn
from torch.export import ExportedProgram

from ropevit.data.imagenet import MEAN, STD
from ropevit.extras import require
from ropevit.integrations.export.check import TOLERANCE, Difference, Run, check, compare
from ropevit.integrations.export.quiet import quiet
from ropevit.integrations.export.trace import plain_copy, trace
from ropevit.models import Config, Model
from ropevit.models.sizes import check_size
from ropevit.weights.metadata import own_metadata

#: Name of the file inside a .pt2 that says what an ONNX file says in its metadata.
FACTS = "ropevit.json"

SUFFIXES = {"onnx": ".onnx", "torch": ".pt2"}

Shape = tuple[int | str, ...]


class Facts(TypedDict, total=False):
    """What a file says to those who feed it and read its output."""

    classes: Sequence[str] | None
    """Names of the classes, in the order of the logits."""
    mean: Sequence[float]
    """Of the pixels (0 to 1) with which the model was trained, one a channel; ImageNet's if left out."""
    std: Sequence[float]
    """Their spread; likewise."""


@dataclass(frozen=True, kw_only=True)
class ExportReport:
    """What was written, and how far it is from the model."""

    path: Path
    """The file."""
    format: str
    """onnx or torch."""
    size: int
    """Bytes."""
    inputs: Mapping[str, Shape]
    """Name -> shape; free sizes by name."""
    outputs: Mapping[str, Shape]
    """The same."""
    multiple: int
    """Number of pixels that must divide a free height and width."""
    differences: tuple[Difference, ...]
    """From the model, in float32."""
    opset: int | None = None
    """Version of ONNX's operators."""
    int8_differences: tuple[Difference, ...] = ()
    """From the model, with weights and activations in 8 bits; they are for information."""


def export_onnx(
    model: nn.Module,
    path: str | os.PathLike[str],
    *,
    size: tuple[int, int] | None = None,
    bake: bool = False,
    int8: bool = False,
    tolerance: float = TOLERANCE,
    overwrite: bool = False,
    **facts: Unpack[Facts],
) -> ExportReport:
    """Write a model as ONNX, with a free batch and, for a ViT, free height and width.

    Args:
        model: A model of this package in float32; it stays as it is.
        path: Where to; ends in .onnx.
        size: Height and width in pixels to fix; None leaves them free.
        bake: Compute beforehand whatever depends on the size alone (rotation, masks, embeddings), and keep every shape
            a constant, as TensorRT likes it. Needs `size`.
        int8: Round the weights of linear layers to 8 bits, and their inputs while the file runs; for CPUs.
        tolerance: Largest difference from the model that is let through, in float32, over the largest output.
        overwrite: Replace a file that is there.
        facts: `classes`, `mean` and `std`, to be written into the file.

    Returns:
        What was written.

    Raises:
        ValueError: If an argument does not fit, or onnx, onnxscript or onnxruntime is not installed.
        MismatchError: If the file does not compute what the model computes; then nothing is written.
    """
    require_onnx()
    from ropevit.integrations.export import onnx_files
    from ropevit.integrations.export.graph import OPSET

    job = prepare(model, path, "onnx", size, bake, overwrite)
    metadata = describe(job.config, **facts)
    with writing(job.path) as part:
        run = onnx_files.write(job.trace(), part, job.output, metadata, job.config.multiple)
        differences = _compare_and_check(run, job, tolerance)
        rounded = _compare_and_check(onnx_files.quantize(part), job, math.inf) if int8 else ()
    return job.report(differences, opset=OPSET, int8_differences=rounded)


def export_torch(
    model: nn.Module,
    path: str | os.PathLike[str],
    *,
    size: tuple[int, int] | None = None,
    bake: bool = False,
    tolerance: float = TOLERANCE,
    overwrite: bool = False,
    **facts: Unpack[Facts],
) -> ExportReport:
    """Write a model as a program of torch.export (.pt2), which `torch.export.load(path).module()` runs.

    Arguments, result and errors are those of `export_onnx`, but for `int8`. The facts are JSON in `ropevit.json`, an
    extra file of the program.
    """
    job = prepare(model, path, "torch", size, bake, overwrite)
    extra = {FACTS: json.dumps(describe(job.config, **facts))}
    with writing(job.path) as part:
        with quiet():
            torch.export.save(job.trace(), part, extra_files=extra)
            run: Any = torch.export.load(part).module()
        differences = _compare_and_check(run, job, tolerance)
    return job.report(differences)


@dataclass(frozen=True, kw_only=True)
class Job:
    """A model on its way into a file."""

    model: Model
    """A copy, from `plain_copy`."""
    path: Path
    format: str
    size: tuple[int, int] | None
    bake: bool

    @property
    def config(self) -> Config:
        """What the model is."""
        return self.model.config

    @property
    def output(self) -> str:
        """Name of what the model returns."""
        return "logits" if self.config.num_classes else "features"

    def trace(self) -> ExportedProgram:
        """Write the model down as a program."""
        with quiet():
            return trace(self.model, self.size, self.bake)

    def report(self, differences: tuple[Difference, ...], **found: Any) -> ExportReport:
        """Describe the file, which is in its place now."""
        return ExportReport(
            path=self.path,
            format=self.format,
            size=self.path.stat().st_size,
            inputs={"images": ("batch", self.config.in_channels, *(self.size or ("height", "width")))},
            outputs={self.output: ("batch", self.config.num_classes or self.model.norm.weight.shape[0])},
            multiple=self.config.multiple,
            differences=differences,
            **found,
        )


def prepare(
    model: nn.Module, path: str | os.PathLike[str], form: str, size: tuple[int, int] | None, bake: bool, overwrite: bool
) -> Job:
    """Check the arguments of both exports before any work.

    Raises:
        ValueError: If one does not fit.
    """
    path = check_target(path, form, overwrite)
    if bake and size is None:
        raise ValueError("got bake=True without a size; give the height and width to bake in")
    plain = plain_copy(model)
    if size is not None:
        check_size(*size, plain.config.multiple)
    return Job(model=plain, path=path, format=form, size=size, bake=bake)


def check_target(path: str | os.PathLike[str], form: str, overwrite: bool) -> Path:
    """Refuse a path that cannot be written, or should not.

    Raises:
        ValueError: If its suffix is that of another format, its folder is missing, or something is there.
    """
    path = Path(path)
    if path.suffix != SUFFIXES[form]:
        raise ValueError(
            f"got {path} for format {form}, whose files end in {SUFFIXES[form]}; change the suffix or the format"
        )
    if not path.parent.is_dir():
        raise ValueError(f"no folder {path.parent}; make it first")
    if path.is_dir() or (path.exists() and not overwrite):
        raise ValueError(f"{path} exists; choose another name, or ask to replace it (--overwrite, overwrite=True)")
    return path


def require_onnx() -> None:
    """Refuse to start without what ONNX needs.

    Raises:
        MissingExtraError: Naming what is missing and how to get it.
    """
    for module in ("onnx", "onnxscript", "onnxruntime"):
        require(module, "export")


def describe(
    config: Config, classes: Sequence[str] | None = None, mean: Sequence[float] = MEAN, std: Sequence[float] = STD
) -> dict[str, str]:
    """Say in JSON what is needed to prepare images and to read the output.

    Raises:
        ValueError: If there are not as many numbers or names as the model needs.
    """
    for name, numbers in (("mean", mean), ("std", std)):
        if len(numbers) != config.in_channels:
            raise ValueError(f"got {name}={tuple(numbers)} for {config.in_channels} channels; give one for each")
    if classes is not None and len(classes) != config.num_classes:
        raise ValueError(f"got {len(classes)} class names for a model of {config.num_classes}; give one a class")
    facts = own_metadata(config, None if classes is None else list(classes), {})
    del facts["metadata"]
    grey = "; one channel, grey: 0.299 R + 0.587 G + 0.114 B" if config.in_channels == 1 else ""
    multiple = f"; H and W multiples of {config.multiple}" if config.multiple > 1 else ""
    return facts | {
        "input": "images, float32 (B, c, H, W): pixels from 0 to 1, minus mean, over std, channel by channel"
        f"{grey}{multiple}",
        "mean": json.dumps(list(mean)),
        "std": json.dumps(list(std)),
    }


def _compare_and_check(run: Run, job: Job, tolerance: float) -> tuple[Difference, ...]:
    """Compare a file with its model, and refuse it above the tolerance."""
    differences = compare(run, job.model, job.size)
    check(differences, tolerance)
    return differences


@contextmanager
def writing(path: Path) -> Iterator[Path]:
    """Give a place for a file that comes to `path` when all has gone well, and leave nothing otherwise."""
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.stem}-") as folder:
        part = Path(folder) / path.name
        yield part
        part.replace(path)
