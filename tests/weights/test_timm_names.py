"""The table in docs/pretrained.md of the models of timm that rotate: which are built here, and what refuses others."""

import re
from fnmatch import fnmatchcase
from pathlib import Path

import pytest
import timm
import torch

from ropevit.models.registry import MODELS
from ropevit.models.vit.unsupported import UNSUPPORTED
from ropevit.models.vit.variants import TIMM_NAMES
from ropevit.weights import create_model, load_weights
from weights.families import TIMM_SMALL, compare_with_timm, fill, our_model

PAGE = Path(__file__).parents[2] / "docs" / "pretrained.md"
MODULES = Path(timm.models.__file__).parent


def table() -> dict[str, tuple[str, str]]:
    """Pattern -> the cells of its row: whether its models are built here, and why not."""
    text = PAGE.read_text().partition("## Which models of timm\n")[2].partition("|---|---|---|\n")[2].split("\n\n")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()]
    return {pattern: (here, why) for names, here, why in rows for pattern in re.findall("`(.*?)`", names)}


def rotates(name: str) -> bool:
    with torch.device("meta"):
        model = timm.create_model(name)
    return any("Rotary" in type(module).__name__ for module in model.modules())


def candidates() -> list[str]:
    """All models in the modules of timm that mention a rotation."""
    modules = [path.stem for path in MODULES.glob("*.py") if "Rotary" in path.read_text() and path.stem[0] != "_"]
    return [name for module in modules for name in timm.list_models(module=module)]


@pytest.mark.full
def test_the_table_has_each_model_of_timm_that_rotates_and_no_other():
    patterns = table()
    rotating = [name for name in candidates() if rotates(name)]
    matches = {name: [pattern for pattern in patterns if fnmatchcase(name, pattern)] for name in rotating}
    assert {name: found for name, found in matches.items() if len(found) != 1} == {}
    assert {found[0] for found in matches.values()} == set(patterns)
    for name, (pattern,) in matches.items():
        assert (name in MODELS or name in TIMM_NAMES) == (patterns[pattern][0] != "no"), name


def test_every_name_without_a_model_is_refused_with_the_reason_of_the_table():
    patterns = table()
    names = {
        name
        for module in ("eva", "deepseek_vit", "gemma4_vit", "qwen3_vit")
        for name in timm.list_models(module=module)
    }
    for name in names - set(MODELS) - set(TIMM_NAMES):
        with pytest.raises(ValueError, match=f"got '{name}', a model that is not built here: ") as refusal:
            create_model(name)
        assert "\n" not in str(refusal.value)
        why = [patterns[pattern][1] for pattern in patterns if fnmatchcase(name, pattern)]
        assert all(part.split(",")[0] in str(refusal.value) for part in why)
    assert all(any(fnmatchcase(name, pattern) for name in timm.list_models()) for pattern in UNSUPPORTED)


def test_a_published_model_under_timms_name_is_refused_with_its_name_here():
    with pytest.raises(ValueError, match="it is 'rope_axial_deit_small_patch16_LS' here"):
        create_model("vit_small_patch16_rope_224")


def test_the_smallest_model_of_eupe_has_timms_features():
    assert compare_with_timm("vit_tiny_patch16_dinov3_qkvb", pooling="avg") < 1e-5


@pytest.mark.parametrize(
    ("size", "dinov3", "fields"),
    [("small", "vit_small_patch16_dinov3_qkvb", {}), ("giant", "vit_7b_patch16_dinov3", {"mlp_ratio": 176 / 64})],
)
@torch.no_grad()
def test_a_file_of_lingbot_loads_into_the_dinov3_that_its_refusal_names(size, dinov3, fields):
    name = f"vit_{size}_patch16_lingbot"
    with pytest.raises(ValueError, match=f"create .*{dinov3}"):
        create_model(name)
    theirs = fill(timm.create_model(name, **TIMM_SMALL, num_classes=0))
    ours, images = our_model(dinov3, **fields), torch.randn(1, 3, 48, 80)
    load_weights(ours, theirs.state_dict())
    torch.testing.assert_close(ours(images), theirs(images), rtol=1e-4, atol=1e-4)
