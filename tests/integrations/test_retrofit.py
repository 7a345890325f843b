"""`add_rope` on other libraries' vision transformers: unchanged outputs at first, then rotary attention."""

import copy
import pickle

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close
from transformers import (
    AutoConfig,
    AutoModel,
    CLIPConfig,
    CLIPModel,
    DINOv3ViTConfig,
    ViTConfig,
    ViTForImageClassification,
)

import ropevit
from integrations.retrofit_models import CHANNELS, HEADS, HUGGING, MODELS, images, run, sizes, timm_vit, torchvision_vit
from marks import by_default
from offloading import offload
from ropevit.integrations.retrofit import ROPE_FACTORIES, add_rope, grid, rope_parameters
from ropevit.rope import GatedAxialRope, MixedRope, grid_positions, rotate

CASES = [(name, size) for name in MODELS for size in sizes(name)]


def build(name: str) -> nn.Module:
    return MODELS[name][0]()


def add_random_rope(model: nn.Module, rope_type: str = "mixed") -> nn.Module:
    """Add RoPE with random frequencies or gates, as after training."""
    add_rope(model, rope_type)
    with torch.no_grad():
        for parameter in rope_parameters(model).values():
            parameter.normal_()
    return model


@pytest.mark.parametrize("rope_type", ROPE_FACTORIES)
@pytest.mark.parametrize(("name", "size"), CASES)
def test_add_rope_leaves_the_outputs_unchanged_bit_for_bit(name, size, rope_type):
    model, x = build(name), images(*size)
    before = run(model, x)
    assert add_rope(model, rope_type) is model
    assert torch.equal(run(model, x), before)


def test_torchvisions_fused_inference_differs_by_rounding_only():
    model, x = torchvision_vit(), images(16, 16)
    with torch.no_grad():
        before = model(x)
        assert_close(add_rope(model)(x), before)


@pytest.mark.parametrize("rope_type", ROPE_FACTORIES)
@pytest.mark.parametrize(("name", "size"), CASES)
def test_each_layer_rotates_queries_and_keys_by_the_patch_grid_of_the_images(name, size, rope_type):
    model = add_random_rope(build(name), rope_type)
    layer = model.get_submodule(MODELS[name][1].format(1))
    seen = []

    def keep(_, args, options, out):
        seen.append((args[0] if args else options["hidden_states"], out[0] if isinstance(out, tuple) else out))

    layer.register_forward_hook(keep, with_kwargs=True)
    run(model, images(*size))
    x, out = seen[0]
    q, k, v = projections(layer, x)
    frequencies = (
        layer.rope.freqs if rope_type == "mixed" else layer.rope.freqs[:, None] * layer.rope.gate.tanh()[:, None]
    )
    positions = grid_positions(size[0] // 4, size[1] // 4)
    q, k = rotate(q, k, positions, frequencies, num_prefix_tokens=MODELS[name][2])
    scores = (q @ k.mT / CHANNELS**0.5).softmax(-1)
    last = next(getattr(layer, part) for part in ("proj", "o_proj", "out_proj") if hasattr(layer, part))
    assert_close(out, last((scores @ v).transpose(1, 2).flatten(2)))


def projections(layer: nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
    """Compute queries, keys and values (B, A, N, D) from a layer's weights alone, past every hook."""
    if hasattr(layer, "q_proj"):
        parts = [F.linear(x, part.weight, part.bias) for part in (layer.q_proj, layer.k_proj, layer.v_proj)]
    elif hasattr(layer, "qkv"):
        parts = list(F.linear(x, layer.qkv.weight, layer.qkv.bias).chunk(3, -1))
    else:
        parts = list(F.linear(x, layer.in_proj_weight, layer.in_proj_bias).chunk(3, -1))
    q, k, v = (part.unflatten(-1, (HEADS, CHANNELS)).transpose(1, 2) for part in parts)
    norm = getattr(layer, "q_norm", getattr(layer, "ln_q", None))
    if isinstance(norm, nn.LayerNorm):
        q, k = (F.layer_norm(z, (CHANNELS,), eps=norm.eps) for z in (q, k))
    return [q, k, v]


@pytest.mark.parametrize("rope_type", ROPE_FACTORIES)
def test_outputs_depend_on_relative_positions_only(rope_type, monkeypatch):
    model, x = add_random_rope(timm_vit(class_token=False, global_pool="avg"), rope_type), images(12, 20)
    before = model(x)
    shift = torch.tensor([5.0, -3.0])
    monkeypatch.setattr(grid, "grid_positions", lambda *size, device: grid_positions(*size, device=device) + shift)
    assert_close(model(x), before, atol=1e-4, rtol=1e-4)
    monkeypatch.setattr(grid, "grid_positions", lambda *size, device: grid_positions(*size, device=device) * 2)
    assert not torch.allclose(model(x), before, atol=1e-2)


@pytest.mark.parametrize("rope_type", ROPE_FACTORIES)
@pytest.mark.parametrize("name", MODELS)
def test_every_rope_parameter_has_a_nonzero_gradient_at_initialization(name, rope_type):
    model = add_rope(build(name), rope_type)
    run(model, images(16, 16)).square().sum().backward()
    rope = rope_parameters(model)
    assert len(rope) == 2
    for parameter in rope.values():
        assert parameter.dtype == torch.float32
        assert (parameter.grad != 0).all()


def test_the_gradient_of_a_score_at_initialization_is_that_of_the_docs():
    q, k, frequency = torch.randn(1, 1, 2, 2), torch.randn(1, 1, 2, 2), torch.zeros(2, 1, requires_grad=True)
    positions = torch.tensor([[1.0, 5.0], [4.0, 3.0]])
    a, b = rotate(q, k, positions, frequency)
    (a @ b.mT)[0, 0, 0, 1].backward()
    (q1, q2), (k1, k2) = q[0, 0, 0], k[0, 0, 1]
    assert_close(frequency.grad[:, 0], (q1 * k2 - q2 * k1) * (positions[0] - positions[1]))


@pytest.mark.parametrize("rope_type", ROPE_FACTORIES)
@pytest.mark.parametrize("name", MODELS)
def test_a_state_dict_with_rope_loads_only_after_add_rope(name, rope_type):
    model, x = build(name), images(16, 16)
    old = set(model.state_dict())
    state = add_random_rope(model, rope_type).state_dict()
    new = {key.rpartition(".")[2] for key in set(state) - old}
    assert old < set(state)
    assert new == ({"freqs"} if rope_type == "mixed" else {"freqs", "gate"})
    other = build(name)
    other.load_state_dict({key: state[key] for key in old})  # as the original would have been
    with pytest.raises(RuntimeError, match=r"Unexpected key.*rope\.freqs"):
        other.load_state_dict(state)
    add_rope(other, rope_type).load_state_dict(state)
    assert torch.equal(run(other, x), run(model, x))


def test_a_state_dict_of_one_kind_does_not_load_into_the_other():
    with pytest.raises(RuntimeError, match=r"rope\.gate"):
        add_random_rope(timm_vit(), "mixed").load_state_dict(add_random_rope(timm_vit(), "axial").state_dict())


def test_a_transformers_model_is_rebuilt_from_its_config_and_state_dict(tmp_path):
    model, x = add_random_rope(build("vit")), images(16, 16)
    model.config.save_pretrained(tmp_path)
    save_file(model.state_dict(), tmp_path / "rotated.safetensors")
    other = add_rope(AutoModel.from_config(AutoConfig.from_pretrained(tmp_path))).eval()
    other.load_state_dict(load_file(tmp_path / "rotated.safetensors"))
    assert torch.equal(run(other, x), run(model, x))


@pytest.mark.parametrize("name", ["timm", "vit", "torchvision", "open_clip custom"])
def test_copies_have_their_own_rope_parameters(name):
    model, x = add_random_rope(build(name)), images(16, 16)
    before = run(model, x)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(run(other, x), before)
        with torch.no_grad():
            for parameter in rope_parameters(other).values():
                parameter.zero_()
        assert not torch.allclose(run(other, x), before)
    assert torch.equal(run(model, x), before)


@pytest.mark.parametrize("rope_type", ROPE_FACTORIES)
def test_angles_stay_float32_when_the_model_is_cast(rope_type):
    model, x = add_random_rope(timm_vit(), rope_type), images(16, 24)
    before = model(x)
    model.bfloat16()
    rotation = {**model.blocks[0].attn.rope.state_dict()}
    assert {value.dtype for value in rotation.values()} == {torch.float32}
    assert_close(model(x.bfloat16()).float(), before, atol=0.3, rtol=0.1)


@pytest.mark.parametrize("name", ["vit", "deit", "clip", "dinov2", "dinov2 registers"])
def test_transformers_attention_implementations_still_switch(name):
    model, x = add_random_rope(build(name)), images(16, 16)
    outputs = {}
    for attention in ("sdpa", "eager"):
        model.set_attn_implementation(attention)
        outputs[attention] = run(model, x)
    assert_close(outputs["sdpa"], outputs["eager"], atol=1e-4, rtol=1e-4)
    assert model(x, output_attentions=True).attentions[1].shape == (
        2,
        HEADS,
        16 + MODELS[name][2],
        16 + MODELS[name][2],
    )


def test_timms_unfused_attention_rotates_too():
    model, x = add_random_rope(timm_vit()), images(12, 24)
    before = model(x)
    for block in model.blocks:
        block.attn.fused_attn = False
    assert_close(model(x), before)


def test_a_vision_tower_inside_another_model_gets_rope_and_the_rest_does_not():
    classifier = ViTForImageClassification(ViTConfig(**HUGGING))
    assert set(rope_parameters(add_rope(classifier))) == {f"vit.layers.{n}.attention.rope.freqs" for n in (0, 1)}
    text = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    clip = add_rope(CLIPModel(CLIPConfig(text_config=text, vision_config=HUGGING)))
    assert all(name.startswith("vision_model.") for name in rope_parameters(clip))
    features = timm.create_model("vit_tiny_patch16_224", features_only=True, embed_dim=16, num_heads=2, depth=3)
    assert len(rope_parameters(add_rope(features))) == 3


def test_intermediate_features_of_timm_are_those_of_a_forward_pass_with_rope():
    model, x = add_random_rope(timm_vit()), images(12, 24)
    maps = model.forward_intermediates(x, intermediates_only=True, norm=True)
    assert_close(maps[-1].flatten(2).mT, model.forward_features(x)[:, 1:])


def test_padded_images_of_timm_have_the_padded_grid():
    model, x = add_random_rope(timm_vit(dynamic_img_pad=True)), images(10, 21)
    assert_close(model(x), model(F.pad(x, (0, 3, 0, 2))))


@pytest.mark.parametrize("name", by_default(["timm"], ["timm", "vit", "torchvision", "open_clip", "open_clip custom"]))
@pytest.mark.usefixtures("unchecked")
def test_a_retrofitted_model_compiles_to_one_graph(name):
    model, x = add_random_rope(build(name)), images(*sizes(name)[-1])
    options = {"interpolate_pos_encoding": True} if name == "vit" else {}
    out = torch.compile(model, backend="eager", fullgraph=True)(x, **options)
    assert_close(out if isinstance(out, torch.Tensor) else out.last_hidden_state, run(model, x))


@pytest.mark.parametrize("name", ["timm", "vit"])
def test_checkpointed_blocks_find_the_grid_of_their_own_forward_pass(name):
    small, large = images(8, 12), images(16, 24)
    found = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        model = add_random_rope(build(name)).train()
        if checkpointing:
            (model.set_grad_checkpointing if name == "timm" else model.activation_checkpointing_enable)()
        for sizes_at_once in ((small,), (small, large)):  # then several sizes before one backward pass
            sum(run(model, x).square().sum() for x in sizes_at_once).backward()
            with torch.no_grad():
                run(model, images(12, 8))  # an evaluation in between
        found.append([parameter.grad for parameter in model.parameters()])
    for with_it, without in zip(*found, strict=True):
        assert_close(with_it, without)


def test_checkpointed_grids_with_the_same_number_of_patches_are_refused():
    model = add_random_rope(timm_vit()).train()
    model.set_grad_checkpointing()
    loss = model(images(8, 16)).sum() + model(images(16, 8)).sum()
    with pytest.raises(ValueError, match="2 x 4 and 4 x 2 patches before one backward"):
        loss.backward()
    for size in ((8, 16), (16, 8)):
        model(images(*size)).sum().backward()


def test_unsupported_models_are_refused_unchanged_with_a_one_line_message():
    refusals = [
        (nn.Linear(2, 2), "got a Linear; add_rope supports the VisionTransformer of timm"),
        (add_rope(timm_vit()), r"has RoPE already \(MixedRope\); call add_rope only once"),
        (add_rope(torchvision_vit(), "axial"), r"has RoPE already \(GatedAxialRope\); call add_rope only once"),
        (ropevit.create_model("rope_axial_deit_small_patch16_LS", depth=1), r"has RoPE already \(AxialRope\)"),
        (timm_vit(patch_drop_rate=0.5), "patch_drop_rate above 0"),
        (timm_vit(block_fn=timm.models.vision_transformer.ParallelScalingBlock), "blocks of ParallelScalingBlock"),
        (timm_vit(attn_layer="diff"), "whose attention is not Attention"),
        (timm_vit(num_heads=8), "got 2 channels per head"),
        (nn.ModuleList([timm_vit(), timm_vit(num_heads=8)]), "got 2 channels per head"),
        (without(build("vit"), "layers"), "got a ViTModel without layers: its library has another version"),
        (torch.compile(timm_vit(), backend="eager"), "compiled, scripted or distributed"),
        (nn.DataParallel(timm_vit()), "compiled, scripted or distributed"),
    ]
    for model, message in refusals:
        before = list(model.state_dict())
        with pytest.raises(ValueError, match=message) as error:
            add_rope(model)
        assert "\n" not in str(error.value)
        assert list(model.state_dict()) == before
    with pytest.raises(ValueError, match="got rope_type='spiral'; choose one of mixed, axial"):
        add_rope(timm_vit(), "spiral")


def without(model: nn.Module, part: str) -> nn.Module:
    delattr(model, part)
    return model


def test_models_of_other_libraries_with_rope_are_refused():
    eva = timm.create_model("eva02_tiny_patch14_224", embed_dim=16, num_heads=2, depth=1)
    with pytest.raises(ValueError, match="has RoPE already"):
        add_rope(eva)
    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    dinov3 = AutoModel.from_config(DINOv3ViTConfig(**small))
    with pytest.raises(ValueError, match="has RoPE already"):
        add_rope(dinov3)


@pytest.mark.parametrize(("name", "part"), [("timm", "k_norm"), ("vit", "q_proj")])
def test_a_projection_replaced_afterwards_is_refused(name, part):
    model = add_random_rope(build(name))
    layer = model.get_submodule(MODELS[name][1].format(0))
    setattr(layer, part, nn.Sequential(getattr(layer, part)))  # as an adapter wraps it
    with pytest.raises(ValueError, match=f"{part} of a retrofitted .* was replaced after add_rope"):
        run(model, images(16, 16))


def test_tokens_that_are_not_those_of_the_last_images_are_refused():
    model = add_random_rope(timm_vit())
    with pytest.raises(ValueError, match="got 5 tokens in a retrofitted attention layer; expected 1 prefix token"):
        model.blocks(torch.randn(1, 5, 16))
    model(images(16, 16))
    with pytest.raises(ValueError, match="got 5 tokens in a retrofitted"):
        model.blocks(torch.randn(1, 5, 16))


@pytest.mark.parametrize("wrong", [{"need_weights": True}, {"need_weights": False, "attn_mask": torch.ones(17, 17)}])
def test_the_replacement_of_multihead_attention_refuses_masks_weights_and_cross_attention(wrong):
    layer = add_rope(torchvision_vit()).encoder.layers[0].self_attention
    x = torch.randn(1, 17, 16)
    with pytest.raises(ValueError, match="got a mask, need_weights=True or cross-attention"):
        layer(x, x, x, **wrong)
    with pytest.raises(ValueError, match="cross-attention"):
        layer(x, x, x + 1, need_weights=False)


@pytest.mark.parametrize("rope_type", ROPE_FACTORIES)
@pytest.mark.parametrize("name", MODELS)
def test_offloaded_rope_modules_still_rotate(name, rope_type):
    model, given = add_random_rope(build(name), rope_type), images(*sizes(name)[0])
    expected = run(model, given)
    for rope in [part for part in model.modules() if isinstance(part, MixedRope | GatedAxialRope)]:
        offload(rope)
    assert_close(run(model, given), expected, rtol=0, atol=0)


def test_a_multihead_attention_with_hooks_or_unsupported_options_is_refused():
    model = torchvision_vit()
    model.encoder.layers[1].self_attention.register_forward_hook(lambda *_: None)
    before = list(model.state_dict())
    with pytest.raises(ValueError, match="with hooks, which would be lost"):
        add_rope(model)
    assert list(model.state_dict()) == before
    model = torchvision_vit()
    model.encoder.layers[1].self_attention = nn.MultiheadAttention(16, 2, add_zero_attn=True, batch_first=True)
    with pytest.raises(
        ValueError, match="with kdim, vdim, add_bias_kv, add_zero_attn or batch_first=False; expected batch_first=True"
    ):
        add_rope(model)


def test_training_the_rope_parameters_alone_lowers_the_loss():
    model = add_rope(timm_vit()).train()
    optimizer = torch.optim.AdamW(rope_parameters(model).values(), lr=0.02, weight_decay=0.0)
    x, target = images(16, 16), torch.tensor([0, 2])
    losses = []
    for _ in range(6):
        loss = F.cross_entropy(model(x), target)
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < losses[0]
