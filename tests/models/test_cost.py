import pytest
import torch

from ropevit.models import MODELS, ViT
from ropevit.models.cost import count_macs, count_parameters


@pytest.mark.parametrize(
    ("name", "billions"),
    [("rope_mixed_deit_base_patch16_LS", 17.6), ("deit_small_patch16_LS", 4.6), ("deit_large_patch16_LS", 61.6)],
)
def test_multiply_adds_at_224_are_the_literatures(name, billions):
    assert count_macs(MODELS[name], 224, 224) / 1e9 == pytest.approx(billions, abs=0.05)


def test_multiply_adds_of_one_block_by_hand():
    config = MODELS["none_deit_tiny_patch16_LS"]
    n, c = 15 + 1, config.width
    block = 4 * n * c * c + 2 * n * n * c + 2 * n * c * 4 * c
    stem_and_head = (n - 1) * 3 * 16 * 16 * c + c * 1000
    assert count_macs(config, 48, 80) == config.depth * block + stem_and_head


def test_parameters_are_counted_as_pytorch_counts_them():
    config = MODELS["rope_mixed_ape_deit_tiny_patch16_LS"]
    assert count_parameters(config) == sum(parameter.numel() for parameter in ViT(config).parameters())
    assert torch.get_default_device().type == "cpu"
