"""Models of other authors as dense backbones: with class token and registers, by the coordinates of each image."""

import pytest
import torch
from torch._dynamo.testing import CompileCounter
from torch.nn import functional as F
from torch.testing import assert_close

from ropevit.models import set_scaling
from ropevit.models.dense import DenseViT, DenseViTConfig, PyramidConfig
from ropevit.models.registry import get_config
from ropevit.weights import WeightsError, load_dense_weights
from weights.families import SMALL, fill, our_model

MODELS = [
    "vit_small_plus_patch16_dinov3_qkvb",
    "eva02_base_patch14_224",
    "vit_betwixt_patch16_rope_reg4_gap_256",
    "vit_pe_core_tiny_patch16_384",
    "vit_pe_spatial_gigantic_patch14_448",
]
#: One map of the tokens themselves, and one for each of the two blocks.
PLAIN, EACH = PyramidConfig(scales=(1,), channels=None), PyramidConfig(scales=(1, 0.5), channels=None)


def pair(name, **fields):
    """Return a classifier and a backbone of its weights, loaded as a training loads them."""
    classifier = fill(our_model(name, num_classes=5))
    backbone = DenseViT(DenseViTConfig(body=classifier.config, **({"pyramid": PLAIN} | fields))).eval()
    load_dense_weights(backbone, classifier.state_dict())
    return classifier, backbone


@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_maps_are_those_of_the_classifier(name):
    classifier, backbone = pair(name, pyramid=EACH, out_indices=(0, 1))
    for size in ((64, 64), (48, 80)):
        images = torch.randn(2, 3, *size)
        tokens = backbone.run_body(backbone.body, images, pixel_mask=None)
        maps = [x.transpose(1, 2).unflatten(2, (size[0] // 8, size[1] // 8)) for x in tokens]
        assert_close(maps, classifier.forward_intermediates(images, [0, 1], norm=True), rtol=0, atol=0)
        assert_close(backbone(images).features[0], maps[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_coordinates_are_those_of_each_image_alone_and_in_any_batch(name):
    classifier, backbone = pair(name, mask_padding=True, pyramid=PyramidConfig(scales=(1, 0.5), channels=None))
    image, batch = torch.randn(1, 3, 44, 77), torch.randn(2, 3, 96, 112)
    batch[0, :, :48, :80] = whole = F.pad(image[0], (0, 3, 0, 4))  # to whole patches; the rest may be anything
    wanted = classifier.forward_intermediates(whole[None], [1], norm=True)[0]
    assert_close(backbone(image).features[0][..., :6, :10], wanted, rtol=1e-4, atol=1e-4)
    together = backbone(batch, torch.tensor([[44, 77], [96, 112]])).features[0]
    assert_close(together[:1, :, :6, :10], wanted, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_seen_padding_does_not_stretch_the_coordinates():
    _, backbone = pair(MODELS[0])
    image = torch.randn(1, 3, 48, 80)
    inside = torch.zeros(2, 8, 14, dtype=torch.bool)
    inside[0, :6, :10] = inside[1] = True
    _, positions = backbone.body.embed(torch.randn(2, 3, 64, 112), inside)
    alone = backbone.body.embed(image)[1].unflatten(0, (6, 10))
    assert_close(positions[0].unflatten(0, (8, 14))[:6, :10], alone)
    set_scaling(backbone, "ntk")  # which counts the patches of the batch
    assert backbone(image).features[0].isfinite().all()


def test_loading_is_strict():
    classifier, backbone = pair(MODELS[0])
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    weights = classifier.state_dict()
    report = load_dense_weights(backbone, weights)
    assert [name for name in report.dropped if name.startswith("head.")] == ["head.weight", "head.bias"]
    for name in ("blocks.1.norm2.weight", "norm.weight"):
        with pytest.raises(WeightsError, match=name):
            load_dense_weights(backbone, {key: value for key, value in weights.items() if key != name})
    assert all(torch.equal(value, before[name]) for name, value in backbone.state_dict().items())


@pytest.mark.parametrize("name", [MODELS[0], MODELS[3]])
def test_every_weight_learns(name):
    _, backbone = pair(name, mask_padding=True)
    backbone.train()(torch.randn(2, 3, 44, 77)).features[0].square().sum().backward()
    lazy = [name for name, weight in backbone.named_parameters() if weight.grad is None or not weight.grad.any()]
    assert lazy == []


@pytest.mark.full
@pytest.mark.usefixtures("unchecked")
@torch.no_grad()
def test_one_graph_serves_all_sizes():
    _, backbone = pair(MODELS[1])
    counter = CompileCounter()
    compiled = torch.compile(backbone, fullgraph=True, dynamic=True, backend=counter)
    for height, width in ((64, 96), (70, 101), (96, 96)):
        images, sizes = torch.randn(2, 3, height, width), torch.tensor([[height, width], [20, 30]])
        assert_close(compiled(images, sizes).features, backbone(images, sizes).features, rtol=1e-4, atol=1e-4)
    assert counter.frame_count == 1


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        (MODELS[0], {"global_attn_indexes": (1,)}, r"got global_attn_indexes=\(1,\) with class token and registers"),
        (MODELS[0], {"prefix_tokens": False}, "got prefix_tokens=False for a body with RopeConvention"),
        (MODELS[0], {"relative_bias": True}, "got relative_bias=True with class token and registers"),
        (MODELS[1], {"final_norm": True}, "got final_norm=True for a body whose norm follows the pooling"),
        (MODELS[4], {"final_norm": True}, "got final_norm=True for a body that has no final norm"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_what_does_not_go_together_is_refused(name, changes, message):
    with pytest.raises(ValueError, match=message):
        DenseViTConfig(body=get_config(name, **SMALL), **changes)


def test_a_model_of_the_paper_may_keep_its_class_token_too():
    body = get_config("rope_mixed_deit_tiny_patch16_LS", width=32, depth=2, heads=2)
    config = DenseViTConfig(body=body, prefix_tokens=True)
    assert DenseViT(config).body.num_prefix_tokens == 1
    assert (config.attends_everywhere, config.normalizes) == (True, False)
