"""A toy architecture, registered from outside the package: one config, one model, one row."""

from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import ClassVar

import pytest
import torch
from torch import nn
from torch.testing import assert_close

import ropevit
from ropevit.analysis.attention import attention_stats
from ropevit.models import (
    ARCHITECTURES,
    MODELS,
    VIT_EMBEDDINGS,
    Architecture,
    ViT,
    ViTConfig,
    architectures,
    build_model,
    get_config,
    parameter_groups,
    register_architecture,
)
from ropevit.models.backbone import Backbone, check_image_batch, image_sizes, with_masks
from ropevit.models.base import BaseModel
from ropevit.models.config import ModelConfig, Variant
from ropevit.models.cost import count_macs, count_parameters
from ropevit.models.layers import Block, resize_embedding
from ropevit.models.rotary import apply_scaling, make_block_rope, make_shared_rope
from ropevit.models.state_dict import InferredModel, KeyPattern, StateDictAdapter, infer_common
from ropevit.rope import grid_positions
from ropevit.tasks.classify.protocol import plan_views
from ropevit.tasks.detect.model import DetectorConfig
from ropevit.tasks.segment.model import SegmenterConfig
from ropevit.weights import WeightsError, load_dense_weights, load_model, load_weights, save_model
from ropevit.weights.hub import hub_id
from ropevit.weights.infer import infer_model


@dataclass(frozen=True, kw_only=True)
class ToyConfig(ModelConfig):
    """One block, at a patch size that the paper's sizes do not suit."""

    embeddings: ClassVar = VIT_EMBEDDINGS
    crop_pct: ClassVar = 0.8

    width: int = 16
    heads: int = 2
    patch_size: int = 6


class Toy(BaseModel[ToyConfig]):
    """Patches, one block of attention, the mean."""

    block_class = Block

    def __init__(self, config):
        super().__init__()
        self.config, self.grad_checkpointing = config, False
        channels = config.width // config.heads
        self.patch_embed = nn.Conv2d(config.in_channels, config.width, config.patch_size, config.patch_size)
        rows, columns = config.grid
        self.pos_embed = nn.Parameter(torch.zeros(1, rows * columns, config.width)) if config.absolute else None
        self.rope = make_shared_rope(config, channels, config.heads)
        rope = make_block_rope(config, channels, config.heads)
        self.only = Block(config.width, config.heads, config.mlp_ratio, None, config.drop_path, rope)
        self.norm = nn.LayerNorm(config.width)
        self.head = nn.Linear(config.width, config.num_classes) if config.num_classes else nn.Identity()
        apply_scaling(self)

    def hidden_states(self, images):
        maps = self.patch_embed(images)
        x = maps.flatten(2).transpose(1, 2)
        if self.pos_embed is not None:
            x = x + resize_embedding(self.pos_embed, self.config.grid, *maps.shape[2:])
        yield x
        frequencies = None if self.rope is None else self.rope.frequencies(x.device)
        yield self.only(x, grid_positions(*maps.shape[2:], device=x.device), frequencies)

    def as_map(self, state, images):
        return state.transpose(1, 2).unflatten(2, [side // self.config.patch_size for side in images.shape[2:]])

    def forward_features(self, images):
        *_, x = self.hidden_states(images)
        return self.norm(x)

    def forward_head(self, features):
        return self.head(features.mean(1))

    def layer_index(self, name):
        return 1 if name.startswith("only.") else 2 if name.startswith(("norm.", "head.")) else 0

    def reset_module(self, module):
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()


@dataclass(frozen=True, kw_only=True)
class DenseToyConfig:
    """The body, and nothing else."""

    body: ToyConfig
    attends_everywhere: ClassVar = True

    @property
    def strides(self):
        return (self.body.patch_size,)


class DenseToy(Backbone[Toy]):
    """One map, at the stride of the patches."""

    def __init__(self, config):
        super().__init__(Toy(config.body))
        self.body.reset_classifier(0)
        self.config, self.strides, self.channels = config, config.strides, (config.body.width,)

    def forward(self, images, sizes=None):
        check_image_batch(images, sizes, self.config.body.in_channels)
        maps = self.body.as_map(self.body.forward_features(images), images)
        return with_masks([maps], image_sizes(images, sizes), self.strides)


def infer_toy(tensors):
    shapes = {key.replace("patch_embed.", "patch_embed.proj."): tuple(value.shape) for key, value in tensors.items()}
    fields = infer_common(shapes)
    if fields is None:
        return None
    learned, absolute = "only.attn.rope.freqs" in shapes, "pos_embed" in shapes
    position = ("rope_mixed" if learned else "ape" if absolute else "rope_axial",)
    return InferredModel("toy", fields, {}, position, None, 36)


TOY = Architecture(
    label="a toy",
    config=ToyConfig,
    model=Toy,
    weights=StateDictAdapter(
        blocks=r"(only|sole)\.",
        infer=infer_toy,
        layouts={"theirs": (KeyPattern("only.mlp.fc1.weight", "sole.fc.weight"),)},
    ),
    variants={
        "toy_tiny": Variant(
            fields={"img_size": (36, 36), "num_classes": 3},
            names={"rope_axial": "toy_rope_axial_tiny", "rope_mixed": "toy_rope_mixed_tiny", "ape": "toy_tiny_ape"},
            original="ape",
        )
    },
    dense_config=DenseToyConfig,
    dense_backbone=DenseToy,
)


@pytest.fixture
def toy():
    with restored():
        register_architecture("toy", TOY)
        yield "toy_rope_mixed_tiny"


@contextmanager
def restored():
    """Remove what is registered meanwhile."""
    registries = [getattr(architectures, name) for name in ("ARCHITECTURES", "MODELS", "VARIANTS", "PUBLISHED")]
    before = [dict(registry) for registry in registries]
    yield
    for registry, rows in zip(registries, before, strict=True):
        registry.clear()
        registry.update(rows)


def test_published_weights_of_an_architecture_are_at_the_account_that_it_names():
    variant = TOY.variants["toy_tiny"]._replace(published=("ape",), hub="someone")
    with restored():
        register_architecture("toy", replace(TOY, variants={"toy_tiny": variant}))
        assert hub_id("toy_tiny_ape") == "someone/toy_tiny_ape"
        assert ropevit.list_models("toy*", pretrained=True) == ["toy_tiny_ape"]
    assert hub_id("deit_small_patch16_LS") == "naver-ai/deit_small_patch16_LS"
    with pytest.raises(ValueError, match="got published weights of toy_tiny without their account on the hub; add hub"):
        register_architecture("toy", replace(TOY, variants={"toy_tiny": variant._replace(hub=None)}))
    assert "toy" not in architectures.ARCHITECTURES
    assert "toy_tiny" not in architectures.VARIANTS


def test_a_registered_architecture_is_listed_created_trained_and_counted(toy):
    assert ropevit.list_models("toy*") == ["toy_rope_axial_tiny", "toy_rope_mixed_tiny", "toy_tiny_ape"]
    model = ropevit.create_model(toy, num_classes=5)
    assert isinstance(model, Toy)
    assert model(torch.randn(2, 3, 24, 36)).shape == (2, 5)
    groups = {name: group for group in parameter_groups(model, 1e-3, 0.05, 0.5) for name in group["names"]}
    assert groups["only.attn.rope.freqs"]["weight_decay"] == 0
    assert groups["only.mlp.fc1.weight"]["lr_scale"] == 0.5
    assert get_config("toy_tiny").position == "ape"
    assert count_parameters(get_config(toy)) == sum(p.numel() for p in build_model(get_config(toy)).parameters())
    assert count_macs(get_config(toy), 36, 36) > 0


@pytest.mark.usefixtures("toy")
@pytest.mark.parametrize("position", ["rope_axial", "rope_mixed", "ape"])
def test_its_weights_are_saved_inferred_and_loaded_as_strictly_as_others(position, tmp_path):
    model = build_model(get_config("toy_tiny", position=position)).eval()
    path = save_model(tmp_path / "toy.safetensors", model, classes=["a", "b", "c"])
    loaded, info = load_model(path)
    images = torch.randn(1, 3, 36, 24)
    assert_close(loaded.eval()(images), model(images), rtol=0, atol=0)
    assert (info.config, info.classes) == (model.config, ["a", "b", "c"])
    found = infer_model(model.state_dict())
    assert (found.architecture, found.positions, found.fields["width"]) == ("toy", (position,), 16)
    with pytest.raises(WeightsError, match=r"toy_.*while the model is a ViT"):
        load_weights(ViT(ViTConfig(position="ape", width=16, depth=1, heads=2)), model.state_dict())


def test_another_layout_of_its_weights_is_recognized(toy):
    model = ropevit.create_model(toy)
    state = model.state_dict()
    state["sole.fc.weight"] = state.pop("only.mlp.fc1.weight")
    assert load_weights(model, state).layout == "theirs"


@pytest.mark.usefixtures("toy")
def test_its_evaluation_figures_and_backbone_follow_from_its_row():
    config = get_config("toy_rope_axial_tiny")
    views = plan_views(config, 36, (), "paper")
    assert {view.crop for view in views} == {0.8}
    assert all(view.size % 6 == 0 and view.window is None for view in views)
    model = ropevit.create_model("toy_rope_axial_tiny")
    measured = attention_stats(model, [torch.randn(1, 3, 36, 36)])
    assert [(layer.name, layer.stride, layer.grid) for layer in measured.layers] == [("only.attn", 6, (6, 6))]
    backbone = architectures.build_backbone(DenseToyConfig(body=config))
    load_dense_weights(backbone, model.state_dict())
    assert backbone(torch.randn(1, 3, 36, 24)).features[0].shape == (1, 16, 6, 4)
    detector = DetectorConfig(model="toy_tiny", position="rope_axial", init=None)
    assert detector.backbone_config() == DenseToyConfig(body=detector.body_config())
    with pytest.raises(ValueError, match="for a toy, whose maps have strides"):
        SegmenterConfig(model="toy_tiny", position="rope_axial", init=None)


@pytest.mark.usefixtures("toy")
def test_names_that_are_taken_and_configs_that_are_not_registered_are_refused():
    known = dict(MODELS)
    with pytest.raises(ValueError, match=r"got toy, .*toy_tiny.* already registered"):
        register_architecture("toy", TOY)
    assert (MODELS, "toy" in ARCHITECTURES) == (known, True)
    del ARCHITECTURES["toy"]
    with pytest.raises(ValueError, match="got a ToyConfig, the config of no registered architecture"):
        build_model(ToyConfig(position="ape", img_size=36))
    ARCHITECTURES["toy"] = TOY
