"""Clips, images and held-out clips on disk, in the layouts that their real counterparts have.

Every file appears complete under its name or not at all, and its bytes depend on nothing but the scene and the tools.
"""

import io
from collections.abc import Sequence
from pathlib import Path

import ffmpeg
import numpy as np
import numpy.typing as npt
import scipy.io
from PIL import Image

from benchmarks.demo_data.puppet import JOINT_NAMES
from benchmarks.demo_data.scene import Scene, render, render_annotated
from pipeline.files import atomic_path, write_bytes
from pipeline.shards.ffmpeg import run_ffmpeg

JPEG_QUALITY = 92
ENCODE_DEADLINE_S = 300.0
_MAT_HEADER = b"MATLAB 5.0 MAT-file, Platform: any, demo data made by code"
_MAT_HEADER_BYTES = 116


def davis_palette() -> list[int]:
    """256 RGB colors as in DAVIS and PASCAL VOC: the bits of an id go to R, G, B in turn, highest bits first."""
    ids = np.arange(256)
    channels = [sum(((ids >> (3 * bit + channel)) & 1) << (7 - bit) for bit in range(3)) for channel in range(3)]
    return [int(value) for value in np.stack([np.asarray(channel) for channel in channels], axis=1).ravel()]


def video_encoder() -> str:
    """`libx264` if this ffmpeg has it, else `mpeg4`."""
    return "libx264" if b" libx264 " in run_ffmpeg(["-encoders"], ENCODE_DEADLINE_S) else "mpeg4"


def write_video(path: Path, scene: Scene, fps: int, duration: float, encoder: str) -> None:
    """An mp4 of `duration` seconds.

    Raises:
        FfmpegError: the encoder failed.
    """
    frames = b"".join(render(scene, number / fps).tobytes() for number in range(round(duration * fps)))
    quality = {"preset": "superfast", "crf": 22} if encoder == "libx264" else {"qscale:v": 4}
    fixed = {"threads": 1, "fflags": "+bitexact", "flags:v": "+bitexact", "map_metadata": -1}
    source = ffmpeg.input("pipe:0", format="rawvideo", pixel_format="rgb24", video_size=scene.size, framerate=fps)
    with atomic_path(path) as temporary:
        target = source.output(
            f"file:{temporary}",
            format="mp4",
            vcodec=encoder,
            pix_fmt="yuv420p",
            movflags="+faststart",
            **quality,
            **fixed,
        )
        run_ffmpeg(target.get_args(), ENCODE_DEADLINE_S, stdin=frames)


def _encoded(pixels: npt.NDArray[np.uint8], form: str, palette: list[int] | None = None) -> bytes:
    image = Image.fromarray(pixels)
    if palette is not None:
        image.putpalette(palette)
    buffer = io.BytesIO()
    image.save(buffer, form, quality=JPEG_QUALITY)
    return buffer.getvalue()


def write_still(path: Path, scene: Scene, t: float) -> None:
    """One JPEG of the scene at `t` seconds."""
    write_bytes(path, _encoded(render(scene, t), "JPEG"))


def write_davis(root: Path, name: str, scene: Scene, times: Sequence[float]) -> None:
    """`JPEGImages/480p/NAME/00000.jpg` and `Annotations/480p/NAME/00000.png` (palette, 0 = background)."""
    palette = davis_palette()
    for number, t in enumerate(times):
        frame = render_annotated(scene, t)
        write_bytes(root / "JPEGImages/480p" / name / f"{number:05d}.jpg", _encoded(frame.image, "JPEG"))
        write_bytes(root / "Annotations/480p" / name / f"{number:05d}.png", _encoded(frame.objects, "PNG", palette))


def write_vip(root: Path, name: str, scene: Scene, times: Sequence[float]) -> None:
    """`Images/NAME/000000000001.jpg` and `Category_ids/NAME/000000000001.png` (gray, part labels 0..19)."""
    for number, t in enumerate(times, start=1):
        frame = render_annotated(scene, t)
        write_bytes(root / "Images" / name / f"{number:012d}.jpg", _encoded(frame.image, "JPEG"))
        write_bytes(root / "Category_ids" / name / f"{number:012d}.png", _encoded(frame.parts, "PNG"))


def jhmdb_positions(
    joints: npt.NDArray[np.float64], size: tuple[int, int], scale: float
) -> dict[str, npt.NDArray[np.float64]]:
    """Contents of `joint_positions.mat`.

    Args:
        joints: (2, 15, T) continuous x, y.
        size: width and height of the frames.
        scale: the person's size, one number for the clip.

    Returns:
        pos_img: (2, 15, T) one-based pixel positions (the center of the first pixel is 1).
        pos_world: `pos_img` relative to the image's middle and height, divided by `scale`, as in JHMDB's own files.
        scale: (1, T).
    """
    width, height = size
    pos_img = joints + 0.5
    pos_world = np.stack([(pos_img[0] / width - 0.5) * width / height, pos_img[1] / height - 0.5]) / scale
    return {"pos_img": pos_img, "pos_world": pos_world, "scale": np.full((1, joints.shape[2]), scale)}


def write_jhmdb(root: Path, class_name: str, name: str, scene: Scene, times: Sequence[float], scale: float) -> None:
    """`Rename_Images/CLASS/NAME/00001.png` and `joint_positions/CLASS/NAME/joint_positions.mat` of object 1."""
    joints = []
    for number, t in enumerate(times, start=1):
        frame = render_annotated(scene, t)
        joints.append([frame.joints[1][joint] for joint in JOINT_NAMES])
        write_bytes(root / "Rename_Images" / class_name / name / f"{number:05d}.png", _encoded(frame.image, "PNG"))
    buffer = io.BytesIO()
    scipy.io.savemat(buffer, jhmdb_positions(np.array(joints).transpose(2, 1, 0), scene.size, scale))
    content = _MAT_HEADER.ljust(_MAT_HEADER_BYTES) + buffer.getvalue()[_MAT_HEADER_BYTES:]  # without the date
    write_bytes(root / "joint_positions" / class_name / name / "joint_positions.mat", content)
