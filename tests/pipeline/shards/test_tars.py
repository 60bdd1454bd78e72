import io
import tarfile
from pathlib import Path

import pytest

from pipeline.settings import UserError
from pipeline.shards.sources import list_sources
from pipeline.shards.tars import tar_entries
from pipeline.storage import open_storage


def tar_of(files: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return stream.getvalue()


def test_nested_tar_of_imagenet_is_listed_in_place(tmp_path: Path) -> None:
    contents = {f"n0000000{c}/n0000000{c}_{i}.JPEG": bytes([c, i]) * (300 * i + 1) for c in (1, 2) for i in range(4)}
    inner = {
        f"n0000000{c}.tar": tar_of({p.split("/")[1]: d for p, d in contents.items() if p.startswith(f"n0000000{c}")})
        for c in (1, 2)
    }
    (tmp_path / "train.tar").write_bytes(tar_of({**inner, "readme.txt": b"hello", "./n3/loose.JPEG": b"x" * 1000}))
    storage = open_storage(str(tmp_path))
    read = {path: storage.read("train.tar", span) for path, span in tar_entries(storage, "train.tar")}
    assert read == {**contents, "readme.txt": b"hello", "n3/loose.JPEG": b"x" * 1000}
    listing = list_sources(str(tmp_path / "train.tar"))
    assert {(s.key, s.class_name) for s in listing.sources} == {
        *((Path(path).stem, path.split("/")[0]) for path in contents),
        ("loose", "n3"),
    }
    assert listing.ignored == {".txt": 1}


def test_damaged_and_compressed_tars_are_named(tmp_path: Path) -> None:
    storage = open_storage(str(tmp_path))
    (tmp_path / "packed.tar").write_bytes(b"\x1f\x8b" + bytes(2000))
    with pytest.raises(UserError, match=r"packed\.tar is damaged or compressed"):
        list(tar_entries(storage, "packed.tar"))
    whole = tar_of({"a/x.jpg": bytes(5000), "a/y.jpg": bytes(5000)})
    (tmp_path / "cut.tar").write_bytes(whole[:8000])
    with pytest.raises(UserError, match=r"cut\.tar is damaged or compressed"):
        list(tar_entries(storage, "cut.tar"))
    (tmp_path / "outer.tar").write_bytes(tar_of({"n1.tar": b"no tar" * 200}))
    with pytest.raises(UserError, match=r"n1\.tar in .*outer\.tar is damaged"):
        list(tar_entries(storage, "outer.tar"))
