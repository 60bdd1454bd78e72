import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.shards.images import ImageSettings, check_jpeg, encode_image
from pipeline.shards.rejects import Reason, Rejected
from tests.media import decode, jpeg, picture

PIXELS = picture(60, 84, seed=1)


def encode(tmp_path: Path, data: bytes, settings: ImageSettings | None = None) -> tuple[bytes, str]:
    path = tmp_path / "image.JPEG"
    path.write_bytes(data)
    return encode_image(path, settings or ImageSettings())


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def test_rgb_jpegs_pass_through_byte_for_byte(tmp_path: Path) -> None:
    for data in (jpeg(PIXELS), saved(Image.fromarray(PIXELS), "JPEG", progressive=True)):
        assert encode(tmp_path, data) == (data, "copied")


@pytest.mark.parametrize("mode", ["L", "CMYK", "P", "RGBA", "I;16", "1"])
def test_other_modes_become_rgb_jpegs_that_look_the_same(tmp_path: Path, mode: str) -> None:
    if mode == "I;16":
        grey = np.asarray(Image.fromarray(PIXELS).convert("L")).astype(np.uint16) * 256
        image = Image.fromarray(grey)
    else:
        image = Image.fromarray(PIXELS).convert(mode, dither=Image.Dither.NONE)
    kind = "JPEG" if mode in ("L", "CMYK") else "PNG"
    encoded, made = encode(tmp_path, saved(image, kind))
    assert made.startswith(f"from {kind}")
    expected = Image.fromarray(PIXELS).convert("L" if mode == "I;16" else mode, dither=Image.Dither.NONE).convert("RGB")
    assert np.abs(decode(encoded).astype(int) - np.asarray(expected)).mean() < 6


def test_exif_rotation_is_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = saved(Image.fromarray(PIXELS), "JPEG", exif=exif, quality=95)
    encoded, made = encode(tmp_path, turned)
    assert made == "from JPEG RGB, rotated upright"
    assert np.abs(decode(encoded).astype(int) - np.rot90(decode(turned), -1)).mean() < 6


def test_short_side_shrinks_and_never_enlarges(tmp_path: Path) -> None:
    encoded, made = encode(tmp_path, jpeg(PIXELS), ImageSettings(short_side=30))
    assert decode(encoded).shape[:2] == (30, 42)
    assert "resized" in made
    assert encode(tmp_path, jpeg(PIXELS), ImageSettings(short_side=60))[1] == "copied"


def test_every_fault_has_its_reason(tmp_path: Path) -> None:
    def reason(data: bytes, settings: ImageSettings | None = None) -> Reason:
        with pytest.raises(Rejected) as error:
            encode(tmp_path, data, settings)
        assert error.value.detail
        return error.value.reason

    assert reason(b"") == Reason.UNREADABLE
    assert reason(b"some text") == Reason.DECODE_ERROR
    assert reason(saved(Image.fromarray(PIXELS), "PNG")[:-200]) == Reason.DECODE_ERROR
    assert reason(jpeg(PIXELS), ImageSettings(max_pixels=1000)) == Reason.TOO_LARGE
    with pytest.raises(Rejected, match="unreadable"):
        encode_image(tmp_path / "missing.jpg", ImageSettings())


def test_check_reads_a_jpeg_to_its_end() -> None:
    data = jpeg(PIXELS)
    assert check_jpeg(data) == (84, 60)
    with pytest.raises(Rejected, match="does not decode"):
        check_jpeg(data[: len(data) * 9 // 10])
