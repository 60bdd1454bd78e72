"""TAP-Vid on a made file in the official layout; the official formulas are computed anew, point by point."""

import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from evaluation.tapvid import FILE, TAPVID, TapVid
from pipeline.settings import UserError
from tests.evaluation import trees
from tests.evaluation.trees import moving_squares, score

pytestmark = pytest.mark.usefixtures("patch_filter")
FRAMES = 8


def made_video() -> dict[str, Any]:
    """Noise (256 x 256) that moves right by 16 pixels a frame, and five points.

    Points 0 to 2 move with it, and two of these are occluded at times; the others stay, and are hardly ever seen.
    """
    noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8).repeat(8, 0).repeat(8, 1)
    frames = np.stack([np.roll(noise, 16 * number, 1) for number in range(FRAMES)])
    start = np.array([[24, 40], [37, 75], [90, 201], [100, 120], [56, 30]], np.float32)  # x, y
    speed = np.array([16, 16, 16, 0, 0], np.float32)[:, None] * np.arange(FRAMES, dtype=np.float32)
    points = start[:, None].repeat(FRAMES, 1)
    points[..., 0] += speed
    occluded = np.zeros((5, FRAMES), bool)
    occluded[1, :3] = occluded[2, 4:6] = occluded[3, 3:] = occluded[4] = True
    return {"video": frames, "points": points / 256, "occluded": occluded}


def write(folder: Path, content: object, protocol: int | None = None) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / FILE).write_bytes(pickle.dumps(content, protocol))
    return folder


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write(tmp_path / "data", {"squares": made_video()})


def evaluate(data: Path, **options: Any) -> dict[str, Any]:
    return trees.evaluate(TAPVID, data, **options)


def official(video: dict[str, Any], mode: str, predicted: list[np.ndarray]) -> dict[str, float]:
    """Queries and position accuracy as released, with loops; predictions are (2, Q) for each frame."""
    points, occluded = video["points"].astype(float) * 256, video["occluded"]
    queries: list[tuple[int, int]] = []
    if mode == "first":
        for track in range(len(points)):
            seen = [frame for frame in range(FRAMES) if not occluded[track, frame]]
            if seen:
                queries.append((track, seen[0]))
    else:
        for frame in range(0, FRAMES, 5):
            queries += [(track, frame) for track in range(len(points)) if not occluded[track, frame]]
    scores = {}
    for threshold in (1, 2, 4, 8, 16):
        right = total = 0
        for number, (track, start) in enumerate(queries):
            for frame in range(FRAMES):
                after = frame > start if mode == "first" else frame != start
                if after and not occluded[track, frame]:
                    total += 1
                    x, y = predicted[frame][:, number] - points[track, frame]
                    right += bool(x * x + y * y < threshold * threshold)
        scores[f"pts_within_{threshold}"] = right / total
    return {"average_pts_within_thresh": sum(scores.values()) / 5} | scores


@pytest.mark.parametrize("mode", ["first", "strided"])
def test_points_are_tracked_and_scored_as_by_the_official_formula(mode: str, data: Path) -> None:
    result = evaluate(data, query=mode, size=(128, 256), propagation={"top_k": 1})
    folder = data.parent / "out" / "predictions" / "squares"
    predicted = [np.loadtxt(folder / f"{frame:05d}.txt").T for frame in range(FRAMES)]
    assert predicted[0].shape == (2, {"first": 4, "strided": 3 + 2}[mode])
    expected = official(made_video(), mode, predicted)
    assert result["scores"] == pytest.approx(expected)
    assert 0.5 < expected["pts_within_4"] < expected["pts_within_16"] < 1
    assert result["protocol"]["query"] == mode
    changed = "t-core, changed: propagation.top_k=1, size=128,256"
    assert result["protocol"]["name"] == changed + (", query=strided" if mode == "strided" else "")
    given = predicted[3][:, 1] if mode == "first" else predicted[5][:, 4]  # track 1, which appears in frame 3
    position = made_video()["points"][1, 3 if mode == "first" else 5] * 256
    np.testing.assert_allclose(given, position, atol=2.5)  # a cell has 16 x 32 pixels of the frame
    if mode == "first":
        assert np.isnan(predicted[2][:, 1]).all()
    else:  # tracked backward, too: track 1 from frame 5 to frame 1
        assert not np.isnan(predicted).any()
        np.testing.assert_allclose(predicted[1][:, 4], made_video()["points"][1, 1] * 256, atol=2.5)
    assert score(TAPVID, data, query=mode)["scores"] == pytest.approx(result["scores"], abs=1e-3)


def test_true_positions_score_100_and_lost_ones_count_as_wrong(data: Path) -> None:
    points = made_video()["points"][:4].astype(float) * 256
    predictions = data.parent / "predictions"
    (predictions / "squares").mkdir(parents=True)
    for frame in range(FRAMES):
        np.savetxt(predictions / "squares" / f"{frame:05d}.txt", points[:, frame])
    assert set(score(TAPVID, data, predictions)["scores"].values()) == {1.0}
    lost = points[:, 7]
    lost[0] = np.nan
    np.savetxt(predictions / "squares" / "00007.txt", lost)
    counted = 7 + 4 + 5 + 2  # frames after the query in which the tracks are visible
    assert score(TAPVID, data, predictions)["scores"]["pts_within_16"] == pytest.approx((counted - 1) / counted)
    np.savetxt(predictions / "squares" / "00007.txt", lost[:2])
    reason = score(TAPVID, data, predictions, status=1)["sequences"]["squares"]["reason"]
    assert "squares/00007.txt must have 4 lines" in reason


@pytest.mark.parametrize("protocol", [2, 5])
def test_jpegs_and_every_protocol_give_the_same_video(protocol: int, tmp_path: Path) -> None:
    video = made_video() | {"video": moving_squares(FRAMES)[0]}
    jpegs = []
    for frame in video["video"]:
        stream = io.BytesIO()
        Image.fromarray(frame).save(stream, "JPEG", quality=95, subsampling=0)
        jpegs.append(stream.getvalue())
    turned = np.asfortranarray(video["video"])
    content = {"arrays": video, "turned": video | {"video": turned}, "jpegs": video | {"video": jpegs}}
    dataset = TapVid(data=write(tmp_path / "data", content, protocol))
    arrays, fortran, compressed = (dataset.open(name) for name in dataset.names())
    resized = Image.fromarray(video["video"][3]).resize((256, 256), Image.Resampling.LANCZOS)
    np.testing.assert_array_equal(arrays.frames[3].read(), np.asarray(resized))
    assert dataset.sha256(arrays) == dataset.sha256(fortran) != dataset.sha256(compressed)
    difference = np.abs(compressed.frames[3].read().astype(int) - np.asarray(resized))
    assert difference.mean() < 3


class Call:
    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("/tmp/tapvid-was-executed"),)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (Call(), r"it asks for pathlib\S*\.\w*touch|it asks for \S+; only plain NumPy arrays"),
        ({"a": {"video": np.array([{}, {}], object)}}, "not of plain numbers"),
        ([1, 2], "not a dict of videos"),
    ],
)
def test_a_pickle_of_anything_else_is_refused_and_not_executed(content: object, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        TapVid(data=write(tmp_path / "data", content)).names()
    assert not Path("/tmp/tapvid-was-executed").exists()


def test_damaged_files_and_videos_are_named(data: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"cannot read .*{FILE}: No such file"):
        TapVid(data=tmp_path).names()
    with pytest.raises(UserError, match=r"--sequences dog: .*has no such video, but squares"):
        TapVid(data=data, sequences=("dog",)).names()
    whole = (data / FILE).read_bytes()
    (data / FILE).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="is not a pickle in the layout of TAP-Vid"):
        TapVid(data=data).names()
    good = made_video()
    reasons = {
        "frames": (good | {"video": good["video"][:-1]}, "7 frames, points of shape .* do not fit"),
        "pixels": (good | {"points": good["points"] * 256}, "far outside 0 to 1"),
        "gray": (good | {"video": good["video"][..., 0]}, r"must be uint8 \(T, H, W, 3\)"),
        "hidden": (good | {"occluded": np.ones((5, FRAMES), bool)}, "no point is visible"),
        "jpeg": (good | {"video": [b"no JPEG"] * FRAMES}, "a frame of the video is not a JPEG"),
        "empty": ({}, "must have video, points and occluded"),
    }
    dataset = TapVid(data=write(data, {name: content for name, (content, _) in reasons.items()}))
    for name, (_, reason) in reasons.items():
        with pytest.raises(UserError, match=f"video {name} of .*{FILE}: .*{reason}"):
            dataset.open(name)
