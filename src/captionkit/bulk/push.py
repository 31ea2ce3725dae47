"""Upload of a run's parts to a dataset of the Hugging Face Hub."""

from __future__ import annotations

from captionkit.bulk.manifest import Manifest
from captionkit.bulk.remote import is_remote
from captionkit.bulk.store import open_store
from captionkit.errors import CaptionkitError, one_line


def push_parts(output: str, repo: str) -> str:
    """Upload the parts of a local output, and its manifest, to the dataset `repo` ("owner/name"); return its address.

    Files that are there already are not sent again. Raises CaptionkitError.
    """
    if is_remote(output):
        raise CaptionkitError(f"{output}: is remote; --push uploads from a folder of this machine")
    manifest = Manifest.read(open_store(output))
    if manifest is None:
        raise CaptionkitError(f"{output}: no output of `captionkit bulk`; check the path")
    from huggingface_hub import HfApi

    api = HfApi()
    try:
        api.create_repo(repo, repo_type="dataset", exist_ok=True)
        chosen = ["part-*", "manifest.json", "manifest/*.json"]
        api.upload_folder(repo_id=repo, repo_type="dataset", folder_path=output, allow_patterns=chosen)
    except Exception as error:  # the Hub has many kinds
        raise CaptionkitError(
            f"{repo}: cannot be pushed to the Hub ({one_line(error)}); log in with `hf auth login`"
        ) from None
    return f"https://huggingface.co/datasets/{repo}"
