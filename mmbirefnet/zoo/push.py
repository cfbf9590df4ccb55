"""Upload a folder of :func:`mmbirefnet.zoo.to_reference.write_reference` to Hugging Face."""

import os
from pathlib import Path

from .to_reference import FILES


def check_repository(repository: str) -> None:
    """Check the name of a repository on Hugging Face, without network access.

    Raises:
        ImportError: If huggingface_hub is not installed.
        ValueError: If the name is invalid.
    """
    try:
        from huggingface_hub.utils import HFValidationError, validate_repo_id
    except ModuleNotFoundError as error:
        raise ImportError(
            f"{repository}: uploading needs the package huggingface_hub. Fix: pip install 'mmbirefnet[hub]'"
        ) from error
    try:
        if repository.count('/') != 1:
            raise HFValidationError('it must be USER/NAME')
        validate_repo_id(repository)
    except HFValidationError as error:
        raise ValueError(f'{repository}: not the name of a repository on Hugging Face: {error}') from error


def push_to_hub(folder: str | os.PathLike, repository: str) -> str:
    """Upload ``model.safetensors``, ``config.json`` and ``README.md`` as one commit; other files do not change.

    Args:
        folder: A folder that :func:`mmbirefnet.zoo.to_reference.write_reference` wrote.
        repository: ``USER/NAME`` on Hugging Face, or on the server in ``HF_ENDPOINT``. It is created if it does not
            exist, as public unless the settings of the account differ.

    Returns:
        The URL of the commit.

    Raises:
        FileNotFoundError: If the folder lacks one of the files.
        ImportError, ValueError: As in :func:`check_repository`.
        PermissionError: If you are not logged in, or the account may not write there.
        ConnectionError: If the upload fails.
    """
    check_repository(repository)
    from huggingface_hub import HfApi, errors

    missing = [name for name in FILES if not Path(folder, name).is_file()]
    if missing:
        raise FileNotFoundError(f'{folder}: has no {", ".join(missing)}; mmbirefnet convert --to reference writes them')
    api = HfApi(library_name='mmbirefnet')
    try:
        api.create_repo(repository, exist_ok=True)
        commit = api.upload_folder(
            repo_id=repository,
            folder_path=folder,
            allow_patterns=list(FILES),
            commit_message='Upload a BiRefNet with mmbirefnet',
        )
    except Exception as error:  # errors of requests or httpx, depending on the version of huggingface_hub
        status = getattr(getattr(error, 'response', None), 'status_code', None)
        reason = ' '.join(str(error).split()) or type(error).__name__
        if isinstance(error, errors.LocalTokenNotFoundError) or status in (401, 403):
            raise PermissionError(
                f'{repository}: not allowed to write there ({reason}). Fix: "hf auth login" (or HF_TOKEN) with a '
                f'token that may write, then: hf upload {repository} {folder}'
            ) from error
        raise ConnectionError(
            f'{repository}: the upload failed ({reason}). {folder} is complete. Fix: hf upload {repository} {folder}'
        ) from error
    return commit.commit_url
