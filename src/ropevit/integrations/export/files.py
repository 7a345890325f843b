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
from torch import Tensor, nn
from torch.export import ExportedProgram

from ropevit.data.imagenet import MEAN, STD
from ropevit.extras import require
from ropevit.integrations.export.check import TOLERANCE, Difference, Run, check, check_kept, compare
from ropevit.integrations.export.quiet import quiet
from ropevit.integrations.export.trace import keep_outputs, plain_copy, trace
from ropevit.models import Config, Model
from ropevit.models.exportable import ExportModel, ImageSpec, Shape, image_spec
from ropevit.models.sizes import check_size
from ropevit.rope import CONVENTION
from ropevit.weights.metadata import FORMAT, own_metadata

#: Name of the extra file in a .pt2 with the entries that an ONNX file has as metadata.
METADATA_FILE = "ropevit.json"

_INPUT = "images, float32 (B, c, H, W): pixels from 0 to 1, minus mean, over std, channel by channel"

#: Largest size in bytes of the weights in an ONNX file: the limit of protobuf, less room for the graph.
ONNX_BYTES = 2**31 - 2**25

SUFFIXES = {"onnx": ".onnx", "torch": ".pt2"}


class Preprocessing(TypedDict, total=False):
    """Preprocessing and class names to store in an exported file."""

    classes: Sequence[str] | None
    """Names of the classes, in the order of the logits."""
    mean: Sequence[float]
    """Mean per channel of the training images, for pixels from 0 to 1; ImageNet's by default."""
    std: Sequence[float]
    """Standard deviation per channel; ImageNet's by default."""
    resize: Mapping[str, Any] | None
    """How images are resized, if known; see `docs/export.md`."""


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
        model: A classifier of this package, or an `ExportModel`, in float32; it is not changed.
        path: The file to write; ends in .onnx.
        size: Fixed height and width in pixels; None keeps them dynamic.
        fold_constants: Precompute everything that depends on the size only (cosines and sines, masks, embeddings), so
            that all shapes are constant, as TensorRT prefers. Requires `size`.
        int8: Dynamic int8 quantization of the linear layers of a classifier, for CPUs.
        tolerance: Largest allowed difference from the model in float32, relative to the largest output.
        overwrite: Replace an existing file.
        preprocessing: `classes`, `mean`, `std` and `resize` of a classifier, stored in the file's metadata; an
            `ExportModel` has its own.

    Returns:
        The file, its inputs and outputs, and its differences from the model.

    Raises:
        ValueError: If an argument is invalid, or onnx, onnxscript or onnxruntime is not installed.
        MismatchError: If the file's outputs differ from the model's; nothing is written then.
    """
    require_onnx()
    from ropevit.integrations.export import onnx_files
    from ropevit.integrations.export.graph import OPSET

    _check_onnx_bytes(model)
    job = prepare(model, path, "onnx", size, fold_constants, overwrite)
    if int8 and isinstance(job.model, ExportModel):
        raise ValueError(f"got int8=True (--int8) for task {job.model.task}; int8 is for classifiers: leave it out")
    metadata, decisions = job.metadata(**preprocessing), job.request_decisions()
    with renamed_at_exit(job.path) as temporary:
        run = onnx_files.write(job.trace(), temporary, {**job.outputs, **decisions}, metadata, job.images.multiple)
        differences = _compare_and_check(run, job, tolerance)
        if decisions:
            onnx_files.keep_outputs(temporary, len(job.outputs))
            check_kept(onnx_files.runner(temporary), run, job.model, job.size, len(job.outputs))
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
    extra = {METADATA_FILE: json.dumps(job.metadata(**preprocessing))}
    decisions = job.request_decisions()
    with renamed_at_exit(job.path) as temporary:
        program = job.trace()
        with quiet():
            torch.export.save(program, temporary, extra_files=extra)
            run = program_runner(torch.export.load(temporary))
        differences = _compare_and_check(run, job, tolerance)
        if decisions:
            keep_outputs(program, len(job.outputs))
            with quiet():
                torch.export.save(program, temporary, extra_files=extra)
                kept = program_runner(torch.export.load(temporary))
            check_kept(kept, run, job.model, job.size, len(job.outputs))
    return job.report(differences)


@dataclass(frozen=True, kw_only=True)
class ExportJob:
    """The checked arguments of one export."""

    model: Model | ExportModel
    """A copy, from `plain_copy`."""
    path: Path
    format: str
    size: tuple[int, int] | None
    fold_constants: bool

    @property
    def images(self) -> ImageSpec:
        """Images that the model takes."""
        return image_spec(self.model)

    @property
    def outputs(self) -> Mapping[str, Shape]:
        """Name -> shape of each output."""
        if isinstance(self.model, ExportModel):
            return self.model.outputs
        count = self.model.config.num_classes
        return {"logits": ("batch", count)} if count else {"features": ("batch", self.model.config.num_features)}

    def metadata(self, **preprocessing: Unpack[Preprocessing]) -> dict[str, str]:
        """Return the metadata of the file; the arguments are those of `file_metadata`, for a classifier."""
        if not isinstance(self.model, ExportModel):
            return file_metadata(self.model.config, **preprocessing)
        if preprocessing:
            raise ValueError(f"got {', '.join(preprocessing)} for task {self.model.task}, whose model has its own")
        return module_metadata(self.model)

    def request_decisions(self) -> Mapping[str, Shape]:
        """Make the model also return its decisions, as selected tokens or attention masks, and return their shapes.

        By name; empty for a model without decisions.
        """
        if not isinstance(self.model, ExportModel):
            return {}
        self.model.with_decisions = bool(self.model.decisions)
        return self.model.decisions

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
            inputs={"images": ("batch", self.images.channels, *(self.size or ("height", "width")))},
            outputs=self.outputs,
            multiple=self.images.multiple,
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
    if isinstance(model, ExportModel) and size is not None:
        raise ValueError(
            f"got a size (--size, --static-size) for task {model.task}, whose files take any: leave it out"
        )
    plain = plain_copy(model)
    if size is not None:
        check_size(*size, image_spec(plain).multiple)
    return ExportJob(model=plain, path=path, format=form, size=size, fold_constants=fold_constants)


def _check_onnx_bytes(model: nn.Module) -> None:
    """Raise ValueError for a model with more weights than an ONNX file holds."""
    count = sum(each.numel() * each.element_size() for each in (*model.parameters(), *model.buffers()))
    if count > ONNX_BYTES:
        raise ValueError(
            f"got a model with {count / 1e9:.1f} GB of weights, too large for an ONNX file, which holds "
            f"{ONNX_BYTES / 1e9:.1f} GB; export a program of torch.export: --format torch (export_torch)"
        )


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
    config: Config,
    classes: Sequence[str] | None = None,
    mean: Sequence[float] = MEAN,
    std: Sequence[float] = STD,
    resize: Mapping[str, Any] | None = None,
) -> dict[str, str]:
    """Return the metadata of a classifier's file: config, class names and preprocessing, as JSON strings.

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
    facts = {
        "mean": list(mean),
        "std": list(std),
        "resize": resize,
        "multiple": config.multiple,
        "outputs": ["logits" if config.num_classes else "features"],
    }
    text = {"task": "classify", "input": f"{_INPUT}{gray}{multiple}"}
    return metadata | text | {name: json.dumps(value) for name, value in facts.items()}


def module_metadata(model: ExportModel) -> dict[str, str]:
    """Return the metadata of the file of an `ExportModel`."""
    facts = {"convention": CONVENTION, "multiple": model.images.multiple, "outputs": list(model.outputs), **model.facts}
    text = {"format": FORMAT, "task": model.task, "input": f"{_INPUT}; any H and W"}
    return text | {name: json.dumps(value) for name, value in facts.items()}


def program_runner(program: ExportedProgram) -> Run:
    """Return a function that runs a program of torch.export."""
    module: Any = program.module()

    def run(images: Tensor) -> list[Tensor]:
        found = module(images)
        return [found] if isinstance(found, Tensor) else list(found)

    return run


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
