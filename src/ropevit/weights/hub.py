"""Downloads checkpoints from the Hugging Face hub, or reads them from its cache."""

from pathlib import Path

import huggingface_hub
from huggingface_hub import errors

from ropevit.models.registry import PUBLISHED
from ropevit.weights.errors import WeightsError, first_line

#: Account on the hub -> names of its weight files, in order of precedence; others may have either.
FILES = {"naver-ai": ("pytorch_model.bin",), "timm": ("model.safetensors",)}
ANY_FILES = ("model.safetensors", "pytorch_model.bin")


def hub_id(name: str) -> str:
    """Return the hub id of a published model.

    Raises:
        WeightsError: If there are no published weights of that name.
    """
    if name not in PUBLISHED:
        raise WeightsError(
            f"no published weights for {name!r}; choose a model that list_models(pretrained=True) or `ropevit models "
            "--published` lists, or give a path or a hub id of your own"
        )
    return PUBLISHED[name]


def fetch(repo: str, revision: str | None = None, cache_dir: str | Path | None = None) -> Path:
    """Download the weights of a hub repository, unless they are in the cache.

    Args:
        repo: Hub id, such as "naver-ai/rope_mixed_deit_small_patch16_LS".
        revision: Branch, tag or commit; None takes the main branch.
        cache_dir: Cache folder; None takes the hub's own.

    Returns:
        The file in the cache.

    Raises:
        WeightsError: If there is no such repository, revision or file, access is denied, or the hub is unreachable.
    """
    files = FILES.get(repo.split("/")[0], ANY_FILES)
    missing: Exception | None = None
    unreachable = not _is_cached(repo, files[0], revision, cache_dir) and not _answers(repo, files[0], revision)
    for file in files:
        unreachable = unreachable or isinstance(missing, errors.LocalEntryNotFoundError)  # do not try the network again
        try:
            return Path(
                huggingface_hub.hf_hub_download(
                    repo, file, revision=revision, cache_dir=cache_dir, local_files_only=unreachable
                )
            )
        except errors.EntryNotFoundError as error:
            missing = error
        except Exception as error:
            raise WeightsError(_explain(error, repo, revision)) from error
    assert missing is not None
    raise WeightsError(_explain(missing, repo, revision)) from missing


def _is_cached(repo: str, file: str, revision: str | None, cache_dir: str | Path | None) -> bool:
    """Return whether the cache has a file; its download asks the hub once, without waiting for an answer."""
    try:
        return isinstance(huggingface_hub.try_to_load_from_cache(repo, file, cache_dir, revision), str)
    except errors.HFValidationError:
        return False  # the download says what is wrong with the name


def _answers(repo: str, file: str, revision: str | None) -> bool:
    """Return whether the hub answers one request for a file, whatever it says; a download repeats it for a minute.

    In offline mode nothing is asked, also by the download.
    """
    if huggingface_hub.constants.HF_HUB_OFFLINE:
        return True
    try:
        huggingface_hub.get_hf_file_metadata(huggingface_hub.hf_hub_url(repo, file, revision=revision))
    except (errors.HfHubHTTPError, errors.HFValidationError):
        return True  # the download says what it is
    except Exception:  # no answer: the class depends on the HTTP library
        return False
    return True


def _explain(error: Exception, repo: str, revision: str | None) -> str:
    """Return a one-line message about a failed download, with what to do."""
    at = f"{repo!r} at revision {revision!r}" if revision else repr(repo)
    if isinstance(error, errors.LocalEntryNotFoundError):
        if huggingface_hub.constants.HF_HUB_OFFLINE:
            return f"{at} is neither a file nor in the hub's cache, and HF_HUB_OFFLINE is set; unset it, or give a path"
        return (
            f"{at} is neither a file nor in the hub's cache, and the hub is unreachable; check the network or the path"
        )
    if isinstance(error, errors.GatedRepoError):
        return f"{at} on the hub is gated; ask for access on its page, then log in with `hf auth login`"
    if isinstance(error, errors.RepositoryNotFoundError | errors.HFValidationError):
        return f"no file and no hub repository named {at}; check the spelling, or log in if it is private"
    if isinstance(error, errors.RevisionNotFoundError):
        return f"hub repository {repo!r} has no revision {revision!r}; give a branch, tag or commit that it has"
    if isinstance(error, errors.EntryNotFoundError):
        files = " or ".join(FILES.get(repo.split("/")[0], ANY_FILES))
        return f"hub repository {at} holds no {files}; download the right file by hand and give its path"
    return f"cannot download {at}: {type(error).__name__}: {first_line(error)}; try again, or give a path"
