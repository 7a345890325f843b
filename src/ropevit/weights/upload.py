"""Uploads files to a model repository of the Hugging Face hub, in one commit."""

from collections.abc import Mapping
from pathlib import Path

import huggingface_hub
from huggingface_hub import CommitOperationAdd, HfApi, errors

from ropevit.text import join_names
from ropevit.weights.errors import WeightsError
from ropevit.weights.reading import HUB_ID

#: Files by their names in the repository: the content, or the path of a file that has it.
Files = Mapping[str, Path | bytes]

#: Files that the hub itself puts into a new repository.
_OF_THE_HUB = {".gitattributes"}

_NO_TOKEN = "log in with `hf auth login`, or set HF_TOKEN, to a token with write access"


def upload(
    files: Files, repo_id: str, *, private: bool = False, overwrite: bool = False, token: str | None = None
) -> str:
    """Upload files in one commit, to a new repository or to one that is empty.

    Args:
        files: The files.
        repo_id: Owner and name on the hub; the repository is created if there is none.
        private: Whether a new repository is private; an existing one must be already.
        overwrite: Upload into a repository with other files, too, replacing those of the same names.
        token: Token of the hub; None takes that of `hf auth login` or HF_TOKEN.

    Returns:
        The address of the repository.

    Raises:
        WeightsError: If the id is none, nobody is logged in, the hub is unreachable or refuses, or the repository
            holds files and `overwrite` is not set, or is public and `private` is set.
    """
    check_upload(repo_id, token)
    api = HfApi(token=token)
    operations = [
        CommitOperationAdd(name, str(file) if isinstance(file, Path) else file) for name, file in files.items()
    ]
    try:
        parent = _parent_commit(api, repo_id, private, overwrite)
        if parent is None:
            api.create_repo(repo_id, private=private or None)  # None: as the organization has it
        api.create_commit(repo_id, operations, commit_message="Upload a model of ropevit", parent_commit=parent)
    except WeightsError:
        raise
    except Exception as error:
        raise WeightsError(_explain(error, repo_id)) from error
    return f"{api.endpoint}/{repo_id}"


def check_upload(repo_id: str, token: str | None = None) -> None:
    """Raise WeightsError for an upload that cannot succeed, before anything is prepared for it.

    Raises:
        WeightsError: If the id is none of the hub, the hub is switched off, or nobody is logged in.
    """
    if not HUB_ID.fullmatch(repo_id):
        raise WeightsError(f"got {repo_id!r} for a repository of the hub; expected OWNER/NAME, such as me/my-vit")
    if huggingface_hub.constants.HF_HUB_OFFLINE:
        raise WeightsError(f"cannot upload to {repo_id!r}: HF_HUB_OFFLINE is set; unset it, or save to a folder")
    if (token or huggingface_hub.get_token()) is None:
        raise WeightsError(f"cannot upload to {repo_id!r} without a token of the hub; {_NO_TOKEN}")


def _parent_commit(api: HfApi, repo_id: str, private: bool, overwrite: bool) -> str | None:
    """Return the newest commit of a repository that may be written to; None if there is no such repository.

    Raises:
        WeightsError: If it holds files, or is public; see `upload`.
    """
    try:
        found = api.model_info(repo_id)
    except errors.RepositoryNotFoundError:
        return None
    if private and not found.private:
        raise WeightsError(f"{repo_id!r} exists on the hub and is public; make it private there, or take another name")
    held = [file.rfilename for file in found.siblings or () if file.rfilename not in _OF_THE_HUB]
    if held and not overwrite:
        raise WeightsError(
            f"{repo_id!r} on the hub already holds {join_names(held)}; choose another name, or replace files of the "
            "same names with overwrite=True (--overwrite)"
        )
    return found.sha


def _explain(error: Exception, repo_id: str) -> str:
    """Return a one-line message about a failed upload, with what to do."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    detail = " ".join(str(getattr(error, "server_message", None) or error or type(error).__name__).split()).rstrip(".")
    match status:
        case 401:
            return f"the hub does not accept the token for {repo_id!r}; {_NO_TOKEN}"
        case 403 | 404:
            return (
                f"no permission to write to {repo_id!r} on the hub ({detail}); take an account or organization that "
                "you may write to, and a token with write access"
            )
        case 409 | 412:
            return f"{repo_id!r} on the hub was changed at the same time ({detail}); look at it, then push again"
        case None if not isinstance(error, ValueError):
            return f"cannot reach the hub to upload to {repo_id!r} ({detail}); check the network, and try again"
    return f"cannot upload to {repo_id!r}: {detail}"
