"""`add_rope` on the vision towers of open_clip's models of images and text."""

import open_clip
import pytest
import torch
from open_clip.coca_model import CoCa
from open_clip.model import CLIP, CustomTextCLIP, convert_weights_to_lp
from open_clip.transformer import VisionTransformer
from torch import nn
from torch.testing import assert_close

from integrations.retrofit_models import HEADS, images, make_peaked, open_clip_vit
from ropevit.integrations.retrofit import add_rope, rope_parameters

VISION = {"image_size": 16, "patch_size": 4, "width": 16, "layers": 2, "head_width": 8}
TEXT = {"context_length": 5, "vocab_size": 9, "width": 16, "heads": HEADS, "layers": 1}
WORDS = torch.tensor([[1, 4, 2, 8, 0], [3, 3, 8, 0, 0]])


def clip(kind: type[nn.Module] = CLIP, **vision) -> nn.Module:
    options = {"multimodal_cfg": TEXT} if kind is CoCa else {}
    return make_peaked(kind(embed_dim=16, vision_cfg=VISION | vision, text_cfg=TEXT, **options))


def add_random_rope(model: nn.Module) -> nn.Module:
    return randomize_rope(add_rope(model))


def randomize_rope(model: nn.Module) -> nn.Module:
    """Draw random frequencies, as after training."""
    with torch.no_grad():
        for parameter in rope_parameters(model).values():
            parameter.normal_()
    return model


@pytest.mark.parametrize(("block", "equal"), [("default", False), ("custom", True)])
def test_without_gradients_only_pytorchs_fused_attention_differs_by_rounding(block, equal):
    model, x = open_clip_vit(block_type=block), images(16, 16)
    with torch.no_grad():
        before = model(x)
        after = add_rope(model)(x)
    assert_close(after, before)
    assert torch.equal(after, before) or not equal


@pytest.mark.parametrize("kind", [CLIP, CustomTextCLIP, CoCa])
def test_the_vision_tower_gets_rope_and_the_text_tower_does_not(kind):
    model, x = clip(kind), images(16, 16)
    pixels, words = model.encode_image(x), model.encode_text(WORDS)
    add_rope(model)
    assert torch.equal(model.encode_image(x), pixels)
    assert set(rope_parameters(model)) == {f"visual.transformer.resblocks.{n}.attn.rope.freqs" for n in (0, 1)}
    randomize_rope(model)
    assert torch.equal(model.encode_text(WORDS), words)
    assert not torch.allclose(model.encode_image(x), pixels, atol=1e-2)


@pytest.mark.parametrize("pool", [True, "parallel", "cascade"])
def test_attention_pooling_gets_no_rope(pool):
    model, x = (
        open_clip_vit(attentional_pool=pool, output_dim=16, attn_pooler_queries=3, attn_pooler_heads=2),
        images(16, 16),
    )
    before = model(x)
    assert torch.equal(add_rope(model)(x), before)
    assert len(rope_parameters(model)) == 2
    assert type(model.attn_pool.attn) is nn.MultiheadAttention


def test_a_timm_tower_inside_open_clip_gets_rope():
    tower = {"timm_model_name": "vit_tiny_patch16_224", "timm_pool": "token", "timm_proj": "linear", "image_size": 32}
    model = clip(CustomTextCLIP, **tower)
    model.visual.set_input_size(32)
    x = images(32, 32)
    before = model.encode_image(x)
    assert torch.equal(add_rope(model).encode_image(x), before)
    assert all(name.startswith("visual.trunk.blocks.") for name in rope_parameters(model))


def test_open_clips_load_checkpoint_takes_a_retrofitted_model_to_another_image_size(tmp_path):
    model = add_random_rope(clip())
    torch.save(model.state_dict(), tmp_path / "rotated.pt")
    larger = add_rope(clip(image_size=(24, 32)))
    open_clip.load_checkpoint(larger, str(tmp_path / "rotated.pt"))
    for name, value in rope_parameters(model).items():
        assert torch.equal(larger.get_parameter(name), value)
    grid = larger.visual.transformer.resblocks[0].attn.grid
    larger.encode_image(images(24, 32))
    assert grid.size == (6, 8)


def test_checkpointed_blocks_have_the_same_gradients():
    found = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        model = add_random_rope(open_clip_vit()).train()
        model.set_grad_checkpointing(checkpointing)
        model(images(16, 16)).square().sum().backward()
        found.append([parameter.grad for parameter in model.parameters()])
    assert all(value is not None for value in found[0])
    assert_close(found[1], found[0])


def test_intermediate_features_are_those_of_a_forward_pass_with_rope():
    model, x = add_random_rope(open_clip_vit()), images(16, 16)
    taken = model.forward_intermediates(x, indices=[1], output_fmt="NLC")
    assert_close(taken["image_features"], model(x))


def test_in_a_model_cast_to_bfloat16_outputs_are_unchanged_and_rope_parameters_stay_float32():
    model, x = clip(), images(16, 16).bfloat16()
    convert_weights_to_lp(model, torch.bfloat16)
    before = model.encode_image(x)
    assert torch.equal(add_rope(model).encode_image(x), before)
    randomize_rope(model)
    after = model.encode_image(x)
    assert after.dtype == torch.bfloat16
    assert not torch.allclose(after, before, atol=1e-2)
    assert {value.dtype for value in rope_parameters(model).values()} == {torch.float32}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"patch_dropout": 0.5}, "patch_dropout above 0; build it with force_patch_dropout=0"),
        ({"scaled_cosine_attn": True}, "got an Attention of open_clip with scaled_cosine=True"),
        ({"heads": 8}, "got 2 channels per head"),
    ],
)
def test_unsupported_towers_are_refused_unchanged(options, message):
    model = open_clip_vit(**options)
    before = list(model.state_dict())
    with pytest.raises(ValueError, match=message) as error:
        add_rope(model)
    assert "\n" not in str(error.value)
    assert list(model.state_dict()) == before


def test_a_resnet_of_open_clip_is_refused():
    model = clip(layers=(1, 1, 1, 1), head_width=64, image_size=32)
    assert not any(isinstance(part, VisionTransformer) for part in model.modules())
    with pytest.raises(ValueError, match="got a CLIP; add_rope supports the VisionTransformer of timm"):
        add_rope(model)


def test_a_projection_replaced_afterwards_is_refused():
    model = add_random_rope(open_clip_vit(block_type="custom"))
    model.transformer.resblocks[0].attn.ln_k = nn.Sequential(nn.Identity())
    with pytest.raises(ValueError, match="ln_k of a retrofitted Attention was replaced after add_rope"):
        model(images(16, 16))
