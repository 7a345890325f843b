import contextlib
import socket
import threading

import huggingface_hub
import pytest
import torch
from huggingface_hub import errors
from safetensors.torch import save_file

from ropevit.models import ViT
from ropevit.weights import WeightsError, create_model, load_weights


@pytest.fixture
def hub(monkeypatch):
    """A hub of local files: add (repo, file) -> path."""
    files, asked = {}, []

    def download(repo_id, filename, *, revision=None, cache_dir=None, local_files_only=False):
        assert cache_dir is None
        asked.append((repo_id, filename, revision, local_files_only))
        if repo_id not in {repo for repo, _ in files}:
            raise errors.LocalEntryNotFoundError("not cached")
        if (repo_id, filename) not in files:
            raise errors.EntryNotFoundError("no such file")
        if isinstance(files[repo_id, filename], Exception):
            raise files[repo_id, filename]
        return str(files[repo_id, filename])

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", lambda _url: None)  # it answers
    return files, asked


def test_published_and_timm_weights_are_downloaded_from_their_repositories(hub, published, config, tmp_path):
    files, asked = hub
    torch.save({"model": published("rope_mixed")}, tmp_path / "published.bin")
    files["naver-ai/rope_mixed_deit_small_patch16_LS", "pytorch_model.bin"] = tmp_path / "published.bin"
    save_file(published("rope_axial"), tmp_path / "timm.safetensors")
    files["timm/vit_small_patch16_rope_224.naver_in1k", "model.safetensors"] = tmp_path / "timm.safetensors"
    repo = "naver-ai/rope_mixed_deit_small_patch16_LS"
    for source in (repo, repo.removeprefix("naver-ai/")):
        assert load_weights(ViT(config()), source, revision="v1").source == repo
        assert asked == [(repo, "pytorch_model.bin", "v1", False)]
        asked.clear()
    timm_repo = "timm/vit_small_patch16_rope_224.naver_in1k"
    load_weights(ViT(config("rope_axial")), timm_repo)
    with pytest.raises(WeightsError, match="position rope_axial, while the model has position none"):
        load_weights(ViT(config("none")), timm_repo)


def test_another_account_may_have_either_file(hub, published, config, tmp_path):
    files, asked = hub
    torch.save(published(), tmp_path / "model.bin")
    files["me/mine", "pytorch_model.bin"] = tmp_path / "model.bin"
    load_weights(ViT(config()), "me/mine")
    assert [file for _, file, *_ in asked] == ["model.safetensors", "pytorch_model.bin"]


def test_pretrained_true_loads_the_published_weights(hub, published, tmp_path):
    files, _ = hub
    torch.save({"model": published(width=384, depth=12, patches=196, classes=1000)}, tmp_path / "model.bin")
    files["naver-ai/rope_mixed_deit_small_patch16_LS", "pytorch_model.bin"] = tmp_path / "model.bin"
    model = create_model("rope_mixed_deit_small_patch16_LS", pretrained=True, num_classes=3)
    assert model.head.out_features == 3
    assert torch.equal(model.norm.bias, torch.load(tmp_path / "model.bin")["model"]["norm.bias"])
    with pytest.raises(
        WeightsError,
        match=r"no published weights for .rope_mixed_deit_tiny_patch16_LS.; choose a model that list_models",
    ):
        create_model("rope_mixed_deit_tiny_patch16_LS", pretrained=True)


class Answer:
    """As much of an HTTP response as the hub's errors need."""

    headers: dict = {}  # noqa: RUF012
    request = None


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (errors.GatedRepoError("gated", response=Answer()), "gated; ask for access"),
        (errors.RepositoryNotFoundError("none", response=Answer()), "no file and no hub repository named 'me/mine'"),
        (errors.RevisionNotFoundError("none", response=Answer()), "has no revision 'v9'"),
        (errors.HFValidationError("bad"), "no file and no hub repository"),
        (errors.EntryNotFoundError("none"), "holds no model.safetensors or pytorch_model.bin"),
        (errors.LocalEntryNotFoundError("none"), "hub is unreachable; check the network"),
        (ConnectionError("reset\nby peer"), "cannot download .*ConnectionError: reset; try again"),
    ],
)
def test_errors_of_the_hub_become_a_one_line_message(error, message, hub, config, monkeypatch):
    files, asked = hub
    files["me/mine", "model.safetensors"] = files["me/mine", "pytorch_model.bin"] = error
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    with pytest.raises(WeightsError, match=message) as refusal:
        load_weights(ViT(config()), "me/mine", revision="v9")
    assert "\n" not in str(refusal.value)
    waited = [not local for *_, local in asked]
    assert waited == [True] if len(asked) == 1 else waited[1] != isinstance(error, errors.LocalEntryNotFoundError)


def test_a_hub_that_does_not_answer_is_asked_once(monkeypatch, tmp_path, config):
    asked, constants = [], huggingface_hub.constants
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"http://127.0.0.1:{server.getsockname()[1]}"

        def hang_up():
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = server.accept()
                    with connection:
                        asked.append(connection.recv(4096))

        thread = threading.Thread(target=hang_up)
        thread.start()
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "ENDPOINT", address)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
        with pytest.raises(
            WeightsError, match="'runs/mine' is neither a file nor in the hub's cache, and the hub is unr"
        ):
            load_weights(ViT(config()), "runs/mine")
        server.shutdown(socket.SHUT_RDWR)
        thread.join()
    assert sum(b"/runs/mine/" in request for request in asked) == 1


def test_in_offline_mode_the_message_names_hf_hub_offline(config, monkeypatch, tmp_path):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(WeightsError, match="HF_HUB_OFFLINE is set; unset it, or give a path"):
        load_weights(ViT(config()), "naver-ai/rope_mixed_deit_small_patch16_LS")
