"""`ropevit.set_scaling` on timm's NaFlexVit: as on timm's Eva of the same weights, by each image's own grid."""

import copy
import pickle

import pytest
import timm
import torch
from timm.models.naflexvit import batch_patchify, checkpoint_filter_fn
from torch import Tensor, nn

import ropevit
from marks import in_turn
from weights.families import TIMM_SMALL, relative, timm_model

TRAINED = (8, 8)
#: Rotations of DINOv3, axial and mixed.
NAMES = ["vit_small_patch16_dinov3", "vit_small_patch16_rope_224", "vit_small_patch16_rope_mixed_224"]
METHODS = ["pi", "ntk", "parts+log", "yarn", "normalize(by=max)+entropy"]


def image(height: int, width: int) -> Tensor:
    return torch.randn(1, 3, height, width, generator=torch.Generator().manual_seed(height))


def pair(name: str) -> tuple[nn.Module, nn.Module]:
    """An Eva, and a NaFlexVit with its weights."""
    eva = timm_model(name, dynamic_img_size=True)
    naflex = timm.create_model(name, use_naflex=True, **TIMM_SMALL).eval()
    naflex.load_state_dict(checkpoint_filter_fn(eva.state_dict(), naflex))
    return eva, naflex


def naflex_model(name: str = NAMES[0], **options) -> nn.Module:
    return timm.create_model(name, use_naflex=True, **(TIMM_SMALL | options)).eval()


def as_batch(*images: Tensor) -> dict[str, Tensor]:
    """Patches, their rows and columns, and which are no padding, as timm's collator gives them."""
    patches = [batch_patchify(each, (8, 8))[0][0] for each in images]
    count = max(len(each) for each in patches)
    batch = {
        "patches": torch.zeros(len(images), count, patches[0].shape[1]),
        "patch_coord": torch.zeros(len(images), count, 2, dtype=torch.long),
        "patch_valid": torch.zeros(len(images), count, dtype=torch.bool),
    }
    for index, (each, patch) in enumerate(zip(images, patches, strict=True)):
        rows, columns = each.shape[2] // 8, each.shape[3] // 8
        batch["patches"][index, : len(patch)] = patch
        batch["patch_coord"][index, : len(patch)] = torch.cartesian_prod(torch.arange(rows), torch.arange(columns))
        batch["patch_valid"][index, : len(patch)] = True
    return batch


@pytest.mark.parametrize(("name", "scaling"), in_turn(NAMES, METHODS))
@torch.no_grad()
def test_features_are_those_of_eva_of_the_same_weights_alone_and_in_a_batch(name, scaling):
    eva, naflex = pair(name)
    images = [image(96, 112), image(64, 64), image(48, 120)]
    keys, modules, plain = [*naflex.state_dict()], [*naflex.modules()], naflex.forward_features(images[0])
    for model in (eva, naflex):
        ropevit.set_scaling(model, scaling, TRAINED)
    together = naflex.forward_features(**as_batch(*images))
    together = together["patches"] if isinstance(together, dict) else together
    for each, found in zip(images, together, strict=True):
        expected = eva.forward_features(each)
        assert relative(naflex.forward_features(each), expected) < 1e-5
        assert relative(found[: expected.shape[1]], expected[0]) < 1e-5
    assert [*naflex.state_dict()] == keys
    assert [*naflex.modules()] == modules
    ropevit.set_scaling(naflex, None)
    assert torch.equal(naflex.forward_features(images[0]), plain)
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in naflex.modules())
    assert not any(part._forward_pre_hooks_with_kwargs for part in naflex.modules())


@torch.no_grad()
def test_copies_and_pickles_keep_the_scaling_to_themselves():
    model = pair(NAMES[0])[1]
    ropevit.set_scaling(model, "log", TRAINED)
    others = copy.deepcopy(model), pickle.loads(pickle.dumps(model))
    batch = as_batch(image(96, 112), image(64, 64))
    expected = model(batch)
    for other in others:
        assert torch.equal(other(batch), expected)
        ropevit.set_scaling(other, None)
    assert torch.equal(model(batch), expected)


def test_embeddings_of_several_grids_can_be_padded():
    model = naflex_model(NAMES[1])
    shapes = [(2, 3), (4, 2)]
    theirs = model.rope.get_batch_embeds(shapes, seq_len=9)
    ropevit.set_scaling(model, "log", TRAINED)  # which leaves the rotation as it is
    found = model.rope.get_batch_embeds(shapes, seq_len=9)
    torch.testing.assert_close(found, theirs)


def test_checkpointing_of_a_batch_with_an_attention_factor_is_refused():
    model = naflex_model().train()
    model.set_grad_checkpointing()
    batch = as_batch(image(96, 112), image(64, 64))
    ropevit.set_scaling(model, "ntk", TRAINED)
    model(batch).sum().backward()
    ropevit.set_scaling(model, "log", TRAINED)
    model(image(96, 112)).sum().backward()
    with pytest.raises(ValueError, match="got patch_coord with gradient checkpointing and a scaling with an attention"):
        model(batch)


def test_the_grid_of_training_is_that_of_the_image_size_if_pretrained_weights_agree():
    with pytest.raises(ValueError, match="got NaFlexVit for 8 x 8 patches, with pretrained weights for 32 x 32; give"):
        ropevit.set_scaling(naflex_model(), "log")
    model = naflex_model(img_size=256)
    ropevit.set_scaling(model, "log")
    assert model.rope.get_embed.__self__.scaling.trained_grid == (32, 32)
    model.rope.get_batch_embeds = lambda *_, **__: []
    with pytest.raises(ValueError, match="whose get_batch_embeds was replaced by other code"):
        ropevit.set_scaling(model, "ntk")
