"""`ropevit.set_scaling` on rotary models of timm and transformers, in place: as on ours of the same weights."""

import copy
import math
import pickle

import pytest
import timm
import torch
from timm.layers.pos_embed_sincos import RotaryEmbeddingDinoV3, RotaryEmbeddingMRope
from torch import Tensor, nn
from torch.testing import assert_close
from transformers import DINOv3ViTBackbone, DINOv3ViTConfig

import ropevit
from marks import by_default, in_turn
from ropevit.integrations.retrofit.rotations import read_rotation
from ropevit.models import ViT
from ropevit.rope import axial_frequencies, grid_positions, rotation_angles
from ropevit.rope.scaling import CoordinateJitter, GridSizes, RotaryInputs, apply_jitter
from ropevit.weights import load_weights
from weights.families import (
    TIMM_SMALL,
    fill,
    our_model,
    relative,
    set_input_size,
    timm_model,
    transformers_model,
)

SIZE, TRAINED = (96, 112), (8, 8)
TRANSFORMERS = "transformers"
#: timm's name, or transformers' DINOv3 -> our name of the same model, and the options that differ.
MODELS = {
    "vit_small_patch16_dinov3": ("vit_small_patch16_dinov3", {"pooling": "avg"}),
    "eva02_base_patch14_224": ("eva02_base_patch14_224", {}),
    "vit_pe_core_tiny_patch16_384": ("vit_pe_core_tiny_patch16_384", {}),
    "vit_betwixt_patch16_rope_reg4_gap_256": ("vit_betwixt_patch16_rope_reg4_gap_256", {}),
    "vit_small_patch16_rope_224": ("rope_axial_deit_small_patch16_LS", {}),
    "vit_small_patch16_rope_mixed_ape_224": ("rope_mixed_ape_deit_small_patch16_LS", {}),
    TRANSFORMERS: ("vit_small_patch16_dinov3_qkvb", {}),
}
METHODS = ["pi", "ntk", "parts+log", "yarn", "normalize(by=max)+entropy"]


def images(height: int = SIZE[0], width: int = SIZE[1]) -> Tensor:
    return torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(2))


def pair(name: str, **options) -> tuple[nn.Module, ViT]:
    """A model of theirs, and ours with its weights."""
    ours = our_model(MODELS[name][0], **MODELS[name][1])
    theirs = transformers_model(ours) if name == TRANSFORMERS else timm_model(name, **options)
    load_weights(ours, theirs.state_dict())
    return theirs, ours


def dinov3(**options) -> nn.Module:
    return timm_model("vit_small_patch16_dinov3", dynamic_img_size=True, **options)


def scaled(model: nn.Module, scaling: str = "parts+log") -> nn.Module:
    ropevit.set_scaling(model, scaling, TRAINED)
    return model


def tokens(model: nn.Module, given: Tensor) -> Tensor:
    out = model(given) if hasattr(model, "rope_embeddings") else model.forward_features(given)
    return out if isinstance(out, Tensor) else out.last_hidden_state


@pytest.mark.parametrize(("name", "scaling"), in_turn(list(MODELS), METHODS))
@torch.no_grad()
def test_features_are_those_of_our_model_of_the_same_weights(name, scaling):
    theirs, ours = pair(name)
    at_training = tokens(theirs, images(64, 64))
    for model in (theirs, ours):
        ropevit.set_scaling(model, scaling, TRAINED)
    assert relative(tokens(theirs, images(64, 64)), at_training) < 2e-6
    if name != TRANSFORMERS:
        set_input_size(theirs, SIZE, theirs.pos_embed)
    found = tokens(theirs, images())
    assert relative(found, tokens(ours, images())) < 1e-5
    ropevit.set_scaling(theirs, "none")
    ropevit.set_scaling(ours, "none")
    plain = tokens(theirs, images())
    assert relative(plain, tokens(ours, images())) < 1e-5
    if not (scaling == "pi" and ours.config.rope_convention.coordinates != "index"):  # what these families do anyway
        assert relative(found, plain) > 1e-3


@pytest.mark.parametrize("name", ["vit_small_patch16_rope_mixed_ape_224", TRANSFORMERS])
@torch.no_grad()
def test_modules_keys_copies_and_pickles_stay(name):
    theirs, _ = pair(name)
    plain, keys, modules = tokens(theirs, images(64, 64)), [*theirs.state_dict()], [*theirs.modules()]
    scaled(theirs, "log")
    assert [*theirs.state_dict()] == keys
    assert [*theirs.modules()] == modules
    if name != TRANSFORMERS:
        theirs.set_input_size(SIZE)  # the grid of training is still that of before
    expected = tokens(theirs, images())
    for other in (copy.deepcopy(theirs), pickle.loads(pickle.dumps(theirs))):
        assert torch.equal(tokens(other, images()), expected)
        theirs.load_state_dict(other.state_dict())
        ropevit.set_scaling(other, "ntk")  # keeps the grid of training, and takes the factor out
        ropevit.set_scaling(other, None)
        assert not any(part._forward_hooks or part._forward_pre_hooks for part in other.modules())
    assert torch.equal(tokens(theirs, images()), expected)
    ropevit.set_scaling(theirs, None)
    assert "get_embed" not in vars(getattr(theirs, "rope", theirs))
    if name == TRANSFORMERS:
        assert torch.equal(tokens(theirs, images(64, 64)), plain)


@pytest.mark.full  # test_retrofit.py compiles a retrofitted model by default
@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("name", by_default(["timm"], ["timm", TRANSFORMERS]))
@torch.no_grad()
def test_a_scaled_model_compiles_to_one_graph(name):
    model = scaled(dinov3() if name == "timm" else pair(TRANSFORMERS)[0])
    found, expected = torch.compile(model, backend="eager", fullgraph=True)(images()), model(images())
    assert_close(*(each if isinstance(each, Tensor) else each.last_hidden_state for each in (found, expected)))


def test_checkpointed_blocks_find_the_factor_of_their_own_forward_pass():
    gradients = []
    for enable in (False, True):
        model = scaled(dinov3()).train()
        model.set_grad_checkpointing(enable)
        sum(model(images(*size)).square().sum() for size in (SIZE, (64, 64))).backward()
        gradients.append(model.blocks[0].attn.qkv.weight.grad)
    assert_close(*gradients)


@torch.no_grad()
def test_models_in_bfloat16_keep_float32_angles_where_their_library_does():
    for model in (dinov3(), pair(TRANSFORMERS)[0]):
        expected = tokens(scaled(model), images())
        found = tokens(model.bfloat16(), images().bfloat16())
        assert found.dtype == torch.bfloat16
        assert relative(found.float(), expected) < 0.1
    assert model.rope_embeddings(images().bfloat16())[0].dtype == torch.bfloat16
    assert dinov3().bfloat16().rope.get_embed((3, 4)).dtype == torch.float32


def test_models_inside_others_are_found_ours_as_well():
    features = timm.create_model("vit_small_patch16_dinov3", features_only=True, out_indices=[0, 1], **TIMM_SMALL)
    backbone = DINOv3ViTBackbone(
        DINOv3ViTConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, image_size=64)
    )
    ours = our_model("vit_small_patch16_dinov3")
    ropevit.set_scaling(nn.ModuleList([features, backbone, ours]), "log", TRAINED)
    assert ours.config.scaling == "log"
    assert len(features.model.blocks[1].attn.q_norm._forward_hooks) == 1
    assert backbone(torch.randn(1, 3, 96, 64)).feature_maps[0].shape[2:] == (6, 4)


@torch.no_grad()
def test_the_training_grid_is_that_of_the_model_if_its_pretrained_weights_agree():
    model = fill(timm.create_model("eva02_tiny_patch14_224", embed_dim=16, num_heads=2, depth=1))
    ropevit.set_scaling(model, "log")
    assert model.rope.get_embed.__self__.scaling.trained_grid == (16, 16)
    theirs, _ = pair(TRANSFORMERS)
    ropevit.set_scaling(theirs, "log")
    (hook,) = theirs.rope_embeddings._forward_hooks.values()
    assert hook.__self__.scaling.trained_grid == (8, 8)


@pytest.mark.parametrize("normalize", ["separate", "max"])
def test_their_augmentation_of_coordinates_is_ours(normalize):
    options = {"jitter_coords": 1.5, "rescale_coords": 2.0, "normalize_coords": normalize}
    options |= {"shift_coords": 0.25} if normalize == "separate" else {}
    rope = RotaryEmbeddingDinoV3(8, **options)
    rotation = read_rotation(rope, "timm.layers.pos_embed_sincos.RotaryEmbeddingDinoV3")
    assert rotation.augmentation == CoordinateJitter(options.get("shift_coords", 0.0), 1.5, 2.0)

    drawn = torch.tensor([[0.2, -0.1], [1.3, 0.7]]) * torch.tensor([[float("shift_coords" in options)], [1.0]])
    indices, grid, convention = grid_positions(3, 5), torch.tensor([5.0, 3.0]), rotation.convention
    theirs = (convention.rotary_positions(indices, grid) / (2 * math.pi) + drawn[0]) * drawn[1] * 2 * math.pi
    frequencies = axial_frequencies(8)
    inputs = RotaryInputs(
        convention.patch_positions(indices, grid), frequencies * convention.step((3, 5)).unsqueeze(-1)
    )
    found = apply_jitter(inputs, GridSizes(grid, grid), drawn)
    assert_close(rotation_angles(found.positions, found.frequencies), rotation_angles(theirs, frequencies))


@torch.no_grad()
def test_their_augmentation_stays_in_training_unless_the_scaling_has_jitter():
    model = scaled(pair(TRANSFORMERS)[0], "pi").train()  # their default: rescale by up to 2
    assert relative(tokens(model, images()), tokens(model, images())) > 1e-3
    scaled(model, "pi+jitter(rescale=1)")
    assert torch.equal(tokens(model, images()), tokens(model, images()))


def mrope() -> nn.Module:
    model = dinov3()
    model.rope = RotaryEmbeddingMRope(16)
    return model


def old_library() -> nn.Module:
    model = dinov3()
    del model.blocks[1].attn.q_norm
    return model


#: Model that is refused, for the scaling parts+log, and the message.
REFUSED = {
    "other": (
        lambda: timm.create_model("resnet10t"),
        "got ResNet; set_scaling supports models of this package, timm's",
    ),
    "added": (
        lambda: ropevit.add_rope(timm.create_model("vit_tiny_patch16_224", depth=1)),
        "got VisionTransformer with the rotation of add_rope, which scaling methods do not change; set_scaling supp",
    ),
    "plain": (
        lambda: timm.create_model("eva_giant_patch14_224", **TIMM_SMALL),
        "got Eva without RoPE; there is nothing",
    ),
    "size": (
        dinov3,
        r"got Eva for 8 x 8 patches, with pretrained weights for 32 x 32; give the one of its training as t",
    ),
    "dropped": (
        lambda: scaled(dinov3(patch_drop_rate=0.5), "pi"),
        "with patch_drop_rate above 0, which leaves no room",
    ),
    "mrope": (mrope, "got a rotation by RotaryEmbeddingMRope; set_scaling knows those by RotaryEmbeddingCat, Rotary"),
    "shift": (
        lambda: timm_model("vit_small_patch16_rope_224", rope_shift_coords=0.5),
        r"got a rotation with rope_shift_coords=0\.5, in units of its coordinates",
    ),
    "compiled": (
        lambda: torch.compile(dinov3(), backend="eager"),
        "is compiled, scripted or distributed; call set_scaling first",
    ),
    "version": (old_library, "got Eva without what set_scaling looks for .*: its library has another version"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_leaves_no_room_is_refused_in_one_line(name):
    make, message = REFUSED[name]
    model = make()
    with pytest.raises(ValueError, match=message) as error:
        ropevit.set_scaling(model, "parts+log", None if name in ("size", "dropped") else TRAINED)
    assert "\n" not in str(error.value)


def replicated(model: nn.Module) -> nn.Module:
    """The replica of a model that nn.DataParallel makes for another device: modules are new, all else is shared."""
    copies = {part: part._replicate_for_data_parallel() for part in model.modules()}
    for part, replica in copies.items():
        for name, child in part.named_children():
            setattr(replica, name, copies[child])
        for name, parameter in part._parameters.items():
            setattr(replica, name, None if parameter is None else parameter.detach())
    return copies[model]


@torch.no_grad()
def test_replicas_of_data_parallel_are_refused_as_they_would_share_hooks():
    added = ropevit.add_rope(timm.create_model("vit_tiny_patch16_224", **TIMM_SMALL))
    for model, size in ((dinov3(), SIZE), (pair(TRANSFORMERS)[0], SIZE), (added, (64, 64))):
        if model is not added:
            assert tokens(replicated(model), images(*size)).isfinite().all()
            scaled(model, "ntk")
        tokens(nn.DataParallel(model).module, images(*size))  # one device
        with pytest.raises(
            ValueError, match=r"got nn.DataParallel over several devices after (set_scaling|add_rope), "
        ):
            tokens(replicated(model), images(*size))


def test_a_get_embed_of_other_code_is_refused_and_stays():
    for theirs in (lambda *_, **__: torch.zeros(1, 16), nn.Identity().forward):
        model = dinov3()
        model.rope.get_embed = theirs
        with pytest.raises(ValueError, match="got a RotaryEmbeddingDinoV3 whose get_embed was replaced by other code"):
            scaled(model)
        ropevit.set_scaling(model, None)
        assert model.rope.get_embed == theirs
        del model.rope.get_embed
        scaled(scaled(model))  # ours is replaced


def test_unknown_methods_are_refused_before_anything_is_changed():
    both = nn.ModuleList([our_model("vit_small_patch16_dinov3"), dinov3()])
    with pytest.raises(ValueError, match="no scaling method named 'par'"):
        ropevit.set_scaling(both, "par", TRAINED)
    assert both[0].config.scaling is None
    assert "get_embed" not in vars(both[1].rope)


def test_a_projection_wrapped_after_set_scaling_is_refused():
    model = scaled(pair(TRANSFORMERS)[0])
    layer = model.model.layer[1].attention
    layer.q_proj = nn.Sequential(layer.q_proj)
    with pytest.raises(
        ValueError, match="q_proj of a retrofitted DINOv3ViTAttention was replaced after set_scaling, so"
    ):
        model(images())
