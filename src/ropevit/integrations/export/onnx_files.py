"""ONNX files: written, checked, run and rounded to 8 bits."""

from collections.abc import Mapping
from pathlib import Path

import onnx
import onnxruntime
import torch
from onnxruntime.quantization import QuantType, quantize_dynamic
from onnxscript import ir
from torch import Tensor
from torch.export import ExportedProgram

from ropevit.integrations.export.check import Run
from ropevit.integrations.export.graph import to_onnx
from ropevit.integrations.export.quiet import quiet


def write(program: ExportedProgram, path: Path, output: str, metadata: Mapping[str, str], multiple: int = 1) -> Run:
    """Write a program as ONNX with its weights in one file, let ONNX check it, and open it."""
    with quiet():
        ir.save(to_onnx(program, output, metadata, multiple), path)
        onnx.checker.check_model(path, full_check=True)
    return runner(path)


def runner(path: Path) -> Run:
    """Run a file by onnxruntime on the CPU."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name

    def run(images: Tensor) -> Tensor:
        return torch.from_numpy(session.run(None, {name: images.numpy()})[0])

    return run


def quantize(path: Path) -> Run:
    """Round the weights of linear layers to 8 bits, channel by channel, and their inputs while the file runs.

    Weights use 7 of the 8 bits: with all of them, CPUs without VNNI overflow and do not say so.
    """
    whole = path.rename(path.with_name(f"float32-{path.name}"))
    how = {"op_types_to_quantize": ["MatMul", "Gemm"], "weight_type": QuantType.QInt8}
    with quiet():
        quantize_dynamic(whole, path, per_channel=True, reduce_range=True, **how)
    whole.unlink()
    return runner(path)
