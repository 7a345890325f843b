import copy
import importlib

import pytest
import torch

from ropevit.tasks.segment.mask2former import MODULE
from tasks.segment.small import small_mask2former


@pytest.mark.parametrize("shape", [(1, 3, 64, 96), (3, 3, 70, 45)])
def test_it_computes_what_the_pixel_decoder_of_transformers_does_with_the_same_gradients(shape):
    torch.manual_seed(0)
    theirs, ours = importlib.import_module(MODULE), small_mask2former(encoder_layers=2)
    with torch.no_grad():
        for weight in ours.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
    other = copy.deepcopy(ours)
    other.pixel_decoder.__class__ = theirs.Mask2FormerPixelDecoder
    for layer in other.pixel_decoder.encoder.layers:
        layer.__class__ = theirs.Mask2FormerPixelDecoderEncoderLayer
    images = torch.randn(shape)
    maps, finest = ours.pixel_decoder(ours.backbone(images).features)
    expected = other.pixel_decoder(other.backbone(images).features, output_attentions=False, output_hidden_states=False)
    for found, wanted in zip((*maps, finest), (*expected.multi_scale_features, expected.mask_features), strict=True):
        assert torch.equal(found, wanted)
    for each in ((*maps, finest), (*expected.multi_scale_features, expected.mask_features)):
        sum(x.square().sum() for x in each).backward()
    for (name, found), wanted in zip(ours.named_parameters(), other.parameters(), strict=True):
        assert (found.grad is None) == (wanted.grad is None) == name.startswith(("decoder", "classifier"))
        if wanted.grad is not None:
            torch.testing.assert_close(found.grad, wanted.grad, rtol=1e-4, atol=1e-3)
