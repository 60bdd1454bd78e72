"""Every kind of pixel becomes 8-bit RGB of the same picture, or a reject: nothing is clipped to black."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from pipeline.shards.images import encode_image
from pipeline.shards.rejects import Rejected
from pipeline.spec import ImageSettings
from tests.media import decode

RAMP = np.tile(np.arange(64, dtype=np.uint8) * 4 + 3, (48, 1))
"""(48, 64) gray levels from 3 to 255."""
UNSIGNED, SIGNED, FLOAT = 1, 2, 3
NOT_READ = "decode_error: a TIFF with a header or a kind of pixels that is not read"


def tiff(data: bytes, bits: int, sample_format: int, order: str = "<", white_is_zero: bool = False) -> bytes:
    """An uncompressed gray TIFF of 64 x 48 pixels."""
    fields = {256: 64, 257: 48, 258: bits, 259: 1, 262: int(not white_is_zero), 277: 1, 278: 48, 339: sample_format}
    start = 8 + 2 + 12 * (len(fields) + 2) + 4
    fields |= {273: start, 279: len(data)}
    entries = b"".join(struct.pack(f"{order}HHII", tag, 4, 1, fields[tag]) for tag in sorted(fields))
    header = struct.pack(f"{order}2sHIH", b"II" if order == "<" else b"MM", 42, 8, len(fields))
    return header + entries + bytes(4) + data


def png(bits: int, color_type: int, rows: np.ndarray, transparent: tuple[int, ...] = ()) -> bytes:
    """A PNG of 64 x 48 pixels of (48, bytes of a row) uint8."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    content = chunk(b"IHDR", struct.pack(">IIBBBBB", 64, 48, bits, color_type, 0, 0, 0))
    if transparent:
        content += chunk(b"tRNS", struct.pack(f">{len(transparent)}H", *transparent))
    data = b"".join(b"\0" + row.tobytes() for row in rows)
    return b"\x89PNG\r\n\x1a\n" + content + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


def encoded(data: bytes) -> tuple[np.ndarray, str]:
    """Gray levels (48, 64) of the resulting JPEG, and how it was made."""
    content, made = encode_image(data, ImageSettings(quality=100))
    return decode(content)[..., 1].astype(int), made


def twelve_bits(levels: np.ndarray) -> bytes:
    pairs = levels.reshape(-1, 2).astype(np.uint32)
    both = pairs[:, 0] << 12 | pairs[:, 1]
    return np.stack([both >> 16, both >> 8, both], -1).astype(np.uint8).tobytes()


@pytest.mark.parametrize(
    ("levels", "bits", "sample_format", "encoding"),
    [
        (RAMP.astype("<u2") * 257, 16, UNSIGNED, "from TIFF I;16"),
        ((RAMP * np.uint16(257)).astype(">u2"), 16, UNSIGNED, "from TIFF I;16B"),
        (RAMP.astype("<i2") * 128, 16, SIGNED, "from TIFF I, gray levels 0 to 32767"),
        ((RAMP & 127).astype("i1"), 8, SIGNED, "from TIFF L"),
        (RAMP.astype("<i4"), 32, SIGNED, "from TIFF I, gray levels 0 to 255"),
        ((RAMP * np.int32(257)).astype(">i4"), 32, SIGNED, "from TIFF I, gray levels 0 to 65535"),
        (RAMP.astype("<i4") << 23, 32, SIGNED, "from TIFF I, gray levels 0 to 2147483647"),
        (RAMP.astype("<u4") * 257, 32, UNSIGNED, "from TIFF I, gray levels 0 to 65535"),
        (RAMP.astype("<u4") * 0x01010101, 32, UNSIGNED, "from TIFF I, gray levels 0 to 4294967295"),
        (RAMP.astype("<f4") / 255, 32, FLOAT, "from TIFF F, gray levels 0 to 1"),
        ((RAMP / 255).astype(">f4"), 32, FLOAT, "from TIFF F, gray levels 0 to 1"),
        (RAMP.astype("<f4") / 255 * 1.001, 32, FLOAT, "from TIFF F, gray levels 0 to 1"),
        (RAMP.astype("<f4"), 32, FLOAT, "from TIFF F, gray levels 0 to 255"),
        (RAMP.astype("<f4") * 257, 32, FLOAT, "from TIFF F, gray levels 0 to 65535"),
    ],
)
@pytest.mark.parametrize("white_is_zero", [False, True])
def test_gray_levels_of_any_depth(
    levels: np.ndarray, bits: int, sample_format: int, encoding: str, white_is_zero: bool
) -> None:
    data = tiff(levels.tobytes(), bits, sample_format, ">" if levels.dtype.byteorder == ">" else "<", white_is_zero)
    expected = 2 * (RAMP.astype(int) & 127) if bits == 8 else RAMP.astype(int)
    if white_is_zero and not (levels.dtype.kind == "f" or levels.dtype == "<u2"):
        with pytest.raises(Rejected, match=NOT_READ):  # Pillow supports no other negatives of this depth
            encoded(data)
        return
    shown, made = encoded(data)
    assert made == encoding
    assert np.abs(shown - (255 - expected if white_is_zero else expected)).max() <= 3


def test_twelve_bits_in_a_row() -> None:
    shown, _ = encoded(tiff(twelve_bits(RAMP.astype(np.uint16) * 16 + 15), 12, UNSIGNED))
    assert np.abs(shown - RAMP).max() <= 3


@pytest.mark.parametrize(
    ("levels", "sample_format", "expected"),
    [
        (RAMP.astype("<f4") / 255 - 0.5, FLOAT, r"gray levels from -0\.488\S* to 0\.5: which of them is white"),
        (RAMP.astype("<f4") / 20, FLOAT, r"gray levels from 0\.15 to 12\.75: which of them is white"),
        (np.where(RAMP == 3, np.nan, RAMP).astype("<f4"), FLOAT, "some gray levels are not finite"),
        (np.where(RAMP == 3, np.inf, RAMP).astype("<f4"), FLOAT, "some gray levels are not finite"),
        (RAMP.astype("<f4") * 1e6, FLOAT, r"gray levels from 3e\+06 to 2\.55e\+08"),
        (RAMP.astype("<i4") - 100, SIGNED, "gray levels from -97 to 155"),
        (RAMP.astype("<i4") * 4, SIGNED, "gray levels from 12 to 1020"),  # 10 bits: of 65535 they would be black
    ],
)
def test_an_unknown_range_is_rejected(levels: np.ndarray, sample_format: int, expected: str) -> None:
    with pytest.raises(Rejected, match=f"decode_error: {expected}"):
        encoded(tiff(levels.tobytes(), 32, sample_format))


def test_twelve_bits_in_sixteen_are_no_black_sample() -> None:
    with pytest.raises(Rejected, match="gray levels from 48 to 4080: which of them is white is not known"):
        encoded(tiff((RAMP.astype("<u2") * 16).tobytes(), 16, UNSIGNED))


def test_signed_bytes_have_no_negative_levels() -> None:
    with pytest.raises(Rejected, match="decode_error: gray levels from -125 to 127"):
        encoded(tiff(RAMP.tobytes(), 8, SIGNED))


def test_a_black_picture_is_one_whatever_its_range() -> None:
    assert encoded(tiff(np.zeros((48, 64), "<f4").tobytes(), 32, FLOAT))[0].max() == 0


def test_pixels_of_a_kind_that_pillow_does_not_know() -> None:
    with pytest.raises(Rejected, match=NOT_READ):
        encoded(tiff((RAMP.astype("<f8") / 255).tobytes(), 64, FLOAT))


FOUR = np.tile(np.arange(64) // 4, (48, 1))
SIXTEEN = (RAMP * np.uint16(256) + 7).astype(">u2")


@pytest.mark.parametrize(
    ("data", "levels", "transparent"),
    [
        (png(8, 0, RAMP, (RAMP[0, 9],)), RAMP, RAMP[0, 9] == RAMP),
        (png(16, 0, SIXTEEN.view(np.uint8), (SIXTEEN[0, 9],)), RAMP, RAMP[0, 9] == RAMP),
        (png(16, 0, SIXTEEN.view(np.uint8), (SIXTEEN[0, 9] + 1,)), RAMP, RAMP < 0),
        (png(16, 2, SIXTEEN.repeat(3, 1).astype(">u2").view(np.uint8), (SIXTEEN[0, 9],) * 3), RAMP, RAMP[0, 9] == RAMP),
        (png(4, 0, (FOUR[:, ::2] << 4 | FOUR[:, 1::2]).astype(np.uint8), (5,)), FOUR * 17, FOUR == 5),
        (png(2, 0, np.tile(np.uint8(0b00011011), (48, 16)), (2,)), np.tile([0, 85, 170, 255], (48, 16)), None),
    ],
)
def test_the_transparent_color_of_a_png(data: bytes, levels: np.ndarray, transparent: np.ndarray | None) -> None:
    shown, _ = encoded(data)
    transparent = levels == 170 if transparent is None else transparent
    assert np.abs(shown - np.where(transparent, 255, levels)).max() <= 3


def test_premultiplied_gray() -> None:
    """Gray 100 with alpha 0.5: blended on white it is about 178 in every encoding."""
    stream = io.BytesIO()
    Image.merge("LA", [Image.new("L", (64, 48), 100), Image.new("L", (64, 48), 128)]).save(stream, "TIFF")
    data = bytearray(stream.getvalue())
    associated = data.replace(struct.pack("<HHIHH", 338, 3, 1, 2, 0), struct.pack("<HHIHH", 338, 3, 1, 1, 0))
    assert associated != data
    assert abs(encoded(bytes(data))[0].mean() - 178) < 3
    stored = bytes(associated).replace(bytes([100, 128]) * 64, bytes([50, 128]) * 64)
    assert abs(encoded(stored)[0].mean() - 178) < 3
