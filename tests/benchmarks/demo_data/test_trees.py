from pathlib import Path

import numpy as np
import pytest
import scipy.io
from PIL import Image

from benchmarks.demo_data import casting, trees
from benchmarks.demo_data.puppet import JOINT_NAMES
from benchmarks.demo_data.scene import render, render_annotated
from pipeline.shards.ffmpeg import run_ffmpeg

TIMES = casting.HELD_OUT_TIMES[:2]


def test_palette_starts_like_that_of_davis() -> None:
    palette = np.array(trees.davis_palette()).reshape(256, 3)
    assert palette[:4].tolist() == [[0, 0, 0], [128, 0, 0], [0, 128, 0], [128, 128, 0]]
    assert palette[8].tolist() == [64, 0, 0]
    assert palette[255].tolist() == [224, 224, 192]


@pytest.mark.parametrize("encoder", ["libx264", "mpeg4"])
def test_video_decodes_to_the_rendered_frames(tmp_path: Path, encoder: str) -> None:
    if encoder == "libx264" and trees.video_encoder() != encoder:
        pytest.skip("this ffmpeg has no libx264")
    scene = casting.video_scene(np.random.default_rng(0), "swimming fish", (160, 120), 1.0)
    path = tmp_path / "-leading dash.mp4"
    trees.write_video(path, scene, 10, 1.0, encoder)
    raw = run_ffmpeg(["-i", f"file:{path}", "-f", "rawvideo", "-pix_fmt", "rgb24", "pipe:1"], 60)
    decoded = np.frombuffer(raw, np.uint8).reshape(10, 120, 160, 3).astype(np.float64)
    rendered = np.stack([render(scene, number / 10) for number in range(10)])
    assert 10 * np.log10(255**2 / ((decoded - rendered) ** 2).mean()) > 25  # PSNR in dB
    again = tmp_path / "again.mp4"
    trees.write_video(again, scene, 10, 1.0, encoder)
    assert path.read_bytes() == again.read_bytes()


def test_davis_annotations_are_palette_images_of_the_rendered_ids(tmp_path: Path) -> None:
    scene = casting.davis_scene([0, 2, 1], 1)
    trees.write_davis(tmp_path, "fish", scene, TIMES)
    for number, t in enumerate(TIMES):
        mask = Image.open(tmp_path / f"Annotations/480p/fish/{number:05d}.png")
        assert mask.mode == "P"
        assert (mask.getpalette() or [])[: 3 * 4] == trees.davis_palette()[: 3 * 4]
        assert (np.asarray(mask) == render_annotated(scene, t).objects).all()
        photo = Image.open(tmp_path / f"JPEGImages/480p/fish/{number:05d}.jpg")
        assert photo.size == mask.size == casting.HELD_OUT_SIZE


def test_jhmdb_joints_are_one_based_and_carry_no_date(tmp_path: Path) -> None:
    scene = casting.pose_scene([0, 4, 0], casting.walk, 1)
    trees.write_jhmdb(tmp_path, "walk", "demo", scene, TIMES, casting.PERSON_SHARE)
    path = tmp_path / "joint_positions/walk/demo/joint_positions.mat"
    joints = scipy.io.loadmat(path)["pos_img"]
    assert joints.shape == (2, 15, len(TIMES))
    assert joints.dtype == np.float64
    truth = render_annotated(scene, TIMES[1]).joints[1]
    np.testing.assert_allclose(joints[:, :, 1] - 0.5, np.array([truth[name] for name in JOINT_NAMES]).T)
    assert b"Created on" not in path.read_bytes()
    assert (np.asarray(Image.open(tmp_path / "Rename_Images/walk/demo/00002.png")) == render(scene, TIMES[1])).all()


def test_jhmdb_world_positions_follow_those_of_the_real_files() -> None:
    # A joint of a real clip (320 x 240, scale 0.45): image (286.5, 106.5), world x 1.1712963.
    joints = np.array([286.0, 106.0]).reshape(2, 1, 1)
    content = trees.jhmdb_positions(joints, (320, 240), 0.45)
    assert content["pos_img"].ravel().tolist() == [286.5, 106.5]
    assert content["pos_world"][0, 0, 0] == pytest.approx(1.1712963, abs=1e-6)
