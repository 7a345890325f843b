"""From a model to a program of PyTorch's operators: which sizes stay free, and what is computed beforehand."""

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

from ropevit.models import Config, Model
from ropevit.weights.loading import unwrap_model

#: Batch with which a model is traced: no other number could be taken for it.
BATCH = 3

#: Notes on a program that would take the paths of this machine along.
_NOTES = ("stack_trace", "nn_module_stack", "source_fn_stack")

aten: Any = torch.ops.aten


def _free_sides(config: Config) -> dict[int, Any]:
    """Name height and width where they stay free: two patches or more each, or any pixels where windows are padded."""
    if config.windowed:
        return {2: Dim("height", min=1), 3: Dim("width", min=1)}
    return {2: config.multiple * Dim("rows", min=2), 3: config.multiple * Dim("columns", min=2)}


@contextmanager
def _no_special_sizes() -> Iterator[None]:
    """Let PyTorch trace without treating 1 (window, image, ...) as a case of its own, which a Swin does not need."""
    with import_module("torch.fx.experimental._config").patch(backed_size_oblivious=True):
        yield


def plain_copy(model: nn.Module) -> Model:
    """Copy a model for export: out of its wrappers, on the CPU, in evaluation.

    Raises:
        ValueError: If it is no model of ours, a video model, or not in float32.
    """
    plain = unwrap_model(model)
    if plain.config.is_video:
        raise ValueError("got a video model; this exports models of images: call torch.export.export(model, (clips,))")
    dtypes = {parameter.dtype for parameter in plain.parameters()} - {torch.float32}
    if dtypes:
        names = ", ".join(sorted(str(dtype).removeprefix("torch.") for dtype in dtypes))
        raise ValueError(f"got a model in {names}; export takes float32: call model.float() first")
    plain = copy.deepcopy(plain).cpu().eval().requires_grad_(False)
    plain.set_grad_checkpointing(False)
    return plain


def trace(model: Model, size: tuple[int, int] | None, bake: bool = False) -> ExportedProgram:
    """Write a model down as a program.

    Args:
        model: From `plain_copy`.
        size: Height and width of all images; None leaves them free.
        bake: Compute beforehand whatever does not depend on the images: rotation, masks, embeddings.
    """
    config = model.config
    free: dict[int, Any] = {0: Dim("batch", min=1)} | (_free_sides(config) if size is None else {})
    images = torch.zeros(BATCH, config.in_channels, *(size or config.example_size))
    with torch.no_grad(), _no_special_sizes() if config.windowed and size is None else nullcontext():
        program = torch.export.export(model, (images,), dynamic_shapes=(free,), strict=False)
        if bake:
            folded = fold_constants(program)
            program = torch.export.export(folded, (images,), dynamic_shapes=(free,), strict=False)
    for node in program.graph.nodes:
        for key in _NOTES:
            node.meta.pop(key, None)
    return program


def fold_constants(program: ExportedProgram) -> fx.GraphModule:
    """Compute whatever does not depend on the images, and keep it as buffers."""
    module: Any = program.module(check_guards=False)
    graph, values = module.graph, {}
    for node in list(graph.nodes):
        if node.op == "get_attr":
            values[node] = operator.attrgetter(node.target)(module)
        elif node.op == "call_function" and all(source in values for source in node.all_input_nodes):
            args, kwargs = fx.map_arg((node.args, node.kwargs), values.__getitem__)
            values[node] = node.target(*args, **kwargs)
            if values[node] is None:  # an assertion about a constant, which has held
                graph.erase_node(node)
        if node.op == "call_function" and node not in values:
            _keep_constants(module, node, values)
            _join_prefix(module, node, values)
    graph.eliminate_dead_code()
    _drop_unused(module)
    module.recompile()
    return module


def _keep_constants(module: fx.GraphModule, node: fx.Node, values: dict[fx.Node, Any]) -> None:
    """Let a node that depends on the images, and those after it, read its constant inputs from buffers."""
    for source in node.all_input_nodes:
        if source in values and source.op != "get_attr" and isinstance(values[source], Tensor):
            source.replace_all_uses_with(constant(module, node, values[source], values))


def constant(module: fx.GraphModule, before: fx.Node, value: Tensor, values: dict[fx.Node, Any]) -> fx.Node:
    """Keep a tensor in a buffer, and read it before a node."""
    name = f"constant_{sum(1 for _ in module.buffers())}"
    module.register_buffer(name, value.detach().clone(memory_format=torch.contiguous_format))
    with module.graph.inserting_before(before):
        read = module.graph.get_attr(name)
    values[read] = value
    return read


def _join_prefix(module: fx.GraphModule, node: Any, values: dict[fx.Node, Any]) -> None:
    """Put class and register tokens in front of the patches without asking for the batch: pad by zeros, add a table.

    Bit for bit the same as repeating the tokens for each image and joining them to the patches.
    """
    if node.target is not aten.cat.default or len(node.args) < 2 or node.args[1] != 1:
        return
    *tokens, patches = node.args[0]
    if not tokens or any(t.target is not aten.expand.default or t.args[0] not in values for t in tokens):
        return
    prefix = torch.cat([values[token.args[0]] for token in tokens], dim=1)
    count, length = prefix.shape[1], patches.meta["val"].shape[1]
    table = constant(module, node, F.pad(prefix, (0, 0, 0, length)), values)
    with module.graph.inserting_before(node):
        padded = module.graph.call_function(aten.constant_pad_nd.default, (patches, [0, 0, count, 0]))
        joined = module.graph.call_function(aten.add.Tensor, (padded, table))
    node.replace_all_uses_with(joined)


def _drop_unused(module: fx.GraphModule) -> None:
    """Take weights away that nothing reads any more, such as frequencies whose rotation is a buffer now."""
    read = {node.target for node in module.graph.nodes if node.op == "get_attr"}
    for name in [name for name, _ in (*module.named_parameters(), *module.named_buffers()) if name not in read]:
        owner, _, last = name.rpartition(".")
        delattr(module.get_submodule(owner), last)
