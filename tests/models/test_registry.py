import pytest

from ropevit.models import SWIN_EMBEDDINGS, VIT_EMBEDDINGS
from ropevit.models.registry import VARIANTS, model_name, variant_config


@pytest.mark.parametrize("family", VARIANTS)
def test_every_size_takes_every_position_embedding_of_its_architecture_under_a_name_of_its_own(family):
    embeddings = SWIN_EMBEDDINGS if family.startswith("swin") else VIT_EMBEDDINGS
    assert len({model_name(family, position) for position in embeddings}) == len(embeddings)
    for position in embeddings:
        config = variant_config(family, position)
        assert config.position == position
        assert config.width == variant_config(family, "rope_axial").width
