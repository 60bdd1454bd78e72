import io
import os
import subprocess
import tarfile
from collections import Counter
from pathlib import Path

import pytest

from pipeline.settings import UserError
from pipeline.shards.sources import list_sources, open_data
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


def tar_with(*members: tuple[str, bytes | str], links: bytes = tarfile.SYMTYPE) -> bytes:
    """A tar of files (bytes) and links (text: their targets)."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for name, content in members:
            member = tarfile.TarInfo(name)
            if isinstance(content, str):
                member.type, member.linkname = links, content
            else:
                member.size = len(content)
            tar.addfile(member, io.BytesIO(content) if isinstance(content, bytes) else None)
    return stream.getvalue()


def read_tar(folder: Path, tar: bytes) -> tuple[dict[str, bytes | str], Counter[str]]:
    """Content or fault of each file, and the counted members."""
    (folder / "data.tar").write_bytes(tar)
    storage, ignored = open_storage(str(folder)), Counter[str]()
    entries = tar_entries(storage, "data.tar", ignored)
    return {path: storage.read("data.tar", span) if span else fault for path, span, fault, _ in entries}, ignored


def classes(folder: Path, tar: bytes) -> tuple[dict[str, str], Counter[str]]:
    """Class of each input, and the counted members."""
    (folder / "data.tar").write_bytes(tar)
    listing = list_sources(open_data(str(folder / "data.tar")))
    return {source.path: source.class_name for source in listing.sources}, listing.ignored


def test_links_are_followed_to_the_bytes_of_their_target(tmp_path: Path) -> None:
    a, b = b"a" * 700, b"b" * 10
    links = [
        ("d/s.jpg", "../c/a.jpg"),
        ("d/ss.jpg", "s.jpg"),
        ("d/early.jpg", "/c/b.jpg"),
        ("d/out.jpg", "../../x.jpg"),
    ]
    links += [("d/loop.jpg", "loop.jpg"), ("d/round.jpg", "turn.jpg"), ("d/turn.jpg", "round.jpg")]
    read, _ = read_tar(tmp_path, tar_with(("./c/a.jpg", a), *links, ("c/b.jpg", b)))
    assert [read[f"d/{name}.jpg"] for name in ("s", "ss", "early")] == [a, a, b]
    assert read["d/out.jpg"] == "a link to x.jpg, where the tar holds no file"
    for name in ("loop", "round"):
        assert "where the tar holds no file" in str(read[f"d/{name}.jpg"])
    hard = [("d/h.jpg", "c/a.jpg"), ("d/hh.jpg", "d/h.jpg"), ("d/early.jpg", "c/b.jpg")]
    read, _ = read_tar(tmp_path, tar_with(("c/a.jpg", a), *hard, ("c/b.jpg", b), links=tarfile.LNKTYPE))
    assert [read[f"d/{name}.jpg"] for name in ("h", "hh")] == [a, a]
    assert read["d/early.jpg"] == "a hard link to c/b.jpg, which does not precede it in the tar"


def test_a_later_member_replaces_an_earlier_one_but_not_what_was_linked(tmp_path: Path) -> None:
    members = (("c/a.jpg", b"old"), ("c/h.jpg", "c/a.jpg"), ("./c/a.jpg", b"newer"), ("c/b.jpg", b"b"))
    read, ignored = read_tar(tmp_path, tar_with(*members, links=tarfile.LNKTYPE))
    assert read == {"c/a.jpg": b"newer", "c/h.jpg": b"old", "c/b.jpg": b"b"}
    assert ignored == {"members that a later one of the same name replaces": 1}


def test_links_to_folders_are_followed_once(tmp_path: Path) -> None:
    a, b = ("store/x/a.jpg", b"a"), ("store/b.jpg", b"b")
    files = {"store/x/a.jpg": b"a", "store/b.jpg": b"b"}
    through = ("e/a.jpg", "../cat/../cat/x/a.jpg")
    read, ignored = read_tar(tmp_path, tar_with(("cat", "store"), ("dog", "cat"), a, b, through))
    assert read == {**files, "cat/x/a.jpg": b"a", "cat/b.jpg": b"b", "e/a.jpg": b"a"}
    assert ignored == {"links to folders that were already read": 1}
    loops = [("store/up", ".."), ("store/x/self", "."), ("deep", "store/x"), ("none", "nowhere")]
    read, ignored = read_tar(tmp_path, tar_with(a, b, *loops))
    assert read == {**files, "deep/a.jpg": b"a", "none": "a link to nowhere, where the tar holds no file"}
    assert ignored == {"links to folders that were already read": 3}


def test_a_folder_replaces_a_link(tmp_path: Path) -> None:
    stream = io.BytesIO(tar_with(("cat/a.jpg", b"a"), ("dog", "cat")))
    with tarfile.open(fileobj=stream, mode="a") as tar:
        folder = tarfile.TarInfo("dog")
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)
        tar.addfile(tarfile.TarInfo("dog/b.jpg"))
    read, ignored = read_tar(tmp_path, stream.getvalue())
    assert (set(read), ignored.total()) == ({"cat/a.jpg", "dog/b.jpg"}, 1)


@pytest.mark.parametrize("links", [tarfile.SYMTYPE, tarfile.LNKTYPE])
def test_links_to_inner_tars_are_read_like_them(tmp_path: Path, links: bytes) -> None:
    inner = tar_of({"a.jpg": b"a" * 600, "m.tar": tar_of({"b.jpg": b"b"})})
    read, ignored = read_tar(tmp_path, tar_with(("n1.tar", inner), ("n2.tar", "n1.tar"), links=links))
    files = {"a.jpg": b"a" * 600, "m/b.jpg": b"b"}
    assert read == {f"{folder}/{name}": data for folder in ("n1", "n2") for name, data in files.items()}
    assert not ignored
    with pytest.raises(UserError, match=r"n2\.tar in .*data\.tar cannot be read: a (hard )?link to n3\.tar"):
        read_tar(tmp_path, tar_with(("n1.tar", inner), ("n2.tar", "n3.tar"), links=links))


def test_a_later_inner_tar_replaces_an_earlier_one_with_all_its_files(tmp_path: Path) -> None:
    old, new = tar_of(dict.fromkeys("abc", b"old")), tar_of(dict.fromkeys("ad", b"new"))
    read, ignored = read_tar(tmp_path, tar_with(("n1.tar", old), ("n1.tar", new)))
    assert read == {"n1/a": b"new", "n1/d": b"new"}
    assert ignored == {"members that a later one of the same name replaces": 1}


def test_cyclic_tars_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"data\.tar holds tars in tars, more than 16 deep: unpack it"):
        read_tar(tmp_path, tar_with(("z", tar_with(("y.tar", "/z"))), ("x.tar", "z")))


def test_names_in_incremental_tars_of_gnu(tmp_path: Path) -> None:
    (tmp_path / "cat").mkdir()
    for name in ("a.jpg", f"{'b' * 120}.jpg"):
        (tmp_path / "cat" / name).write_bytes(b"x")
    (tmp_path / "cat" / "link.jpg").symlink_to("./" * 60 + "a.jpg")
    subprocess.run(["tar", "--listed-incremental=snar", "-cf", "made.tar", "cat"], cwd=tmp_path, check=True)
    made = (tmp_path / "made.tar").read_bytes()
    assert made[257:265] == tarfile.GNU_MAGIC
    assert made[345:500].strip(b"\0"), "tar writes times where others write the beginning of the name"
    read, ignored = read_tar(tmp_path, made)
    assert read == dict.fromkeys(["cat/a.jpg", f"cat/{'b' * 120}.jpg", "cat/link.jpg"], b"x")
    assert not ignored


def test_joined_tars_are_read_to_their_end(tmp_path: Path) -> None:
    one, two = tar_of({"c/a.jpg": b"a"}), tar_of({"d/b.jpg": b"b"})
    for joined in (one + two, one[:1536] + two, one + bytes(3 << 20) + two, tar_of({}) + one + two):
        assert read_tar(tmp_path, joined)[0] == {"c/a.jpg": b"a", "d/b.jpg": b"b"}
    inner = {"x.tar": one + two, "y.tar": one}
    assert set(read_tar(tmp_path, tar_of(inner))[0]) == {"x/c/a.jpg", "x/d/b.jpg", "y/c/a.jpg"}


def test_absolute_names_keep_their_classes_and_hidden_files_are_counted(tmp_path: Path) -> None:
    names = [
        "/home/.u/cat/a.jpg",
        "/home/.u/dog/b.jpg",
        "/home/.u/dog/.thumbs/b.jpg",
        "/home/.u/dog/._b.jpg",
        "../e/f.jpg",
    ]
    result, ignored = classes(tmp_path, tar_of(dict.fromkeys(names, b"x")))
    assert result == {names[0]: "cat", names[1]: "dog", names[4]: "e"}
    assert ignored == {"hidden files": 2}
    hidden = [".ipynb_checkpoints/a.jpg", "cat/.thumbs/a.jpg", "__MACOSX/cat/._a.jpg", "cat/._n.tar"]
    result, ignored = classes(tmp_path, tar_of(dict.fromkeys(["cat/a.jpg", *hidden], b"x")))
    assert (result, ignored) == ({"cat/a.jpg": "cat"}, {"hidden files": 4})


def test_members_other_than_plain_files_are_rejects_or_counted(tmp_path: Path) -> None:
    (tmp_path / "c").mkdir()
    with (tmp_path / "c" / "holes.jpg").open("wb") as file:
        file.write(b"x" * 1000)
        file.truncate(1 << 20)
    os.mkfifo(tmp_path / "c" / "pipe.jpg")
    subprocess.run(["tar", "-S", "-cf", "made.tar", "c"], cwd=tmp_path, check=True)
    read, ignored = read_tar(tmp_path, (tmp_path / "made.tar").read_bytes())
    assert read == {"c/holes.jpg": "it is stored with holes (tar --sparse); unpack the tar to read it"}
    assert ignored == {"devices and other special files": 1}


def test_long_and_foreign_names(tmp_path: Path) -> None:
    for form in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT):
        stream = io.BytesIO()
        with tarfile.open(fileobj=stream, mode="w", format=form) as tar:
            member = tarfile.TarInfo("./кошка/" + "ж" * 120 + ".jpg")
            tar.addfile(member)
        assert classes(tmp_path, stream.getvalue())[0] == {member.name[2:]: "кошка"}


def test_nested_tar_of_imagenet_is_listed_in_place(tmp_path: Path) -> None:
    contents = {f"n0000000{c}/n0000000{c}_{i}.JPEG": bytes([c, i]) * (300 * i + 1) for c in (1, 2) for i in range(4)}
    inner = {
        f"n0000000{c}.tar": tar_of({p.split("/")[1]: d for p, d in contents.items() if p.startswith(f"n0000000{c}")})
        for c in (1, 2)
    }
    (tmp_path / "train.tar").write_bytes(tar_of({**inner, "readme.txt": b"hello", "./n3/loose.JPEG": b"x" * 1000}))
    storage = open_storage(str(tmp_path))
    entries = tar_entries(storage, "train.tar", Counter())
    read = {path: storage.read("train.tar", span) for path, span, *_ in entries}
    assert read == {**contents, "readme.txt": b"hello", "n3/loose.JPEG": b"x" * 1000}
    listing = list_sources(open_data(str(tmp_path / "train.tar")))
    assert {(s.key, s.class_name) for s in listing.sources} == {
        *((Path(path).stem, path.split("/")[0]) for path in contents),
        ("n3%2Floose%2EJPEG", "n3"),
    }
    assert listing.ignored == {".txt": 1}


WHOLE = tar_of({"a/x.jpg": b"x" * 5000, "a/y.jpg": b"y" * 5000})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x1f\x8b" + bytes(2000), r"data\.tar is damaged or compressed \("),
        (WHOLE[:8000], "unexpected end of data"),
        (WHOLE[: 2 * (512 + 5120)], r"cut off, there is no end mark at byte 11264\)"),
        (WHOLE[: 512 + 5120], r"cut off, there is no end mark at byte 5632\)"),
        (WHOLE[: 512 + 5120 + 100], "cut off, there is no end mark at byte 5632"),
        (WHOLE[:5632] + b"?" * 512 + WHOLE[5632 + 512 :], "invalid header at byte 5632"),
        (WHOLE + b"?" * 512, r"after the end mark at byte \d+: invalid header"),
        (tar_of({"n1.tar": b"no tar" * 200}), r"n1\.tar in .*data\.tar is damaged"),
        (tar_of({"n1.tar": WHOLE[:5632], "n2.tar": WHOLE}), r"n1\.tar in .*data\.tar is damaged .*cut off"),
        (tar_of({"n1.tar": WHOLE[:8000], "n2.tar": WHOLE}), r"n1\.tar in .*data\.tar is damaged .*unexpected end"),
        (tar_of({"n1.tar": b""}), r"n1\.tar in .*data\.tar is empty"),
        (b"", r"data\.tar is empty"),
    ],
)
def test_damaged_cut_and_compressed_tars_are_named(tmp_path: Path, content: bytes, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_tar(tmp_path, content)
