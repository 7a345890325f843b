"""From a program to an ONNX graph that runs anywhere: no shape arithmetic where sizes are known, tidy names."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from onnxscript import ir, opset20
from torch.export import ExportedProgram

#: Version of the operators: Gelu comes with 20.
OPSET = 20

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


def roll(x: Any, shifts: Sequence[Any], dims: Sequence[int]) -> Any:
    """Roll by shifts that may depend on the size of the image, which the exporter's own does not know."""
    first, last = op.Constant(value_ints=[0]), op.Constant(value_ints=[2**63 - 1])
    for shift, dim in zip(shifts, dims, strict=True):
        axis = op.Constant(value_ints=[dim])
        if isinstance(shift, int):
            cut = op.Constant(value_ints=[-shift])
        else:
            cut = op.Neg(op.Reshape(shift, op.Constant(value_ints=[1])))
        x = op.Concat(op.Slice(x, cut, last, axis), op.Slice(x, first, cut, axis), axis=dim)
    return x


def to_onnx(program: ExportedProgram, output: str, metadata: Mapping[str, str], multiple: int = 1) -> ir.Model:
    """Translate a program.

    Args:
        program: From `trace`.
        output: Name of the output.
        metadata: What the file says about itself.
        multiple: Number of pixels that must divide a free height and width.
    """
    exported = torch.onnx.export(
        program,
        (),
        dynamo=True,
        verbose=False,
        opset_version=OPSET,
        input_names=["images"],
        output_names=[output],
        custom_translation_table={aten.scaled_dot_product_attention.default: attention, aten.roll.default: roll},
    )
    assert exported is not None
    model = exported.model
    tidy(model)
    if multiple > 1 and any(not isinstance(side, int) for side in (model.graph.inputs[0].shape or ())[2:]):
        _refuse_remainders(model.graph, multiple)
    model.metadata_props.clear()
    model.metadata_props.update(metadata)
    return model


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


def _refuse_remainders(graph: ir.Graph, multiple: int) -> None:
    """Let the file refuse images that patches do not tile, as the model does; a convolution would cut their edge off.

    ONNX has no assertions. So the images are reshaped to the part of them that patches tile: nothing changes if that is
    all of them, and runtimes refuse to reshape to fewer pixels, naming both sizes.
    """
    images = graph.inputs[0]
    readers = list(images.uses())
    unit = ir.Value(name="size_unit", const_value=ir.tensor([1, 1, multiple, multiple], name="size_unit"))
    graph.register_initializer(unit)
    shape = ir.node("Shape", [images], name="size_given")
    patches = ir.node("Div", [shape.outputs[0], unit], name="size_patches")
    tiled = ir.node("Mul", [patches.outputs[0], unit], name="size_tiled")
    checked = ir.node("Reshape", [images, tiled.outputs[0]], {"allowzero": 1}, name="size_check")
    checked.outputs[0].type, checked.outputs[0].shape = images.type, images.shape
    for node, place in readers:
        node.replace_input_with(place, checked.outputs[0])
    graph.insert_before(graph[0], [shape, patches, tiled, checked])
