from fnmatch import fnmatch
from pathlib import Path

import pytest

from pipeline.dataset import MANIFEST, read_manifest
from pipeline.publish.upload import check_files, check_repository, upload_steps
from pipeline.settings import UserError


def test_the_manifest_comes_last_and_every_file_once(clip_dataset: Path) -> None:
    steps = upload_steps(read_manifest(clip_dataset))
    files = {path.name for path in clip_dataset.iterdir()} | {"README.md"}
    taken = [[name for name in files if any(fnmatch(name, pattern) for pattern in step.patterns)] for step in steps]
    assert set(taken[1]) == {MANIFEST, "README.md"}, "where the manifest is, the dataset is complete"
    assert sorted(taken[0] + taken[1]) == sorted(files - {"job.json"})


def test_an_interrupted_upload_continues(clip_dataset: Path) -> None:
    """The repository after a kill at any point is accepted by the next run."""
    manifest = read_manifest(clip_dataset)
    names = sorted(path.name for path in clip_dataset.iterdir() if path.name not in (MANIFEST, "job.json"))
    for count in range(len(names) + 1):
        check_repository("me/clips", [".gitattributes", *names[:count]], None, manifest)
    check_repository("me/clips", [".gitattributes", *names, MANIFEST, "README.md"], manifest, manifest)


def test_another_dataset_is_never_replaced(clip_dataset: Path, image_dataset: Path) -> None:
    clips, images = read_manifest(clip_dataset), read_manifest(image_dataset)
    with pytest.raises(UserError, match=r"me/clips holds another dataset .* is not replaced: give another --repo"):
        check_repository("me/clips", [MANIFEST], images, clips)
    with pytest.raises(UserError, match=r"me/clips holds shard-000007\.tar, which does not belong"):
        check_repository("me/clips", ["shard-000000.tar", "shard-000007.tar"], None, clips)
    with pytest.raises(UserError, match=r"FOLDER holds shard-000007\.idx"):
        check_files(["shard-000007.idx", "notes.txt"], clips, "FOLDER")
