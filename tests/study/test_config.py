import json
from dataclasses import fields
from pathlib import Path

import pytest

from ropevit.models.positions import position_label, position_style
from ropevit.study.config import StudyConfig, check_model
from ropevit.study.events import Run
from ropevit.study.settings import STORED_NAMES


def test_options_replace_the_preset_of_every_panel():
    config = StudyConfig(steps=7, train_size=48, test_sizes=(24, 48, 96))
    for panel in config.panels:
        settings = config.settings(panel)
        assert (settings.steps, settings.train_size, settings.test_sizes) == (7, 48, (24, 48, 96))
    assert StudyConfig().settings("zoom").steps != 7


def test_test_sizes_follow_the_training_size_where_only_that_is_given():
    settings = StudyConfig(train_size=64, panels=("field",)).settings("field")
    assert settings.test_sizes[0] == 32
    assert 64 in settings.test_sizes
    assert all(size % settings.patch_size == 0 for size in settings.test_sizes)


def test_all_embeddings_of_a_seed_come_before_the_next_seed():
    runs = StudyConfig(panels=("zoom",), embeddings=("none", "ape"), seeds=2).runs()
    assert [(run.embedding, run.seed) for run in runs] == [("none", 0), ("ape", 0), ("none", 1), ("ape", 1)]
    assert Run(panel="zoom", embedding="ape", seed=1).name == "zoom-ape-seed1"


def test_an_embedding_may_name_the_base_of_its_frequencies():
    config = StudyConfig(panels=("zoom",), embeddings=("rope_axial", "rope_axial:theta=10"), scaling=("pi",))
    own, other = (check_model(config.settings("zoom"), name) for name in config.all_embeddings)
    assert (own.theta, other.theta) == (100, 10)
    assert own.position == other.position == "rope_axial"
    assert [run.name for run in config.runs()] == ["zoom-rope_axial-seed0", "zoom-rope_axial-theta10-seed0"]
    assert position_label("rope_axial:theta=10") == "RoPE-Axial, theta 10"
    assert position_style("rope_axial:theta=10") not in {position_style("rope_axial"), position_style("rope_axial_ape")}


def test_a_folder_is_read_at_the_largest_size_that_is_used():
    config = StudyConfig(data="photos", panels=("zoom",))
    assert config.image_size() == max(config.settings("zoom").test_sizes)
    assert StudyConfig(data="photos", panels=("field",)).image_size() < 64


def test_the_config_survives_json_with_the_settings_of_each_panel():
    config = StudyConfig(out=Path("somewhere"), seeds=3)
    stored = config.to_dict()
    assert json.loads(json.dumps(stored)) == stored
    assert stored["settings"]["zoom"]["steps"] == config.settings("zoom").steps
    names = {STORED_NAMES.get(field.name, field.name) for field in fields(StudyConfig)}
    assert stored.keys() - {"settings"} == names
    assert "families" in names  # of rope_types, as in older files


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"panels": ("wide",)}, "got panel wide; choose from field, zoom"),
        ({"panels": ()}, "got panel list empty"),
        ({"embeddings": ("rope_mix",)}, "got embedding rope_mix; did you mean rope_mixed, rope_mixed_ape or"),
        ({"embeddings": ("xyz",)}, "got embedding xyz; choose from none, ape, rope_axial"),
        ({"embeddings": ()}, "got embedding list empty; choose from none, ape"),
        ({"rope_types": ("mixed",)}, "got rope type mixed; choose from all, golden"),
        ({"rope_types": ()}, "got rope type list empty; choose from all, golden"),
        (
            {"rope_types": ("none", "rope_mixed")},
            "got rope type none, which is a position embedding; give it with",
        ),
        ({"embeddings": ("ape", "ape")}, "name each once"),
        ({"embeddings": ("rope_axial:base=10",)}, "got 'base=10' behind 'rope_axial'; expected theta=NUMBER"),
        ({"embeddings": ("rope_axial:theta=0",)}, "expected theta=NUMBER"),
        ({"embeddings": ("none:theta=10",)}, "got rope_theta=10.0 for none"),
        ({"seeds": 0}, "got seeds=0; expected at least 1"),
        ({"precision": "half"}, "choose one of auto, float32, bfloat16"),
        ({"max_images": 10}, "it is for a folder of your own"),
        ({"train_size": 50}, "take 48 or 52"),
        ({"heads": 3}, "multiple of the heads"),
        ({"patch_size": 8}, "patches of 8 pixels do not tile it"),
    ],
)
def test_what_cannot_be_run_is_refused_before_anything_starts(changes, message):
    with pytest.raises(ValueError, match=message):
        StudyConfig(**changes)
