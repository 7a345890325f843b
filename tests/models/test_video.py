import json
import math

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch.testing import assert_close

from marks import by_default
from ropevit import create_model, load_model, load_weights, save_model
from ropevit.kernels import set_backend
from ropevit.models import MODELS, Swin, SwinConfig, ViT, ViTConfig, inflate, parameter_groups
from ropevit.models.cost import count_macs
from ropevit.models.dense import DenseViTConfig
from ropevit.rope import axial_frequencies
from ropevit.weights import WeightsError, convert

POSITIONS = ["none", "ape", "rope_axial", "rope_mixed", "rope_axial_ape", "rope_mixed_ape"]

#: Of the images: heads of 16 channels, 8 pairs, of which an axial one leaves 2 for t.
SMALL = {"width": 48, "depth": 2, "heads": 3, "patch_size": 8, "img_size": (24, 40), "num_classes": 5}


def config(position="rope_mixed", **changes) -> ViTConfig:
    return ViTConfig(position=position, **(SMALL | {"layer_scale": 0.5} | changes))


def model(position="rope_mixed", **changes) -> ViT:
    """A model whose every weight is random, so that nothing hides behind a zero."""
    built = ViT(config(position, **changes))
    with torch.no_grad():
        for name, parameter in built.named_parameters():
            if not name.endswith("freqs"):
                parameter.normal_(std=0.2)
    return built.eval()


def video(position="rope_mixed", **changes) -> ViT:
    return model(position, **({"frames": 6, "tubelet": 2} | changes))


def still(images, frames):
    return images.unsqueeze(2).expand(-1, -1, frames, -1, -1)


def inflated(position, **options) -> tuple[ViT, ViT]:
    """An image model, whose axial rotation has left pairs for t, and the video model made of it."""
    plan = {"pairs": (3, 3, 2)} if "axial" in position else {}
    image = model(position, num_registers=1, **plan)
    return image, inflate(image, frames=6, **options)


@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize(("tubelet", "kernel"), [(1, "mean"), (2, "mean"), (3, "mean"), (3, "central")])
def test_a_still_tubelet_gets_the_logits_of_the_image(position, tubelet, kernel):
    image, clip = inflated(position, tubelet=tubelet, kernel=kernel)
    with torch.no_grad():
        for block in clip.blocks:
            if "mixed" in position:
                block.attn.rope.freqs[2].normal_()  # whatever is rotated by t, t is 0
    images = torch.randn(2, 3, 24, 56)
    assert_close(clip(still(images, tubelet)), image(images), rtol=1e-5, atol=1e-5)
    assert not torch.allclose(clip(still(images.flip(3), tubelet)), image(images), rtol=1e-2)


def test_mean_and_central_kernels_see_what_they_say():
    image, _ = inflated("rope_mixed")
    clips = torch.randn(2, 3, 4, 24, 40)
    mean, central = (inflate(image, frames=4, tubelet=4, kernel=kernel) for kernel in ("mean", "central"))
    assert_close(mean(clips), image(clips.mean(2)), rtol=1e-5, atol=1e-5)
    assert_close(central(clips), image(clips[:, :, 2]), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("position", POSITIONS)
def test_a_still_clip_of_any_length_gets_them_too_without_a_class_token(position):
    plan = {"pairs": (4, 4, 0)} if "axial" in position else {}
    image = model(position, class_token=False, pooling="avg", **plan)
    images = torch.randn(2, 3, 24, 40)
    assert_close(inflate(image, frames=6, tubelet=2)(still(images, 10)), image(images), rtol=1e-5, atol=1e-5)
    beside, clip = inflated("rope_mixed")  # with one, the fraction of attention on it falls with every tubelet
    assert not torch.allclose(clip(still(images, 6)), beside(images), rtol=1e-3)


def test_a_published_axial_model_keeps_its_function_in_the_two_ways_that_there_are():
    image, images = model("rope_axial"), torch.randn(2, 3, 40, 24)
    kept, learned = inflate(image, frames=4, pairs=(4, 4, 0)), inflate(image, frames=4, learned=True, time_speed=0.3)
    assert learned.config.position == "rope_mixed"
    for clip in (kept, learned):
        assert_close(clip(still(images, 1)), image(images), rtol=1e-5, atol=1e-5)
    clips = torch.randn(1, 3, 4, 24, 40)
    assert_close(kept(clips), kept(clips[:, :, [2, 0, 3, 1]]), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(learned(clips), learned(clips[:, :, [2, 0, 3, 1]]), rtol=1e-2)
    changed = inflate(image, frames=4, pairs=(3, 3, 2))
    assert not torch.allclose(changed(still(images, 1)), image(images), rtol=1e-3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, r"8 pairs are all rotated by x or y; give pairs=\(x, y, t\), of which \(4, 4, 0\) changes nothing"),
        ({"pairs": (4, 4, 1)}, r"pairs=\(4, 4, 1\); expected 3 counts, none negative, with sum 8"),
        ({"pairs": (3, 3, 2), "learned": True}, "leave one out"),
        ({"pairs": (3, 3, 2), "time_speed": 0.1}, "for RoPE-Mixed alone"),
        ({"pairs": (3, 3, 2), "kernel": "last"}, "kernel='last'; expected mean or central"),
        ({"pairs": (3, 3, 2), "tubelet": 3}, "clip of 4 frames, which tubelets of 3 do not tile.* to have 3 or 6"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_what_cannot_be_inflated_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        inflate(model("rope_axial"), frames=4, **options)
    with pytest.raises(ValueError, match="got learned=True for rope_mixed; that is for RoPE-Axial"):
        inflate(model(), frames=4, learned=True)
    for speed in (math.nan, math.inf, -0.1):
        with pytest.raises(ValueError, match=f"time_speed={speed} for rope_mixed; expected 0 or"):
            inflate(model(), frames=4, time_speed=speed)
    with pytest.raises(ValueError, match="got a video model; expected a ViT of images"):
        inflate(video(), frames=4)


@pytest.mark.parametrize("position", ["rope_axial", "rope_mixed"])
def test_scores_depend_on_differences_of_place_and_time(position):
    built = video(position, class_token=False, pooling="avg")
    x, positions = built.embed(torch.randn(1, 3, 4, 24, 40))
    assert positions[:, 2].tolist() == [0.0] * 15 + [1.0] * 15
    here = built.encode(x, positions)
    assert_close(built.encode(x, positions + torch.tensor([5.0, -2.0, 7.0])), here, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(built.encode(x, positions * torch.tensor([1.0, 1.0, 2.0])), here, rtol=1e-2)


@pytest.mark.parametrize(
    ("position", "seen"), [("none", False), ("ape", True), ("rope_axial", True), ("rope_mixed", True)]
)
def test_the_order_of_frames_is_seen_where_positions_say_it(position, seen):
    built, clips = video(position, tubelet=1), torch.randn(1, 3, 4, 24, 40)
    assert torch.allclose(built(clips), built(clips[:, :, [2, 0, 3, 1]]), rtol=1e-4, atol=1e-4) is not seen


def test_tubelets_permuted_with_their_positions_give_the_same_tokens():
    built = video("rope_axial")
    x, positions = built.embed(torch.randn(1, 3, 6, 16, 24))
    order = torch.randperm(len(positions))
    moved = built.encode(torch.cat([x[:, :1], x[:, 1:][:, order]], 1), positions[order])
    assert_close(moved[:, 1:], built.encode(x, positions)[:, 1:][:, order], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("channels", "pairs"), [(64, (12, 12, 8)), (16, (3, 3, 2)), (12, (2, 2, 2)), (8, (1, 1, 2)), (32, (6, 6, 4))]
)
def test_three_eighths_of_the_pairs_are_rotated_by_x_and_by_y_each_if_none_are_given(channels, pairs):
    built = config("rope_axial", frames=2, heads=1, width=channels)
    assert built.pairs_per_axis == pairs
    assert_close(ViT(built).rope.frequencies(), axial_frequencies(channels, 100.0, 3, pairs))
    assert config("rope_axial", frames=2, pairs=(2, 2, 4)).pairs_per_axis == (2, 2, 4)


@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize(("t", "height", "width"), [(2, 24, 40), (10, 16, 56), (4, 40, 8)])
def test_any_length_and_size_that_tubelets_tile_runs(position, t, height, width):
    built, clips = video(position), torch.randn(2, 3, t, height, width)
    grid = (t // 2, height // 8, width // 8)
    assert built(clips).shape == (2, 5)
    maps = built.forward_intermediates(clips, [0, -1], norm=True)
    assert [tuple(found.shape) for found in maps] == [(2, 48, *grid)] * 2
    features = built.forward_features(clips)
    assert_close(maps[1].flatten(2).transpose(1, 2), features[:, 1:])


def test_an_absolute_embedding_is_one_of_place_and_one_of_time():
    built = video("ape")
    assert built.time_embed is not None
    assert built.time_embed.shape == (1, 3, 48)
    table = built.absolute_embedding((3, 3, 5)).unflatten(1, (3, 15))
    assert torch.equal(table, built.time_embed.unsqueeze(2) + built.pos_embed.unsqueeze(1))
    assert built.absolute_embedding((7, 2, 9)).shape == (1, 7 * 18, 48)
    assert ViT(config("ape", frames=6)).time_embed.abs().max() == 0
    groups = parameter_groups(built, lr=1.0, weight_decay=0.1, layer_decay=0.5)
    found = next(group for group in groups if "time_embed" in group["names"])
    assert (found["weight_decay"], found["lr"]) == (0, 0.125)


def test_volumes_of_one_channel_take_positions_in_their_own_units():
    built = video("rope_axial", in_channels=1)
    x, positions = built.embed(torch.randn(1, 1, 8, 24, 40))
    thick = built.forward_head(built.encode(x, positions * torch.tensor([1.0, 1.0, 2.5])))
    assert thick.shape == (1, 5)
    assert not torch.allclose(thick, built.forward_head(built.encode(x, positions)), rtol=1e-2)


@pytest.mark.parametrize("position", ["rope_axial", "rope_mixed_ape"])
def test_backends_and_checkpointing_give_the_same_gradients(position):
    built, clips = video(position).train(), torch.randn(2, 3, 4, 16, 24)
    parameters = [parameter for _, parameter in built.named_parameters()]
    plain = torch.autograd.grad(built(clips).square().sum(), parameters)
    built.set_grad_checkpointing()
    again = torch.autograd.grad(built(clips).square().sum(), parameters)
    set_backend(built, "reference")
    reference = torch.autograd.grad(built(clips).square().sum(), parameters)
    for one, two, three in zip(plain, again, reference, strict=True):
        assert torch.equal(one, two)
        assert_close(one, three, rtol=1e-3, atol=1e-3)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("position", by_default(["rope_mixed_ape"], ["rope_axial", "rope_mixed_ape"]))
@pytest.mark.full  # clips take the graph of images, which test_vit compiles
def test_one_graph_serves_all_lengths_and_sizes(position):
    from torch._dynamo.testing import CompileCounter

    torch._dynamo.reset()
    counter, built = CompileCounter(), video(position, depth=1)
    compiled = torch.compile(built, fullgraph=True, dynamic=True, backend=counter)
    with torch.no_grad():
        for t, h, w in [(2, 3, 4), (5, 3, 2), (3, 6, 4), (7, 2, 3)]:
            clips = torch.randn(2, 3, 2 * t, 8 * h, 8 * w)
            assert_close(compiled(clips), built(clips))
    assert counter.frame_count == 1


@pytest.mark.parametrize("position", ["rope_axial_ape", "rope_mixed_ape"])
def test_a_saved_video_model_comes_back_bit_for_bit(position, tmp_path):
    built, clips = video(position, pairs=(2, 3, 3)), torch.randn(1, 3, 4, 24, 40)
    again, info = load_model(save_model(tmp_path / "video.safetensors", built))
    assert info.config == built.config
    assert torch.equal(again.eval()(clips), built(clips))
    longer = video(position, pairs=(2, 3, 3), frames=10)
    report = load_weights(longer, tmp_path / "video.safetensors")
    assert report.resized == {"time_embed": "from 3 to 5 tubelets"}
    if position == "rope_axial_ape":
        with pytest.raises(WeightsError, match=r"pairs: \(2, 3, 3\) instead of \(3, 3, 2\)"):
            load_weights(video(position), tmp_path / "video.safetensors")


def test_files_from_before_there_were_videos_still_load(tmp_path):
    small = {"width": 16, "depths": (1, 1), "heads": (2, 4), "img_size": (32, 32), "window_size": 4, "num_classes": 3}
    for built in (model("rope_axial"), Swin(SwinConfig(position="rope_axial", **small))):
        path = save_model(tmp_path / "old.safetensors", built)
        with safe_open(path, "pt") as file:
            header = file.metadata()
        del header["ropevit_digest"]  # older, too
        stored = json.loads(header["config"])
        old = {name: value for name, value in stored.items() if name not in ("frames", "tubelet", "pairs")}
        save_file(built.state_dict(), path, header | {"config": json.dumps(old)})
        assert load_model(path)[1].config == built.config


def test_a_video_model_by_name_starts_from_weights_of_images(tmp_path, monkeypatch):
    monkeypatch.setitem(MODELS, "planned", config("rope_axial_ape", pairs=(3, 3, 2)))
    monkeypatch.setitem(MODELS, "small", config())
    images = torch.randn(2, 3, 24, 40)
    for name in ("small", "planned"):
        image = model(MODELS[name].position, pairs=MODELS[name].pairs)
        path = save_model(tmp_path / f"{name}.safetensors", image)
        clip = create_model(name, path, frames=8, tubelet=2).eval()
        assert_close(clip(still(images, 2)), image(images), rtol=1e-5, atol=1e-5)
        assert clip.config.frames == 8
        again = create_model(name, save_model(tmp_path / "clip.safetensors", clip), frames=8, tubelet=2, num_classes=3)
        assert again(still(images, 4)).shape == (2, 3)


def test_published_weights_start_a_video_with_any_budget(tmp_path, monkeypatch):
    monkeypatch.setitem(MODELS, "small", config("rope_axial"))
    torch.save({"model": model("rope_axial").state_dict()}, tmp_path / "published.pth")
    for pairs in ((4, 4, 0), (3, 3, 2)):
        assert create_model("small", tmp_path / "published.pth", frames=4, pairs=pairs).config.pairs_per_axis == pairs
    with pytest.raises(WeightsError, match=r"has no config, .* has pairs=\(3, 3, 2\)"):
        create_model("small", tmp_path / "published.pth", pairs=(3, 3, 2))


def test_weights_of_image_and_video_models_are_not_confused(tmp_path):
    image = save_model(tmp_path / "image.safetensors", model())
    clip = save_model(tmp_path / "video.safetensors", video())
    with pytest.raises(
        WeightsError, match=r"an image model, while .* a video model; use create_model\(NAME, frames=..."
    ):
        load_weights(video(), image)
    for source in (clip, video().state_dict()):
        with pytest.raises(
            WeightsError, match="an image model; give weights of an image model, or build a video model with"
        ):
            load_weights(model(), source)
    with pytest.raises(WeightsError, match=r"has frames=6, .*which the published layout cannot store"):
        convert(clip, tmp_path / "other.bin", to="published")
    with pytest.raises(WeightsError, match="a video model without its config"):
        convert(video().state_dict(), tmp_path / "other.safetensors")


@pytest.mark.parametrize(
    ("built", "shape", "message"),
    [
        (video, (2, 3, 24, 40), r"images of shape \(2, 3, 24, 40\) for a video model.*expand\(-1, -1, 2, -1, -1\)"),
        (model, (2, 3, 4, 24, 40), "for an image model.*feed frames, or take ropevit.models.inflate"),
        (video, (2, 3, 5, 24, 40), "clip of 5 frames, which tubelets of 2 do not tile.* to have 4 or 6"),
        (video, (2, 3, 0, 24, 40), "clip of 0 frames"),
        (video, (2, 3, 4, 20, 40), "20 x 40 pixels .* patches of 8 do not tile"),
        (video, (2, 1, 4, 24, 40), r"expected \(B, 3, T, H, W\)"),
        (video, (3, 24, 40), r"expected \(B, 3, T, H, W\)"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_clips_that_do_not_fit_are_refused(built, shape, message):
    with pytest.raises(ValueError, match=message):
        built()(torch.randn(shape))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tubelet": 2}, "tubelet=2 without frames; add frames=, such as 16"),
        ({"tubelet": 0}, "got tubelet=0; expected at least 1"),
        ({"frames": "4"}, "got frames='4'; expected a whole number"),
        ({"frames": 4.0}, "got frames=4.0; expected a whole number"),
        ({"frames": 4, "tubelet": 2.0}, "got tubelet=2.0; expected a whole number"),
        ({"frames": 0}, "got frames=0; expected at least 1"),
        ({"frames": 5, "tubelet": 2}, "clip of 5 frames"),
        ({"frames": 4, "tubelet": 0}, "tubelet=0; expected at least 1"),
        ({"frames": 4, "position": "rope_golden"}, "rope_golden, which has two axes; take axial or mixed"),
        ({"frames": 4, "position": "ape", "pairs": (3, 3, 2)}, "for ape on a video, which has no use for them"),
        ({"pairs": (3, 3, 2)}, "for rope_mixed on images, which has no use for them"),
        (
            {"frames": 4, "position": "rope_axial", "heads": 12},
            "heads of 4 channels, whose 2 pairs leave none for t; give",
        ),
        ({"frames": 4, "pairs": (4, 4)}, "expected three counts: for x, y and t"),
        ({"frames": 4, "pairs": 8}, "got pairs=8; expected three counts: for x, y and t"),
        ({"frames": 4, "pairs": (4, 4, 4)}, "with sum 8"),
        (
            {"frames": 4, "scaling": "ntk"},
            "scaling='ntk' with frames=4; expected scaling=None for videos",
        ),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_configs_that_cannot_be_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        config(**changes)


def test_what_works_on_images_alone_refuses_videos():
    from ropevit.analysis.layers import attention_layers
    from ropevit.integrations.export import export_torch
    from ropevit.integrations.transformers import from_ropevit

    built = video()
    for refused in (
        lambda: built.forward_packed(model().pack([torch.randn(3, 24, 40)])),
        lambda: DenseViTConfig(body=built.config),
        lambda: attention_layers(built),
        lambda: export_torch(built, "never.pt2"),
        lambda: from_ropevit(built),
    ):
        with pytest.raises(ValueError, match=r"video model|frames=6"):
            refused()


def test_multiply_adds_of_a_clip_are_counted():
    still_one = count_macs(config(num_classes=0), 24, 40)
    clip = count_macs(config(num_classes=0, frames=6, tubelet=2), 24, 40)
    tokens, width = 15, 48
    attention = [2 * 2 * n * n * width for n in (1 + tokens, 1 + 3 * tokens)]
    linear = 2 * 12 * width**2
    assert still_one == 192 * width * tokens + (1 + tokens) * linear + attention[0]
    assert clip == 384 * width * 3 * tokens + (1 + 3 * tokens) * linear + attention[1]
