"""Headers of detectors' and segmenters' files that say what is not so."""

import json

import pytest
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from ropevit.tasks.detect.config import DinoConfig
from ropevit.tasks.detect.model import Detector, DetectorConfig, load_detector, save_detector
from ropevit.tasks.detect.train_config import DetectTrainConfig
from ropevit.tasks.segment.config import Mask2FormerConfig, UperNetConfig
from ropevit.tasks.segment.model import SegmenterConfig, build_segmenter, load_segmenter, save_segmenter
from ropevit.tasks.segment.train_config import SegmentTrainConfig
from ropevit.weights import WeightsError
from ropevit.weights.digest import KEY

TINY = {"model": "deit_tiny", "width": 32, "depth": 4, "heads": 2, "init": None}
SMALL = {"queries": 4, "width": 32, "heads": 2, "encoder_layers": 1, "decoder_layers": 1}


#: Configs in files, as earlier versions wrote them: `out_indices` is "stages" of a detector and "taps" of a segmenter.
GOLDEN = {
    "detector": """{"model": "swin_tiny", "position": "rope_mixed", "drop_path": 0.0, "width": 12, "depth": null,
 "heads": null, "patch_size": null, "window": null, "init": null, "stages": [2, 3], "layer_scale": true,
 "relative_bias": false,
 "dino": {"classes": 80, "queries": 4, "width": 32, "heads": 2, "levels": 4, "points": 1, "mlp_width": 32,
 "encoder_layers": 1, "decoder_layers": 1, "dropout": 0.0, "denoising": 100, "label_noise": 0.5, "box_noise": 1.0,
 "match_class": 2.0, "match_box": 5.0, "match_giou": 2.0, "loss_class": 1.0, "loss_box": 5.0, "loss_giou": 2.0,
 "focal_alpha": 0.25, "focal_gamma": 2.0}}""".replace("\n", ""),
    "segmenter": """{"model": "deit_tiny", "position": "rope_mixed", "drop_path": 0.0, "width": 32, "depth": 4, "heads":
 2, "patch_size": null, "window": null, "init": null, "head": "upernet", "neck": "transposed", "taps": [0, 1,
 2, 3], "upernet": {"classes": 150, "channels": 16, "pool_sizes": [1, 2, 3, 6], "dropout": 0.1, "auxiliary_map": 2,
 "auxiliary_channels": 16, "auxiliary_weight": 0.4}, "mask2former": {"classes": 150, "queries": 100, "width": 256,
 "heads": 8, "encoder_layers": 6, "encoder_mlp_width": 1024, "decoder_layers": 9, "decoder_mlp_width": 2048, "dropout":
 0.0, "class_weight": 2.0, "mask_weight": 5.0, "dice_weight": 5.0, "nothing_weight": 0.1, "points": 12544, "oversample":
 3.0, "uncertain_share": 0.75}}""".replace("\n", ""),
}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A file of each kind, and what reads it."""
    folder = tmp_path_factory.mktemp("saved")
    detect = DetectorConfig(**TINY, dino=DinoConfig(**SMALL, points=1, mlp_width=32))
    facts = {"mean": 0.5, "std": [0.2, 0.2, 0.2], "test_side": 64, "longest": 96, "category_ids": [1, 10**10]}
    save_detector(folder / "detector", Detector(detect, 2), detect, ["a", "b"], facts)
    sizes = {**SMALL, "encoder_mlp_width": 32, "decoder_mlp_width": 32}
    segment = SegmenterConfig(**TINY, head="mask2former", mask2former=Mask2FormerConfig(**sizes))
    save_segmenter(folder / "segmenter", build_segmenter(segment, 2), segment, ["a", "b"], {"crop": 64})
    return {"detector": (folder / "detector", load_detector), "segmenter": (folder / "segmenter", load_segmenter)}


def altered(path, to, change, keep=False):
    """Write a file with another header."""
    with safe_open(path, "pt") as file:
        header = file.metadata()
    header = header | {
        key: value if isinstance(value, str) else json.dumps(value) for key, value in change(header).items()
    }
    save_file(load_file(path), to, header if keep else {key: text for key, text in header.items() if key != KEY})
    return to


def config_with(*path, value):
    """Change one field of a config."""

    def change(header):
        config = json.loads(header["config"])
        table = config
        for name in path[:-1]:
            table = table[name]
        table[path[-1]] = value
        return {"config": config}

    return change


@pytest.mark.parametrize("kind", ["detector", "segmenter"])
def test_a_file_without_a_digest_is_read_and_one_with_another_is_not(kind, files, tmp_path):
    path, load = files[kind]
    load(path)
    load(altered(path, tmp_path / "old", lambda _: {}))
    with pytest.raises(WeightsError, match="does not match the digest in its header"):
        load(altered(path, tmp_path / "changed", lambda _: {"classes": ["a", "c"]}, keep=True))


def save_with_maps(kind, path):
    """Save a model whose maps come of chosen stages or blocks; returns its options, and what loads it."""
    if kind == "detector":
        dino = DinoConfig(**SMALL, points=1, mlp_width=32)
        config = DetectorConfig(model="swin_tiny", init=None, width=12, out_indices=(2, 3), dino=dino)
        save_detector(path, Detector(config, 2), config, ["a", "b"], {})
        return config, load_detector
    head = UperNetConfig(channels=16, auxiliary_channels=16)
    config = SegmenterConfig(**TINY, out_indices=(0, 1, 2, 3), upernet=head)
    save_segmenter(path, build_segmenter(config, 2), config, ["a", "b"], {})
    return config, load_segmenter


@pytest.mark.parametrize("kind", ["detector", "segmenter"])
def test_a_file_keeps_the_names_under_which_the_first_version_stored_its_config(kind, tmp_path):
    config, load = save_with_maps(kind, tmp_path / "new")
    with safe_open(tmp_path / "new", "pt") as file:
        assert file.metadata()["config"] == GOLDEN[kind]
    old = altered(tmp_path / "new", tmp_path / "old", lambda _: {"config": GOLDEN[kind]})
    assert load(old)[1].config == config
    run = (DetectTrainConfig if kind == "detector" else SegmentTrainConfig)(recipe="", model=config)
    assert json.dumps(run.to_dict()["model"]) == GOLDEN[kind]
    renamed = altered(tmp_path / "new", tmp_path / "renamed", config_with("out_indices", value=[2, 3]))
    with pytest.raises(WeightsError, match=r"unknown fields \['out_indices'\]"):
        load(renamed)


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("width", 65536, "do not match its config|unknown fields"),
        ("depth", 10**4, "more parameters than"),
        ("depth", 10**9, "is not a valid config of a {kind}: got depth=1000000000; expected a whole number up to"),
        ("heads", True, "is not a valid config of a {kind}: got heads=True"),
        ("model", 5, "is not a valid config of a {kind}: got model=5; expected a string"),
        ("model", "resnet", "is not a valid config of a {kind}"),
        ("window", "x", "got window='x'"),
        ("drop_path", [0.1], r"got drop_path=\[0\.1\]"),
        ("wings", 2, r"unknown fields \['wings'\]"),
    ],
)
@pytest.mark.parametrize("kind", ["detector", "segmenter"])
def test_a_config_that_is_not_that_of_the_weights_is_refused(kind, field, value, said, files, tmp_path):
    path, load = files[kind]
    with pytest.raises(WeightsError, match=said.format(kind=kind)) as refusal:
        load(altered(path, tmp_path / "file", config_with(field, value=value)))
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("field", "value"), [("queries", 2**20), ("queries", 2**40), ("encoder_layers", 10**4), ("heads", 0)]
)
def test_a_head_that_is_not_that_of_the_weights_is_refused(field, value, files, tmp_path):
    for kind, head in (("detector", "dino"), ("segmenter", "mask2former")):
        path, load = files[kind]
        with pytest.raises(WeightsError, match=r"is not a valid config of|do not match|more parameters"):
            load(altered(path, tmp_path / kind, config_with(head, field, value=value)))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"config": []}, r"is not a valid config of a {kind}: got \[\]; expected a dict"),
        ({"config": "[" * 100_000 + "]" * 100_000}, "no readable 'config'.*nested too deeply"),
        ({"classes": [1, 2]}, "got classes=1; expected a string"),
        ({"classes": {"a": 1}}, "no readable class names"),
        ({"classes": None}, "names no classes"),
        ({"classes": ["a"]}, "do not match|instead of"),
        ({"metadata": []}, "is a list; expected a dict"),
        ({"metadata": {"mean": {}}}, "got mean={{}}"),
        ({"metadata": {"std": ["x"]}}, "got std='x'"),
        ({"convention": "5"}, "another rotation convention"),
    ],
)
@pytest.mark.parametrize("kind", ["detector", "segmenter"])
def test_header_entries_of_a_wrong_type_are_refused(kind, change, said, files, tmp_path):
    path, load = files[kind]
    with pytest.raises(WeightsError, match=said.format(kind=kind)):
        load(altered(path, tmp_path / "file", lambda _: change))
