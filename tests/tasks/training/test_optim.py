import copy
import math
from dataclasses import replace

import pytest
import torch
from timm.optim import Lamb
from timm.scheduler import CosineLRScheduler, MultiStepLRScheduler, PolyLRScheduler
from torch import nn

from ropevit.models.architectures import build_model
from ropevit.models.registry import get_config
from ropevit.models.vit import ViTConfig
from ropevit.tasks.training.config import OptimConfig
from ropevit.tasks.training.optim import Ema, make_optimizer
from ropevit.tasks.training.steps import learning_rate, set_learning_rate

TINY = ViTConfig(position="rope_mixed_ape", width=16, depth=2, heads=2, img_size=(32, 32), num_classes=3)


def rates(config, steps_per_epoch):
    return [learning_rate(config, step, steps_per_epoch) for step in range(config.length(steps_per_epoch))]


def test_learning_rate_rises_linearly_then_follows_a_cosine():
    config = OptimConfig(lr=1e-3, epochs=10, warmup_epochs=2, warmup_lr=1e-6, min_lr=1e-5)
    found = rates(config, 10)
    assert found[0] == 1e-6
    assert found[10] == pytest.approx(1e-6 + (1e-3 - 1e-6) * 10 / 20)
    for step in (20, 50, 99):  # the cosine began at step 0
        assert found[step] == pytest.approx(1e-5 + 0.5 * (1e-3 - 1e-5) * (1 + math.cos(math.pi * step / 100)))


def test_cosine_starts_after_the_warm_up_with_warmup_prefix():
    config = OptimConfig(lr=1e-3, epochs=10, warmup_epochs=2, min_lr=0.0, warmup_prefix=True)
    found = rates(config, 10)
    assert found[20] == pytest.approx(1e-3)
    assert found[60] == pytest.approx(0.5e-3)


def test_step_schedule_divides_the_rate_by_10_at_each_milestone():
    config = OptimConfig(lr=1e-3, epochs=12, warmup_epochs=0, schedule="step", milestones=(0.5, 11 / 12))
    found = rates(config, 10)
    assert found == pytest.approx([1e-3] * 60 + [1e-4] * 50 + [1e-5] * 10)


@pytest.mark.parametrize(("prefix", "milestone"), [(False, 50), (True, 60)])
def test_step_schedule_follows_a_warm_up(prefix, milestone):
    fields = {"schedule": "step", "milestones": (0.5,), "warmup_prefix": prefix}
    found = rates(OptimConfig(lr=1e-3, epochs=10, warmup_epochs=2, warmup_lr=0.0, **fields), 10)
    assert found[:20] == pytest.approx([1e-3 * step / 20 for step in range(20)])
    assert found[20:] == pytest.approx([1e-3] * (milestone - 20) + [1e-4] * (100 - milestone))


def test_polynomial_schedule_decays_as_a_power_of_the_remaining_steps():
    config = OptimConfig(lr=1e-3, epochs=None, steps=100, warmup_steps=10, warmup_lr=0.0, min_lr=0.0, schedule="poly")
    found = rates(config, 7)
    assert found[:10] == pytest.approx([1e-3 * step / 10 * (1 - step / 100) for step in range(10)]), "as mmcv has it"
    assert found[10:] == pytest.approx([1e-3 * (1 - step / 100) for step in range(10, 100)])
    later = rates(replace(config, warmup_prefix=True), 7)
    assert later[:11] == pytest.approx([1e-3 * step / 10 for step in range(11)])
    start = rates(replace(config, warmup_lr=1e-4, min_lr=2e-4), 7)
    assert start[0] == pytest.approx(1e-4)
    assert start[5] == pytest.approx((2e-4 + 8e-4 * 0.95) * (1 - 0.5 * 0.9))
    assert start[-1] == pytest.approx(2e-4 + 8e-4 * 0.01)
    steeper = rates(replace(config, power=2.0), 7)
    assert steeper[50] == pytest.approx(1e-3 / 4)
    assert config.length_in_epochs(7) == pytest.approx(100 / 7)


@pytest.mark.parametrize(
    ("schedule", "prefix"),
    [("cosine", False), ("cosine", True), ("step", False), ("step", True), ("poly", True)],  # else poly follows mmcv
)
def test_learning_rates_equal_those_of_timm_exactly(schedule, prefix):
    fields = {"milestones": (0.37, 0.8)} if schedule == "step" else {"power": 0.9} if schedule == "poly" else {}
    config = OptimConfig(lr=3e-3, epochs=9, warmup_epochs=1.5, schedule=schedule, warmup_prefix=prefix, **fields)
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=config.lr)
    length = 63 - 10 * prefix
    options = {"warmup_t": 10, "warmup_lr_init": 1e-6, "warmup_prefix": prefix, "t_in_epochs": False}
    theirs = {
        "cosine": lambda: CosineLRScheduler(optimizer, length, lr_min=1e-5, **options),
        "step": lambda: MultiStepLRScheduler(optimizer, [round(f * length) + 1 for f in (0.37, 0.8)], 0.1, **options),
        "poly": lambda: PolyLRScheduler(optimizer, length, power=0.9, lr_min=1e-5, **options),
    }[schedule]()
    wanted = []
    for step in range(63):
        theirs.step_update(step)
        wanted.append(optimizer.param_groups[0]["lr"])
    assert rates(config, 7) == wanted


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"steps": 10}, "got epochs=300 and steps=10; give one of them"),
        ({"epochs": None}, "got epochs=None and steps=None; give one of them"),
        ({"power": 0.0}, "got power=0.0; expected above 0"),
        ({"power": 0.9}, "got power=0.9 with schedule='cosine'; only poly takes a power"),
        ({"warmup_steps": -1}, "got warmup_steps=-1; expected 0 or more"),
    ],
)
def test_contradictory_lengths_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        OptimConfig(**fields)


@pytest.mark.parametrize("warmup", [{"warmup_steps": 50}, {"warmup_epochs": 5}, {"warmup_epochs": 300}])
def test_warm_up_longer_than_the_training_is_cut_to_half_of_it(warmup):
    config = OptimConfig(lr=1e-3, epochs=5, warmup_lr=0.0, min_lr=0.0, **warmup)
    assert (config.warmup(10), OptimConfig(epochs=5, warmup_steps=49).warmup(10)) == (25, 49)
    found = rates(config, 10)
    assert found[:25] == pytest.approx([1e-3 * step / 25 for step in range(25)])
    assert found[25] > found[35] > found[-1]
    assert OptimConfig(epochs=1).warmup(1) == 0


class Detector(nn.Module):
    """A model with a backbone and something else."""

    def __init__(self):
        super().__init__()
        self.backbone, self.head = build_model(TINY), nn.Linear(3, 3)

    def no_weight_decay(self):
        return {f"backbone.{name}" for name in self.backbone.no_weight_decay()}

    def layer_index(self, name):
        return self.backbone.layer_index(name.removeprefix("backbone."))


def test_backbone_learning_rate_factor_multiplies_that_of_layers():
    config = OptimConfig(lr=1e-3, backbone_lr_scale=0.1, layer_decay=0.5, epochs=10)
    optimizer = make_optimizer(Detector(), config)
    set_learning_rate(optimizer, learning_rate(config, 60, 10))
    rate = {name: group["lr"] for group in optimizer.param_groups for name in group["names"]}
    assert rate["backbone.head.weight"] == pytest.approx(0.1 * rate["head.weight"])
    assert rate["backbone.blocks.0.mlp.fc1.weight"] == pytest.approx(0.1 * 0.25 * rate["head.weight"])
    assert set(rate) == {name for name, _ in Detector().named_parameters()}


def test_backbone_learning_rate_without_a_backbone_is_refused():
    with pytest.raises(ValueError, match=r"got a learning rate factor for 'backbone\.', with which no parameter"):
        make_optimizer(build_model(TINY), OptimConfig(backbone_lr_scale=0.1))


def test_layer_decay_scales_the_whole_schedule():
    config = OptimConfig(lr=1e-3, layer_decay=0.5, epochs=10)
    optimizer = make_optimizer(build_model(TINY), config)
    set_learning_rate(optimizer, learning_rate(config, 60, 10))
    found = {group["lr_scale"]: group["lr"] for group in optimizer.param_groups}
    assert sorted(found) == [0.125, 0.25, 0.5, 1.0]
    assert all(rate == pytest.approx(scale * found[1.0]) for scale, rate in found.items())


@pytest.mark.parametrize("name", ["rope_mixed_ape_deit_tiny_patch16_LS", "swin_rope_mixed_rpb_tiny_patch4_window7_224"])
def test_only_matrices_have_weight_decay(name):
    with torch.device("meta"):
        model = build_model(get_config(name))
    optimizer = make_optimizer(model, OptimConfig(weight_decay=0.1))
    decayed = {each for group in optimizer.param_groups if group["weight_decay"] for each in group["names"]}
    kept = {each for group in optimizer.param_groups if not group["weight_decay"] for each in group["names"]}
    assert decayed | kept == {name for name, _ in model.named_parameters()}
    assert any(name.endswith("rope.freqs") for name in kept)
    endings = ("bias", "norm", "freqs", "pos_embed", "cls_token", "table", "gamma_1", "gamma_2", "norm1.weight",
               "norm2.weight", "norm.weight")  # fmt: skip
    assert all(name.endswith(endings) for name in kept)
    assert all(name.endswith("weight") for name in decayed)


def test_lamb_updates_frequencies_as_adam_and_clips_at_norm_1():
    model = build_model(TINY)
    optimizer = make_optimizer(model, OptimConfig(optimizer="lamb", lr=0.1, weight_decay=0.1, opt_eps=1e-12))
    assert isinstance(optimizer, Lamb)
    assert optimizer.defaults["max_grad_norm"] == 1.0
    freqs, before = model.blocks[0].attn.rope.freqs, model.blocks[0].attn.rope.freqs.detach().clone()
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 100.0)
    optimizer.step()
    # the first step of Adam has size lr for each element; the trust ratio would scale it by the norm of freqs
    torch.testing.assert_close(before - freqs.detach(), torch.full_like(before, 0.1), rtol=1e-4, atol=0)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"lr": 0.0}, "got lr=0.0; expected above 0"),
        ({"clip_grad": -1.0}, "got clip_grad=-1.0"),
        ({"layer_decay": 1.5}, "got layer_decay=1.5"),
        ({"ema_decay": 1.0}, "got ema_decay=1.0"),
        ({"min_lr": -1e-5}, "got min_lr=-1e-05"),
        ({"backbone_lr_scale": 0.0}, "got backbone_lr_scale=0.0; expected above 0"),
        ({"schedule": "step"}, r"got milestones=\(\) with schedule='step'"),
        ({"milestones": (0.5,)}, r"got milestones=\(0.5,\) with schedule='cosine'"),
        ({"schedule": "step", "milestones": (0.9, 0.5)}, "rising between 0 and 1"),
        ({"schedule": "step", "milestones": (1.0,)}, "rising between 0 and 1"),
    ],
)
def test_invalid_optimizer_options_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        OptimConfig(**fields)


@pytest.fixture
def model():
    made = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    made.register_buffer("table", torch.ones(2), persistent=False)
    return made


def step(model):
    with torch.no_grad():
        for weight in model.parameters():
            weight += torch.randn_like(weight)
    model(torch.randn(8, 3))


def test_ema_averages_weights_and_running_statistics_and_copies_counts(model):
    average, wanted = Ema(model, 0.75), copy.deepcopy(model.state_dict())
    for _ in range(3):
        step(model)
        average.update(model)
        for name, value in model.state_dict().items():
            wanted[name] = 0.75 * wanted[name] + 0.25 * value if value.is_floating_point() else value.clone()
    assert average.state_dict().keys() == model.state_dict().keys()
    torch.testing.assert_close(average.state_dict(), dict(wanted))
    assert average.state_dict()["1.num_batches_tracked"] == 3


def test_ema_swap_exchanges_weights_and_a_second_one_undoes_it(model):
    average = Ema(model, 0.75)
    step(model)
    average.update(model)
    before, averages = (copy.deepcopy(dict(each.state_dict())) for each in (model, average))
    average.swap(model)
    torch.testing.assert_close(dict(model.state_dict()), averages, rtol=0, atol=0)
    average.swap(model)
    torch.testing.assert_close(dict(model.state_dict()), before, rtol=0, atol=0)
    torch.testing.assert_close(average.state_dict(), averages, rtol=0, atol=0)


def test_loaded_ema_continues_exactly(model):
    average, other = Ema(model, 0.75), Ema(copy.deepcopy(model), 0.75)
    step(model)
    average.update(model)
    other.load_state_dict(copy.deepcopy(average.state_dict()))
    step(model)
    average.update(model)
    other.update(model)
    torch.testing.assert_close(other.state_dict(), average.state_dict(), rtol=0, atol=0)
