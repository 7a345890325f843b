"""Refuses models inside a wrapper that would not see what is changed in them."""

from torch import nn

from ropevit.integrations.retrofit.towers import class_names

#: Wrappers that would miss new parameters, or keep running the model as it was.
_WRAPPERS = {
    "torch._dynamo.eval_frame.OptimizedModule",
    "torch.jit._script.ScriptModule",
    "torch.fx.graph_module.GraphModule",
    "torch.nn.parallel.data_parallel.DataParallel",
    "torch.nn.parallel.distributed.DistributedDataParallel",
    "torch.distributed.fsdp.fully_sharded_data_parallel.FullyShardedDataParallel",
    "torch.distributed.fsdp._fully_shard._fully_shard.FSDPModule",
}


def refuse_wrapped(model: nn.Module, caller: str) -> None:
    """Raise ValueError for a compiled, scripted or distributed model, which `caller` cannot change."""
    for part in model.modules():
        if _WRAPPERS.intersection(class_names(part)) or part._compiled_call_impl is not None:
            raise ValueError(
                f"got a {type(model).__name__} that is compiled, scripted or distributed; call {caller} first, then "
                "compile or distribute the model"
            )
