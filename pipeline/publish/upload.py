"""Upload a dataset to the Hugging Face Hub in two steps, so that an interrupted upload is never taken for complete."""

from collections.abc import Collection
from fnmatch import fnmatch
from pathlib import Path
from typing import NamedTuple

from pipeline.cards import README
from pipeline.dataset import INDEX, MANIFEST, REJECTS, Manifest, parse_manifest
from pipeline.reading import reason
from pipeline.record import dali_index_file
from pipeline.settings import UserError


class Step(NamedTuple):
    """Files that are uploaded together."""

    message: str
    """Of the commits."""
    patterns: tuple[str, ...]
    """Names of the files, with `*` for any characters."""


def upload_steps(manifest: Manifest) -> tuple[Step, Step]:
    """The shards and tables, in as many commits as the Hub's library needs; then manifest and card, in one commit.

    Where `dataset.json` exists, the dataset is complete: on the Hub as on a disk. The state from which an upload
    resumes is the repository itself: files that it has are not sent again.
    """
    shards = (f"{manifest.name}-*.tar", dali_index_file(f"{manifest.name}-*.tar"))
    return Step("Shards and index", (*shards, INDEX, REJECTS)), Step("Manifest and card", (MANIFEST, README))


def check_files(files: Collection[str], manifest: Manifest, location: object) -> None:
    """Check that files beside a dataset would not be taken for its shards.

    Raises:
        UserError: a file of `files` has the name of a shard, but does not belong to it.
    """
    known = {name for shard in manifest.shards for name in (shard.file, dali_index_file(shard.file))}
    patterns = upload_steps(manifest)[0].patterns[:2]
    others = sorted(name for name in files if name not in known and any(fnmatch(name, pattern) for pattern in patterns))
    if others:
        raise UserError(f"{location} holds {others[0]}, which does not belong to this dataset: remove it first")


def check_repository(repository: str, files: Collection[str], there: Manifest | None, manifest: Manifest) -> None:
    """Check that a repository with `files` is empty, or holds this dataset or a part of it; `there` is its manifest.

    Raises:
        UserError: it holds another one, which is never replaced.
    """
    if there is not None and there.dataset_hash != manifest.dataset_hash:
        raise UserError(
            f"the repository {repository} holds another dataset (hash {there.dataset_hash[:12]}, not "
            f"{manifest.dataset_hash[:12]}) and is not replaced: give another --repo"
        )
    check_files(files, manifest, f"the repository {repository}")


def upload(folder: Path, repository: str, private: bool, manifest: Manifest) -> str:
    """Upload what the repository does not have yet; returns its address.

    Raises:
        UserError: it holds another dataset, or the Hub cannot be reached or refuses the upload.
    """
    from huggingface_hub import HfApi  # an extra, and slow to import

    api = HfApi()
    try:
        url = api.create_repo(repository, repo_type="dataset", private=private, exist_ok=True)
        files = api.list_repo_files(url.repo_id, repo_type="dataset")
        there = None
        if MANIFEST in files:
            local = api.hf_hub_download(url.repo_id, MANIFEST, repo_type="dataset")
            there = parse_manifest(Path(local).read_bytes(), f"{MANIFEST} of {repository}")
        check_repository(repository, files, there, manifest)
        for step in upload_steps(manifest):
            api.upload_folder(
                repo_id=url.repo_id,
                repo_type="dataset",
                folder_path=folder,
                allow_patterns=list(step.patterns),
                commit_message=step.message,
            )
    except UserError:
        raise
    except Exception as error:  # of HTTP, of the Hub, of the file system
        raise UserError(
            f"the upload to {repository} failed: {reason(error)}. What was uploaded is kept: run the same command again"
        ) from error
    return str(url)
