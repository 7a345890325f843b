import pytest

from ropevit.models import ARCHITECTURES
from ropevit.models.registry import (
    MODELS,
    VARIANTS,
    get_config,
    model_name,
    resolve_name,
    split_model_name,
    variant_config,
)


@pytest.mark.parametrize("size", VARIANTS)
def test_every_size_takes_every_position_embedding_of_its_architecture_under_a_name_of_its_own(size):
    embeddings = ARCHITECTURES[VARIANTS[size][0]].config.embeddings
    assert len({model_name(size, position) for position in embeddings}) == len(embeddings)
    width = variant_config(size, "rope_axial").width
    for position in embeddings:
        config = variant_config(size, position)
        assert (config.position, config.width) == (position, width)


def test_names_and_variants_are_resolved():
    assert resolve_name("deit_small") == "deit_small_patch16_LS"
    assert resolve_name("swin_tiny") == "swin_tiny_patch4_window7_224"
    for name in MODELS:
        assert resolve_name(name) == name
        assert model_name(*split_model_name(name)) == name
    with pytest.raises(ValueError, match="no model named 'deit_smal'; did you mean deit_small"):
        resolve_name("deit_smal")


def test_options_have_timms_names_too():
    options = {"in_chans": 1, "drop_path_rate": 0.2, "embed_dim": 64, "num_heads": 2, "init_values": 0.1}
    config = get_config("rope_mixed_deit_small_patch16_LS", **options, reg_tokens=2, global_pool="avg")
    ours = {"in_channels": 1, "drop_path": 0.2, "width": 64, "heads": 2, "layer_scale": 0.1}
    assert config == get_config("rope_mixed_deit_small_patch16_LS", **ours, num_registers=2, pooling="avg")
    with pytest.raises(ValueError, match="got drop_path and drop_path_rate, which are the same option; leave one out"):
        get_config("deit_small", drop_path=0.1, drop_path_rate=0.2)
    with pytest.raises(ValueError, match="no option named reg_tokens for swin_tiny"):
        get_config("swin_tiny", reg_tokens=2)
