"""Brings what was exported to a hub."""

from __future__ import annotations

from pathlib import Path

from trsr.errors import ModelError
from trsr.registry import optional


def push(folder: Path, repository: str, *, public: bool = False, endpoint: str = "") -> str:
    """Uploads an exported folder to a hub as a model; the repository is made where it is missing.

    The hub's key is huggingface_hub's own: the variable HF_TOKEN, or `hf auth login`.

    Args:
        folder: What `export` wrote.
        repository: `owner/name`.
        public: Whether everybody may read a new repository.
        endpoint: The hub's address; empty: huggingface_hub's own.

    Returns:
        The address of what was uploaded.

    Raises:
        ModelError: If the hub cannot be reached, or refuses.
    """
    hub = optional("huggingface_hub", "local", "trsr push")
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    # of requests, httpx or httpx2, as the version has it
    named = (one for one in HfHubHTTPError.__mro__ if one.__name__ == "HTTPError")
    http: type[Exception] = next(named, HfHubHTTPError)
    api = hub.HfApi(endpoint=endpoint or None)
    try:
        made = api.create_repo(repository, private=not public, exist_ok=True)
        api.upload_folder(
            repo_id=made.repo_id, folder_path=folder, commit_message="Upload from trsr export"
        )
    except (http, HFValidationError, OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelError(
            f"the hub does not take {repository}: {reason}; is the name owner/name, and the key "
            "that of `hf auth login` (or in HF_TOKEN) one that may write?"
        ) from error
    return str(made)
