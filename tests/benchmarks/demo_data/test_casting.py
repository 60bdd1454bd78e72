from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from scipy.spatial import cKDTree

from benchmarks.demo_data import puppet
from benchmarks.demo_data.actors import apply
from benchmarks.demo_data.casting import (
    HELD_OUT_TIMES,
    IMAGE_CLASSES,
    POSE_MOVES,
    THEMES,
    VIDEO_CLASSES,
    davis_scene,
    image_scene,
    pose_scene,
    video_scene,
)
from benchmarks.demo_data.scene import Frame, render, render_annotated

Array = npt.NDArray[Any]

TOP_K = 7
JOINT_PARTS = {
    "belly": {puppet.UPPER_CLOTHES},
    "face": {puppet.FACE},
    "neck": {puppet.UPPER_CLOTHES, puppet.NECK, puppet.FACE},
    **{f"{side} knee": {puppet.PANTS, puppet.LEG[side]} for side in puppet.SIDES},
    **{f"{side} ankle": {puppet.LEG[side], puppet.SHOE[side]} for side in puppet.SIDES},
    **{f"{side} wrist": {puppet.ARM[side]} for side in puppet.SIDES},
}


def jaccard(prediction: Array, truth: Array, label: int) -> float:
    union = ((prediction == label) | (truth == label)).sum()
    return float(((prediction == label) & (truth == label)).sum() / union) if union else 1.0


def by_pixel_color(first: Frame, image: Array) -> Array:
    """Each second pixel gets the most frequent label among the pixels of frame 0 that are nearest in color."""
    labels = first.objects[::2, ::2].ravel()
    _, nearest = cKDTree(first.image[::2, ::2].reshape(-1, 3)).query(image[::2, ::2].reshape(-1, 3), k=TOP_K)
    votes = (labels[nearest][..., None] == np.arange(labels.max() + 1)).sum(axis=1)
    result: Array = votes.argmax(axis=1).reshape(image[::2, ::2].shape[:2])
    return result


@pytest.mark.parametrize("number", [0, 3])
def test_objects_stay_visible_and_color_does_not_track_them(number: int) -> None:
    scene = davis_scene([0, 2, number], number)  # sequences of the default dataset
    first, *later = (render_annotated(scene, t) for t in (*HELD_OUT_TIMES[::8], HELD_OUT_TIMES[-1]))
    for frame in (first, later[-1]):
        assert set(np.unique(frame.objects)) == set(range(3 + number % 2))
    assert sum(not actor.label for actor in scene.cast) == 2
    scores = [
        jaccard(by_pixel_color(first, frame.image), frame.objects[::2, ::2], label)
        for frame in later
        for label in frame.joints
    ]
    assert np.mean(scores) < 0.5


@pytest.mark.parametrize("class_name", ["driving cars", "walking"])
def test_camera_moves_and_never_looks_past_the_backdrop(class_name: str) -> None:
    assert class_name in VIDEO_CLASSES
    for seed, size, duration in ((0, (340, 256), 4.0), (1, (256, 340), 7.0)):
        scene = video_scene(np.random.default_rng(seed), class_name, size, duration)
        corners = np.array([(0, 0), (size[0], 0), (0, size[1]), size], np.float64)
        views = [np.linalg.inv(scene.camera.view(t, size)).astype(np.float64) for t in np.linspace(0, duration, 40)]
        visible = np.array([apply(view, corners) for view in views])
        assert visible.min() >= 0
        assert (visible <= scene.backdrop.size).all()
        assert np.ptp(visible, axis=0).max() > 15
        assert (render(scene, 0.0).astype(int) != render(scene, duration)).mean() > 0.5


def test_color_statistics_do_not_reveal_the_class_of_an_image() -> None:
    assert list(IMAGE_CLASSES.values()) == list(THEMES)
    colors, labels = [], []
    for label, family in enumerate(IMAGE_CLASSES.values()):
        for number in range(4):
            image = render(image_scene(np.random.default_rng([5, label, number]), family, (160, 128)), 1.3 * number)
            colors.append(np.concatenate([np.histogram(image[..., c], 16, (0, 256))[0] for c in range(3)]))
            labels.append(label)
    points = np.array(colors, np.float64)
    distance = np.linalg.norm(points[:, None] - points, axis=2)
    np.fill_diagonal(distance, np.inf)
    same = np.array(labels)[distance.argmin(axis=1)] == np.array(labels)
    assert same.mean() < 0.4  # chance is 0.1


@pytest.mark.parametrize("move", POSE_MOVES)
def test_joints_are_on_their_body_parts(move: str) -> None:
    scene = pose_scene([4, len(move)], POSE_MOVES[move], 1)
    right = []
    for t in HELD_OUT_TIMES[::6]:
        frame = render_annotated(scene, t)
        joints = frame.joints[1]
        assert set(frame.joints) == {1}
        assert set(joints) == set(puppet.JOINT_NAMES)
        assert ((frame.parts > 0) == (frame.objects > 0)).all()
        for joint, categories in JOINT_PARTS.items():
            x, y = joints[joint]
            right.append(int(frame.parts[int(y), int(x)]) in categories)
        for pair in ("shoulder", "hip"):
            assert joints[f"right {pair}"][0] < joints[f"left {pair}"][0], "the figure faces the camera"
    assert np.mean(right) > 0.9  # the rest is hidden behind other limbs
