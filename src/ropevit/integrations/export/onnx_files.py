"""Writes, checks, runs and quantizes ONNX files."""

from collections.abc import Mapping
from pathlib import Path

import onnx
import onnxruntime
import torch
from onnx_ir.passes.common import RemoveUnusedNodesPass
from onnxruntime.quantization import QuantType, quantize_dynamic
from onnxscript import ir
from torch import Tensor
from torch.export import ExportedProgram

from ropevit.integrations.export.check import Run
from ropevit.integrations.export.graph import to_onnx
from ropevit.integrations.export.quiet import quiet
from ropevit.models.exportable import Shape


def write(
    program: ExportedProgram,
    path: Path,
    outputs: Mapping[str, Shape],
    metadata: Mapping[str, str],
    multiple: int = 1,
) -> Run:
    """Write a program as one ONNX file with its weights, validate it, and return a function that runs it."""
    with quiet():
        model = to_onnx(program, outputs, metadata, multiple)
        ir.save(model, path)
        onnx.checker.check_model(path, full_check=True)
    return runner(path)


def keep_outputs(path: Path, count: int) -> None:
    """Remove all outputs of a file but the first ones, and what only the others need."""
    model = ir.load(path)
    del model.graph.outputs[count:]
    RemoveUnusedNodesPass()(model)
    ir.save(model, path)


def runner(path: Path) -> Run:
    """Return a function that runs a file with onnxruntime on the CPU."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name

    def run(images: Tensor) -> list[Tensor]:
        return [torch.from_numpy(array) for array in session.run(None, {name: images.numpy()})]

    return run


def quantize(path: Path) -> Run:
    """Quantize the linear layers of a file to int8 in place: weights per channel, activations dynamically.

    Weights use 7 of the 8 bits, since CPUs without VNNI would overflow silently.
    """
    original = path.rename(path.with_name(f"float32-{path.name}"))
    options = {"op_types_to_quantize": ["MatMul", "Gemm"], "weight_type": QuantType.QInt8}
    with quiet():
        quantize_dynamic(original, path, per_channel=True, reduce_range=True, **options)
    original.unlink()
    return runner(path)
