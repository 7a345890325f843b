import pytest
import torch
from PIL import Image

from ropevit.data.images import read_image
from ropevit.models import ViT, ViTConfig
from ropevit.tasks.classify.predict import InputTransform, classify


@pytest.fixture
def paths(tmp_path):
    for index, size in enumerate([(90, 60), (32, 100)]):
        Image.effect_noise(size, 80).save(tmp_path / f"{index}.png")
    return sorted(tmp_path.iterdir())


def predict(model, paths, form, classes, **options):
    return [classify(model, read_image(path), form, classes, **options) for path in paths]


def model() -> ViT:
    config = ViTConfig(
        position="rope_mixed", width=48, depth=1, heads=3, img_size=(32, 32), num_classes=6, drop_path=0.5
    )
    return ViT(config)


def test_predictions_are_sorted_by_probability(paths):
    classes = [f"class {index}" for index in range(6)]
    found = predict(model(), paths, InputTransform(size=(48,), multiple=16), classes, top=9)
    assert len(found) == len(paths)
    for prediction in found:
        chances = [guess.probability for guess in prediction.top_classes]
        assert sorted(chances, reverse=True) == chances
        assert sum(chances) == pytest.approx(1)
        assert sorted(guess.name for guess in prediction.top_classes) == classes
        assert (prediction.height, prediction.width) == (48, 48)


def test_images_may_keep_their_aspect_ratio(paths):
    found = predict(model(), paths, InputTransform(size=(32,), multiple=16, keep_aspect=True), ["x"] * 6)
    assert [(p.height, p.width) for p in found] == [(32, 48), (96, 32)]


def test_the_model_is_set_to_eval_mode(paths):
    net = model().train()
    form = InputTransform(size=(32,), multiple=16)
    assert predict(net, paths, form, list("abcdef")) == predict(net, paths, form, list("abcdef"))
    assert not net.training


def test_predictions_follow_the_logits(paths):
    net = model()
    with torch.no_grad():
        net.head.weight.zero_()
        net.head.bias.copy_(torch.arange(6.0))
    best = predict(net, paths[:1], InputTransform(size=(32,), multiple=16), list("abcdef"), top=2)[0]
    assert [guess.name for guess in best.top_classes] == ["f", "e"]


def test_invalid_sizes_and_class_names_are_refused(paths):
    with pytest.raises(ValueError, match="got 50 x 50 pixels"):
        InputTransform(size=(50,), multiple=16)
    with pytest.raises(ValueError, match="expected one number"):
        InputTransform(size=(32, 32, 32), multiple=16)
    with pytest.raises(ValueError, match="give the shorter side alone"):
        InputTransform(size=(32, 48), multiple=16, keep_aspect=True)
    with pytest.raises(ValueError, match=r"got size \(-16,\); expected pixels, above 0"):
        InputTransform(size=(-16,), multiple=16)
    with pytest.raises(ValueError, match="got 5 class names for 6 logits"):
        predict(model(), paths, InputTransform(size=(32,), multiple=16), list("abcde"))
