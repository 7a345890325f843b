"""Exports a model to a file: trace, translate, write to a temporary file, compare with the model, then rename."""

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

#: Name of the extra file in a .pt2 with the entries that an ONNX file has as metadata.
METADATA_FILE = "ropevit.json"

SUFFIXES = {"onnx": ".onnx", "torch": ".pt2"}

Shape = tuple[int | str, ...]


class Preprocessing(TypedDict, total=False):
    """Preprocessing and class names to store in an exported file."""

    classes: Sequence[str] | None
    """Names of the classes, in the order of the logits."""
    mean: Sequence[float]
    """Mean per channel of the training images, for pixels from 0 to 1; ImageNet's by default."""
    std: Sequence[float]
    """Standard deviation per channel; ImageNet's by default."""


@dataclass(frozen=True, kw_only=True)
class ExportReport:
    """Result of an export: the file, its inputs and outputs, and its differences from the model."""

    path: Path
    """The file."""
    format: str
    """onnx or torch."""
    size: int
    """Size of the file in bytes."""
    inputs: Mapping[str, Shape]
    """Name -> shape; dynamic dimensions by name."""
    outputs: Mapping[str, Shape]
    """Name -> shape; dynamic dimensions by name."""
    multiple: int
    """Number of pixels of which a dynamic height and width must be multiples."""
    differences: tuple[Difference, ...]
    """Differences from the model, in float32."""
    opset: int | None = None
    """ONNX operator set version."""
    int8_differences: tuple[Difference, ...] = ()
    """Differences from the model after int8 quantization; not checked."""


def export_onnx(
    model: nn.Module,
    path: str | os.PathLike[str],
    *,
    size: tuple[int, int] | None = None,
    fold_constants: bool = False,
    int8: bool = False,
    tolerance: float = TOLERANCE,
    overwrite: bool = False,
    **preprocessing: Unpack[Preprocessing],
) -> ExportReport:
    """Export a model to ONNX, with dynamic batch size, height and width.

    Args:
        model: A model of this package in float32; it is not changed.
        path: The file to write; ends in .onnx.
        size: Fixed height and width in pixels; None keeps them dynamic.
        fold_constants: Precompute everything that depends on the size only (cosines and sines, masks, embeddings), so
            that all shapes are constant, as TensorRT prefers. Requires `size`.
        int8: Dynamic int8 quantization of the linear layers, for CPUs.
        tolerance: Largest allowed difference from the model in float32, relative to the largest output.
        overwrite: Replace an existing file.
        preprocessing: `classes`, `mean` and `std`, stored in the file's metadata.

    Returns:
        The file, its inputs and outputs, and its differences from the model.

    Raises:
        ValueError: If an argument is invalid, or onnx, onnxscript or onnxruntime is not installed.
        MismatchError: If the file's outputs differ from the model's; nothing is written then.
    """
    require_onnx()
    from ropevit.integrations.export import onnx_files
    from ropevit.integrations.export.graph import OPSET

    job = prepare(model, path, "onnx", size, fold_constants, overwrite)
    metadata = file_metadata(job.config, **preprocessing)
    with renamed_at_exit(job.path) as temporary:
        run = onnx_files.write(job.trace(), temporary, job.output, metadata, job.config.multiple)
        differences = _compare_and_check(run, job, tolerance)
        quantized = _compare_and_check(onnx_files.quantize(temporary), job, math.inf) if int8 else ()
    return job.report(differences, opset=OPSET, int8_differences=quantized)


def export_torch(
    model: nn.Module,
    path: str | os.PathLike[str],
    *,
    size: tuple[int, int] | None = None,
    fold_constants: bool = False,
    tolerance: float = TOLERANCE,
    overwrite: bool = False,
    **preprocessing: Unpack[Preprocessing],
) -> ExportReport:
    """Export a model as a torch.export program (.pt2), which `torch.export.load(path).module()` runs.

    Arguments, result and errors are those of `export_onnx`, without `int8`. The metadata is JSON in `ropevit.json`, an
    extra file of the program.
    """
    job = prepare(model, path, "torch", size, fold_constants, overwrite)
    extra = {METADATA_FILE: json.dumps(file_metadata(job.config, **preprocessing))}
    with renamed_at_exit(job.path) as temporary:
        with quiet():
            torch.export.save(job.trace(), temporary, extra_files=extra)
            run: Any = torch.export.load(temporary).module()
        differences = _compare_and_check(run, job, tolerance)
    return job.report(differences)


@dataclass(frozen=True, kw_only=True)
class ExportJob:
    """The checked arguments of one export."""

    model: Model
    """A copy, from `plain_copy`."""
    path: Path
    format: str
    size: tuple[int, int] | None
    fold_constants: bool

    @property
    def config(self) -> Config:
        """Config of the model."""
        return self.model.config

    @property
    def output(self) -> str:
        """Name of the model's output."""
        return "logits" if self.config.num_classes else "features"

    def trace(self) -> ExportedProgram:
        """Trace the model to a torch.export program."""
        with quiet():
            return trace(self.model, self.size, self.fold_constants)

    def report(self, differences: tuple[Difference, ...], **fields: Any) -> ExportReport:
        """Return the report of the written file."""
        return ExportReport(
            path=self.path,
            format=self.format,
            size=self.path.stat().st_size,
            inputs={"images": ("batch", self.config.in_channels, *(self.size or ("height", "width")))},
            outputs={self.output: ("batch", self.config.num_classes or self.config.num_features)},
            multiple=self.config.multiple,
            differences=differences,
            **fields,
        )


def prepare(
    model: nn.Module,
    path: str | os.PathLike[str],
    form: str,
    size: tuple[int, int] | None,
    fold_constants: bool,
    overwrite: bool,
) -> ExportJob:
    """Check the arguments of an export before any work.

    Raises:
        ValueError: If one is invalid.
    """
    path = check_target(path, form, overwrite)
    if fold_constants and size is None:
        raise ValueError("got fold_constants=True without a size; give the fixed height and width (size=)")
    plain = plain_copy(model)
    if size is not None:
        check_size(*size, plain.config.multiple)
    return ExportJob(model=plain, path=path, format=form, size=size, fold_constants=fold_constants)


def check_target(path: str | os.PathLike[str], form: str, overwrite: bool) -> Path:
    """Return the output path as a Path, after checking that it can be written.

    Raises:
        ValueError: If its suffix is that of another format, its folder is missing, or it exists.
    """
    path = Path(path)
    if path.suffix != SUFFIXES[form]:
        raise ValueError(
            f"got {path} for format {form}, whose files end in {SUFFIXES[form]}; change the suffix or the format"
        )
    if not path.parent.is_dir():
        raise ValueError(f"no folder {path.parent}; create it first")
    if path.is_dir() or (path.exists() and not overwrite):
        raise ValueError(f"{path} exists; choose another name, or ask to replace it (--overwrite, overwrite=True)")
    return path


def require_onnx() -> None:
    """Raise MissingExtraError unless the packages for ONNX export are installed.

    Raises:
        MissingExtraError: With the missing package and how to install it.
    """
    for module in ("onnx", "onnxscript", "onnxruntime"):
        require(module, "export")


def file_metadata(
    config: Config, classes: Sequence[str] | None = None, mean: Sequence[float] = MEAN, std: Sequence[float] = STD
) -> dict[str, str]:
    """Return the metadata of an exported file: config, class names and preprocessing, as JSON strings.

    Raises:
        ValueError: If there is not one number per channel, or one name per class.
    """
    for name, numbers in (("mean", mean), ("std", std)):
        if len(numbers) != config.in_channels:
            raise ValueError(f"got {name}={tuple(numbers)} for {config.in_channels} channels; give one per channel")
    if classes is not None and len(classes) != config.num_classes:
        raise ValueError(
            f"got {len(classes)} class names for a model with {config.num_classes} classes; give one name per class"
        )
    metadata = own_metadata(config, None if classes is None else list(classes), {})
    del metadata["metadata"]
    gray = "; one channel, gray: 0.299 R + 0.587 G + 0.114 B" if config.in_channels == 1 else ""
    multiple = f"; H and W multiples of {config.multiple}" if config.multiple > 1 else ""
    return metadata | {
        "input": "images, float32 (B, c, H, W): pixels from 0 to 1, minus mean, over std, channel by channel"
        f"{gray}{multiple}",
        "mean": json.dumps(list(mean)),
        "std": json.dumps(list(std)),
    }


def _compare_and_check(run: Run, job: ExportJob, tolerance: float) -> tuple[Difference, ...]:
    """Compare a file with its model, and raise MismatchError above the tolerance."""
    differences = compare(run, job.model, job.size)
    check(differences, tolerance)
    return differences


@contextmanager
def renamed_at_exit(path: Path) -> Iterator[Path]:
    """Yield a temporary path in the same folder; rename the file to `path` on success, and remove it on an error."""
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.stem}-") as folder:
        temporary = Path(folder) / path.name
        yield temporary
        temporary.replace(path)
