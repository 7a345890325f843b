"""Offloading as accelerate does it, without mercy: a parameter that is read anywhere else has no values."""

from torch import nn


def offload(model: nn.Module) -> nn.Module:
    """Keep the parameters of each module on the meta device, but while its own forward runs."""

    def bring_in(module, _args):
        module._parameters |= {name: weights[value] for name, value in module._parameters.items() if value is not None}

    def take_out(module, _args, _output):
        module._parameters |= {name: empty[value] for name, value in module._parameters.items() if value is not None}

    weights, empty = {}, {}
    for module in model.modules():
        for value in filter(lambda value: value is not None, module._parameters.values()):
            empty[value] = nn.Parameter(value.to("meta"))
            weights[empty[value]] = value
        if module._parameters:
            module.register_forward_pre_hook(bring_in)
            module.register_forward_hook(take_out)
            take_out(module, None, None)
    assert all(parameter.is_meta for parameter in model.parameters())
    return model
