"""Offloading and sharding hang on the forward of the module that owns a parameter: none is read anywhere else."""

import copy
import logging

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.testing import assert_close

from marks import by_default, embeddings
from offloading import offload
from ropevit.kernels.windows import clear_masks
from ropevit.models import SWIN_EMBEDDINGS, VIT_EMBEDDINGS, Swin, SwinConfig, ViT, ViTConfig
from ropevit.models import layers as model_layers
from ropevit.models.dense import DenseSwin, DenseSwinConfig, DenseViT, DenseViTConfig, PyramidConfig
from ropevit.models.packed import pack
from ropevit.rope import LearnedRope

VIT = {"width": 16, "depth": 2, "heads": 2, "patch_size": 4, "img_size": (16, 16), "num_classes": 5}
SWIN = {"width": 8, "depths": (2, 1), "heads": (1, 2), "img_size": (32, 32), "window_size": 4, "num_classes": 5}


def vit(position="rope_mixed_ape", **fields) -> ViT:
    return randomize(ViT(ViTConfig(position=position, **VIT | fields)))


def swin(position="rope_mixed_rpb", **fields) -> Swin:
    return randomize(Swin(SwinConfig(position=position, **SWIN | fields)))


def dense_vit(position="rope_mixed_ape", **options) -> DenseViT:
    body = ViTConfig(position=position, **VIT)
    return randomize(DenseViT(DenseViTConfig(body=body, window=2, pyramid=PyramidConfig(channels=8), **options)))


def dense_swin(position="rope_mixed_ape", **options) -> DenseSwin:
    return randomize(DenseSwin(DenseSwinConfig(body=SwinConfig(position=position, **SWIN), **options)))


def randomize(model: nn.Module):
    """Let every weight matter."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


IMAGES = torch.randn(2, 3, 16, 24)
SIZES = torch.tensor([[16, 24], [9, 12]])

#: name -> what makes a model, and what runs it.
CASES = {
    **{f"vit {name}": (lambda name=name: vit(name), lambda model: model(IMAGES)) for name in VIT_EMBEDDINGS},
    **{f"swin {name}": (lambda name=name: swin(name), lambda model: model(IMAGES)) for name in SWIN_EMBEDDINGS},
    "registers": (lambda: vit(num_registers=2), lambda model: model(IMAGES)),
    "video": (lambda: vit(frames=4), lambda model: model(IMAGES.unsqueeze(2).expand(-1, -1, 2, -1, -1))),
    "packed": (vit, lambda model: model(model.pack([IMAGES[0], IMAGES[1, :, :8]]), method="forward_packed")),
    "maps": (vit, lambda model: model(IMAGES, method="forward_intermediates", indices=[0, -1])),
    "features": (swin, lambda model: model(IMAGES, method="forward_features")),
    "dense vit": (lambda: dense_vit(relative_bias=True), lambda model: model(IMAGES).features),
    "dense vit masked": (lambda: dense_vit(mask_padding=True), lambda model: model(IMAGES, SIZES).features),
    "dense swin": (dense_swin, lambda model: model(IMAGES).features),
    "dense swin masked": (lambda: dense_swin(mask_padding=True), lambda model: model(IMAGES, SIZES).features),
}


@pytest.mark.parametrize("case", embeddings(CASES))
def test_weights_that_come_with_hooks_give_the_same(case):
    make, run = CASES[case]
    model = make()
    with torch.no_grad():
        expected = run(model)
        assert_close(run(offload(model)), expected, rtol=0, atol=0)


def test_every_module_is_called():
    model, called = vit(), set()
    for name, module in model.named_modules():
        module.register_forward_hook(lambda *_, name=name: called.add(name))
    model(IMAGES)
    assert called == {name for name, _ in model.named_modules()} - {"blocks"}


@pytest.mark.usefixtures("unchecked")
def test_a_method_that_there_is_not_is_refused():
    for method in ("forward_packd", "scaling"):
        with pytest.raises(ValueError, match=f"got method='{method}', which ViT does not have"):
            vit()(IMAGES, method=method)


@pytest.fixture
def mesh():
    """A process group of this process alone."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    dist.destroy_process_group()


def shard(model, mesh, policy=None, apart=True):
    """Shard rotations apart without the policy, as docs/troubleshooting.md says; then blocks, then the rest."""
    for rope in (module for module in model.modules() if apart and isinstance(module, LearnedRope)):
        fully_shard(rope, mesh=mesh)
    blocks = model.blocks if isinstance(model, ViT) else [block for stage in model.layers for block in stage.blocks]
    for part in (*blocks, model):
        fully_shard(part, mesh=mesh, mp_policy=policy or MixedPrecisionPolicy())
    return model


@pytest.mark.parametrize("make", [vit, swin, lambda: vit("rope_polar")], ids=["vit", "swin", "polar"])
def test_a_model_cast_to_bfloat16_is_sharded_with_its_rotations_apart(mesh, make):
    images, results = IMAGES.bfloat16(), []
    for sharded in (False, True):
        torch.manual_seed(0)
        model = make().bfloat16().train()
        model.set_grad_checkpointing()
        logits = (shard(model, mesh) if sharded else model)(images)
        logits.float().square().sum().backward()
        gradients = [p.grad.full_tensor() if sharded else p.grad for p in model.parameters()]
        assert {gradient.dtype for gradient in gradients} == {torch.float32, torch.bfloat16}
        results.append((logits, gradients))
    assert_close(*results, rtol=0, atol=0)


@pytest.mark.usefixtures("unchecked")
def test_a_mixed_precision_policy_rounds_no_rotation_that_is_sharded_apart(mesh, monkeypatch, caplog):
    seen, rotate = [], model_layers.rotate_qkv
    monkeypatch.setattr(
        model_layers,
        "rotate_qkv",
        lambda *given, **options: seen.append([part.dtype for part in given[:3]]) or rotate(*given, **options),
    )
    model_layers.warn_of_rounding.cache_clear()
    policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, cast_forward_inputs=False)
    shard(vit(), mesh, policy)(IMAGES.bfloat16())
    assert seen == [[torch.bfloat16, torch.float32, torch.float32]] * 2
    assert not caplog.messages
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            shard(vit(), mesh, MixedPrecisionPolicy(param_dtype=torch.bfloat16), apart=False)(IMAGES)
    assert [line.split(",")[0] for line in caplog.messages] == [
        "attention got positions in torch.bfloat16",
        "attention got frequencies in torch.bfloat16",
    ]


PACKED = pack([IMAGES[0], IMAGES[1, :, :8]], patch_size=4)

RUNS = {
    "vit": (vit, lambda model: model(IMAGES)),
    "swin": (lambda: swin(depths=(2,), heads=(2,)), lambda model: model(IMAGES)),
    "packed": (vit, lambda model: model.forward_packed(PACKED)),
    "dense vit": (lambda: dense_vit(mask_padding=True), lambda model: model(IMAGES, SIZES).features[0]),
    "dense swin": (dense_swin, lambda model: model(IMAGES).features[0]),
    "dense swin masked": (lambda: dense_swin(mask_padding=True), lambda model: model(IMAGES, SIZES).features[0]),
}


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("name", by_default(["vit", "swin", "packed"], RUNS))
def test_nothing_that_one_mode_has_left_behind_ends_another(name):
    """Evaluation in inference mode and under fake tensors and transforms, then training, then a compiled model."""
    make, run = RUNS[name]
    model = make()
    clear_masks()
    with torch.inference_mode():
        expected = run(model).clone()
    clear_masks()
    with FakeTensorMode(allow_non_fake_inputs=True):
        run(copy.deepcopy(model))
    parameters = dict(model.named_parameters())
    torch.func.grad(lambda given: torch.func.functional_call(Runs(model, run), given).sum())(
        {f"model.{name}": value for name, value in parameters.items()}
    )
    trained = run(model.train())
    trained.square().sum().backward()
    assert_close(trained, expected)
    if name == "swin":  # seconds each; it alone keeps something, the masks of its windows
        torch._dynamo.reset()
        assert_close(torch.compile(lambda: run(model), backend="eager")(), expected)


class Runs(nn.Module):
    """Makes what runs a model its forward."""

    def __init__(self, model, run):
        super().__init__()
        self.model, self.run = model, run

    def forward(self):
        return self.run(self.model)
