from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from scipy.spatial import cKDTree

from benchmarks.demo_data.actors import apply
from benchmarks.demo_data.casting import (
    DAVIS_CASTS,
    HELD_OUT_TIMES,
    IMAGE_CLASSES,
    THEMES,
    VIDEO_CLASSES,
    davis_scene,
    image_scene,
    video_scene,
)
from benchmarks.demo_data.scene import Frame, render, render_annotated

Array = npt.NDArray[Any]

CELL = 16
TOP_K = 7


def jaccard(prediction: Array, truth: Array, label: int) -> float:
    union = ((prediction == label) | (truth == label)).sum()
    return float(((prediction == label) & (truth == label)).sum() / union) if union else 1.0


def by_pixel_color(first: Frame, image: Array) -> Array:
    """Each pixel gets the most frequent label among the pixels of frame 0 that are nearest in color."""
    labels = first.objects[::2, ::2].ravel()
    _, nearest = cKDTree(first.image[::2, ::2].reshape(-1, 3)).query(image[::2, ::2].reshape(-1, 3), k=TOP_K)
    votes = (labels[nearest][..., None] == np.arange(labels.max() + 1)).sum(axis=1)
    coarse = votes.argmax(axis=1).reshape(image[::2, ::2].shape[:2])
    full: Array = coarse.repeat(2, axis=0).repeat(2, axis=1)[: image.shape[0], : image.shape[1]]
    return full


def cell_means(values: Array) -> Array:
    rows, columns = values.shape[0] // CELL, values.shape[1] // CELL
    blocks = values[: rows * CELL, : columns * CELL].reshape(rows, CELL, columns, CELL, -1)
    means: Array = blocks.mean(axis=(1, 3))
    return means


def by_cell_color(first: Frame, image: Array) -> Array:
    """Soft labels of 16 x 16 cells, averaged over the cells of frame 0 that are nearest in mean color."""
    labels = cell_means(np.eye(int(first.objects.max()) + 1, dtype=np.float32)[first.objects])
    means = cell_means(image)
    _, nearest = cKDTree(cell_means(first.image).reshape(-1, 3)).query(means.reshape(-1, 3), k=TOP_K)
    soft = labels.reshape(-1, labels.shape[-1])[nearest].mean(axis=1)
    hard = soft.argmax(axis=1).reshape(means.shape[:2]).repeat(CELL, axis=0).repeat(CELL, axis=1)
    margins = [(0, image.shape[0] - hard.shape[0]), (0, image.shape[1] - hard.shape[1])]
    return np.pad(hard, margins, mode="edge")


@pytest.mark.parametrize("number", range(4))
def test_color_alone_does_not_carry_a_mask_along(number: int) -> None:
    scene = davis_scene([0, 2, number], number)  # the sequences of the default data set
    first = render_annotated(scene, HELD_OUT_TIMES[0])
    later = [render_annotated(scene, t) for t in HELD_OUT_TIMES[5:-1:6]]
    for predict in (by_pixel_color, by_cell_color):
        scores = [
            jaccard(predict(first, frame.image), frame.objects, label) for frame in later for label in frame.joints
        ]
        assert np.mean(scores) < 0.5
    ceiling = [jaccard(by_cell_color(first, first.image), first.objects, label) for label in first.joints]
    assert np.mean(ceiling) > np.mean(scores)


@pytest.mark.parametrize("number", range(len(DAVIS_CASTS)))
def test_annotated_objects_are_seen_from_the_first_frame_to_the_last(number: int) -> None:
    scene = davis_scene([1, number], number)
    for t in (HELD_OUT_TIMES[0], HELD_OUT_TIMES[-1]):
        objects = render_annotated(scene, t).objects
        assert set(np.unique(objects)) == set(range(3 + number % 2))
    unlabeled = [actor for actor in scene.cast if not actor.label]
    assert len(unlabeled) == 2


@pytest.mark.parametrize("class_name", VIDEO_CLASSES)
def test_camera_moves_and_never_looks_past_the_backdrop(class_name: str) -> None:
    for seed in range(3):
        size, duration = ((340, 256), (256, 340))[seed % 2], 4.0 + 3 * seed
        scene = video_scene(np.random.default_rng(seed), class_name, size, duration)
        corners = np.array([(0, 0), (size[0], 0), (0, size[1]), size], np.float64)
        views = [np.linalg.inv(scene.camera.view(t, size)).astype(np.float64) for t in np.linspace(0, duration, 40)]
        seen = np.array([apply(view, corners) for view in views])
        assert seen.min() >= 0
        assert (seen <= scene.backdrop.size).all()
        assert np.ptp(seen, axis=0).max() > 15
        assert (render(scene, 0.0).astype(int) != render(scene, duration)).mean() > 0.5


def test_color_statistics_do_not_tell_the_class_of_an_image() -> None:
    colors, labels = [], []
    for label, family in enumerate(IMAGE_CLASSES.values()):
        for number in range(6):
            image = render(image_scene(np.random.default_rng([5, label, number]), family, (160, 128)), 1.3 * number)
            colors.append(np.concatenate([np.histogram(image[..., c], 16, (0, 256))[0] for c in range(3)]))
            labels.append(label)
    points = np.array(colors, np.float64)
    distance = np.linalg.norm(points[:, None] - points, axis=2)
    np.fill_diagonal(distance, np.inf)
    same = np.array(labels)[distance.argmin(axis=1)] == np.array(labels)
    assert same.mean() < 0.4  # chance is 0.11


def test_image_classes_are_the_families() -> None:
    assert list(IMAGE_CLASSES.values()) == list(THEMES)
    assert all(len(wnid) == 9 for wnid in IMAGE_CLASSES)
