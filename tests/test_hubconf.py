"""The models by torch.hub, from a checkout."""

import sys
import tomllib
from pathlib import Path

import pytest
import torch

import ropevit

ROOT = Path(__file__).parents[1]
NAME = "rope_mixed_deit_tiny_patch16_LS"


@pytest.fixture(autouse=True)
def path(monkeypatch):
    """Keep sys.path as it is, to which hubconf.py adds."""
    monkeypatch.setattr(sys, "path", [*sys.path])


def test_models_are_loaded_by_name_and_by_create_model():
    sizes = {"depth": 1, "width": 48, "heads": 3, "num_classes": 5}
    for words in (("create_model", NAME), (NAME,)):
        model = torch.hub.load(str(ROOT), *words, source="local", **sizes)
        assert model.config == ropevit.create_model(NAME, **sizes).config


def test_saved_models_are_loaded(tmp_path):
    model = ropevit.create_model(NAME, depth=1, width=48, heads=3)
    ropevit.save_pretrained(model, tmp_path / "mine")
    again, _ = torch.hub.load(str(ROOT), "load_model", str(tmp_path / "mine"), source="local")
    assert torch.equal(again.head.weight, model.head.weight)


def test_every_model_is_an_entry_point_with_help():
    module = torch.hub._import_module("hubconf", str(ROOT / "hubconf.py"))
    assert set(dir(module)) == {"dependencies", "create_model", "list_models", "load_model", *ropevit.list_models()}
    assert f"create_model({NAME!r}, ...)" in getattr(module, NAME).__doc__
    with pytest.raises(RuntimeError, match="Cannot find callable nosuch in hubconf"):
        torch.hub.load(str(ROOT), "nosuch", source="local")
    assert not hasattr(module, "nosuch")


def test_dependencies_are_those_of_the_package():
    needed = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    module = torch.hub._import_module("hubconf", str(ROOT / "hubconf.py"))
    assert set(module.dependencies) <= {line.split(">")[0] for line in needed}
