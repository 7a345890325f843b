"""Traces a model to a torch.export program, with dynamic or fixed sizes, and folds constants."""

import copy
import operator
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export import Dim, ExportedProgram
from torch.nn import functional as F
from torch.utils._pytree import tree_structure

from ropevit.models import Model
from ropevit.models.exportable import ExportModel, ImageSpec, image_spec
from ropevit.weights.loading import unwrap_model

#: Batch size for tracing; no other dimension has this size, so that they cannot be confused.
BATCH = 3

#: Node metadata with paths of this machine, which is removed from programs.
_SOURCE_METADATA = ("stack_trace", "nn_module_stack", "source_fn_stack")

aten: Any = torch.ops.aten


def _free_sides(spec: ImageSpec) -> dict[int, Any]:
    """Return the dynamic dimensions of the images."""
    if spec.multiple == 1:
        return {2: Dim("height", min=spec.least), 3: Dim("width", min=spec.least)}
    return {2: spec.multiple * Dim("rows", min=spec.least), 3: spec.multiple * Dim("columns", min=spec.least)}


@contextmanager
def _no_special_sizes() -> Iterator[None]:
    """Trace without specializing dimensions of size 1 (windows, batch), which Swin does not require."""
    with import_module("torch.fx.experimental._config").patch(backed_size_oblivious=True):
        yield


def plain_copy(model: nn.Module) -> Model | ExportModel:
    """Copy a model for export: without wrappers, on the CPU, in eval mode.

    Raises:
        ValueError: If it is not a model of this package, a video model, or not in float32.
    """
    plain = model if isinstance(model, ExportModel) else unwrap_model(model)
    if not isinstance(plain, ExportModel) and plain.config.is_video:
        raise ValueError(
            "got a video model; expected an image model: call torch.export.export(model, (clips,)) instead"
        )
    dtypes = {parameter.dtype for parameter in plain.parameters()} - {torch.float32}
    if dtypes:
        names = ", ".join(sorted(str(dtype).removeprefix("torch.") for dtype in dtypes))
        raise ValueError(f"got a model in {names}; export takes float32: call model.float() first")
    plain = copy.deepcopy(plain).cpu().eval().requires_grad_(False)
    if not isinstance(plain, ExportModel):
        plain.set_grad_checkpointing(False)
    return plain


def trace(model: nn.Module, size: tuple[int, int] | None, fold_constants: bool = False) -> ExportedProgram:
    """Trace a model to a torch.export program.

    Args:
        model: A model that `plain_copy` returned.
        size: Fixed height and width in pixels; None keeps them dynamic.
        fold_constants: Precompute everything that does not depend on the images: cosines and sines, masks, embeddings.
    """
    spec = image_spec(model)
    free: dict[int, Any] = {0: Dim("batch", min=1)} | (_free_sides(spec) if size is None else {})
    images = torch.zeros(BATCH, spec.channels, *(size or spec.example))
    with torch.no_grad(), _no_special_sizes() if spec.oblivious and size is None else nullcontext():
        program = torch.export.export(model, (images,), dynamic_shapes=(free,), strict=False)
        if fold_constants:
            folded = fold_constant_nodes(program)
            program = torch.export.export(folded, (images,), dynamic_shapes=(free,), strict=False)
    for node in program.graph.nodes:
        for key in _SOURCE_METADATA:
            node.meta.pop(key, None)
    return program


def keep_outputs(program: ExportedProgram, count: int) -> None:
    """Remove all outputs of a program but the first ones, and what only the others need."""
    signature, output = program.module_call_graph[0].signature, program.graph.output_node()
    assert signature is not None
    assert isinstance(output.args[0], tuple)
    output.args = (output.args[0][:count],)
    for outputs in (program.graph_signature.output_specs, signature.outputs):
        del outputs[count:]
    signature.out_spec = tree_structure((0,) * count)
    program.graph.eliminate_dead_code()
    program.graph_module.recompile()


def fold_constant_nodes(program: ExportedProgram) -> fx.GraphModule:
    """Replace everything that does not depend on the images by buffers with its value."""
    module: Any = program.module(check_guards=False)
    graph, values = module.graph, {}
    for node in list(graph.nodes):
        if node.op == "get_attr":
            values[node] = operator.attrgetter(node.target)(module)
        elif node.op == "call_function" and all(source in values for source in node.all_input_nodes):
            args, kwargs = fx.map_arg((node.args, node.kwargs), values.__getitem__)
            values[node] = node.target(*args, **kwargs)
            if values[node] is None:  # an assertion about a constant, which held
                graph.erase_node(node)
        if node.op == "call_function" and node not in values:
            _keep_constants(module, node, values)
            _join_prefix(module, node, values)
    graph.eliminate_dead_code()
    _drop_unused(module)
    module.recompile()
    return module


def _keep_constants(module: fx.GraphModule, node: fx.Node, values: dict[fx.Node, Any]) -> None:
    """Replace the constant inputs of a node that depends on the images by buffers."""
    for source in node.all_input_nodes:
        if source in values and source.op != "get_attr" and isinstance(values[source], Tensor):
            source.replace_all_uses_with(_add_buffer(module, node, values[source], values))


def _add_buffer(module: fx.GraphModule, before: fx.Node, value: Tensor, values: dict[fx.Node, Any]) -> fx.Node:
    """Register a tensor as a buffer, and return a node that reads it, placed before the given one."""
    name = f"constant_{sum(1 for _ in module.buffers())}"
    module.register_buffer(name, value.detach().clone(memory_format=torch.contiguous_format))
    with module.graph.inserting_before(before):
        read = module.graph.get_attr(name)
    values[read] = value
    return read


def _join_prefix(module: fx.GraphModule, node: Any, values: dict[fx.Node, Any]) -> None:
    """Prepend class and register tokens without the batch size: pad the patches with zeros, then add a table.

    The result is bit for bit that of expanding the tokens to the batch and concatenating them with the patches.
    """
    if node.target is not aten.cat.default or len(node.args) < 2 or node.args[1] != 1:
        return
    *tokens, patches = node.args[0]
    if not tokens or any(t.target is not aten.expand.default or t.args[0] not in values for t in tokens):
        return
    prefix = torch.cat([values[token.args[0]] for token in tokens], dim=1)
    count, length = prefix.shape[1], patches.meta["val"].shape[1]
    table = _add_buffer(module, node, F.pad(prefix, (0, 0, 0, length)), values)
    with module.graph.inserting_before(node):
        padded = module.graph.call_function(aten.constant_pad_nd.default, (patches, [0, 0, count, 0]))
        joined = module.graph.call_function(aten.add.Tensor, (padded, table))
    node.replace_all_uses_with(joined)


def _drop_unused(module: fx.GraphModule) -> None:
    """Remove weights that are no longer used, such as frequencies whose cosines and sines are buffers now."""
    read = {node.target for node in module.graph.nodes if node.op == "get_attr"}
    for name in [name for name, _ in (*module.named_parameters(), *module.named_buffers()) if name not in read]:
        owner, _, last = name.rpartition(".")
        delattr(module.get_submodule(owner), last)
