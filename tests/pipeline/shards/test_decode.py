import errno
import os
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import pytest

from pipeline.shards.decode import Inputs, decode
from pipeline.shards.ffmpeg import run_ffmpeg
from pipeline.shards.media import Media
from pipeline.shards.plan import Planned
from pipeline.shards.rejects import Rejected
from pipeline.spec import FrameSettings, ImageSettings, Reason
from pipeline.storage import LocalStorage, open_storage
from tests.media import exif_block, jpeg, picture, with_segments, write_image

IMAGE = Planned("c/x.jpg", "x", "c", 0, None)


def inputs(folder: Path) -> Inputs:
    return Inputs(open_storage(str(folder)), None, "images", FrameSettings(), ImageSettings())


def test_time_is_measured_by_stage(tmp_path: Path) -> None:
    write_image(tmp_path / "c" / "x.jpg", seed=0)
    seconds: defaultdict[str, float] = defaultdict(float)
    decoded = decode(inputs(tmp_path), IMAGE, seconds)
    assert (decoded.size, decoded.fields) == ((160, 120), {"encoding": "copied"})
    assert set(seconds) == {"fetch", "decode", "check"}
    assert all(value > 0 for value in seconds.values())


class Faulty(LocalStorage):
    """Storage whose reads fail with an errno."""

    fault = 0

    def open(self, name: str) -> BinaryIO:
        raise OSError(self.fault, "failed")

    @contextmanager
    def local(self, name: str) -> Iterator[Path]:
        raise OSError(self.fault, "failed")
        yield


@pytest.mark.parametrize("fault", [errno.ENOSPC, errno.EMFILE, errno.ENOMEM, errno.EFBIG])
def test_errors_of_the_machine_are_not_rejects(tmp_path: Path, fault: int) -> None:
    storage = Faulty(str(tmp_path))
    storage.fault = fault
    with pytest.raises(OSError, match="failed"):
        decode(Inputs(storage, None, "images", FrameSettings(), ImageSettings()), IMAGE, defaultdict(float))


def test_the_treatment_of_a_clip_is_in_its_fields(tmp_path: Path) -> None:
    tags = "setparams=color_primaries=bt2020:color_trc=smpte2084:colorspace=bt2020nc,format=yuv420p10le"
    for name, filters in (("plain", "null"), ("hdr", f"{tags},setfield=tff")):
        source = ["-f", "lavfi", "-i", "testsrc=d=4:s=64x48:r=4", "-vf", filters, "-c:v", "ffv1"]
        run_ffmpeg([*source, f"file:{tmp_path / name}.mkv"], 60)
    clips = Inputs(open_storage(str(tmp_path)), None, "clips", FrameSettings(), ImageSettings())
    plain, hdr = (decode(clips, IMAGE._replace(path=f"{name}.mkv"), defaultdict(float)) for name in ("plain", "hdr"))
    assert set(plain.fields) == {"fps", "times_s"}
    assert hdr.fields == {**plain.fields, "deinterlaced": True, "color": "tone-mapped from smpte2084"}


def test_errors_of_the_input_are_rejects(tmp_path: Path) -> None:
    storage = Faulty(str(tmp_path))
    storage.fault = errno.EIO
    for media in ("images", "clips"):
        with pytest.raises(Rejected, match="failed") as rejected:
            decode(Inputs(storage, None, media, FrameSettings(), ImageSettings()), IMAGE, defaultdict(float))
        assert rejected.value.reason is Reason.UNREADABLE


@pytest.mark.parametrize("media", ["images", "clips"])
def test_no_input_hangs_or_fills_the_memory(tmp_path: Path, media: Media) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    with (tmp_path / "huge.jpg").open("wb") as file:
        file.truncate((1 << 30) + 1)
    source = Inputs(open_storage(str(tmp_path)), None, media, FrameSettings(), ImageSettings())
    names = {"pipe.jpg": "not a regular file", "/dev/zero": "not a regular file", "a\0b.jpg": "the path has a NUL byte"}
    names |= {"huge.jpg": "more than 1 GiB"} if media == "images" else {}
    for name, message in names.items():
        with pytest.raises(Rejected, match=f"unreadable: {message}"):
            decode(source, IMAGE._replace(path=name), defaultdict(float))


def test_a_span_beyond_the_end_of_its_tar_is_a_reject(tmp_path: Path) -> None:
    (tmp_path / "x.tar").write_bytes(bytes(100))
    source = Inputs(open_storage(str(tmp_path)), "x.tar", "images", FrameSettings(), ImageSettings())
    with pytest.raises(Rejected, match=r"x\.tar ends before byte 150"):
        decode(source, IMAGE._replace(span=(50, 100)), defaultdict(float))


def test_frames_of_different_sizes_are_a_reject(tmp_path: Path) -> None:
    (tmp_path / "c" / "clip").mkdir(parents=True)
    for number in range(9):
        size = (96, 128) if number < 8 else (128, 96)
        (tmp_path / "c" / "clip" / f"{number}.jpg").write_bytes(jpeg(picture(*size, number)))
    source = Inputs(open_storage(str(tmp_path)), None, "frames", FrameSettings(), ImageSettings())
    with pytest.raises(Rejected, match=r"size changes within the clip: \[\(96, 128\), \(128, 96\)\]"):
        decode(source, IMAGE._replace(path="c/clip"), defaultdict(float))


def test_frames_of_a_folder_are_as_upright_as_images(tmp_path: Path) -> None:
    """An editor changed the orientation of one frame by a block that only some readers find."""
    plain = jpeg(picture(48, 64, seed=0))
    odd = with_segments(plain, exif_block((0x0110, 2, 1, 65)), exif_block((0x0112, 3, 1, 6)))
    for number in range(8):
        path = tmp_path / "c" / f"{number}.jpg"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(odd if number == 5 else plain)
    source = Inputs(open_storage(str(tmp_path)), None, "frames", FrameSettings(), ImageSettings())
    decoded = decode(source, Planned("c", "x", "c", 0, None), defaultdict(float))
    assert decoded.jpegs == [plain] * 8
    assert decoded.fields["encoding"] == {"copied": 7, "copied without its orientation": 1}
