"""From a program to an ONNX graph that runs anywhere: no shape arithmetic where sizes are known, tidy names."""

import math
from collections.abc import Mapping
from typing import Any

import onnxscript
import torch
from onnxscript import ir, opset20
from torch.export import ExportedProgram

#: Version of the operators: Gelu comes with 20.
OPSET = 20

#: Elements up to which the exporter's optimiser computes constants: all of a model's weights.
EVERYTHING = 2**31

aten: Any = torch.ops.aten
op: Any = opset20


def attention(q: Any, k: Any, v: Any, mask: Any = None, *others: object, **options: object) -> Any:
    """Spell attention for (B, A, N, D) with the size of a head as a constant; the exporter's own asks for shapes."""
    assert not any((*others, *options.values())), "no dropout, causal mask or scale in our models"
    scale = op.Constant(value_float=1 / math.sqrt(q.shape[-1]))
    scores = op.MatMul(op.Mul(q, scale), op.Transpose(k, perm=[0, 1, 3, 2]))
    if mask is not None and mask.dtype == ir.DataType.BOOL:
        scores = op.Where(mask, scores, op.Constant(value_float=-math.inf))
    elif mask is not None:
        scores = op.Add(scores, mask)
    return op.MatMul(op.Softmax(scores, axis=-1), v)


def to_onnx(program: ExportedProgram, output: str, metadata: Mapping[str, str]) -> ir.Model:
    """Translate a program.

    Args:
        program: From `trace`.
        output: Name of the output.
        metadata: What the file says about itself.
    """
    exported = torch.onnx.export(
        program,
        (),
        dynamo=True,
        verbose=False,
        opset_version=OPSET,
        input_names=["images"],
        output_names=[output],
        custom_translation_table={aten.scaled_dot_product_attention.default: attention},
    )
    assert exported is not None
    model = exported.model
    spell_sizes(model)
    onnxscript.optimizer.optimize_ir(model, input_size_limit=EVERYTHING, output_size_limit=EVERYTHING)
    tidy(model)
    model.metadata_props.clear()
    model.metadata_props.update(metadata)
    return model


def spell_sizes(model: ir.Model) -> None:
    """Write the shape of a Reshape as numbers where all sizes but one are known: that one is -1."""
    for node in list(model.graph):
        shape = node.outputs[0].shape
        if node.op_type != "Reshape" or shape is None or node.inputs[1] is None:
            continue
        sizes = [size if isinstance(size, int) else -1 for size in shape]
        if sizes.count(-1) <= 1 and node.inputs[1].const_value is None:
            value = ir.tensor(sizes, dtype=ir.DataType.INT64, name=f"{node.outputs[0].name}_sizes")
            known = ir.Value(
                name=value.name, const_value=value, type=ir.TensorType(value.dtype), shape=ir.Shape([len(sizes)])
            )
            model.graph.register_initializer(known)
            node.replace_input_with(1, known)


def tidy(model: ir.Model) -> None:
    """Name the free sizes, and drop what the exporter noted down: where in whose source each node came from."""
    names = {0: "batch", 2: "height", 3: "width"}
    images, output = model.graph.inputs[0], model.graph.outputs[0]
    for value, axes in ((images, names), (output, {0: "batch"})):
        assert value.shape is not None
        sizes = enumerate(value.shape)
        value.shape = ir.Shape([size if isinstance(size, int) else axes[axis] for axis, size in sizes])
    for node in model.graph:
        node.metadata_props.clear()
        node.doc_string = None
        for value in node.outputs:
            value.metadata_props.clear()
            if value is not output:
                value.shape = None
    for value in (images, output, *model.graph.initializers.values()):
        value.metadata_props.clear()
    model.graph.metadata_props.clear()
