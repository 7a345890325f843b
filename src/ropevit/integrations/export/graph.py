"""Translates a torch.export program to an ONNX graph, without shape arithmetic where sizes are known."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from onnxscript import ir, opset20
from torch.export import ExportedProgram

from ropevit.models.exportable import Shape

#: ONNX operator set version; Gelu requires 20.
OPSET = 20

aten: Any = torch.ops.aten
op: Any = opset20


def attention(
    q: Any, k: Any, v: Any, mask: Any = None, *others: object, scale: float | None = None, **options: object
) -> Any:
    """Translate attention (B, A, N, D) with a constant scale; the exporter's own computes it from shapes."""
    assert not any((*others, *options.values())), "our models use no dropout or causal mask"
    factor = op.Constant(value_float=1 / math.sqrt(q.shape[-1]) if scale is None else scale)
    scores = op.MatMul(op.Mul(q, factor), op.Transpose(k, perm=[0, 1, 3, 2]))
    if mask is not None and mask.dtype == ir.DataType.BOOL:
        scores = op.Where(mask, scores, op.Constant(value_float=-math.inf))
    elif mask is not None:
        scores = op.Add(scores, mask)
    return op.MatMul(op.Softmax(scores, axis=-1), v)


def roll(x: Any, shifts: Sequence[Any], dims: Sequence[int]) -> Any:
    """Translate a roll by shifts that may depend on the image size, which the exporter's own does not support."""
    first, last = op.Constant(value_ints=[0]), op.Constant(value_ints=[2**63 - 1])
    for shift, dim in zip(shifts, dims, strict=True):
        axis = op.Constant(value_ints=[dim])
        if isinstance(shift, int):
            cut = op.Constant(value_ints=[-shift])
        else:
            cut = op.Neg(op.Reshape(shift, op.Constant(value_ints=[1])))
        x = op.Concat(op.Slice(x, cut, last, axis), op.Slice(x, first, cut, axis), axis=dim)
    return x


def adaptive_avg_pool(x: Any, output_size: Sequence[int]) -> Any:
    """Translate adaptive average pooling of maps of any size: a product with a matrix of means for each side.

    The exporter's own is for sizes that are known.
    """
    sides = (op.Shape(x, start=axis, end=axis + 1) for axis in (2, 3))
    rows, columns = (_means(side, bins) for side, bins in zip(sides, output_size, strict=True))
    return op.MatMul(op.MatMul(rows, x), op.Transpose(columns, perm=[1, 0]))


def _means(length: Any, bins: int) -> Any:
    """Return the matrix (bins, length) that averages a side: bin i is from floor(i n / bins) to ceil((i + 1) n / bins).

    Args:
        length: Length n of the side, (1,).
        bins: Number of bins.
    """
    size, before = (op.Constant(value_ints=[number]) for number in (bins, bins - 1))
    first = op.Div(op.Mul(op.Constant(value_ints=list(range(bins))), length), size)
    last = op.Div(op.Add(op.Mul(op.Constant(value_ints=list(range(1, bins + 1))), length), before), size)
    first, last = (op.Unsqueeze(edge, op.Constant(value_ints=[1])) for edge in (first, last))
    cells = op.Range(op.Constant(value_int=0), op.Squeeze(length), op.Constant(value_int=1))
    inside = op.And(op.GreaterOrEqual(cells, first), op.Less(cells, last))
    return op.Div(op.Cast(inside, to=ir.DataType.FLOAT), op.Cast(op.Sub(last, first), to=ir.DataType.FLOAT))


#: Translations that replace the exporter's own.
_TRANSLATIONS = {
    aten.adaptive_avg_pool2d.default: adaptive_avg_pool,
    aten.scaled_dot_product_attention.default: attention,
    aten.roll.default: roll,
}


def to_onnx(
    program: ExportedProgram, outputs: Mapping[str, Shape], metadata: Mapping[str, str], multiple: int = 1
) -> ir.Model:
    """Translate a torch.export program to ONNX.

    Args:
        program: A program that `trace` returned.
        outputs: Name -> shape of each output; dynamic dimensions by name.
        metadata: Metadata of the file.
        multiple: Number of pixels of which a dynamic height and width must be multiples.
    """
    exported = torch.onnx.export(
        program,
        (),
        dynamo=True,
        verbose=False,
        opset_version=OPSET,
        input_names=["images"],
        output_names=list(outputs),
        custom_translation_table=_TRANSLATIONS,
    )
    assert exported is not None
    model = exported.model
    name_dimensions(model, outputs)
    if multiple > 1 and any(not isinstance(side, int) for side in (model.graph.inputs[0].shape or ())[2:]):
        _refuse_remainders(model.graph, multiple)
    model.metadata_props.clear()
    model.metadata_props.update(metadata)
    return model


def name_dimensions(model: ir.Model, outputs: Mapping[str, Shape]) -> None:
    """Name the dynamic dimensions, and remove the exporter's metadata, such as paths of source files."""
    names = {0: "batch", 2: "height", 3: "width"}
    images = model.graph.inputs[0]
    assert images.shape is not None
    images.shape = ir.Shape([side if isinstance(side, int) else names[axis] for axis, side in enumerate(images.shape)])
    for output, shape in zip(model.graph.outputs, outputs.values(), strict=True):
        output.shape = ir.Shape(shape)
    for node in model.graph:
        node.metadata_props.clear()
        node.doc_string = None
        for value in node.outputs:
            value.metadata_props.clear()
            if value not in model.graph.outputs:
                value.shape = None
    for value in (images, *model.graph.outputs, *model.graph.initializers.values()):
        value.metadata_props.clear()
    model.graph.metadata_props.clear()


def _refuse_remainders(graph: ir.Graph, multiple: int) -> None:
    """Make the file raise for image sizes that are not multiples of the patch size; a convolution would crop them.

    ONNX has no assertions, so the images are reshaped to the size rounded down to a multiple: a no-op for valid sizes,
    and an error in every runtime for others, which names both sizes.
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
    for node, input_index in readers:
        node.replace_input_with(input_index, checked.outputs[0])
    graph.insert_before(graph[0], [shape, patches, tiled, checked])
