import io
import os
import stat
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from pipeline.jpeg import MOST_SCANS
from pipeline.orientation import has_orderly_header
from pipeline.shards.images import checked_size, encode_image
from pipeline.shards.rejects import Rejected
from pipeline.spec import ImageSettings, Reason
from tests.media import app1, decode, exif_block, jpeg, picture, with_segments

PIXELS = picture(60, 84, seed=1)
KEPT = ImageSettings()


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def reject(data: bytes, settings: ImageSettings = KEPT) -> str:
    with pytest.raises(Rejected) as error:
        encode_image(data, settings)
    return str(error.value)


def test_rgb_jpegs_pass_through_byte_for_byte() -> None:
    for data in (jpeg(PIXELS), saved(Image.fromarray(PIXELS), "JPEG", progressive=True), jpeg(PIXELS) + b"more"):
        assert encode_image(data, KEPT) == (data, "copied")


@pytest.mark.parametrize(
    ("kind", "mode"),
    [
        *(("JPEG", mode) for mode in ("L", "CMYK")),
        *(("PNG", mode) for mode in ("L", "P", "RGBA", "I;16", "1", "RGB")),
        *(("GIF", mode) for mode in ("L", "P", "1")),
        *(("WEBP", mode) for mode in ("RGB", "RGBA")),
        *(("BMP", mode) for mode in ("L", "P", "1", "RGB")),
        *(("TIFF", mode) for mode in ("L", "P", "RGBA", "I;16", "1", "RGB", "CMYK")),
    ],
)
def test_everything_else_becomes_an_rgb_jpeg_that_looks_the_same(kind: str, mode: str) -> None:
    if mode == "I;16":
        gray = np.asarray(Image.fromarray(PIXELS).convert("L")).astype(np.uint16) * 256
        image = Image.fromarray(gray)
    else:
        image = Image.fromarray(PIXELS).convert(mode, dither=Image.Dither.NONE)
    encoded, made = encode_image(saved(image, kind, **({"lossless": True} if kind == "WEBP" else {})), KEPT)
    assert made.startswith(f"from {kind}")
    assert Image.open(io.BytesIO(encoded)).mode == "RGB"
    expected = Image.fromarray(PIXELS).convert("L" if mode == "I;16" else mode, dither=Image.Dither.NONE).convert("RGB")
    assert np.abs(decode(encoded).astype(int) - np.asarray(expected)).mean() < 6


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_exif_orientation_is_applied(orientation: int, kind: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    turned = saved(Image.fromarray(PIXELS), kind, exif=exif, quality=95)
    encoded, made = encode_image(turned, KEPT)
    assert ("rotated upright" in made) == (orientation > 1)
    assert "exif" not in Image.open(io.BytesIO(encoded)).info or orientation == 1
    flips = {1: "", 2: "h", 3: "hv", 4: "v", 5: "t", 6: "th", 7: "thv", 8: "tv"}[orientation]
    upright = np.asarray(Image.open(io.BytesIO(turned)))
    for flip in flips:
        upright = {"h": upright[:, ::-1], "v": upright[::-1], "t": upright.swapaxes(0, 1)}[flip]
    assert np.abs(decode(encoded).astype(int) - upright).mean() < 6


COMMENT = b"\xff\xfe\0\x04hi"
ODD_METADATA = {
    "an editor's block of its own": (exif_block((0x0110, 2, 1, 65)), exif_block((0x0112, 3, 1, 6))),
    "a byte": (exif_block((0x0112, 1, 1, 6)),),
    "no count": (exif_block((0x0112, 3, 0, 6)),),
    "twice": (exif_block((0x0112, 3, 1, 1), (0x0112, 3, 1, 6)),),
    "XMP": (app1(b'http://ns.adobe.com/xap/1.0/\0<x tiff:Orientation="6"/>'),),
    "first block": (exif_block((0x0112, 3, 1, 6)), exif_block((0x0112, 3, 1, 1))),
    "stray bytes": (COMMENT + b"\0\0", exif_block((0x0112, 3, 1, 6))),
}


def test_every_decoder_sees_the_same_picture() -> None:
    """Pillow and DALI, each with and without applying the orientation."""
    from nvidia.dali import fn, pipeline_def, types

    encoded = {name: encode_image(with_segments(jpeg(PIXELS), *odd), KEPT) for name, odd in ODD_METADATA.items()}
    assert {name: made for name, (_, made) in encoded.items()} == {
        **dict.fromkeys(ODD_METADATA, "copied without its orientation"),
        "first block": "from JPEG RGB, rotated upright",
        "stray bytes": "from JPEG RGB, rotated upright",
    }

    @pipeline_def(batch_size=len(encoded), num_threads=1, device_id=None)  # type: ignore[untyped-decorator]
    def graph() -> Any:
        files = [np.frombuffer(data, np.uint8) for data, _ in encoded.values()]
        source = fn.external_source(source=lambda: files, batch=True, dtype=types.UINT8, ndim=1)
        return tuple(
            fn.decoders.image(source, output_type=types.RGB, adjust_orientation=adjust) for adjust in (False, True)
        )

    decoded = graph().run()
    for index, (name, (data, made)) in enumerate(encoded.items()):
        image = Image.open(io.BytesIO(data))
        assert image.size == checked_size(data) == ((60, 84) if "upright" in made else (84, 60)), name
        stored = np.asarray(image)
        assert (np.asarray(ImageOps.exif_transpose(image)) == stored).all(), name
        for pixels in decoded:
            assert (pixels.at(index) == stored).all(), name
        upright = np.rot90(PIXELS, -1) if "upright" in made else PIXELS
        assert np.abs(stored.astype(int) - upright).mean() < 10, name  # another orientation differs by 60


def test_a_header_with_stray_bytes_is_reencoded() -> None:
    """Pillow skips them; DALI fails."""
    encoded, made = encode_image(with_segments(jpeg(PIXELS), COMMENT + b"\0\0"), KEPT)
    assert made == "from JPEG RGB"
    assert has_orderly_header(encoded)


def test_a_side_that_no_jpeg_can_have() -> None:
    assert reject(saved(Image.new("L", (65_501, 16)), "PNG")) == (
        "too_large: 65501 x 16 pixels; a side of a JPEG may have 65500"
    )


def test_animations_give_their_first_picture() -> None:
    first, second = Image.fromarray(PIXELS), Image.fromarray(picture(60, 84, seed=2))
    for kind in ("GIF", "WEBP", "TIFF", "PNG"):
        encoded, _ = encode_image(saved(first, kind, save_all=True, append_images=[second]), KEPT)
        assert np.abs(decode(encoded).astype(int) - PIXELS).mean() < 15  # the second differs by more than 80


def test_transparency_is_blended_on_white() -> None:
    clear = Image.fromarray(PIXELS).convert("RGBA")
    clear.putalpha(0)
    assert decode(encode_image(saved(clear, "PNG"), KEPT)[0]).min() > 250


def test_short_side_shrinks_and_never_enlarges() -> None:
    encoded, made = encode_image(jpeg(PIXELS), ImageSettings(short_side=30))
    assert decode(encoded).shape[:2] == (30, 42)
    assert made == "from JPEG RGB, resized"
    assert encode_image(jpeg(PIXELS), ImageSettings(short_side=60))[1] == "copied"


def test_every_fault_has_its_reason() -> None:
    png = saved(Image.fromarray(PIXELS), "PNG")
    bomb = saved(Image.new("1", (20_000, 20_000)), "PNG")  # 50 kB that would be 400 million pixels
    no_image = "not_media: no image of these formats: JPEG, PNG, GIF, WEBP, BMP, TIFF"
    assert reject(b"") == "unreadable: the file is empty"
    assert reject(b"some text") == no_image
    assert reject(png[:-200]).startswith("decode_error: ")
    assert reject(bomb) == "too_large: more than max_pixels = 100000000 pixels"
    assert reject(png, ImageSettings(max_pixels=1000)) == "too_large: 84 x 60 pixels; max_pixels is 1000"
    assert reject(jpeg(PIXELS[:15])) == "too_small: 84 x 15 pixels; a side must have at least 16"
    assert encode_image(jpeg(PIXELS[:16]), KEPT)[1] == "copied"


def test_formats_that_run_programs_or_name_files_are_not_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    canary = tmp_path / "called"
    ghostscript = tmp_path / "gs"
    ghostscript.write_text(f"#!/bin/sh\ntouch '{canary}'\n")
    ghostscript.chmod(stat.S_IRWXU)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 99 99\n%%EndComments\nshowpage\n%%EOF\n"
    svg = b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/hosts"/></svg>'
    wmf = b"\xd7\xcd\xc6\x9a" + bytes(60)
    for data in (eps, svg, wmf):
        assert reject(data).startswith("not_media: ")
    assert not canary.exists()


@pytest.mark.parametrize("progressive", [False, True])
def test_check_reads_a_jpeg_to_its_end(progressive: bool) -> None:
    data = saved(Image.fromarray(PIXELS), "JPEG", progressive=progressive)
    assert checked_size(data) == (84, 60)
    with pytest.raises(Rejected, match="does not decode"):
        checked_size(data[: len(data) * 9 // 10])
    with pytest.raises(Rejected, match="decode_error: not a JPEG"):
        checked_size(saved(Image.fromarray(PIXELS), "PNG"))


def test_a_jpeg_of_endless_scans_is_not_decoded() -> None:
    """Each hundred bytes make the decoder visit all blocks once more."""
    data = saved(Image.fromarray(PIXELS), "JPEG", progressive=True)
    last = data[data.rindex(b"\xff\xda") : -2]
    scans = data.count(b"\xff\xda")

    def with_scans(count: int) -> bytes:
        return data[:-2] + last * (count - scans) + b"\xff\xd9"

    assert checked_size(with_scans(MOST_SCANS)) == (84, 60)
    assert encode_image(with_scans(MOST_SCANS), KEPT)[1] == "copied"
    assert encode_image(with_scans(MOST_SCANS + 1), KEPT)[1] == "copied", "`checked_size` comes next"
    smaller = ImageSettings(short_side=16)
    assert reject(with_scans(MOST_SCANS + 1), smaller) == "too_large: 1001 scans; a JPEG may have 1000"
    with pytest.raises(Rejected, match="1001 scans"):
        checked_size(with_scans(MOST_SCANS + 1))


def test_a_jpeg_with_a_huge_stated_size() -> None:
    data = bytearray(jpeg(PIXELS))
    size = data.index(b"\xff\xc0") + 5
    data[size : size + 4] = b"\xff\xf0\xff\xf0"
    with pytest.raises(Rejected, match="the JPEG does not decode: Image size"):
        checked_size(bytes(data))


def test_damaged_files_are_rejects_whatever_is_damaged() -> None:
    """Some thousand files with a few bytes changed: either a JPEG that decodes, or a reject."""
    generator = np.random.default_rng(0)
    exif = Image.Exif()
    exif[0x0112] = 6
    image = Image.fromarray(PIXELS[:24, :24])
    kinds: list[tuple[str, dict[str, str]]] = [(kind, {}) for kind in ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF")]
    files = [saved(image, kind, exif=exif, **options) for kind, options in [*kinds, ("TIFF", {"compression": "jpeg"})]]
    outcomes = set()
    for number in range(4000):
        data = bytearray(files[number % len(files)])
        for at in generator.integers(0, min(len(data), 400), 3):
            data[at] = generator.integers(0, 256)
        try:
            checked_size(encode_image(bytes(data), ImageSettings(max_pixels=100_000))[0])
            outcomes.add("read")
        except Rejected as error:
            outcomes.add(error.reason)
    assert outcomes >= {"read", Reason.DECODE_ERROR, Reason.NOT_MEDIA, Reason.TOO_LARGE}


def test_real_odd_images(real_data: Path) -> None:
    outcomes = {}
    for path in sorted((real_data / "odd" / "images").iterdir()):
        try:
            data, outcomes[path.name] = encode_image(path.read_bytes(), KEPT)
            checked_size(data)
        except Rejected as error:
            outcomes[path.name] = error.reason.value
    assert outcomes == {
        "bad_exif.jpg": "from JPEG L",
        "cmyk.jpg": "from JPEG CMYK",
        "empty.JPEG": "unreadable",
        "exif3_hopper.jpg": "from JPEG RGB, rotated upright",
        "exif6_landscape.jpg": "from JPEG RGB, rotated upright",
        "fuzz_1.jpg": "copied",
        "gray.jpg": "from JPEG L",
        "lossless_8bit_gray.jpg": "from JPEG L",
        "n02094258_truncated.JPEG": "decode_error",
        "n03325584_progressive.JPEG": "copied",
        "n03325584_rgba.png": "from PNG RGBA",
        "n03803284_png.JPEG": "from PNG RGB",
        "n04423845_cmyk.JPEG": "from JPEG CMYK",
        "text.JPEG": "not_media",
    }
