"""What is counted from shapes is what is held with values."""

import pytest
import torch
from torch import nn

from marks import by_default
from ropevit.kernels.window_attention import without_fusion
from ropevit.models import build_model, get_config
from ropevit.models.cost import count_macs
from ropevit.models.dense import DenseSwin, DenseSwinConfig
from ropevit.models.memory import LiveStorages, count_weights, forward_macs, step_memory

VIT = get_config("rope_mixed_deit_tiny_patch16_LS", width=64, depth=2, heads=2, num_classes=7)
SWIN = get_config("swin_rope_mixed_tiny_patch4_window7_224", width=16, depths=(2, 2), heads=(1, 2))


def vit():
    return build_model(VIT)


def swin():
    return DenseSwin(DenseSwinConfig(body=SWIN, out_indices=(0, 1)))


def step(images, height, width):
    def loss(model):
        out = model(torch.zeros(images, 3, height, width))
        return sum(x.float().sum() for x in (out.features if isinstance(model, DenseSwin) else [out]))

    return loss


def held(build, loss, precision):
    """Count what a step holds with values."""
    with LiveStorages() as live:
        model = build().train()
        live.peak = live.bytes  # drawing the weights took more
        with torch.autocast("cpu", precision, enabled=precision != torch.float32):
            value = loss(model)
        value.backward()
    return live.peak


@pytest.mark.parametrize("precision", by_default([torch.bfloat16], [torch.float32, torch.bfloat16]), ids=str)
@pytest.mark.parametrize("build", by_default([vit], [vit, swin]))
def test_the_count_without_values_is_that_with_values(build, precision):
    loss = step(2, 64, 96)
    real = held(build, loss, precision)
    assert step_memory(build, loss, precision) == pytest.approx(real, rel=0.02)


def test_by_hand_a_step_holds_weights_gradients_and_what_autograd_keeps():
    wide = 1000  # of one linear layer and its square: weight, gradient, input, output, its square and its gradient
    found = step_memory(lambda: nn.Linear(wide, wide, bias=False), lambda m: (m(torch.zeros(1, wide)) ** 2).sum())
    assert 8 * wide**2 <= found <= 8 * wide**2 + 10 * 4 * wide


def test_the_count_is_near_what_the_process_takes():
    from torch.profiler import ProfilerActivity, profile

    model, loss = vit().train(), step(8, 128, 192)
    before = sum(weight.nbytes for weight in [*model.parameters(), *model.buffers()])
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        loss(model).backward()
    now = most = 0
    for event in sorted((e for e in seen.profiler.kineto_results.events() if e.name() == "[memory]"), key=started):
        now += event.nbytes()
        most = max(most, now)
    assert step_memory(vit, loss) == pytest.approx(before + most, rel=0.05)


def started(event):
    return event.start_ns()


def test_checkpointing_shows_in_the_count():
    def frugal():
        model = vit()
        model.set_grad_checkpointing(True)
        return model

    loss = step(8, 128, 128)
    assert step_memory(frugal, loss) < 0.8 * step_memory(vit, loss)


@pytest.mark.full  # two more models without values
def test_nothing_without_values_stays_behind():
    loss = step(1, 64, 96)
    step_memory(swin, loss)
    value = loss(swin().train())  # the masks of windows are kept from one model to the next
    value.backward()
    assert value.isfinite()
    assert step_memory(swin, loss) == step_memory(swin, loss)


def test_multiply_adds_and_weights_are_those_of_the_classifier():
    found = forward_macs(vit, lambda model: model(torch.zeros(1, 3, 64, 96)))
    assert found == count_macs(VIT, 64, 96)
    assert count_weights(vit) == sum(weight.numel() for weight in vit().parameters())


def test_multiply_adds_of_windows_are_the_same_in_one_kernel():
    def count():
        return forward_macs(swin, lambda model: model(torch.zeros(1, 3, 56, 112)))

    fused = count()
    with without_fusion():
        assert fused == count()
