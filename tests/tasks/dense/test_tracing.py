import pytest
import torch
from torch import nn

from ropevit.integrations.export.trace import plain_copy, trace
from ropevit.models.backbone import image_sizes
from ropevit.models.vit.dense import pad_to
from ropevit.tasks.dense.tracing import make_inputs_contiguous, make_output_contiguous
from ropevit.tasks.detect.config import DinoConfig
from ropevit.tasks.detect.export import DetectorExport
from ropevit.tasks.detect.model import Detector, DetectorConfig
from ropevit.tasks.segment.export import SegmenterExport
from ropevit.tasks.segment.model import SegmenterConfig, build_segmenter

BODIES = {"deit_tiny": "rope_mixed", "dinov3_vits16": "rope_axial", "eva02_tiny_224": "rope_axial_ape"}
#: DINOv3's prefix tokens, final norm and mask of the padding are what a trace must not fix; the others are for `full`.
CHOSEN = [pytest.param(body, marks=() if body == "dinov3_vits16" else pytest.mark.full) for body in BODIES]
SMALL = {"width": 32, "depth": 1, "heads": 2, "init": None}


def assert_traced_for_any_batch(model, shapes):
    """Compare a program with the model that it was traced from; its guards refuse what it was not traced for."""
    program = trace(model, None).module()
    for shape in shapes:
        images = torch.randn(shape)
        with torch.no_grad():
            for found, expected in zip(program(images), model(images), strict=True):
                torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("body", CHOSEN)
def test_a_segmenter_on_any_backbone_is_traced_for_one_image_and_several(body):
    model = build_segmenter(SegmenterConfig(head="linear", model=body, position=BODIES[body], **SMALL), 3)
    exported = SegmenterExport(model.eval(), {"classes": ["a", "b", "c"]})
    assert_traced_for_any_batch(plain_copy(exported), [(1, 3, 40, 70), (2, 3, 77, 50)])


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("body", CHOSEN)
def test_the_levels_of_a_detector_on_any_backbone_are_traced_for_one_image_and_several(body):
    class Levels(DetectorExport):
        """The part of a detector before its encoder, which takes a tenth of the time to trace."""

        def forward(self, images):
            sizes, padded = image_sizes(images, None), pad_to(images, self.model.multiple)
            return tuple(self.model.dino.neck(self.model.backbone(padded, sizes).features))

    dino = DinoConfig(queries=4, width=32, heads=2, mlp_width=32, encoder_layers=1, decoder_layers=1)
    model = Detector(DetectorConfig(model=body, position=BODIES[body], dino=dino, **SMALL), 3)
    exported = plain_copy(Levels(model.eval(), {"classes": ["a", "b", "c"]}))
    assert_traced_for_any_batch(exported, [(1, 3, 70, 130), (2, 3, 129, 90)])


def test_inputs_and_outputs_are_contiguous_copies_with_the_same_values():
    seen = []
    x, bias = torch.randn(3, 2, 4).transpose(0, 1), torch.randn(4)

    class Add(nn.Module):
        def forward(self, x, bias, scale):
            seen.extend((x, bias))
            return (x + bias).transpose(0, 1) * scale

    module = Add()
    make_inputs_contiguous(module)
    make_output_contiguous(module)
    found = module(x, bias=bias, scale=2)
    assert torch.equal(found, (x + bias).transpose(0, 1) * 2)
    assert found.is_contiguous()
    assert seen[0].is_contiguous()
    assert seen[1].data_ptr() != bias.data_ptr(), "also where no copy is needed: it must not depend on the size"
