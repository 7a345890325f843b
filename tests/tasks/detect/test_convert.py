"""Files in the layout of detrex, with names and shapes as read in detectron2, become detectors of ours, and go back."""

import pytest
import torch
from safetensors.torch import load_file

from ropevit.cli import main
from ropevit.models.swin.attention import relative_index
from ropevit.tasks.dense.evaluation import check_metadata
from ropevit.tasks.detect.config import DinoConfig
from ropevit.tasks.detect.convert import convert_detector
from ropevit.tasks.detect.detrex import to_detrex
from ropevit.tasks.detect.dino import Dino
from ropevit.tasks.detect.evaluate import METADATA
from ropevit.tasks.detect.model import Detector, DetectorConfig, load_detector, save_detector
from ropevit.weights import WeightsError

#: As small as its eight heads allow.
DINO = {"queries": 12, "width": 64, "points": 2, "mlp_width": 48, "encoder_layers": 1, "decoder_layers": 2}


def linear(name, after, before):
    return {f"{name}.weight": (after, before), f"{name}.bias": (after,)}


def norm(name, channels):
    return {f"{name}.weight": (channels,), f"{name}.bias": (channels,)}


def block(name, width):
    """What the blocks of both have in common."""
    parts = linear(f"{name}.attn.qkv", 3 * width, width) | linear(f"{name}.attn.proj", width, width)
    parts |= linear(f"{name}.mlp.fc1", 4 * width, width) | linear(f"{name}.mlp.fc2", width, 4 * width)
    return parts | norm(f"{name}.norm1", width) | norm(f"{name}.norm2", width)


def vit_shapes(width=192, depth=12, heads=3, out=64):
    """detectron2.modeling.backbone.vit: SimpleFeaturePyramid of scales 2, 1 and 0.5 over ViT."""
    found = {"net.pos_embed": (1, 14 * 14 + 1, width)}
    found |= {"net.patch_embed.proj.weight": (width, 3, 16, 16), "net.patch_embed.proj.bias": (width,)}
    for index in range(depth):
        found |= block(f"net.blocks.{index}", width)
        rows = 2 * (64 if index % 3 == 2 else 14) - 1
        found |= {f"net.blocks.{index}.attn.rel_pos_{axis}": (rows, width // heads) for axis in "hw"}
    found |= {"simfp_3.0.weight": (width, width // 2, 2, 2), "simfp_3.0.bias": (width // 2,)}
    for level, first, channels in ((3, 1, width // 2), (4, 0, width), (5, 1, width)):
        found |= {f"simfp_{level}.{first}.weight": (out, channels, 1, 1)}
        found |= {f"simfp_{level}.{first + 1}.weight": (out, out, 3, 3)}
        found |= norm(f"simfp_{level}.{first}.norm", out) | norm(f"simfp_{level}.{first + 1}.norm", out)
    return found


def swin_shapes(width=96, depths=(2, 2, 6, 2), heads=(3, 6, 12, 24), window=7, stages=(1, 2, 3)):
    """detectron2.modeling.backbone.swin: SwinTransformer."""
    found = {"patch_embed.proj.weight": (width, 3, 4, 4), "patch_embed.proj.bias": (width,)}
    found |= norm("patch_embed.norm", width)
    for stage, (depth, count) in enumerate(zip(depths, heads, strict=True)):
        channels = width * 2**stage
        for index in range(depth):
            name = f"layers.{stage}.blocks.{index}"
            found |= block(name, channels)
            found |= {f"{name}.attn.relative_position_bias_table": ((2 * window - 1) ** 2, count)}
        if stage < 3:
            found |= {f"layers.{stage}.downsample.reduction.weight": (2 * channels, 4 * channels)}
            found |= norm(f"layers.{stage}.downsample.norm", 4 * channels)
        if stage in stages:
            found |= norm(f"norm{stage}", channels)
    return found


def detrex_state(kind, levels=4, classes=5):
    """Random weights of a whole detector by the names of detrex and detectron2."""
    vit = kind == "vit"
    shapes = vit_shapes() if vit else swin_shapes(stages=(1, 2, 3) if levels == 4 else (0, 1, 2, 3))
    channels = (64,) * 4 if vit else (96, 192, 384, 768)[levels == 4 :]
    state = {f"backbone.{name}": torch.randn(shape) for name, shape in shapes.items()}
    if not vit:
        tables = [name for name in state if name.endswith("bias_table")]
        state |= {name.replace("bias_table", "index"): relative_index(7) for name in tables}
    dino = Dino(DinoConfig(classes=classes, levels=levels, heads=8, **DINO), channels)
    return state | to_detrex(dino.state_dict())


@pytest.mark.parametrize(
    ("kind", "levels", "classes"),
    [
        ("vit", 4, 5),
        pytest.param("swin", 4, 80, marks=pytest.mark.full),  # so does it those of four
        pytest.param("swin", 5, 5, marks=pytest.mark.full),  # test_detrex.py holds the names of five levels
    ],
)
def test_detrex_checkpoint_round_trips_bit_exactly(kind, levels, classes, tmp_path, capsys):
    state, paths = (
        detrex_state(kind, levels, classes),
        [tmp_path / name for name in ("a.pth", "b.safetensors", "c.pth")],
    )
    torch.save({"model": state, "iteration": 3, "trainer": {"optimizer": {"state": torch.zeros(2)}}}, paths[0])
    main(["convert", str(paths[0]), str(paths[1])])
    model, info = load_detector(paths[1])
    main(["convert", str(paths[1]), str(paths[2]), "--to", "detrex"])
    back = torch.load(paths[2], weights_only=True)["model"]
    if kind == "vit":
        assert not back["backbone.net.pos_embed"][:, 0].any()
        state["backbone.net.pos_embed"][:, 0] = 0  # of the class token, which neither uses
    assert back.keys() == state.keys()
    assert all(torch.equal(back[name], state[name]) for name in state)
    assert (info.config.init, info.config.dino.levels, info.metadata["test_side"]) == (None, levels, 800)
    expected = {"width": 64, "heads": 8, "queries": 12, "points": 2, "mlp_width": 48}
    assert {name: getattr(info.config.dino, name) for name in expected} == expected
    assert (info.config.dino.encoder_layers, info.config.dino.decoder_layers) == (1, 2)
    if classes == 80:
        assert (info.classes[0], info.classes[-1], info.metadata["category_ids"][-1]) == ("person", "toothbrush", 90)
    else:
        assert (info.classes, info.metadata["category_ids"]) == (list("01234"), [1, 2, 3, 4, 5])
    if (kind, levels) == ("swin", 4):  # the norms are those of the stages
        assert torch.equal(model.backbone.norms[0].weight, state["backbone.norm1.weight"])
        assert torch.equal(model.backbone.norms[2].bias, state["backbone.norm3.bias"])
        assert (model.backbone.config.mask_padding, model.backbone.config.body.position) == (False, "rpb")
    check_metadata(info, METADATA, paths[1])  # all that `ropevit eval` wants of it
    found = model.eval()(torch.randn(1, 3, 64, 96), [(64, 96)])
    assert found.layers[-1].logits.shape == (1, 12, classes)
    said = capsys.readouterr().out
    assert "(detrex to ropevit layout)" in said
    assert "dropped iteration, trainer: training state" in said.replace("trainer, iteration", "iteration, trainer")
    assert "classes: " in said


def test_converted_weights_have_the_right_names(tmp_path):
    state = detrex_state("vit")
    torch.save(state, tmp_path / "a.pth")
    convert_detector(tmp_path / "a.pth", tmp_path / "b.safetensors", "ropevit")
    model, info = load_detector(tmp_path / "b.safetensors")
    assert info.config == DetectorConfig(
        model="deit_tiny",
        position="ape",
        layer_scale=False,
        relative_bias=True,
        window=14,
        init=None,
        dino=info.config.dino,
    )
    body = model.backbone.body
    assert torch.equal(body.pos_embed, state["backbone.net.pos_embed"][:, 1:])
    assert torch.equal(body.blocks[2].attn.relative.rows, state["backbone.net.blocks.2.attn.rel_pos_h"])
    assert torch.equal(body.blocks[2].attn.relative.columns, state["backbone.net.blocks.2.attn.rel_pos_w"])
    level = model.backbone.pyramid.levels[2]
    assert torch.equal(level.smooth[0].weight, state["backbone.simfp_5.2.weight"])
    assert torch.equal(level.smooth[1].norm.bias, state["backbone.simfp_5.2.norm.bias"])
    assert model.backbone.strides == (8, 16, 32, 64)


@pytest.mark.parametrize(("change", "message"), [
    (lambda s: s.pop("backbone.net.blocks.3.mlp.fc1.bias"), r"missing: net\.blocks\.3\.mlp\.fc1\.bias"),
    (lambda s: s.update({"backbone.simfp_2.0.weight": torch.zeros(1)}), r"unknown: simfp_2\.0\.weight"),
    (
        lambda s: s.update({"backbone.net.blocks.2.attn.rel_pos_h": torch.zeros(27, 64)}),
        r"of another shape: net\.blocks\.2\.attn\.rel_pos_h \[27, 64\], expected \[127, 64\]",
    ),
    (lambda s: [s.pop(f"{part}class_embed.1.bias") for part in ("", "transformer.decoder.")], "class_heads.1.bias"),
    (lambda s: s.update({"criterion.x": torch.zeros(1)}), r"got an entry 'criterion\.x'; expected weights of detrex's"),
    (lambda s: s.update({"backbone.net.blocks.12.norm1.bias": torch.zeros(192)}), "is not supported"),
    (lambda s: s["label_enc.weight"].fill_(torch.nan), "holds NaN or infinity in label_enc.weight"),
])  # fmt: skip
def test_missing_unknown_and_misshapen_entries_are_named_and_nothing_is_written(change, message, tmp_path):
    state = detrex_state("vit")
    change(state)
    torch.save(state, tmp_path / "a.pth")
    with pytest.raises(WeightsError, match=message):
        convert_detector(tmp_path / "a.pth", tmp_path / "b.safetensors", "ropevit")
    assert not (tmp_path / "b.safetensors").exists()


def test_resnet_backbone_is_refused(tmp_path):
    state = {name: value for name, value in detrex_state("vit").items() if not name.startswith("backbone.")}
    torch.save(state | {"backbone.stem.conv1.weight": torch.zeros(1)}, tmp_path / "a.pth")
    with pytest.raises(
        WeightsError, match=r"is not supported \(it begins with stem\.conv1\.weight\); expected detectron2"
    ):
        convert_detector(tmp_path / "a.pth", tmp_path / "b.safetensors", "ropevit")


def test_backbone_unknown_to_detectron2_is_dropped_and_reported(tmp_path):
    dino = DinoConfig(heads=8, **DINO)
    config = DetectorConfig(model="deit_tiny", position="rope_mixed", width=64, depth=2, heads=2, init=None, dino=dino)
    model = Detector(config, 3)
    save_detector(tmp_path / "a.safetensors", model, config, list("abc"), {})
    report = convert_detector(tmp_path / "a.safetensors", tmp_path / "b.safetensors", "detrex")
    assert "detectron2's backbone has no position rope_mixed and no LayerScale" in str(report)
    found = load_file(tmp_path / "b.safetensors")
    assert found.keys() == to_detrex(model.dino.state_dict()).keys()


def test_invalid_conversions_are_refused(tmp_path, capsys):
    source = tmp_path / "a.pth"
    torch.save(detrex_state("vit"), source)
    wrong = [
        (["b.pth"], "a detector in ropevit layout ends in .safetensors"),
        (["b.pth", "--to", "detrex"], "is in detrex layout already; choose another with --to"),
        (["b.pth", "--to", "timm"], "which the timm layout cannot hold; choose ropevit or detrex"),
        (["b.safetensors", "--model", "swin_tiny"], "got --model with a detector"),
        (["b.safetensors", "--ema"], "holds no EMA"),
    ]
    for (name, *options), message in wrong:
        with pytest.raises(SystemExit) as stop:
            main(["convert", str(source), str(tmp_path / name), *options])
        assert stop.value.code == 2
        assert message in capsys.readouterr().err.replace("\n", " ")
    torch.save({"x": torch.zeros(1)}, source)
    with pytest.raises(WeightsError, match="expected a checkpoint of detrex's DINO"):
        convert_detector(source, tmp_path / "b.safetensors", "ropevit")


def test_only_a_vit_can_omit_layer_scale():
    with pytest.raises(ValueError, match="got layer_scale=False; it is for a ViT that does not start from published"):
        DetectorConfig(layer_scale=False)
    with pytest.raises(ValueError, match="got layer_scale=False"):
        DetectorConfig(model="swin_tiny", layer_scale=False, init=None)
