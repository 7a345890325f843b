import dataclasses

import pytest
import torch
from torch import nn

from ropevit.models import SWIN_EMBEDDINGS, VIT_EMBEDDINGS, Swin, SwinConfig, ViT, ViTConfig
from ropevit.models.positions import describe_positions, position_label, position_style
from ropevit.rope import ROPE_TYPES, AxialRope, LearnedRope, register_rope_type
from ropevit.study.config import StudyConfig


class LearnedAngles(LearnedRope):
    """Learned directions of unit length, as a user could write it; its matrix must not be decayed."""

    def __init__(self, channels, heads):
        super().__init__()
        self.direction = nn.Parameter(torch.rand(heads, channels // 2))

    @property
    def freqs(self):
        return torch.stack([self.direction.cos(), self.direction.sin()])

    def reset_parameters(self):
        nn.init.uniform_(self.direction)


MINE = {
    "coarse": dataclasses.replace(
        ROPE_TYPES["golden"], make=lambda spec: AxialRope(spec.channels, spec.theta), theta=7.0, label="Coarse"
    ),
    "unit": dataclasses.replace(
        ROPE_TYPES["polar"], make=lambda spec: LearnedAngles(spec.channels, spec.heads), label="Unit"
    ),
}


@pytest.fixture(params=MINE)
def mine(request):
    register_rope_type(request.param, MINE[request.param])
    yield request.param
    del ROPE_TYPES[request.param]


@pytest.mark.parametrize("suffix", ["", "_ape"])
def test_a_type_registered_outside_the_package_makes_a_vit(mine, suffix):
    sizes = {"img_size": (32, 32), "width": 16, "depth": 2, "heads": 2, "num_classes": 3}
    model = ViT(ViTConfig(position=f"rope_{mine}{suffix}", **sizes))
    assert model(torch.randn(2, 3, 48, 32)).shape == (2, 3)
    learned = {name for name, _ in model.named_parameters() if "rope" in name}
    assert len(learned) == (2 if MINE[mine].learned else 0)
    assert learned <= model.no_weight_decay()
    assert model.config.theta == MINE[mine].theta


@pytest.mark.parametrize("suffix", ["", "_rpb"])
def test_and_a_swin(mine, suffix):
    sizes = {"img_size": (32, 32), "width": 8, "depths": (1, 1), "heads": (2, 2), "window_size": 4}
    config = SwinConfig(position=f"rope_{mine}{suffix}", **sizes)
    assert Swin(config)(torch.randn(1, 3, 32, 48)).shape == (1, 1000)
    assert config.theta == MINE[mine].window_theta


def test_and_has_its_label_its_style_its_line_of_help_and_its_place_in_studies(mine):
    assert position_label(f"rope_{mine}_ape") == f"{MINE[mine].label} + APE"
    assert position_style(f"rope_{mine}") == MINE[mine].style
    assert f"rope_{mine}" in describe_positions()
    assert f"rope_{mine}" in VIT_EMBEDDINGS
    assert f"rope_{mine}_rpb" in SWIN_EMBEDDINGS
    assert f"rope_{mine}" in StudyConfig(rope_types=("all",)).all_embeddings


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("axial", "exists already"),
        ("My_Rope", "lower-case letters"),
        ("2d", "lower-case letters"),
        ("", "lower-case"),
    ],
)
def test_names_that_cannot_be_registered(name, message):
    before = dict(ROPE_TYPES)
    with pytest.raises(ValueError, match=message):
        register_rope_type(name, MINE["coarse"])
    assert before == ROPE_TYPES
