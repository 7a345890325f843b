"""Shares classifiers: saves a model with its card to a folder, or pushes both to the Hugging Face hub."""

import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from ropevit.files import write_text
from ropevit.text import join_names
from ropevit.weights.errors import WeightsError
from ropevit.weights.model_card import ModelCard
from ropevit.weights.reading import read_checkpoint
from ropevit.weights.saving import save_model
from ropevit.weights.upload import check_upload, upload

#: Names of the weights and of the card, in a folder and on the hub.
WEIGHTS, CARD = "model.safetensors", "README.md"


def save_pretrained(
    model: nn.Module,
    folder: str | os.PathLike[str],
    *,
    classes: Sequence[str] | None = None,
    metadata: Mapping[str, Any] | None = None,
    license: str | None = None,  # noqa: A002
    overwrite: bool = False,
) -> Path:
    """Save a model with a model card to a folder, which `load_model(folder)` reads, bit for bit.

    The folder gets `model.safetensors`, the file of `save_model`, and `README.md`.

    Args:
        model: A classifier of this package, also compiled or wrapped for distributed training.
        folder: The folder; it is created if there is none.
        classes: Names of its classes, in the order of the logits.
        metadata: Anything else that JSON can represent, such as mean and std of the pixels.
        license: License of the weights, by the hub's identifier, such as apache-2.0; the card states none without it.
        overwrite: Replace those files if they exist.

    Returns:
        The folder.

    Raises:
        WeightsError: If a file exists already, or `save_model` raises it.
        ValueError: If the files cannot be written.
    """
    folder = Path(folder)
    check_vacant(folder, (WEIGHTS, CARD), overwrite)
    name = folder.resolve().name
    write_model(model, folder, name, name, classes=classes, metadata=metadata, license=license)
    return folder


def push_to_hub(
    model: nn.Module,
    repo_id: str,
    *,
    classes: Sequence[str] | None = None,
    metadata: Mapping[str, Any] | None = None,
    license: str | None = None,  # noqa: A002
    private: bool = False,
    overwrite: bool = False,
    token: str | None = None,
) -> str:
    """Push a model with a model card to the Hugging Face hub; `load_model(repo_id)` reads it, bit for bit.

    >>> ropevit.push_to_hub(model, "me/my-vit", classes=["cat", "dog"], license="apache-2.0")

    Args:
        model: A classifier of this package, also compiled or wrapped for distributed training.
        repo_id: Owner and name of a repository, which is created if there is none.
        classes: Names of its classes, in the order of the logits.
        metadata: Anything else that JSON can represent, such as mean and std of the pixels.
        license: License of the weights, by the hub's identifier, such as apache-2.0; the card states none without it.
        private: Whether a new repository is private; an existing one must be already.
        overwrite: Push to a repository with other files, too, replacing those of the same names.
        token: Token of the hub; None takes that of `hf auth login` or HF_TOKEN.

    Returns:
        The address of the repository.

    Raises:
        WeightsError: If `save_model` raises it, nobody is logged in, the hub is unreachable or refuses, or the
            repository holds files and `overwrite` is not set.
    """
    check_upload(repo_id, token)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        write_model(model, folder, repo_id.split("/")[1], repo_id, classes=classes, metadata=metadata, license=license)
        files = {name: folder / name for name in (WEIGHTS, CARD)}
        return upload(files, repo_id, private=private, overwrite=overwrite, token=token)


def write_model(
    model: nn.Module,
    folder: Path,
    name: str,
    source: str,
    *,
    license: str | None,  # noqa: A002
    **content: Any,
) -> None:
    """Write a classifier and its card.

    Args:
        model: The classifier.
        folder: The folder.
        name: Title of the card.
        source: What a reader passes to `load_model`.
        license: License of the weights.
        content: Classes and metadata for `save_model`.
    """
    check_license(license)
    path = save_model(folder / WEIGHTS, model, **content)
    card = ModelCard(name=name, license=license, **classifier_facts(source))
    write_text(folder / CARD, card.render(read_checkpoint(path)))


def classifier_facts(source: str) -> dict[str, Any]:
    """Return what all cards of classifiers say.

    Args:
        source: What a reader passes to `load_model`.
    """
    usage = (
        f'```python\nimport ropevit\n\nmodel, info = ropevit.load_model("{source}")  # info.classes, info.metadata\n'
        f"logits = model.eval()(images)  # (B, 3, H, W), normalized -> (B, K)\n```\n\n"
        f"```\nropevit predict photo.jpg --checkpoint {source}\n```"
    )
    return {"noun": "classifier", "usage": usage, "pipeline_tag": "image-classification"}


def check_license(name: str | None) -> None:
    """Raise WeightsError for a license that is not an identifier of the hub by its form."""
    if name is not None and not (name and set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789.-")):
        raise WeightsError(
            f"got the license {name!r}; expected an identifier of the hub, such as apache-2.0, cc-by-4.0 or other"
        )


def check_vacant(folder: Path, names: Sequence[str], overwrite: bool) -> None:
    """Raise WeightsError if files to be written exist and must not be overwritten."""
    if folder.exists() and not folder.is_dir():
        raise WeightsError(f"got the file {folder} for a folder; choose another one")
    if not overwrite and (held := [name for name in names if (folder / name).exists()]):
        raise WeightsError(
            f"{folder} already holds {join_names(held)}; choose another folder, or replace them with overwrite=True "
            "(--overwrite)"
        )
