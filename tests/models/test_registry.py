import pytest

from ropevit.models import ARCHITECTURES
from ropevit.models.registry import MODELS, VARIANTS, model_name, resolve_name, split_model_name, variant_config


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
