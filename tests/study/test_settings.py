import itertools

import pytest

from ropevit.study.settings import PanelSettings, panels_of, preset


@pytest.mark.parametrize("data", ["fashion", "emoji", "some/folder"])
def test_every_preset_evaluates_at_and_above_the_training_size(data):
    for panel, quick in itertools.product(panels_of(data), (False, True)):
        settings = preset(data, panel, quick)
        assert settings.train_size in settings.test_sizes
        assert settings.test_sizes[-1] >= 2 * settings.train_size - settings.train_size % 8
        assert panel == "far" or settings.test_sizes[0] < settings.train_size


@pytest.mark.parametrize("panel", panels_of("fashion"))
def test_a_folder_has_as_many_tokens_as_the_embedded_images_or_nearly(panel):
    tokens = [(s.train_size // s.patch_size) ** 2 for s in (preset("fashion", panel), preset("folder", panel))]
    assert 0.7 < tokens[0] / tokens[1] < 1.4


def test_an_unknown_panel_is_refused():
    with pytest.raises(ValueError, match="got panel 'pan' with data 'fashion'; choose one of field, zoom"):
        preset("fashion", "pan")


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train_size": 30}, "got training size 30; patches of 4 pixels do not tile it: take 28 or 32"),
        ({"test_sizes": (28, 33)}, "got test size 33; .* take 32 or 36"),
        ({"test_sizes": (2,)}, "take 4"),
        ({"test_sizes": ()}, "got no test sizes"),
        ({"test_sizes": (32, 28)}, "from small to large"),
        ({"steps": 0}, "got steps=0; expected at least 1"),
        ({"lr": 0.0}, "expected lr and clip above 0"),
        ({"warmup": 1.0}, "expected a fraction of the steps"),
        ({"start": "zero"}, "choose fan_in or deit"),
    ],
)
def test_settings_that_make_no_sense_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        PanelSettings(**changes)


def test_files_keep_the_names_of_crop_and_canvas_settings():
    stored = PanelSettings().to_dict()
    assert (stored["crop"]["law"], stored["canvas"]["turn"]) == ("log", 15.0)
    assert "distribution" not in stored["crop"]
    assert "max_rotation" not in stored["canvas"]
